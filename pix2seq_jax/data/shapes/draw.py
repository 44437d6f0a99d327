"""Drawing of the `shapes` data: scenes of figures, and outlines of what is visible of each.

Coordinates are `xy` in pixels of the finished image, x to the right and y down, pixel (0, 0)
covering [0, 1) x [0, 1). Masks are kept at SUPERSAMPLE times the resolution, so that edges are
anti-aliased and outlines hold to a fraction of a pixel. No TensorFlow, no jax: worker processes
import this file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pix2seq_jax.data.shapes.sketches import BODY, FACE, LIMB, Category, Sketch
from pix2seq_jax.geometry.rings import area, contours, simplify

SUPERSAMPLE = 4
MIN_VISIBLE = 0.3  # an object of which less is visible is drawn elsewhere
MIN_PART = 1.0  # pixels²; the smallest part of an object that gets a polygon
MAX_LOST = 0.25  # pixels²; the largest thing that polygons may leave out
MIN_SIDE, MAX_SIDE = 0.15, 0.60  # of the shorter image side, for both sides of an object's full box
MIN_PERSON = 0.45  # the longer side of a person, so that its keypoints can be told apart
MIN_CONTRAST = 85.0  # RGB distance between an object and the background
# of the longer image side: how far a traced outline may be simplified (a fifth of a pixel of 64)
TOLERANCE = 0.003

# Word in captions -> RGB. Grayscale pictures use the second table: no one could see another colour
# in them.
COLOURS = {
    "red": (215, 35, 35),
    "green": (35, 160, 60),
    "blue": (40, 75, 220),
    "yellow": (240, 215, 40),
    "orange": (245, 130, 25),
    "purple": (145, 50, 175),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
GRAYS = {"white": (250, 250, 250), "black": (15, 15, 15)}
LIMB_SHADE = 0.75  # brightness of limbs, the body being 1


@dataclass(frozen=True)
class Figure:
    """One drawn object.

    Attributes:
        category: its class.
        colour: its colour's word.
        crowd: whether it stands for a group that is annotated as one region.
        parts: rings f64[n, 2] (xy pixels) with their colours, bottom to top.
        keypoints: f64[17, 2] xy pixels, or None.
        mask: bool[H*S, W*S], all of it, hidden or not.
        bounds: lower and upper corner of all of it, f64[2] xy pixels.
    """

    category: Category
    colour: str
    crowd: bool
    parts: tuple[tuple[np.ndarray, np.ndarray], ...]
    keypoints: np.ndarray | None
    mask: np.ndarray
    bounds: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Scene:
    """One picture.

    Attributes:
        image: mode RGB or L.
        figures: bottom to top.
        visible: bool[H*S, W*S] for each figure, what nothing covers.
        rings: outlines f64[n, 2] (xy pixels) of each figure's visible part; exact where nothing
            covers a plain shape.
    """

    image: Image.Image
    figures: tuple[Figure, ...]
    visible: tuple[np.ndarray, ...]
    rings: tuple[list[np.ndarray], ...]


def draw(
    rng: np.random.Generator,
    width: int,
    height: int,
    wanted: list[tuple[Category, bool]],
    gray: bool,
) -> Scene:
    """Draw the wanted (category, is it a crowd) figures, bottom to top, on a picture of width x
    height pixels.

    Arrangements that polygons do not express (a hole, a part too small to see) are drawn anew.
    """
    background, tone = _background(rng, width, height, gray)

    def make(category: Category, crowd: bool) -> Figure:
        return _figure(rng, category, crowd, (height, width), tone, gray)

    for figures in _arrangements(make, wanted):
        visible = _visible(figures)
        rings, lost = _rings(figures, visible, TOLERANCE * max(width, height))
        if lost <= MAX_LOST:
            image = _paint(figures, background, gray)
            return Scene(image, tuple(figures), tuple(visible), tuple(rings))
    raise AssertionError("arrangements are endless")


def _background(
    rng: np.random.Generator, width: int, height: int, gray: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A muted tone, its slow drift over the picture and a little noise: f64[H, W, 3], and the tone
    f64[3]."""
    level = rng.uniform(95, 135) if gray else rng.uniform(50, 215)
    tone = level + rng.normal(0, 0 if gray else 15, 3)
    across, down = rng.uniform(-12, 12, 2)
    drift = np.linspace(-across, across, width) + np.linspace(-down, down, height)[:, None]
    return tone + drift[..., None] + rng.normal(0, 4, (height, width, 1)), tone


