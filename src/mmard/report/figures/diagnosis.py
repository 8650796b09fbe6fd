"""A diagnosis for the screen, and its two figures. Reads the record, never a model."""

from pathlib import Path
from textwrap import fill
from typing import Any

from torch import Tensor

from mmard.diagnostics.boundary import Row
from mmard.diagnostics.record import DIRECT, NATURAL, Diagnosis
from mmard.diagnostics.slices import Slice
from mmard.diagnostics.triangle import EDGES
from mmard.utils.files import write_whole
from mmard.utils.terminal import ScreenTable

LEGEND = """
margin, distance to its boundary, entropy H: the teacher's at x'
share: of the possible drop of its margin in the ball; gain: share less {first}'s
crossed: the teacher changed its class; fools: of the images S had right
transfer: of those that both had right and that fool S, how many fool T too"""
TIGHT: dict[str, Any] = {"box": None, "padding": (0, 1, 0, 0), "pad_edge": False, "title_justify": "left"}
MARGINS = """How near do the examples come to the teacher's boundary? Further left is nearer;
beyond 0 the teacher has changed its class. Dot: median, bar: middle half"""
SLICES = """Does the example x' go where the teacher changes its mind? The plane through x, x' and b;
in the corner the teacher's margin at x → at x' (below 0: it changed its class)"""
STUDENT, OWN, OTHER = "#d62728", "#dbe9f6", "#f7d9a8"


def examples_table(found: Diagnosis) -> ScreenTable:
    """Make the table of where each method's examples lie, a row each, between the two ends of the scale. 80 columns wide."""
    metadata, rows, first = found.metadata, found.rows(), next(iter(found.methods))
    attack = (
        "each by its own attack" if metadata["own_attacks"] else "by " + metadata["inner"][first].rsplit(" by ", 1)[-1]
    )
    judged = f" (the run is judged in {metadata['judged_in']})" if "judged_in" in metadata else ""
    title = f"Where the examples lie: {metadata['images']} {metadata['split']} images, {metadata['threat']}{judged}\nmade {attack}"
    table = ScreenTable(title=title, caption=LEGEND.format(first=first), caption_justify="left", **TIGHT)
    table.add_column("examples by", overflow="fold", vertical="bottom")  # a long name folds before a number does
    for head in ("margin", "share\n%", "gain\npoints", "dist-\nance", "cros-\nsed %", "fools\n%", "trans-\nfer %", "H"):
        table.add_column(head, justify="right", no_wrap=True, vertical="bottom")
    for name, r in rows.items():
        end = name in (NATURAL, DIRECT)
        cells = [_cell(r["margin"], 1, ".2f"), _cell(r["share"], 100, ".0f") if end else _pair(r, "share", ".1f")]
        cells += ["" if end or name == first else _pair(r, "gain", "+.1f")]
        cells += [
            _cell(r[f"distance_{metadata['norm']}"], 1, ".4f"),
            _cell(r["crossed"], 100, ".1f"),
            _cell(r["fooled"], 100, ".1f"),
        ]
        cells += [_cell(r["transfer"], 100, ".0f"), _cell(r["entropy"], 1, ".3f")]
        table.add_row(name, *cells)
    return table


def triangle_table(found: Diagnosis) -> ScreenTable:
    """Make the table of the adjusted mutual informations with their standard errors."""
    table = ScreenTable(title="Mutual information in nats, less what chance gives (± s.e.)", **TIGHT)
    table.add_column("examples by", overflow="fold")
    for edge in EDGES.values():
        table.add_column(edge, justify="right", no_wrap=True)
    groups = {**found.triangles, **{f"own, {name}": edges for name, edges in found.training.items()}}
    for name, edges in groups.items():
        table.add_row(name, *(f"{edges[e]['adjusted']:.2f}±{edges[e]['error']:.2f}" for e in EDGES))
    return table


def _pair(row: Row, key: str, form: str) -> str:
    value, error = row[key], row[f"{key}_error"]
    return "–" if value is None or error is None else f"{100 * value:{form}}±{100 * error:.1f}"


def _cell(value: Any, scale: float, form: str) -> str:
    return "–" if value is None else f"{scale * value:{form}}"


