"""A study's results as a figure: accuracy without and under attack, and what it costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmard.core.files import write_whole
from mmard.evaluation.scores import CLEAN, WORST
from mmard.report.study_tables import SECONDS

MARKERS, GREYS = "osD^vP*X<>hd", ("black", "0.45", "0.7")


def plot_study(results: Mapping[str, Any], path: Path) -> None:
    """Worst case against clean accuracy, and against seconds an epoch: a run a small mark, a group's mean a large one
    with bars of one standard deviation. Groups differ by mark, shade and filling, so that it reads without colour.
    Writes a PNG.
    """
    from matplotlib.figure import Figure  # slow to import, and a run without a plot needs none of it

    varied = [axis for axis in results["axes"] if len({g["labels"][axis] for g in results["groups"]}) > 1]
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for i, group in enumerate(results["groups"]):
        mine = [row for row in results["rows"] if row["labels"] == group["labels"]]
        name = ", ".join(group["labels"][axis] for axis in varied) or "all"
        style = {"marker": MARKERS[i % len(MARKERS)], "color": GREYS[i % len(GREYS)]}
        filling = style["color"] if i // len(MARKERS) % 2 == 0 else "white"
        for axes, key in ((left, CLEAN), (right, SECONDS)):
            runs = [(row[key] if key == SECONDS else row["accuracies"][key], row["accuracies"][WORST]) for row in mine]
            axes.plot(*zip(*runs, strict=True), linestyle="", markersize=4, markerfacecolor="none", **style)
            x, y = group["figures"].get(key), group["figures"][WORST]
            if x is not None:
                axes.errorbar(
                    x["mean"], y["mean"], xerr=x["sd"] or 0, yerr=y["sd"] or 0, markersize=10, capsize=3,
                    markerfacecolor=filling, label=name, **style,
                )  # fmt: skip
    left.set(xlabel="clean accuracy, %", ylabel="accuracy under the worst attack, %")
    right.set(xlabel="seconds an epoch")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), frameon=False)
    write_whole(path, lambda part: figure.savefig(part, dpi=120, format="png", metadata={"Software": None}))
