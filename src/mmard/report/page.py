"""The page: its sections in order, with style and script inside, and nothing that it would have to fetch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from mmard.report import curve_charts, result_tables, sections, setup_tables
from mmard.report.table import Table
from mmard.runs.evaluation import Row
from mmard.runs.groups import Group, kind_of
from mmard.runs.missing import Missing, missing_of

HERE = Path(__file__).parent
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True, eq=False)
class Report:
    """All that a report shows.

    Attributes:
        groups: the runs.
        title: of the page.
        about: a line below it.
        results: results.json of a study; empty where there is none.
    """

    groups: Sequence[Group]
    title: str
    about: str = ""
    results: Row = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The evaluation that is shown first."""
        return kind_of(self.groups)

    def sheets(self) -> list[Table]:
        """Every table that has a row, in the order of the page."""
        groups, kind = self.groups, self.kind
        made = [
            result_tables.summary(groups, kind), result_tables.comparisons(self.results), result_tables.runs(groups, kind),
            result_tables.radii(groups, kind), result_tables.classes(groups, kind), *setup_tables.diagnosis(groups),
            setup_tables.checks(groups), result_tables.evaluations(groups, kind), setup_tables.cost(groups),
            setup_tables.setups(groups),
        ]  # fmt: skip
        return [sheet for sheet in made if sheet is not None]

    def missing(self) -> list[Missing]:
        """What the run folders do not hold."""
        return missing_of(self.groups, self.kind)

    def html(self, version: str) -> str:
        """The whole page as one file."""
        by_key = {sheet.key: sheet for sheet in self.sheets()}
        groups, kind = self.groups, self.kind
        radii = sections.collapsible("The table", sections.table(by_key, "radii"))
        parts: list[tuple[str, str, Callable[[], str]]] = [
            ("summary", "Summary", lambda: sections.summary(by_key, groups)),
            ("know", "What to know", lambda: sections.know(groups, kind, by_key)),
            ("curves", "Learning curves", lambda: curve_charts.learning(groups)),
            ("radius", "Accuracy against eps", lambda: curve_charts.against_eps(groups, kind, radii)),
            ("by-class", "Classes", lambda: sections.by_class(groups, kind, by_key)),
            ("examples", "Examples", lambda: sections.examples(groups, kind)),
            ("boundary", "Teacher's boundary", lambda: sections.boundary(groups, by_key)),
            ("costs", "Cost", lambda: sections.table(by_key, "cost")),
            ("settings", "Formula and settings", lambda: sections.settings(groups, by_key)),
            ("missing", "Not there yet", lambda: sections.missing(self.missing())),
        ]
        made = [(key, title, inside) for key, title, make in parts if (inside := make())]
        links = "".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title, _ in made)
        body = "".join(f'<section id="{key}"><h2>{escape(title)}</h2>{inside}</section>' for key, title, inside in made)
        return _whole(self.title, self.about, version, links, body)


def _whole(title: str, about: str, version: str, links: str, body: str) -> str:
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="generator" content="mmard {escape(version)}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the report</a>
<header><div><h1>{escape(title)}</h1><p>{escape(about)}</p></div>
<button id="theme" type="button" hidden>Theme: as the system</button></header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main id="main">{body}</main>
<footer>mmard {escape(version)}. Made from run folders alone; this file needs no network.</footer>
<script>{script}</script>
</body>
</html>
"""
