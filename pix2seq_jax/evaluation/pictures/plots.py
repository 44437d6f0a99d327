"""Figures of experiments, by PIL alone: no plotting library is needed to train."""

import math
import numbers
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from pix2seq_jax.evaluation.pictures.draw import color, text_font, writable

FINE = 2  # drawn so many times larger and scaled down: PIL's lines have no smooth edges
PANEL = (440, 300)  # width and height of one panel without its legend, in pixels
MARGINS = (52, 34, 16, 48)  # left, above, right, below its axes
LINE = 18  # height of a line of text
COLUMNS = 2  # of panels
PAPER, TEXT, GRID = (255, 255, 255), (40, 40, 40), (222, 222, 222)

Curves = dict[str, list[tuple[float, float]]]


def _number(value) -> float | None:
    """A finite float, or None for all else: missing, NaN, text."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return float(value) if real and math.isfinite(value) else None


def _curves(rows: Sequence[dict], task: str) -> Curves:
    """Metric -> (ratio, value) by rising ratio of the rows that added `task`."""
    curves: Curves = {}
    for row in rows:
        ratio = _number(row.get("ratio"))
        for name, value in row.items() if row["task"] == task and ratio is not None else ():
            if "/" in name and _number(value) is not None:
                curves.setdefault(name, []).append((ratio, float(value)))
    return {name: sorted(points) for name, points in curves.items()}


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


def _panel(
    title: str, curves: Curves, colors: dict[str, tuple[int, int, int]], lines: int
) -> Image.Image:
    """One added task: axes, a curve per metric, and the legend with room for `lines` metrics."""
    left, above, right, below = (FINE * margin for margin in MARGINS)
    width, height, row = FINE * PANEL[0], FINE * PANEL[1], FINE * LINE
    panel = Image.new("RGB", (width, height + row * lines), PAPER)
    draw, font = ImageDraw.Draw(panel), text_font(FINE * 12)
    points = [point for curve in curves.values() for point in curve] or [(0.0, 0.0), (1.0, 1.0)]
    marks = [ticks(min(values), max(values)) for values in zip(*points, strict=True)]  # of x, of y

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = ((v - at[0]) / (at[-1] - at[0]) for v, at in zip((x, y), marks, strict=True))
        return left + across * (width - left - right), height - below - up * (
            height - above - below
        )

    for x in marks[0]:
        draw.line([place(x, marks[1][0]), place(x, marks[1][-1])], fill=GRID, width=FINE)
        draw.text(
            (place(x, 0)[0], height - below + 3 * FINE), f"{x:g}", fill=TEXT, font=font, anchor="ma"
        )
    for y in marks[1]:
        draw.line([place(marks[0][0], y), place(marks[0][-1], y)], fill=GRID, width=FINE)
        draw.text((left - 4 * FINE, place(0, y)[1]), f"{y:g}", fill=TEXT, font=font, anchor="rm")
    draw.rectangle((left, above, width - right, height - below), outline=TEXT, width=FINE)
    draw.text(
        ((left + width - right) / 2, above / 2),
        title,
        fill=TEXT,
        font=text_font(FINE * 14),
        anchor="mm",
    )
    axis = "weight ratio" if curves else "weight ratio (no values)"
    draw.text(
        ((left + width - right) / 2, height - below / 2), axis, fill=TEXT, font=font, anchor="ma"
    )
    for number, (name, curve) in enumerate(curves.items()):
        places, y = [place(*point) for point in curve], height + (number + 0.5) * row
        draw.line(places, fill=colors[name], width=2 * FINE, joint="curve")
        draw.line([(left, y), (left + row, y)], fill=colors[name], width=2 * FINE)
        for x, dot in [*places, (left + row / 2, y)]:
            draw.circle((x, dot), 4 * FINE, fill=colors[name])
        draw.text((left + 1.5 * row, y), writable(name), fill=TEXT, font=font, anchor="lm")
    return panel.resize((panel.width // FINE, panel.height // FINE), Image.Resampling.BOX)


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
