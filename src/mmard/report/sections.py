"""The sections of a report: each collects what its template shows, and is empty where there is nothing to show."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from mmard.evaluation.examples import Examples
from mmard.report.chart import Line, dot_chart, legend
from mmard.report.pictures import cards_of, figure_of
from mmard.report.render import section
from mmard.report.result_tables import CHARTED
from mmard.report.table import Table
from mmard.runs.by_class import mean_accuracy_by_class
from mmard.runs.findings import findings_of
from mmard.runs.folder import differences
from mmard.runs.groups import Group, evaluation_with
from mmard.runs.missing import Missing
from mmard.runs.record import FIGURES, Run

MOST_EXAMPLES = 6
"""Groups whose examples are shown."""
MOST_DIAGNOSES = 3
MOST_CLASSES = 1_000
"""Classes, counted in each group, up to which they are drawn."""
ALTS = {
    "margins": "distribution of the teacher's margin at each method's examples; further left is nearer to its boundary",
    "slices": "planes through an image, its example and the teacher's nearest boundary, with both networks' boundaries",
}
TITLES = {
    "margins": "The teacher's margin at the examples",
    "slices": "Slices through images, examples and the boundary",
}
Tables = Mapping[str, Table]


def summary(groups: Sequence[Group], tables: Tables) -> Markup:
    """Show the main table, what the study says of differences, and each run."""
    return section("summary", tables=tables, count=sum(len(group.runs) for group in groups))


def first_groups(count: int, most: int) -> Callable[[Markup], Markup]:
    """Return what says in front of a section that it is of the first ``most`` groups; where there are no more, nothing."""
    note = Markup('<p class="note">Of {:,} groups the first {:,}; the tables of --also csv have all.</p>')
    return lambda inside: note.format(count, most) + inside if inside and count > most else inside


def findings(groups: Sequence[Group], main: str, tables: Tables, most: int) -> Markup:
    """Show findings in plain words, each with the first ``most`` places, and the checks that evaluations kept."""
    return section("findings", tables=tables, findings=findings_of(groups, main), most=most)


def by_class(groups: Sequence[Group], main: str, tables: Tables) -> Markup:
    """Show the worst class, a figure where the classes are few, the table."""
    found = [
        (i, group, by) for i, group in enumerate(groups) if (by := mean_accuracy_by_class(group, main)) is not None
    ]
    if not found:
        return Markup()
    names = found[0][2].names
    lines = [Line(g.name, i, range(len(names)), by.robust) for i, g, by in found if by.names == names]
    if len(groups) == 1:
        by = found[0][2]
        lines = [Line("worst case", 0, range(len(names)), by.robust), Line("clean", 1, range(len(names)), by.clean)]
    few = len(names) <= CHARTED and len(names) * len(lines) <= MOST_CLASSES
    chart = dot_chart("Accuracy by class, worst case", names, lines, "accuracy, %") if few else ""
    key = legend([line.name for line in lines] if len(groups) == 1 else [group.name for group in groups])
    worst = [(group.name, by) for _, group, by in found]
    return section("classes", tables=tables, found=worst, is_open=len(groups) == 1, legend=key, chart=chart)


def examples(groups: Sequence[Group], main: str, room: int) -> Markup:
    """Show images and their examples, of the first run of each group that has some; ``room`` is bytes of all the pictures."""
    found: list[tuple[str, str, Examples]] = []
    for group in groups:
        for run in group.runs:
            evaluation = evaluation_with(run, lambda e: e.shown, main)
            if evaluation is not None and evaluation.shown is not None:
                found.append((group.name, run.name, evaluation.shown))
                break
    found = found[:MOST_EXAMPLES]
    return section("examples", groups=[(name, cards_of(each, run, room // len(found))) for name, run, each in found])


def boundary(groups: Sequence[Group], tables: Tables, room: int) -> Markup:
    """Show the tables of the diagnoses, and the figures of the first run that has some in each group; in ``room`` bytes."""
    firsts = [next((r for r in g.runs if any(map(r.figure, FIGURES))), None) for g in groups]
    runs = [run for run in firsts if run is not None][:MOST_DIAGNOSES]
    paths = [(run, name, path) for run in runs for name in FIGURES if (path := run.figure(name)) is not None]
    figures = [_figure(*each, room // len(paths)) for each in paths]
    return section("boundary", tables=tables, figures=figures)


def _figure(run: Run, name: str, path: Path, room: int) -> dict[str, Any]:
    faults: list[str] = []
    image = figure_of(path, ALTS[name], faults, room)
    return {"title": f"{TITLES[name]}, {run.name}", "is_open": name == FIGURES[0], "image": image, "faults": faults}


def cost(tables: Tables) -> Markup:
    """Show what training and evaluation took."""
    return section("table", table=tables.get("cost"))


def settings(groups: Sequence[Group], tables: Tables, most: int) -> Markup:
    """Show formula and what differs from the first group; of the first ``most`` groups all of the settings."""
    first = groups[0].runs[0].settings
    told = []
    for i, group in enumerate(groups):
        run = group.runs[0]
        changed = differences({**first, "seed": 0, "out": ""}, {**run.settings, "seed": 0, "out": ""})
        told.append(
            {
                "name": group.name,
                "run": run.name,
                "formula": run.formula,
                "history": _history(group),
                "differences": [] if group is groups[0] else changed,
                "settings": yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True) if i < most else "",
            }
        )
    return section("settings", tables=tables, groups=told, first=groups[0].name)


def _history(group: Group) -> list[str]:
    """Tell what was found of the teachers, and how runs were extended: a line each, with the runs of which it is true."""
    said: dict[str, list[str]] = {}
    for run in group.runs:
        for line in (*run.teacher_checks, *run.history):
            said.setdefault(line, []).append(run.name)
    told = []
    for line, names in said.items():
        where = "" if len(names) == len(group.runs) else f" ({', '.join(names)})"
        told.append(f"{line[:1].upper()}{line[1:]}{where}.")
    return told


def missing(found: Sequence[Missing], most: int) -> Markup:
    """Show a line for each part that is not there, with its command, which is for the first ``most`` runs."""
    return section("missing", parts=found, most=most) if found else Markup()
