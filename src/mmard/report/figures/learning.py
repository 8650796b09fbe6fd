"""Learning curves of run folders."""

from collections.abc import Mapping
from pathlib import Path

from mmard.diagnostics.triangle import EDGES
from mmard.runs.folder import RunFolder
from mmard.utils.files import write_whole


def plot_curves(folders: Mapping[str, RunFolder], path: Path) -> None:
    """Plot clean and robust accuracy on the held-out split over epochs, and the loss, one colour a run. Writes a PNG."""
    from matplotlib.figure import Figure  # slow to import, and a run without a plot needs none of it

    figure = Figure(figsize=(10, 4), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for i, (name, folder) in enumerate(folders.items()):
        records = folder.metrics()
        evaluation = [r for r in records if "robust" in r]
        colour = f"C{i}"
        accuracy.plot([r["epoch"] for r in evaluation], [r["clean"] for r in evaluation], "--", color=colour)
        accuracy.plot([r["epoch"] for r in evaluation], [r["robust"] for r in evaluation], color=colour, label=name)
        loss.plot([r["epoch"] for r in records], [r["loss"] for r in records], color=colour, label=name)
    accuracy.set(
        xlabel="epoch", ylabel="accuracy, %", title="Held-out split: robust (—) and clean (– –)", ylim=(0, 100)
    )
    loss.set(xlabel="epoch", ylabel="outer loss, nats", title="Training loss")
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
        axes.legend()
    write_whole(path, lambda part: figure.savefig(part, dpi=120, format="png"))


def plot_triangle(folder: RunFolder, path: Path) -> bool:
    """Plot the triangle's mutual informations on the held-out split over epochs, at the x' of the run's validation. Writes a PNG.

    Returns whether there was something to plot: a run without a teacher has no triangle.
    """
    from matplotlib.figure import Figure

    evaluation = [r for r in folder.metrics() if "triangle" in r]
    if not evaluation:
        return False
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for edge, label in EDGES.items():
        style = "--" if edge == "teacher" else "-"
        axes.plot(
            [r["epoch"] for r in evaluation], [r["triangle"][edge] for r in evaluation], style, marker=".", label=label
        )
    axes.set(
        xlabel="epoch",
        ylabel="mutual information, nats",
        title="The triangle natural – robust – teacher, held-out split",
    )
    axes.set_ylim(bottom=min(0, *axes.get_ylim()))
    axes.grid(alpha=0.3)
    axes.legend()
    write_whole(path, lambda part: figure.savefig(part, dpi=120, format="png"))
    return True
