"""The sections of a report that hold tables, words and pictures."""

from collections.abc import Mapping, Sequence
from html import escape

import yaml

from mmard.report.chart import Line, dot_chart, legend
from mmard.report.pictures import from_file, shown
from mmard.report.table import Table
from mmard.runs.by_class import of_group
from mmard.runs.findings import flags_of
from mmard.runs.folder import differences
from mmard.runs.groups import Group, of_evaluation
from mmard.runs.missing import Missing
from mmard.runs.record import FIGURES, Run

MOST_EXAMPLES = 6
"""Groups whose examples are shown."""
MOST_DIAGNOSES = 3
CHARTED = 20
"""Classes up to which they are drawn."""
ALTS = {
    "margins": "distribution of the teacher's margin at each method's examples; further left is nearer to its boundary",
    "slices": "planes through an image, its example and the teacher's nearest boundary, with both networks' boundaries",
}
TITLES = {
    "margins": "The teacher's margin at the examples",
    "slices": "Slices through images, examples and the boundary",
}
Sheets = Mapping[str, Table]


def table(sheets: Sheets, key: str) -> str:
    """A table by its key; nothing where there is none."""
    return sheets[key].html() if key in sheets else ""


def collapsible(title: str, inside: str, is_open: bool = False) -> str:
    """Something to be opened; nothing where there is nothing inside."""
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>{inside}</details>" if inside else ""
    )


def summary(sheets: Sheets, groups: Sequence[Group]) -> str:
    """The table, what the study says of differences, and each run."""
    main = table(sheets, "summary") or "<p>No run here was judged on test images yet.</p>"
    pairs = collapsible("Paired differences over seeds, with intervals and tests", table(sheets, "comparisons"))
    every = collapsible(f"Each of the {sum(len(g.runs) for g in groups)} runs", table(sheets, "runs"))
    return main + pairs + every + collapsible("Other evaluations", table(sheets, "evaluations"))


def know(groups: Sequence[Group], kind: str, sheets: Sheets) -> str:
    """Flags in plain words, and the checks that evaluations kept."""
    items = []
    for flag in flags_of(groups, kind):
        where = "".join(f"<li>{escape(place)}</li>" for place in flag.where)
        of = f"<details><summary>which ({len(flag.where)})</summary><ul>{where}</ul></details>"
        short = f" <span>({escape('; '.join(flag.where))})</span>" if len(flag.where) <= 2 else of
        text = f"<b>{flag.level.capitalize()}.</b> {escape(flag.text)}{short}<p>{escape(flag.advice)}</p>"
        items.append(f'<li class="{flag.level}">{text}</li>')
    flags = f'<ul class="flags">{"".join(items)}</ul>' if items else "<p>Nothing to warn of.</p>"
    return flags + collapsible("What the checks of evaluations found, as a table", table(sheets, "checks"))


def by_class(groups: Sequence[Group], kind: str, sheets: Sheets) -> str:
    """The worst class, a figure where the classes are few, the table."""
    found = [(i, group, by) for i, group in enumerate(groups) if (by := of_group(group, kind)) is not None]
    if not found:
        return ""
    names = found[0][2].names
    lines = [Line(g.name, i, range(len(names)), by.robust) for i, g, by in found if by.names == names]
    if len(groups) == 1:
        by = found[0][2]
        lines = [Line("worst case", 0, range(len(names)), by.robust), Line("clean", 1, range(len(names)), by.clean)]
    chart = dot_chart("Accuracy by class, worst case", names, lines, "accuracy, %") if len(names) <= CHARTED else ""
    key = legend([line.name for line in lines] if len(groups) == 1 else [group.name for group in groups])
    worst = "".join(
        f"<li><b>{escape(g.name)}</b>: {escape(by.names[by.worst])}, {by.robust[by.worst]:.1f} % "
        f"(mean of the classes {by.mean(by.robust):.1f} %)</li>"
        for _, g, by in found
    )
    words = f"<p>The least robust class:</p><ul>{worst}</ul>"
    figure = f'{key}<div class="charts wide">{chart}</div>' if chart else ""
    return words + figure + collapsible("The table", table(sheets, "classes"), is_open=len(groups) == 1)


def examples(groups: Sequence[Group], kind: str) -> str:
    """Of the first run of each group that has some."""
    parts: list[str] = []
    for group in groups:
        run = next((r for r in group.runs if of_evaluation(r, lambda j: j.shown, kind) is not None), None)
        evaluation = of_evaluation(run, lambda j: j.shown, kind) if run else None
        if run is not None and evaluation is not None and evaluation.shown is not None and len(parts) < MOST_EXAMPLES:
            parts.append(collapsible(group.name, shown(evaluation.shown, run.name), is_open=not parts))
    return "".join(parts)


def boundary(groups: Sequence[Group], sheets: Sheets) -> str:
    """The tables of the diagnoses, and the figures of the first run that has some in each group."""
    parts = [sheet.html() for key, sheet in sheets.items() if key.startswith("diagnosis-")]
    firsts = [next((r for r in g.runs if any(map(r.figure, FIGURES))), None) for g in groups]
    for run in [run for run in firsts if run is not None][:MOST_DIAGNOSES]:
        for name in FIGURES:
            parts.append(collapsible(f"{TITLES[name]}, {run.name}", _figure(run, name), is_open=name == FIGURES[0]))
    return "".join(parts)


def _figure(run: Run, name: str) -> str:
    path = run.figure(name)
    faults: list[str] = []
    picture = from_file(path, ALTS[name], faults) if path else ""
    return picture + "".join(f"<p>{escape(fault)}</p>" for fault in faults)


def settings(groups: Sequence[Group], sheets: Sheets) -> str:
    """Formula, what differs from the first group, and all of it."""
    first = groups[0].runs[0].settings
    parts = []
    for group in groups:
        run = group.runs[0]
        formula = f'<pre class="formula">{escape(run.formula)}</pre>' if run.formula else ""
        changed = (
            []
            if group is groups[0]
            else differences({**first, "seed": 0, "out": ""}, {**run.settings, "seed": 0, "out": ""})
        )
        lines = "".join(f"<p>{escape(line)}</p>" for line in _course(group))
        unlike = f"<p>Unlike {escape(groups[0].name)}: {escape('; '.join(changed))}</p>" if changed else ""
        text = yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True)
        whole = collapsible(f"Settings of {run.name}", f"<pre>{escape(text)}</pre>")
        parts.append(f"<h3>{escape(group.name)}</h3>{formula}{lines}{unlike}{whole}")
    return collapsible("All in one table", table(sheets, "setups")) + "".join(parts)


def _course(group: Group) -> list[str]:
    """What was found of the teachers, and how runs were extended: a line each, with the runs of which it is true."""
    said: dict[str, list[str]] = {}
    for run in group.runs:
        for line in (*run.looks_at_teachers, *run.history):
            said.setdefault(line, []).append(run.name)
    told = []
    for line, names in said.items():
        where = "" if len(names) == len(group.runs) else f" ({', '.join(names)})"
        told.append(f"{line[:1].upper()}{line[1:]}{where}.")
    return told


def missing(found: Sequence[Missing]) -> str:
    """A line for each part with its command."""
    items = []
    for part in found:
        of = ", ".join(part.runs) if len(part.runs) <= 3 else f"{len(part.runs)} runs"
        items.append(
            f"<dt>{escape(part.what)} <span>({escape(of)})</span></dt><dd><pre>{escape(part.command)}</pre></dd>"
        )
    return f"<dl>{''.join(items)}</dl>" if items else ""
