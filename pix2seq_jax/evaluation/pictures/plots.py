"""Figures of experiments, by PIL alone: no plotting library is needed to train."""

import math
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from pix2seq_jax.evaluation.pictures.lettering import text_font, writable
from pix2seq_jax.evaluation.pictures.marks import color

FINE = 2  # drawn so many times larger and scaled down: PIL's lines have no smooth edges
PANEL = (440, 300)  # width and height of one panel without its legend, in pixels
MARGINS = (52, 34, 16, 48)  # left, above, right, below its axes
LINE = 18  # height of a line of text
COLUMNS = 2  # of panels
PAPER, TEXT, GRID = (255, 255, 255), (40, 40, 40), (222, 222, 222)

Curves = dict[str, list[tuple[float, float]]]
Colors = dict[str, tuple[int, int, int]]


def weight_search_plot(rows: Sequence[dict], path: str | Path) -> Image.Image:
    """Draws each metric against the weight ratio given to a newly added task, and writes it as PNG.

    The figure of the search for the weights of the tasks (Pix2Seq v2, section 4.1 and figure 4):
    one panel per added task, one curve per metric, with the same colour in all panels.

    Args:
        rows: one dictionary per trained mixture: `task` str, the added one; `ratio` float, its
            share of the weights; and metrics as "<task>/<metric>" float. Values that are missing,
            None, NaN or infinite are skipped, and curves join their neighbours; entries without "/"
            in their name are not drawn.
        path: of the PNG; its folder is made.

    Returns:
        The RGB picture.

    Raises:
        ValueError: no rows, or rows without a task.
    """
    if not rows or not all(isinstance(row.get("task"), str) for row in rows):
        raise ValueError(
            f"{len(rows)} rows {list(rows)[:1]}: give at least one, each with the added "
            "'task' and 'ratio'"
        )
    panels = {task: _curves(rows, task) for task in dict.fromkeys(row["task"] for row in rows)}
    names = dict.fromkeys(name for curves in panels.values() for name in curves)
    colors = {
        name: tuple(round(0.75 * c) for c in color(number))
        for number, name in enumerate(names, start=1)
    }
    lines = max(map(len, panels.values()))
    drawn = [
        _panel(writable(f"adding {task}"), curves, colors, lines) for task, curves in panels.items()
    ]
    columns = min(COLUMNS, len(drawn))
    width, height = drawn[0].size
    figure = Image.new("RGB", (columns * width, -(-len(drawn) // columns) * (height + LINE)), PAPER)
    for number, panel in enumerate(drawn):
        figure.paste(panel, (number % columns * width, number // columns * (height + LINE)))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.save(path, format="PNG")
    return figure


def _curves(rows: Sequence[dict], task: str) -> Curves:
    """Metric -> (ratio, value) by rising ratio of the rows that added `task`."""
    curves: Curves = {}
    for row in rows:
        ratio = _number(row.get("ratio"))
        if row["task"] != task or ratio is None:
            continue
        for name, value in row.items():
            if "/" in name and _number(value) is not None:
                curves.setdefault(name, []).append((ratio, float(value)))
    return {name: sorted(points) for name, points in curves.items()}


def _number(value) -> float | None:
    """A finite float, or None for all else: missing, NaN, text."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return float(value) if real and math.isfinite(value) else None


class Axes(NamedTuple):
    """The axes of a panel, in pixels of the large drawing, with the ticks that they begin and end
    at."""

    left: int
    top: int
    right: int
    bottom: int
    x_ticks: list[float]
    y_ticks: list[float]

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a value lies, in pixels."""
        across = (x - self.x_ticks[0]) / (self.x_ticks[-1] - self.x_ticks[0])
        up = (y - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        return (
            self.left + across * (self.right - self.left),
            self.bottom - up * (self.bottom - self.top),
        )


def _panel(title: str, curves: Curves, colors: Colors, lines: int) -> Image.Image:
    """One added task: axes, a curve per metric, and the legend with room for `lines` metrics."""
    left, above, right, below = (FINE * margin for margin in MARGINS)
    width, height = FINE * PANEL[0], FINE * PANEL[1]
    panel = Image.new("RGB", (width, height + FINE * LINE * lines), PAPER)
    points = [point for curve in curves.values() for point in curve] or [(0.0, 0.0), (1.0, 1.0)]
    x_ticks, y_ticks = (ticks(min(values), max(values)) for values in zip(*points, strict=True))
    axes = Axes(left, above, width - right, height - below, x_ticks, y_ticks)
    draw = ImageDraw.Draw(panel)
    _draw_axes(draw, axes, title, "weight ratio" if curves else "weight ratio (no values)")
    for number, (name, curve) in enumerate(curves.items()):
        y = height + (number + 0.5) * FINE * LINE  # of its line in the legend
        _draw_curve(draw, axes, curve, colors[name], name=writable(name), legend=y)
    return panel.resize((panel.width // FINE, panel.height // FINE), Image.Resampling.BOX)


def _draw_axes(draw: ImageDraw.ImageDraw, axes: Axes, title: str, below: str) -> None:
    """The frame with its grid, the numbers at it, the title above and the name of x below."""
    font, middle = text_font(FINE * 12), (axes.left + axes.right) / 2
    first_x, last_x = axes.x_ticks[0], axes.x_ticks[-1]
    first_y, last_y = axes.y_ticks[0], axes.y_ticks[-1]
    for x in axes.x_ticks:
        low, high = axes.point(x, first_y), axes.point(x, last_y)
        draw.line([low, high], fill=GRID, width=FINE)
        spot = (low[0], axes.bottom + 3 * FINE)
        draw.text(spot, f"{x:g}", fill=TEXT, font=font, anchor="ma")
    for y in axes.y_ticks:
        start, end = axes.point(first_x, y), axes.point(last_x, y)
        draw.line([start, end], fill=GRID, width=FINE)
        spot = (axes.left - 4 * FINE, start[1])
        draw.text(spot, f"{y:g}", fill=TEXT, font=font, anchor="rm")
    frame = (axes.left, axes.top, axes.right, axes.bottom)
    draw.rectangle(frame, outline=TEXT, width=FINE)
    large = text_font(FINE * 14)
    draw.text((middle, axes.top / 2), title, fill=TEXT, font=large, anchor="mm")
    spot = (middle, axes.bottom + FINE * MARGINS[3] / 2)
    draw.text(spot, below, fill=TEXT, font=font, anchor="ma")


def _draw_curve(
    draw: ImageDraw.ImageDraw,
    axes: Axes,
    curve: Sequence[tuple[float, float]],
    fill: tuple[int, int, int],
    *,
    name: str,
    legend: float,
) -> None:
    """A line through dots, and its name in the legend at the height `legend`."""
    points = [axes.point(x, y) for x, y in curve]
    left, row = axes.left, FINE * LINE
    draw.line(points, fill=fill, width=2 * FINE, joint="curve")
    draw.line([(left, legend), (left + row, legend)], fill=fill, width=2 * FINE)
    for dot in [*points, (left + row / 2, legend)]:
        draw.circle(dot, 4 * FINE, fill=fill)
    spot = (left + 1.5 * row, legend)
    draw.text(spot, name, fill=TEXT, font=text_font(FINE * 12), anchor="lm")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers at equal steps, from at most `low` to at least `high`: 2 to `count` + 2 of
    them."""
    if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):  # a single value stands in the middle
        margin = abs(low) / 2 or 0.5
        low, high = low - margin, high + margin
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(
        power * factor for factor in (1, 2, 5, 10, 20) if power * factor * count >= high - low
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
