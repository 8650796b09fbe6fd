"""Figures as SVG that takes its colours from the page, so that light and dark need no second copy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 30, 44
COLOURS = 8
MOST_POINTS = 400
"""Points of a curve that are drawn; its paper is about as many pixels wide."""
FEWEST_POINTS = 20
"""Points of a curve that are drawn however many there are in its chart."""
MOST_DOTS = 300
"""Points of a chart up to which each is a dot that tells its figures."""
CHART_POINTS = 2_400
"""Points of all the curves of a chart."""


@dataclass(frozen=True)
class Line:
    """A curve, in the colour of its number; after `COLOURS` of them the dashes change.

    Attributes:
        xs, ys: its points.
        low, high: a band around it; empty: none.
    """

    name: str
    number: int
    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def thinned(line: Line, most: int = MOST_POINTS) -> Line:
    """Leave out points of a long curve: the first, the last, and the lowest and highest of each stretch between stay.

    >>> thinned(Line("a", 0, range(9), [0, 1, 9, 1, 1, 1, 1, -5, 0]), most=4).ys
    [0, 9, -5, 0]
    """
    last = len(line.ys) - 1
    if last < most:
        return line
    stretches = max(1, most // 2 - 1)
    ends = [1 + i * (last - 1) // stretches for i in range(stretches + 1)]
    kept = {0, last}
    for begin, end in pairwise(ends):
        kept |= {pick(range(begin, end), key=line.ys.__getitem__) for pick in (min, max)}
    xs, ys, low, high = ([c[i] for i in sorted(kept)] if len(c) else c for c in (line.xs, line.ys, line.low, line.high))
    return replace(line, xs=xs, ys=ys, low=low, high=high)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Choose round numbers that cover a range.

    >>> ticks(0, 97)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    if not high - low > 1e-9:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class PlotArea:
    """The area of a chart, which maps values to pixels."""

    xs: list[float]
    ys: list[float]

    def x(self, value: float) -> float:
        return LEFT + (value - self.xs[0]) / (self.xs[-1] - self.xs[0]) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.ys[0]) / (self.ys[-1] - self.ys[0]) * (HEIGHT - TOP - BOTTOM)


def style_of(number: int) -> str:
    """Return the CSS classes of a curve."""
    return f"s{number % COLOURS} d{number // COLOURS % 3}"


def legend(names: Sequence[str]) -> Markup:
    """Draw the legend of a page's charts; nothing where there is one curve."""
    if len(names) < 2:
        return Markup()
    sample = '<svg class="sample {}" viewBox="0 0 26 8" aria-hidden="true"><path class="curve" d="M0 4H26"/></svg>'
    items = "".join(f"<li>{sample.format(style_of(i))}{escape(name)}</li>" for i, name in enumerate(names))
    return Markup(f'<ul class="legend" aria-label="Colours">{items}</ul>')


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    marks: Sequence[tuple[float, str]] = (),
    points: int = CHART_POINTS,
) -> Markup:
    """Draw curves as SVG; ``marks`` are dashed upright lines with a word each. Nothing where no curve has a point.

    Args:
        points: of all the curves together; each has its share of them, from `FEWEST_POINTS` to `MOST_POINTS`.
    """
    lines = [line for line in lines if line.ys]
    if not lines:
        return Markup()
    lines = [thinned(line, min(MOST_POINTS, max(FEWEST_POINTS, points // len(lines)))) for line in lines]
    dotted = sum(len(line.ys) for line in lines) <= min(MOST_DOTS, points)
    xs = [x for line in lines for x in line.xs]
    ys = [y for line in lines for part in (line.ys, line.low, line.high) for y in part]
    frame = PlotArea(ticks(min(xs), max(xs)), ticks(min(0.0, *ys), max(*ys, 0.0) or 1.0))
    parts = [_axes(frame, x_label, y_label)]
    for at, word in marks:
        x = frame.x(at)
        parts.append(f'<path class="mark" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="small" x="{x + 4:.1f}" y="{TOP + 10}">{escape(word)}</text>')
    parts += [_band(line, frame) for line in lines if line.low]
    parts += [_curve(line, frame, dotted or len(line.ys) == 1) for line in lines]
    return _svg(title, parts, f"{title}. {y_label} against {x_label}. " + "; ".join(map(_said, lines)))


def _curve(line: Line, frame: PlotArea, dotted: bool) -> str:
    spots = [(frame.x(x), frame.y(y)) for x, y in zip(line.xs, line.ys, strict=True)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
    dots = "".join(
        f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="2.6"><title>{escape(line.name)}: {y:.4g} at {x:.4g}</title></circle>'
        for (px, py), x, y in zip(spots, line.xs, line.ys, strict=True)
        if dotted
    )
    return f'<g class="{style_of(line.number)}"><path class="curve" d="{path}"/>{dots}</g>'


def _band(line: Line, frame: PlotArea) -> str:
    there = [f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in zip(line.xs, line.high, strict=True)]
    back = [f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in zip(line.xs, line.low, strict=True)][::-1]
    return f'<path class="band {style_of(line.number)}" d="M{"L".join([*there, *back])}Z"/>'


def _said(line: Line) -> str:
    return f"{line.name}: from {line.ys[0]:.4g} at {line.xs[0]:.4g} to {line.ys[-1]:.4g} at {line.xs[-1]:.4g}"


def dot_chart(title: str, names: Sequence[str], rows: Sequence[Line], y_label: str) -> Markup:
    """Draw dots as SVG: a column for each name, a dot for each row in it: ``xs`` are the numbers of the columns."""
    ys = [y for row in rows for part in (row.ys, row.low, row.high) for y in part]
    if not ys:
        return Markup()
    frame = PlotArea([-0.5, len(names) - 0.5], ticks(0.0, max(*ys, 1.0)))
    parts, width = [_axes(frame, "", y_label, list(names))], 0.6 / max(1, len(rows))
    for i, row in enumerate(rows):
        shift, spots = (i - (len(rows) - 1) / 2) * width, []
        for j, (x, y) in enumerate(zip(row.xs, row.ys, strict=True)):
            px, py = frame.x(x + shift), frame.y(y)
            if row.low:
                spots.append(f'<path class="bar" d="M{px:.1f} {frame.y(row.low[j]):.1f}V{frame.y(row.high[j]):.1f}"/>')
            tip = f"{row.name}, {names[int(x)]}: {y:.1f}"
            spots.append(
                f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="3.4"><title>{escape(tip)}</title></circle>'
            )
        parts.append(f'<g class="{style_of(row.number)}">{"".join(spots)}</g>')
    low = "; ".join(
        f"{r.name}: lowest {min(r.ys):.1f} at {names[int(r.xs[r.ys.index(min(r.ys))])]}" for r in rows if r.ys
    )
    return _svg(title, parts, f"{title}. {y_label}. {low}")


def _axes(frame: PlotArea, x_label: str, y_label: str, names: list[str] | None = None) -> str:
    parts, floor = [], HEIGHT - BOTTOM
    for value in frame.ys:
        y = frame.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    places = frame.xs if names is None else [float(i) for i in range(len(names))]
    crowded = names is not None and max(map(len, names)) * len(places) > 62
    for i, value in enumerate(places):
        word = f"{value:g}" if names is None else names[int(value)][: max(3, 116 // len(places))]
        y = floor + 16 + (15 if crowded and i % 2 else 0)  # long names stand in two rows
        parts.append(f'<text x="{frame.x(value):.1f}" y="{y}" text-anchor="middle">{escape(word)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {floor}H{WIDTH - RIGHT}"/>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(f'<text class="small" x="6" y="{TOP - 12}">{escape(y_label)}</text>')
    return "".join(parts)


def _svg(title: str, parts: Sequence[str], said: str) -> Markup:
    picture = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">{"".join(parts)}</svg>'
    return Markup(f"<figure><figcaption>{escape(title)}</figcaption>{picture}</figure>")