def _figure(
    rng: np.random.Generator,
    category: Category,
    crowd: bool,
    shape: tuple[int, int],
    tone: np.ndarray,
    gray: bool,
) -> Figure:
    """A figure of this class anywhere on a picture of `shape` (height, width) with a background of
    this tone."""
    rings, keypoints = (_crowd if crowd else _single)(rng, category, shape[1], shape[0])
    colour, rgb = _colour(rng, tone, gray)
    tones = {
        BODY: rgb,
        LIMB: LIMB_SHADE * rgb,
        FACE: np.full(3, 15.0 if rgb.mean() > 80 else 240.0),
    }
    mask = np.zeros((shape[0] * SUPERSAMPLE, shape[1] * SUPERSAMPLE), bool)
    for ring, part in rings:
        if part != FACE:  # lies inside the head
            fill(mask, ring * SUPERSAMPLE, True)
    points = np.concatenate([ring for ring, _ in rings])
    parts = tuple((ring, tones[part]) for ring, part in rings)
    return Figure(category, colour, crowd, parts, keypoints, mask, (points.min(0), points.max(0)))


def _single(rng: np.random.Generator, category: Category, width: int, height: int) -> Sketch:
    short = min(width, height)
    sides = (MIN_PERSON if category.name == "person" else MIN_SIDE) * short, MAX_SIDE * short
    return _placed(rng, category.sketch(rng), sides, np.zeros(2), np.array([width, height]))


