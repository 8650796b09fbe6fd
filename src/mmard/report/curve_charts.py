"""Figures over epochs and over the radius of the attack."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from markupsafe import Markup

from mmard.diagnostics.triangle import EDGES
from mmard.report.chart import CHART_POINTS, Line, legend, line_chart
from mmard.report.render import section
from mmard.report.table import Table
from mmard.runs.evaluation import JsonObject
from mmard.runs.groups import Group, curve_of
from mmard.runs.record import Run

XY = tuple[float, float]
MOST_BANDS = 3
"""Groups up to which their range is drawn; more bands hide each other."""


def learning_curves(groups: Sequence[Group], points: int = CHART_POINTS) -> Markup:
    """Draw clean and robust accuracy on the held-out split, how far robustness fell from its best, loss; the triangle below.

    Args:
        points: of all the curves of a chart.
    """
    chart = partial(_chart, groups, points)
    charts = [
        chart("Robust, held-out split", "accuracy, %", lambda run: _over_epochs(run.validations, "robust")),
        chart("Clean, held-out split", "accuracy, %", lambda run: _over_epochs(run.validations, "clean")),
        chart("Robust overfitting", "points below the best so far", _fallen),
        chart("Training loss", "outer loss, nats", lambda run: _over_epochs(run.metrics, "loss")),
    ]
    if not any(charts):
        return Markup()
    several = any(len(group.runs) > 1 for group in groups)
    band = ", its band their range" if len(groups) <= MOST_BANDS else ""
    text = f"A line is the mean over seeds{band}. " if several else ""
    text += (
        "Robust: under the validation's PGD, on images held out from training. Robust overfitting is how far robust accuracy has "
        "fallen from the best look so far; 0 is none. Losses of different methods are not comparable."
    )
    edges = [chart(label, "nats", _edge(key)) for key, label in EDGES.items()]
    names, triangle = legend([group.name for group in groups]), Markup().join(edges)
    return section("learning", legend=names, charts=Markup().join(charts), note=text, triangle=triangle)


def _chart(groups: Sequence[Group], points: int, title: str, y_label: str, values: Callable[[Run], list[XY]]) -> Markup:
    lines = [mean_line(group.name, i, [values(run) for run in group.runs]) for i, group in enumerate(groups)]
    if len(groups) > MOST_BANDS:
        lines = [replace(line, low=(), high=()) for line in lines]
    return line_chart(title, lines, "epoch", y_label, points=points)


def mean_line(name: str, number: int, curves: Sequence[Sequence[XY]]) -> Line:
    """Average several curves at each x that one of them has, with their range where there are several."""
    at: dict[float, list[float]] = {}
    for x, y in (point for curve in curves for point in curve):
        at.setdefault(x, []).append(y)
    xs = sorted(at)
    ys = [statistics.fmean(at[x]) for x in xs]
    if sum(bool(curve) for curve in curves) < 2:
        return Line(name, number, xs, ys)
    return Line(name, number, xs, ys, [min(at[x]) for x in xs], [max(at[x]) for x in xs])


def _over_epochs(records: Sequence[JsonObject], key: str) -> list[XY]:
    return [(r["epoch"], r[key]) for r in records if isinstance(r.get(key), int | float)]


def _fallen(run: Run) -> list[XY]:
    best, found = 0.0, []
    for r in run.validations:
        best = max(best, r["robust"])
        found.append((r["epoch"], best - r["robust"]))
    return found


def _edge(key: str) -> Callable[[Run], list[XY]]:
    def points(run: Run) -> list[XY]:
        given = [(r["epoch"], r["triangle"]) for r in run.validations if isinstance(r.get("triangle"), dict)]
        return [(epoch, edges[key]) for epoch, edges in given if isinstance(edges.get(key), int | float)]

    return points


def accuracy_against_eps(
    groups: Sequence[Group], main: str, tables: Mapping[str, Table], points: int = CHART_POINTS
) -> Markup:
    """Draw accuracy at each radius, the eps of training marked, with the table below."""
    lines, details, eps = [], [], []
    for i, group in enumerate(groups):
        found = [c for run in group.runs if (c := curve_of(run, main)) is not None]
        curves = [list(zip(c["radii"], c["accuracy"], strict=True)) for c in found]
        line = mean_line(group.name, i, curves)
        if len(found) == 1:
            line = Line(group.name, i, line.xs, line.ys, found[0]["low"], found[0]["high"])
        lines.append(line)
        details += [f"{c.get('attack')}: {c.get('detail')}, {c.get('samples')} test images" for c in found]
        eps += [float(c["eps"]) for c in found if isinstance(c.get("eps"), int | float)]
    if sum(bool(line.ys) for line in lines) > MOST_BANDS:
        lines = [replace(line, low=(), high=()) for line in lines]
    norms = {c.get("norm") for group in groups for run in group.runs if (c := curve_of(run, main)) is not None}
    unit = "L∞ radius, of a pixel's range" if norms == {"linf"} else "radius"
    marks = [(at, "eps") for at in dict.fromkeys(eps)]
    picture = line_chart("Accuracy under attack, by the radius of the ball", lines, unit, "accuracy, %", marks, points)
    if not picture:
        return Markup()
    text = (
        f"{' or '.join(dict.fromkeys(details))}. A line is the mean over seeds; "
        "a band is their range, or of one run Wilson's 95 % interval. "
        "A sound curve never rises; how far it has fallen by 4 eps depends on eps."
    )
    shown = [group.name if lines[i].ys else f"{group.name} (none)" for i, group in enumerate(groups)]
    return section("radius", tables=tables, legend=legend(shown), chart=picture, note=text)
