"""One table class that writes HTML, Markdown, LaTeX and CSV."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup

from mmard.report.render import section
from mmard.utils.csv_files import csv_text

DASH = "–"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "∞": r"$\infty$", "−": r"$-$", "×": r"$\times$",
    "≥": r"$\geq$", "≤": r"$\leq$", "‖": r"$\Vert$", "·": r"$\cdot$", "–": "--",
    "…": r"\ldots{}", "→": r"$\to$", "≠": r"$\neq$", "≈": r"$\approx$", "∇": r"$\nabla$", "⟨": r"$\langle$",
    "⟩": r"$\rangle$", "Δ": r"$\Delta$", "Σ": r"$\Sigma$", "δ": r"$\delta$", "λ": r"$\lambda$", "τ": r"$\tau$",
    "ω": r"$\omega$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "ε": r"$\epsilon$", "½": r"$\frac12$",
    "⅓": r"$\frac13$", "⅔": r"$\frac23$", "²": "$^2$", "ⁿ": "$^n$", "⁻": "$^-$", "⁰": "$^0$", "⁶": "$^6$", "ᵢ": "$_i$",
    "₁": "$_1$", "₂": "$_2$", "₃": "$_3$", "₄": "$_4$", "\u0303": r"$\tilde{}$", "✓": "+", "✗": "--",
}  # fmt: skip


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    Attributes:
        text: as a person reads it.
        value: by which it is sorted, and what stands in a CSV file; None: the text.
        more: further numbers of it for CSV, such as its ``sd``.
        tint: strength of its background, 0 to 1; None: none.
    """

    text: str
    value: float | None = None
    more: Mapping[str, float] = field(default_factory=dict)
    tint: float | None = None


@dataclass(frozen=True)
class Table:
    """A table with typed cells.

    Attributes:
        key: its name in addresses and files.
        columns: their titles.
        rows: as many cells each.
        words: so many of the first columns hold words; the others hold numbers.
        note: what stands below it, in plain text.
    """

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    words: int = 1
    note: str = ""

    def shortened(self, cells: int) -> "Table":
        """Return it with as many of its first rows as ``cells`` cells make, and a note where rows are left out.

        Of columns it has a row's share, one in twenty of the cells: a table of many groups may have two of each.
        """
        width = min(len(self.columns), max(self.words + 1, cells // 20))
        most = min(len(self.rows), max(1, cells // width))
        cut = [(most, len(self.rows), "rows"), (width, len(self.columns), "columns")]
        parts = [f"{shown:,} of {there:,} {what}" for shown, there, what in cut if shown < there]
        if not parts:
            return self
        note = f"The first {' and '.join(parts)}; --also csv writes them all. {self.note}".rstrip()
        return replace(self, columns=self.columns[:width], rows=[row[:width] for row in self.rows[:most]], note=note)

    def html(self) -> Markup:
        """Write it with a button in each head that sorts; one row has nothing to sort."""
        return section("table", table=self)

    def markdown(self) -> str:
        """Write it under a heading, with its note."""
        return f"### {_markdown(self.title)}\n\n{self.grid()}\n" + (f"\n{_markdown(self.note)}\n" if self.note else "")

    def grid(self) -> str:
        """Write its rows as a Markdown table of GitHub's kind, without title and note."""
        rule = f"|{'---|' * self.words}{'---:|' * (len(self.columns) - self.words)}"
        rows = [self.columns, *([cell.text for cell in row] for row in self.rows)]
        head, *lines = (f"| {' | '.join(map(_markdown, row))} |" for row in rows)
        return "\n".join([head, rule, *lines])

    def latex(self) -> str:
        """Write it as a LaTeX float with booktabs' rules."""
        shape = "l" * self.words + "r" * (len(self.columns) - self.words)
        lines = [" & ".join(map(_latex, self.columns)) + r" \\", r"\midrule"]
        lines += [" & ".join(_latex(c.text) for c in row) + r" \\" for row in self.rows]
        caption = f"{_latex(self.title)}. {_latex(self.note)}".strip()
        top = ["\\begin{table}", "\\centering", f"\\caption{{{caption}}}", f"\\label{{tab:{self.key}}}"]
        top += [f"\\begin{{tabular}}{{{shape}}}", r"\toprule"]
        return "\n".join([*top, *lines, r"\bottomrule", "\\end{tabular}", "\\end{table}"]) + "\n"

    def csv(self) -> str:
        """Write it as CSV with plain numbers; where cells have an sd or an interval, in columns of their own."""
        extra = [list(dict.fromkeys(key for row in self.rows for key in row[i].more)) for i in range(len(self.columns))]
        head = [t for name, keys in zip(self.columns, extra, strict=True) for t in (name, *_titles(name, keys))]
        lines = []
        for row in self.rows:
            line: list[str | float] = []
            for cell, keys in zip(row, extra, strict=True):
                line += [cell.text if cell.value is None else cell.value, *(cell.more.get(key, "") for key in keys)]
            lines.append(["" if value == DASH else value for value in line])
        return csv_text(head, lines)


def _titles(name: str, keys: Sequence[str]) -> list[str]:
    return [f"{name} {key}" for key in keys]


def words(text: object) -> TableCell:
    """Make a cell of words."""
    return TableCell(str(text))


def number(value: float | None, form: str = ".1f", tint: float | None = None) -> TableCell:
    """Make a cell of a number; a dash where there is none."""
    return TableCell(DASH) if value is None else TableCell(f"{value:{form}}".replace("-", "−"), value, tint=tint)


def mean_and_sd(found: tuple[float, float | None] | None, form: str = ".1f") -> TableCell:
    """Make a cell of a mean and its standard deviation, ``61.0 ± 1.8``; one value stands alone."""
    if found is None or found[1] is None:
        return number(None if found is None else found[0], form)
    return TableCell(f"{found[0]:{form}} ± {found[1]:{form}}".replace("-", "−"), found[0], {"sd": found[1]})


def interval(value: float, low: float, high: float) -> TableCell:
    """Make a cell of a value with the interval around it, ``61.0 (55.8–65.9)``."""
    return TableCell(f"{value:.1f} ({low:.1f}–{high:.1f})", value, {"low": low, "high": high})


def difference_interval(low: float | None, high: float | None) -> TableCell:
    """Make a cell of the interval of a difference, ``−0.48 to +4.48``; a dash where there is none."""
    if low is None or high is None:
        return TableCell(DASH)
    return TableCell(f"{low:+.2f} to {high:+.2f}".replace("-", "−"), low, {"to": high})


def p_value(value: float | None) -> TableCell:
    """Make a cell of a p-value, ``0.074`` or ``< 0.001``; a dash where there is none."""
    return TableCell("< 0.001", value) if value is not None and value < 0.001 else number(value, ".3f")


def _markdown(text: str) -> str:
    return re.sub(r"([|\\`*>\[\]]|<(?! ))", r"\\\1", " ".join(text.split()))


def _latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))


def table_files(tables: Sequence[Table], kind: str, stem: str) -> dict[str, str]:
    """Write tables as files, name → text: all in one Markdown or LaTeX file, or a CSV file each."""
    if kind == "md":
        return {f"{stem}.md": "\n".join(table.markdown() for table in tables)}
    if kind == "tex":
        return {f"{stem}.tex": "% needs \\usepackage{booktabs}\n\n" + "\n".join(table.latex() for table in tables)}
    return {f"{stem}.{table.key}.csv": table.csv() for table in tables}
