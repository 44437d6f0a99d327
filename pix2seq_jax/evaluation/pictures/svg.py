"""Charts as SVG text, to be written into a page: letters stay sharp at any size, and names of
classes may be in any script."""

from collections.abc import Mapping, Sequence
from html import escape

from pix2seq_jax.evaluation.pictures.plots import ticks

SIZE = (520, 320)  # width and height of a chart without its legend, in pixels
MARGINS = (56, 30, 16, 46)  # left, above, right, below the axes
LINE = 18  # height of a line of text
BAR, NAMES, VALUES = 26, 130, 60  # height of a bar, room for names at its left and the value
# Told apart by those who see red and green alike (Okabe and Ito, 2008).
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a7a00")
DASHES = ("", "6 3", "2 2")  # of the first, second and third eight curves

Curve = Sequence[tuple[float, float]]
Limits = tuple[float, float]


def lines(
    title: str,
    axes: tuple[str, str],
    curves: Mapping[str, Curve],
    *,
    limits: tuple[Limits, Limits] = ((0.0, 1.0), (0.0, 1.0)),
    dots: bool = False,
    diagonal: bool = False,
) -> str:
    """A chart of curves with a legend.

    Args:
        title: above the chart.
        axes: what is along x and along y.
        curves: name -> (x, y) points inside of the limits.
        limits: lowest and highest value of x and of y; they are rounded outwards.
        dots: whether points are marked.
        diagonal: whether a line shows where y is x.
    """
    frame = _Frame(*(ticks(*pair) for pair in limits))
    parts = [*_axes(frame, title, axes)]
    if diagonal:
        ends = ((frame.x[0], frame.x[0]), (frame.x[-1], frame.x[-1]))
        parts.append(_polyline(frame, ends, "#999999", "4 4"))
    for number, (name, curve) in enumerate(curves.items()):
        color = PALETTE[number % len(PALETTE)]
        dash = DASHES[number // len(PALETTE) % len(DASHES)]
        parts.append(_polyline(frame, curve, color, dash))
        if dots:
            parts += [_dot(frame.point(x, y), color, f"{name}: {x:.3g}, {y:.3g}") for x, y in curve]
        parts += _legend(SIZE[1] + (number + 0.5) * LINE, name, color, dash)
    return _whole(title, parts, SIZE[1] + LINE * len(curves) + 6)


def bars(title: str, axis: str, values: Mapping[str, float]) -> str:
    """A chart of a bar for each name, its value at its end; negative values go to the left, and
    NaN has no bar."""
    numbers = [value for value in values.values() if value == value]
    low, high = min([0.0, *numbers]), max([0.0, *numbers])
    marks = ticks(low, high if high > low else 1.0)
    scale = (SIZE[0] - NAMES - VALUES) / (marks[-1] - marks[0])
    zero, middle = NAMES - marks[0] * scale, (SIZE[0] + NAMES - VALUES) / 2
    parts = [_text((middle, 18), title, "middle")]
    for row, (name, value) in enumerate(values.items()):
        y = MARGINS[1] + row * BAR
        parts.append(_text((NAMES - 8, y + 17), name, "end"))
        parts += _bar(zero, value * scale, y, value, PALETTE[row % len(PALETTE)])
    bottom = MARGINS[1] + BAR * len(values)
    axis_line = f'x1="{zero}" x2="{zero}" y1="{MARGINS[1]}" y2="{bottom}"'
    parts.append(f'<line {axis_line} stroke="#444"/>')
    parts.append(_text((middle, bottom + 18), axis, "middle"))
    return _whole(title, parts, bottom + 28)


def _bar(zero: float, length: float, y: float, value: float, color: str) -> list[str]:
    """A bar from `zero` on and its value, in pixels."""
    if value != value:
        return [_text((zero + 4, y + 17), "-", "start")]
    start, end = sorted((zero, zero + length))
    shape = f'x="{start:.1f}" y="{y + 3}" width="{end - start:.1f}" height="{BAR - 6}"'
    words = _text((end + 4, y + 17), f"{value:.3f}", "start")
    return [f'<rect {shape} fill="{color}"/>', words]


class _Frame:
    """Where values lie between the axes, whose ticks are given."""

    def __init__(self, x: list[float], y: list[float]) -> None:
        self.x, self.y = x, y
        self.left, self.top = MARGINS[0], MARGINS[1]
        self.right, self.bottom = SIZE[0] - MARGINS[2], SIZE[1] - MARGINS[3]

    def point(self, x: float, y: float) -> tuple[float, float]:
        """In pixels from the upper left corner."""
        across = (x - self.x[0]) / (self.x[-1] - self.x[0])
        up = (y - self.y[0]) / (self.y[-1] - self.y[0])
        return (
            self.left + across * (self.right - self.left),
            self.bottom - up * (self.bottom - self.top),
        )


def _axes(frame: _Frame, title: str, names: tuple[str, str]) -> list[str]:
    """The grid, the numbers at it, the title and the names of the axes."""
    parts = [_text(((frame.left + frame.right) / 2, 18), title, "middle")]
    for value in frame.x:
        x, _ = frame.point(value, frame.y[0])
        ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{frame.bottom}"'
        parts.append(f'<line {ends} stroke="#ddd"/>')
        parts.append(_text((x, frame.bottom + 16), f"{value:g}", "middle"))
    for value in frame.y:
        _, y = frame.point(frame.x[0], value)
        ends = f'x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line {ends} stroke="#ddd"/>')
        parts.append(_text((frame.left - 6, y + 4), f"{value:g}", "end"))
    middle = (frame.top + frame.bottom) / 2
    parts.append(_text(((frame.left + frame.right) / 2, frame.bottom + 36), names[0], "middle"))
    turn = f' transform="rotate(-90 14 {middle})"'
    parts.append(_text((14, middle), names[1], "middle", turn))
    return parts


def _legend(y: float, name: str, color: str, dash: str) -> list[str]:
    """A piece of the curve and its name."""
    left = MARGINS[0]
    style = f'stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"'
    line = f'<line x1="{left}" x2="{left + 24}" y1="{y}" y2="{y}" {style}/>'
    return [line, _text((left + 32, y + 4), name, "start")]


def _polyline(frame: _Frame, curve: Curve, color: str, dash: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.point(*pair) for pair in curve))
    style = f'fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"'
    return f'<polyline points="{points}" {style}/>'


def _dot(spot: tuple[float, float], color: str, words: str) -> str:
    at = f'cx="{spot[0]:.1f}" cy="{spot[1]:.1f}"'
    return f'<circle {at} r="4" fill="{color}"><title>{escape(words)}</title></circle>'


def _text(spot: tuple[float, float], words: str, anchor: str, more: str = "") -> str:
    at = f'x="{spot[0]:.1f}" y="{spot[1]:.1f}" text-anchor="{anchor}"{more}'
    return f"<text {at}>{escape(words)}</text>"


def _whole(title: str, parts: Sequence[str], height: float) -> str:
    """The chart, with its title for those who do not see it."""
    size = f'width="{SIZE[0]}" height="{height:.0f}" viewBox="0 0 {SIZE[0]} {height:.0f}"'
    return f'<svg {size} role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
