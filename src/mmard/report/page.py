"""The page: its sections in order, with style and script inside, and nothing that it would have to fetch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mmard.report import curve_charts, result_tables, setup_tables
from mmard.report import sections as section
from mmard.report.render import asset, page
from mmard.report.table import Table
from mmard.runs.evaluation import JsonObject
from mmard.runs.groups import Group, main_evaluation_of
from mmard.runs.missing import Missing, missing_of


@dataclass(frozen=True, eq=False)
class Report:
    """A report on groups of runs: its tables, what is missing, and the page.

    Attributes:
        groups: the runs.
        title: of the page.
        about: a line below it.
        results: results.json of a study; empty where there is none.
    """

    groups: Sequence[Group]
    title: str
    about: str = ""
    results: JsonObject = field(default_factory=dict)

    @property
    def main(self) -> str:
        """Name the evaluation that is shown first."""
        return main_evaluation_of(self.groups)

    def tables(self) -> list[Table]:
        """Make every table that has a row, in the order of the page."""
        groups, main = self.groups, self.main
        made = [
            result_tables.accuracy_table(groups, main),
            result_tables.differences_table(self.results),
            result_tables.runs_table(groups, main),
            result_tables.radii_table(groups, main),
            result_tables.classes_table(groups, main),
            *setup_tables.diagnosis_tables(groups),
            setup_tables.checks_table(groups),
            result_tables.evaluations_table(groups, main),
            setup_tables.cost_table(groups),
            setup_tables.setups_table(groups),
        ]
        return [table for table in made if table is not None]

    def missing(self) -> list[Missing]:
        """List what the run folders do not hold."""
        return missing_of(self.groups, self.main)

    def html(self, version: str) -> str:
        """Write the whole page as one file."""
        tables = {table.key: table for table in self.tables()}
        groups, main = self.groups, self.main
        sections = [
            ("summary", "Summary", section.summary(groups, tables)),
            ("know", "What to know", section.findings(groups, main, tables)),
            ("curves", "Learning curves", curve_charts.learning_curves(groups)),
            ("radius", "Accuracy against eps", curve_charts.accuracy_against_eps(groups, main, tables)),
            ("by-class", "Classes", section.by_class(groups, main, tables)),
            ("examples", "Examples", section.examples(groups, main)),
            ("boundary", "Teacher's boundary", section.boundary(groups, tables)),
            ("costs", "Cost", section.cost(tables)),
            ("settings", "Formula and settings", section.settings(groups, tables)),
            ("missing", "Not there yet", section.missing(self.missing())),
        ]
        context = {"title": self.title, "about": self.about, "version": version}
        context |= {"style": asset("style.css"), "script": asset("script.js")}
        return page(sections=[each for each in sections if each[2]], **context) + "\n"