def plot_margins(found: Diagnosis, path: Path) -> None:
    """Plot the distribution of the teacher's margin at x and at each method's x', one row each. Writes a PNG."""
    from matplotlib.figure import Figure  # slow to import, and a run without a plot needs none of it

    records, rows = found.boundary_records(), found.rows()
    figure = Figure(figsize=(9, 1.4 + 0.55 * len(records)), layout="constrained")
    axes = figure.subplots()
    names = list(records)[::-1]
    spread = [name for name in names if len(records[name].margin) > 1]
    heights = [names.index(name) for name in spread]
    values = [records[name].margin.numpy() for name in spread]
    parts: Any = axes.violinplot(values, heights, orientation="horizontal", widths=0.85, showextrema=False)
    for name, body in zip(spread, parts["bodies"], strict=True):
        body.set(facecolor="#888888" if name in (NATURAL, DIRECT) else "C0", alpha=0.55)
    axes.axvline(0, color="black")
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    axes.set_xlim(min(low, -0.1 * high) * 1.05, high * 1.7)
    axes.axvspan(axes.get_xlim()[0], 0, color=OTHER, zorder=0)
    for i, name in enumerate(names):
        margin = records[name].margin
        low, middle, high = (margin.quantile(q).item() for q in (0.25, 0.5, 0.75))
        axes.plot([low, high], [i, i], color="black", linewidth=4, solid_capstyle="butt")
        axes.plot([middle], [i], "o", color="white", markeredgecolor="black", markersize=6)
        text = f"{_cell(rows[name]['share'], 100, '.0f')} % of the drop, {_cell(rows[name]['crossed'], 100, '.0f')} % crossed"
        axes.text(0.995, i, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), [fill(name, 24) for name in names])
    figure.supxlabel(
        "the teacher's logit margin of the class it gives the natural image (0: its decision boundary)", fontsize=9
    )
    figure.suptitle(MARGINS, fontsize=10)
    write_whole(path, lambda part: figure.savefig(part, dpi=130, format="png"))


def plot_slices(found: Diagnosis, path: Path) -> None:
    """Plot slices, a row for each method, a column for each image: both networks' regions in the plane of x, x' and b, as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows, columns = len(found.slices), len(found.titles)
    figure = Figure(figsize=(2.6 * columns + 1.2, 2.45 * rows + 1.9), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for row, (name, cuts) in zip(panels, found.slices.items(), strict=True):
        for column, (axes, piece) in enumerate(zip(row, cuts, strict=True)):
            _draw(axes, piece, max(cuts[column].across[-1].item() for cuts in found.slices.values()))
            if column == 0:
                axes.set_ylabel(name, fontsize=10, fontweight="bold")
    for axes, title in zip(panels[0], found.titles, strict=True):
        axes.set_title(title, fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("towards the teacher's nearest boundary, L2", fontsize=8)
    handles: list[Any] = [
        Patch(facecolor=OWN, label="teacher keeps its class"), Patch(facecolor=OTHER, label="teacher says another"),
        Line2D([], [], color=STUDENT, linewidth=2, label="student's boundary"),
        Line2D([], [], color="black", linestyle="--", label=f"edge of the ball, {found.metadata['threat']}"),
        Line2D([], [], marker="o", linestyle="", color="black", label="x, natural"),
        Line2D([], [], marker="*", markersize=12, linestyle="", color=STUDENT, label="x', the method's example"),
        Line2D([], [], marker="D", linestyle="", color="#1f4e9c", label="b, teacher's nearest boundary"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.suptitle(SLICES, fontsize=11)
    write_whole(path, lambda part: figure.savefig(part, dpi=110, format="png"))


def _draw(axes: Any, piece: Slice, half: float) -> None:
    """Draw one panel; the side away from b and x' is cut off, and all the panels of an image have one scale."""
    grid: tuple[Tensor, Tensor] = (piece.across, piece.up)
    axes.contourf(*grid, piece.teacher_margin, levels=[-1e9, 0, 1e9], colors=[OTHER, OWN])
    axes.contour(*grid, piece.teacher_margin, levels=[0], colors="#1f4e9c", linewidths=1)
    axes.contour(*grid, piece.student_margin, levels=[0], colors=STUDENT, linewidths=2)
    axes.contour(*grid, piece.ball, levels=[1], colors="black", linestyles="--", linewidths=1)
    axes.annotate("", piece.adv, (0, 0), arrowprops={"arrowstyle": "-", "color": STUDENT, "linewidth": 1})
    axes.plot(0, 0, "o", color="black", markersize=6)
    axes.plot(*piece.edge, "D", color="#1f4e9c", markersize=6)
    axes.plot(*piece.adv, "*", color=STUDENT, markersize=14, markeredgecolor="white")
    axes.set(xlim=(-0.45 * half, half), ylim=(-0.45 * half, half), aspect="equal", facecolor="#eeeeee")
    text = f"margin {piece.margins[0]:.1f} → {piece.margins[1]:.1f}"
    axes.text(0.03, 0.03, text, transform=axes.transAxes, fontsize=8, bbox={"color": "white", "alpha": 0.8, "pad": 1.5})
    axes.tick_params(labelsize=7)