def _crowd(rng: np.random.Generator, category: Category, width: int, height: int) -> Sketch:
    """Eight to twelve small figures close together, each in a cell of a grid of four by three."""
    cell = 0.13 * min(width, height)
    corner = rng.uniform(size=2) * ([width - 4 * cell, height - 3 * cell])
    rings = []
    for index in rng.permutation(12)[: rng.integers(8, 13)]:
        low = corner + cell * np.array([index % 4, index // 4])
        rings += _placed(rng, category.sketch(rng), (0.75 * cell, 0.95 * cell), low, low + cell)[0]
    return rings, None


def _placed(
    rng: np.random.Generator,
    sketch: Sketch,
    sides: tuple[float, float],
    low: np.ndarray,
    high: np.ndarray,
) -> Sketch:
    """Scale a sketch and put it somewhere between the corners `low` and `high`.

    `sides` (pixels) bound both sides of its box; of a person, which is narrow, the longer side
    only.
    """
    rings, keypoints = sketch
    points = np.concatenate([ring for ring, _ in rings])
    corner, extent = points.min(0), np.ptp(points, axis=0)
    smallest = sides[0] / (extent.max() if keypoints is not None else extent.min())
    scale = rng.uniform(smallest, max(smallest, sides[1] / extent.max()))
    target = low + rng.uniform(size=2) * np.maximum(high - low - extent * scale, 0)
    moved = [((ring - corner) * scale + target, tone) for ring, tone in rings]
    return moved, None if keypoints is None else (keypoints - corner) * scale + target


def _colour(rng: np.random.Generator, tone: np.ndarray, gray: bool) -> tuple[str, np.ndarray]:
    """Word and RGB f64[3], a little varied, of a colour that shows on a background of this tone,
    limbs included."""
    palette = GRAYS if gray else COLOURS
    rgb = np.array(list(palette.values()), float)
    nearest = np.minimum(
        *(np.sqrt(np.sum((shade * rgb - tone) ** 2, axis=1)) for shade in (1.0, LIMB_SHADE))
    )
    index = rng.choice(np.nonzero(nearest >= MIN_CONTRAST)[0])
    return list(palette)[index], np.clip(rgb[index] + rng.normal(0, 0 if gray else 8, 3), 0, 255)


def _arrangements(
    make: Callable[..., Figure], wanted: list[tuple[Category, bool]]
) -> Iterator[list[Figure]]:
    """Endless stacks of the wanted figures in which each fits."""
    while True:
        figures: list[Figure] = []
        for category, crowd in wanted:
            candidates = (make(category, crowd) for _ in range(20))
            figures += next(([figure] for figure in candidates if _fits(figures, figure)), [])
        if len(figures) == len(wanted):
            yield figures


def _fits(figures: list[Figure], new: Figure) -> bool:
    """Whether enough of every figure stays visible below `new` and no neighbour of it has the same
    colour."""
    covered = new.mask.copy()
    for old in reversed(figures):
        gap = np.maximum(new.bounds[0] - old.bounds[1], old.bounds[0] - new.bounds[1]).max()
        if old.colour == new.colour and gap < 2:  # pixels
            return False
        if np.count_nonzero(old.mask & ~covered) < MIN_VISIBLE * np.count_nonzero(old.mask):
            return False
        covered |= old.mask
    return True


def _visible(figures: list[Figure]) -> list[np.ndarray]:
    """What nothing covers of each figure of a stack, bool[H*S,W*S]."""
    covered, visible = np.zeros(np.shape(figures[0].mask) if figures else 0, bool), []
    for figure in reversed(figures):
        visible.append(figure.mask & ~covered)
        covered |= figure.mask
    return visible[::-1]


def _rings(
    figures: list[Figure], visible: list[np.ndarray], tolerance: float
) -> tuple[list[list[np.ndarray]], float]:
    """Outlines of each figure's visible part, and pixels² of the largest thing that they leave out;
    crowds aside, since their masks are annotated."""
    rings, losses = [], [0.0]
    for figure, mask in zip(figures, visible, strict=True):
        if len(figure.parts) == 1 and np.array_equal(mask, figure.mask):
            rings.append([figure.parts[0][0]])
            continue
        parts, lost = outlines(mask, tolerance)
        rings.append(parts)
        if not figure.crowd:
            losses.append(lost)
    return rings, max(losses)


def outlines(visible: np.ndarray, tolerance: float) -> tuple[list[np.ndarray], float]:
    """Outlines of the visible part of a figure.

    Args:
        visible: bool[H*S,W*S] with S = SUPERSAMPLE.
        tolerance: pixels by which outlines may be simplified.

    Returns:
        Rings f64[n,2], clockwise on the screen, one for each part of at least MIN_PART; and the
        area in pixels² of the largest thing that they leave out: a smaller part, or a hole, which
        rings cannot express.
    """
    rings, lost = [], [0.0]
    for part in contours(visible):
        outer, *holes = (ring / SUPERSAMPLE for ring in part)
        lost += [-area(hole) for hole in holes]
        simple = simplify(outer, tolerance)
        if len(simple) > 2 and area(simple) >= MIN_PART:
            rings.append(simple)
        else:
            lost.append(area(outer))
    return rings, max(lost)


def _paint(figures: list[Figure], background: np.ndarray, gray: bool) -> Image.Image:
    canvas = np.clip(background, 0, 255).astype(np.uint8)
    canvas = np.repeat(np.repeat(canvas, SUPERSAMPLE, axis=0), SUPERSAMPLE, axis=1)
    for figure in figures:
        for ring, rgb in figure.parts:
            fill(canvas, ring * SUPERSAMPLE, rgb)
    image = Image.fromarray(canvas).reduce(SUPERSAMPLE)
    return image.convert("L") if gray else image


def fill(canvas: np.ndarray, ring: np.ndarray, value: bool | np.ndarray) -> None:
    """Set `canvas` [H, W, ...] where pixel centres lie inside `ring` f64[n, 2] (canvas pixels;
    even-odd, exact)."""
    x0, y0 = np.maximum(np.floor(ring.min(0)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(ring.max(0)).astype(int), canvas.shape[1::-1])
    rows = np.arange(y0, y1) + 0.5
    (ax, ay), (bx, by) = ring.T, np.roll(ring, -1, axis=0).T
    row, edge = np.nonzero((ay <= rows[:, None]) != (by <= rows[:, None]))
    cut = ax[edge] + (rows[row] - ay[edge]) * (bx[edge] - ax[edge]) / (by[edge] - ay[edge])
    # The first pixel centre to the right of the edge.
    column = np.clip(np.ceil(cut - 0.5).astype(int) - x0, 0, x1 - x0)
    width = x1 - x0 + 1
    crossings = np.bincount(row * width + column, minlength=len(rows) * width)
    crossings = crossings.reshape(len(rows), width)
    inside = (np.cumsum(crossings, axis=1)[:, :-1] & 1).astype(bool)
    canvas[y0:y1, x0:x1][inside] = value
