"""The page: its sections in order, with style and script inside, and nothing that it would have to fetch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mmard.report import curve_charts, result_tables, setup_tables
from mmard.report import sections as section
from mmard.report.chart import CHART_POINTS
from mmard.report.render import asset, page
from mmard.report.table import Table
from mmard.runs.evaluation import JsonObject
from mmard.runs.groups import Group, main_evaluation_of
from mmard.runs.missing import Missing, missing_of

MOST_BYTES = 1_500_000
"""Of a page, which is sent by mail and opened on phones."""


@dataclass(frozen=True)
class Room:
    """The room of a page: how much it shows, at most, of what may be long.

    Attributes:
        points: of all the curves of a chart.
        cells: of a table.
        pictures: bytes of all the examples, and again of all the figures of diagnoses.
        settings: groups whose settings are written out.
        groups: that are drawn, and told of beyond the tables; places of a finding.
    """

    points: int = CHART_POINTS
    cells: int = 5_000
    pictures: int = 500_000
    settings: int = 50
    groups: int = 100

    def halved(self) -> "Room":
        """Return half of the room."""
        groups = max(1, self.groups // 2)
        return Room(self.points // 2, self.cells // 2, self.pictures // 2, self.settings // 2, groups)


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
            result_tables.differences_table(self.results, groups, main),
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
        """Write the whole page as one file; where it has more than `MOST_BYTES`, less of what is long, down to one of each."""
        tables, room = self.tables(), Room()
        text = self._page(version, tables, room)
        while len(text.encode()) > MOST_BYTES and room.cells:
            room = room.halved()
            text = self._page(version, tables, room)
        return text

    def _page(self, version: str, whole: Sequence[Table], room: Room) -> str:
        tables = {table.key: table.shortened(room.cells) for table in whole}
        groups, main = self.groups, self.main
        drawn, of_first = groups[: room.groups], section.first_groups(len(groups), room.groups)
        sections = [
            ("summary", "Summary", section.summary(groups, tables)),
            ("know", "What to know", section.findings(groups, main, tables, room.groups)),
            ("curves", "Learning curves", of_first(curve_charts.learning_curves(drawn, room.points))),
            (
                "radius",
                "Accuracy against eps",
                of_first(curve_charts.accuracy_against_eps(drawn, main, tables, room.points)),
            ),
            ("by-class", "Classes", of_first(section.by_class(drawn, main, tables))),
            ("examples", "Examples", section.examples(groups, main, room.pictures)),
            ("boundary", "Teacher's boundary", section.boundary(groups, tables, room.pictures)),
            ("costs", "Cost", section.cost(tables)),
            ("settings", "Formula and settings", of_first(section.settings(drawn, tables, room.settings))),
            ("missing", "Not there yet", section.missing(missing_of(groups, main, room.groups), room.groups)),
        ]
        context = {"title": self.title, "about": self.about, "version": version}
        context |= {"style": asset("style.css"), "script": asset("script.js")}
        return page(sections=[each for each in sections if each[2]], **context) + "\n"
