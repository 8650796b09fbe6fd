"""The page: its sections in order, with style and script inside, and nothing that it would have to fetch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mmard.report import curve_charts, result_tables, setup_tables
from mmard.report import sections as section
from mmard.report.render import asset, render
from mmard.report.table import Table
from mmard.runs.evaluation import Row
from mmard.runs.groups import Group, kind_of
from mmard.runs.missing import Missing, missing_of


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
        """Write the whole page as one file."""
        tables = {table.key: table for table in self.sheets()}
        groups, kind = self.groups, self.kind
        sections = [
            ("summary", "Summary", section.summary(groups, tables)),
            ("know", "What to know", section.know(groups, kind, tables)),
            ("curves", "Learning curves", curve_charts.learning(groups)),
            ("radius", "Accuracy against eps", curve_charts.against_eps(groups, kind, tables)),
            ("by-class", "Classes", section.by_class(groups, kind, tables)),
            ("examples", "Examples", section.examples(groups, kind)),
            ("boundary", "Teacher's boundary", section.boundary(groups, tables)),
            ("costs", "Cost", section.cost(tables)),
            ("settings", "Formula and settings", section.settings(groups, tables)),
            ("missing", "Not there yet", section.missing(self.missing())),
        ]
        context = {"title": self.title, "about": self.about, "version": version}
        context |= {"style": asset("style.css"), "script": asset("script.js")}
        return render("page.html", sections=[each for each in sections if each[2]], **context) + "\n"
