"""A study's results as a figure: accuracy without and under attack, and what it costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmard.evaluation.scores import CLEAN, WORST
from mmard.report.study_tables import SECONDS
from mmard.utils.files import write_whole

WIDE = 4  # times the least cost: more is drawn on a logarithmic axis
MARKERS, GREYS = "osD^vP*X<>hd", ("black", "0.45", "0.7")


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Find the Pareto front: the points (cost, gain) that no other beats in both, the cheapest first; of equals the first.

    >>> front([(1, 10), (2, 9), (3, 20), (3, 15)])
    [0, 2]
    """
    found: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if not found or points[i][1] > points[found[-1]][1]:
            found.append(i)
    return found


def moved_apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights apart: the same ones in the same order, moved as little as it takes to be a gap apart; their mean stays.

    >>> moved_apart([1.0, 1.0, 9.0], 2.0)
    [0.0, 2.0, 9.0]
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    heaps: list[list[int]] = []  # neighbours that touch, each heap a gap apart and around its own mean
    for i in order:
        heaps.append([i])
        while len(heaps) > 1 and _bottom(heaps[-1], heights, gap) < _bottom(heaps[-2], heights, gap) + gap * len(
            heaps[-2]
        ):
            heaps[-2:] = [heaps[-2] + heaps[-1]]
    places = {i: _bottom(heap, heights, gap) + gap * k for heap in heaps for k, i in enumerate(heap)}
    return [places[i] for i in range(len(heights))]


def _bottom(heap: list[int], heights: Sequence[float], gap: float) -> float:
    return sum(heights[i] for i in heap) / len(heap) - gap * (len(heap) - 1) / 2


def plot_study(results: Mapping[str, Any], path: Path) -> None:
    """Plot worst case against clean accuracy, and against seconds an epoch, to a PNG.

    A run is a small mark, a group's mean a large one with bars of one standard deviation. Groups differ by mark, shade
    and filling, so that it reads without colour. A line joins the means that no other beats in both accuracy and cost.
    """
    from matplotlib.figure import Figure  # slow to import, and a run without a plot needs none of it

    varied = [axis for axis in results["axes"] if len({g["labels"][axis] for g in results["groups"]}) > 1]
    attacked = WORST in results["rows"][0]["accuracies"]
    height = WORST if attacked else CLEAN
    figure = Figure(figsize=(11, max(4.6, 2.4 + 0.26 * len(results["groups"]))), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for i, group in enumerate(results["groups"]):
        mine = [row for row in results["rows"] if row["labels"] == group["labels"]]
        name = _name(group, varied)
        style = {"marker": MARKERS[i % len(MARKERS)], "color": GREYS[i % len(GREYS)]}
        filling = style["color"] if i // len(MARKERS) % 2 == 0 else "white"
        for axes, key in ((left, CLEAN), (right, SECONDS)):
            runs = [(row[key] if key == SECONDS else row["accuracies"][key], row["accuracies"][height]) for row in mine]
            runs = [run for run in runs if run[0] is not None]
            axes.plot(*zip(*runs, strict=True), linestyle="", markersize=4, markerfacecolor="none", **style)
            x, y = group["figures"].get(key), group["figures"][height]
            if x is not None:
                axes.errorbar(
                    x["mean"], y["mean"], xerr=x["sd"] or 0, yerr=y["sd"] or 0, markersize=9, capsize=2, elinewidth=0.8,
                    markerfacecolor=filling, label=name, **style,
                )  # fmt: skip
    left.set(
        xlabel="clean accuracy, %", ylabel="accuracy under the worst attack, %" if attacked else "clean accuracy, %"
    )
    right.set(xlabel="seconds an epoch")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    named = [(_name(g, varied), g["figures"]) for g in results["groups"] if SECONDS in g["figures"]]
    _label(right, [(name, (figures[SECONDS]["mean"], figures[height]["mean"])) for name, figures in named])
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), frameon=False)
    write_whole(path, lambda part: figure.savefig(part, dpi=120, format="png", metadata={"Software": None}))


def _name(group: Mapping[str, Any], varied: Sequence[str]) -> str:
    return ", ".join(group["labels"][axis] for axis in varied) or "all"


def _label(axes: Any, named: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Draw the front as a line, and each mean's name beside the axes, joined to it; names on the front are bold."""
    means = [mean for _, mean in named]
    best = front(means)
    if not means:
        return
    if len(best) > 1:
        axes.plot(*zip(*(means[i] for i in best), strict=True), color="black", linewidth=0.8, zorder=1)
    if max(x for x, _ in means) > WIDE * min(x for x, _ in means):  # the cheap ones would stand in one heap
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    places = moved_apart([y for _, y in means], (high - low) / max(18, len(means)))
    for i, ((name, _), mean, place) in enumerate(zip(named, means, places, strict=True)):
        axes.annotate(
            name, mean, (1.03, place), xycoords="data", textcoords=("axes fraction", "data"), fontsize=8, va="center",
            weight="bold" if i in best else "normal", arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5},
            annotation_clip=False,
        )  # fmt: skip
    axes.set_ylim(low, high)
