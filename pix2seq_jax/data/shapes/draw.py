"""Geometry and drawing of the `shapes` data: outlines, exact filling, tracing of visible parts,
scenes.

Coordinates are `xy` in pixels of the finished image, x to the right and y down, pixel (0, 0)
covering [0, 1) x [0, 1). Masks are kept at SUPERSAMPLE times the resolution, so that edges are
anti-aliased and outlines hold to a fraction of a pixel. No TensorFlow, no jax: worker processes
import this file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import contourpy
import numpy as np
from PIL import Image

SUPERSAMPLE = 4
MIN_VISIBLE = 0.3  # an object of which less is visible is drawn elsewhere
MIN_PART, MAX_LOST = (
    1.0,
    0.25,
)  # px²: the smallest part of an object with a polygon; the largest that may lack one
MIN_SIDE, MAX_SIDE = 0.15, 0.60  # of the shorter image side, for both sides of an object's full box
MIN_PERSON = 0.45  # the longer side of a person, so that its joints can be told apart
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
BODY, LIMB, FACE = 0, 1, 2  # tones of the parts of a figure
LIMB_SHADE = 0.75  # brightness of limbs, the body being 1

# A figure about any centre and of any size: rings with their tones, and 17 keypoints f64[17, 2] for
# persons.
Sketch = tuple[list[tuple[np.ndarray, int]], np.ndarray | None]


def fill(canvas: np.ndarray, ring: np.ndarray, value: bool | np.ndarray) -> None:
    """Set `canvas` [H, W, ...] where pixel centres lie inside `ring` f64[n, 2] (canvas pixels;
    even-odd, exact)."""
    x0, y0 = np.maximum(np.floor(ring.min(0)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(ring.max(0)).astype(int), canvas.shape[1::-1])
    rows = np.arange(y0, y1) + 0.5
    (ax, ay), (bx, by) = ring.T, np.roll(ring, -1, axis=0).T
    row, edge = np.nonzero((ay <= rows[:, None]) != (by <= rows[:, None]))
    cut = ax[edge] + (rows[row] - ay[edge]) * (bx[edge] - ax[edge]) / (by[edge] - ay[edge])
    column = np.clip(
        np.ceil(cut - 0.5).astype(int) - x0, 0, x1 - x0
    )  # first pixel centre to the right of the edge
    width = x1 - x0 + 1
    crossings = np.bincount(row * width + column, minlength=len(rows) * width).reshape(
        len(rows), width
    )
    inside = (np.cumsum(crossings, axis=1)[:, :-1] & 1).astype(bool)
    canvas[y0:y1, x0:x1][inside] = value


def area(ring: np.ndarray) -> float:
    """Area of a closed ring f64[n, 2], positive when it runs clockwise on the screen."""
    x, y = (ring - ring[0]).T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Douglas-Peucker: the fewest points found of f64[n, 2] that stay within `tolerance` of the
    closed ring."""
    start = int(
        np.argmax(np.sum((ring - ring.mean(0)) ** 2, axis=1))
    )  # an extreme point is a real corner
    ring = np.roll(ring, -start, axis=0)
    line = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(line), bool)
    middle = int(np.argmax(np.sum((ring - ring[0]) ** 2, axis=1)))
    keep[[0, middle]] = True
    todo = [(0, middle), (middle, len(ring))]
    while todo:
        first, last = todo.pop()
        if last - first < 2:
            continue
        chord, offset = line[last] - line[first], line[first + 1 : last] - line[first]
        distance = np.abs(chord[0] * offset[:, 1] - chord[1] * offset[:, 0]) / max(
            np.hypot(*chord), 1e-9
        )
        far = int(np.argmax(distance))
        if distance[far] > tolerance:
            keep[first + 1 + far] = True
            todo += [(first, first + 1 + far), (first + 1 + far, last)]
    return ring[keep[:-1]]


def trace(mask: np.ndarray, tolerance: float) -> tuple[list[np.ndarray], float]:
    """Outlines of a mask.

    Args:
        mask: bool[H*S, W*S] with S = SUPERSAMPLE.
        tolerance: pixels by which outlines may be simplified.

    Returns:
        Rings f64[n, 2], clockwise on the screen, one for each part of at least MIN_PART px², and
        the area in px² of
        the largest thing that they leave out: a smaller part, or a hole, which rings cannot
            express.
    """
    y, x = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    window = np.pad(mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1], 1).astype(float)
    generator = contourpy.contour_generator(z=window, fill_type=contourpy.FillType.OuterOffset)
    origin = np.array([x[0], y[0]]) - 0.5  # centre of the first padded pixel
    rings, lost = [], [0.0]
    for points, offsets in zip(*generator.filled(0.5, np.inf), strict=True):
        outer, *holes = ((points[a : b - 1] + origin) / SUPERSAMPLE for a, b in pairwise(offsets))
        lost += [-area(hole) for hole in holes]
        simple = simplify(outer, tolerance)
        if len(simple) > 2 and area(simple) >= MIN_PART:
            rings.append(simple)
        else:
            lost.append(area(outer))
    return rings, max(lost)


def _turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Points f64[n, 2] turned by `angle` radians about the origin."""
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def _disc(centre: np.ndarray, radius: float, corners: int = 24) -> np.ndarray:
    angle = np.arange(corners) * 2 * np.pi / corners
    return centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _capsule(a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """Outline of all points within `radius` of the segment from a to b."""
    heading = np.arctan2(*(b - a)[::-1])
    angle = np.linspace(-np.pi / 2, np.pi / 2, 7)
    ends = [(b, heading + angle), (a, heading + np.pi + angle)]
    return np.concatenate(
        [end + radius * np.stack([np.cos(t), np.sin(t)], axis=1) for end, t in ends]
    )


def _circle(rng: np.random.Generator) -> Sketch:
    return [(_disc(np.zeros(2), 1.0), BODY)], None


def _outline(
    corners: list[tuple[float, float]], turn: float, stretch: float
) -> Callable[[np.random.Generator], Sketch]:
    """Figure with these corners, stretched by up to `stretch` along an axis, then turned by up to
    `turn` radians."""

    def sketch(rng: np.random.Generator) -> Sketch:
        wide = np.array([stretch ** rng.uniform(-1, 1), 1.0])
        return [(_turned(np.array(corners) * wide, rng.uniform(-turn, turn)), BODY)], None

    return sketch


def _star_corners() -> list[tuple[float, float]]:
    angle = np.arange(10) * np.pi / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2, 0.45, 1.0)
    return list(zip(radius * np.cos(angle), radius * np.sin(angle), strict=True))


def _heart_corners() -> list[tuple[float, float]]:
    t = np.arange(28) * 2 * np.pi / 28
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return list(zip(16 * np.sin(t) ** 3, -y, strict=True))


_SQUARE = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
_TRIANGLE = [(0, -1), (1, 0.8), (-1, 0.8)]
_ARM = 0.36  # half width of an arm of the cross
_CROSS = [(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)]
_CROSS = _CROSS + [(-x, -y) for x, y in _CROSS]


def _person(rng: np.random.Generator) -> Sketch:
    """A figure facing the viewer, about one unit high: its left side is on the right of the
    picture."""
    keypoints, limbs, arms = np.zeros((17, 2)), [], []
    for first, side in ((5, 1.0), (6, -1.0)):  # left, right
        arm = rng.uniform(-0.1, 2.5)  # radians outwards from hanging down
        forearm = arm + rng.uniform(-0.4, 0.9)
        thigh = rng.uniform(0.0, 0.55)
        shin = thigh + rng.uniform(-0.5, 0.1)
        toward = {
            angle: np.array([side * np.sin(angle), np.cos(angle)])
            for angle in (arm, forearm, thigh, shin)
        }
        shoulder, hip = np.array([side * 0.13, 0.34]), np.array([side * 0.085, 0.60])
        elbow, knee = shoulder + 0.17 * toward[arm], hip + 0.19 * toward[thigh]
        wrist, ankle = elbow + 0.16 * toward[forearm], knee + 0.17 * toward[shin]
        keypoints[first::2] = shoulder, elbow, wrist, hip, knee, ankle
        arms += [_capsule(shoulder, elbow, 0.055), _capsule(elbow, wrist, 0.05)]
        limbs += [_capsule(hip, knee, 0.07), _capsule(knee, ankle, 0.06)]
    glance = rng.uniform(-0.03, 0.03)
    head = np.array([0.0, 0.15])
    keypoints[:5] = head + np.array(
        [(glance, 0.03), (0.055 + glance, -0.03), (-0.055 + glance, -0.03), (0.13, 0), (-0.13, 0)]
    )
    torso = np.array([(-0.17, 0.28), (0.17, 0.28), (0.145, 0.64), (-0.145, 0.64)])
    parts = [(ring, LIMB) for ring in limbs] + [(torso, BODY)] + [(ring, LIMB) for ring in arms]
    parts += [(_disc(head, 0.15), BODY)] + [
        (_disc(point, 0.025, 8), FACE) for point in keypoints[:3]
    ]
    lean = rng.uniform(-0.2, 0.2)
    return [(_turned(ring, lean), tone) for ring, tone in parts], _turned(keypoints, lean)


@dataclass(frozen=True)
class Category:
    """One class: its COCO id (sparse, as in COCO), its words, its share of the objects and how it
    is sketched."""

    id: int
    name: str
    plural: str
    supercategory: str
    share: float
    sketch: Callable[[np.random.Generator], Sketch]


CATEGORIES = (
    Category(1, "person", "people", "person", 0.22, _person),
    Category(3, "circle", "circles", "shape", 0.13, _circle),
    Category(7, "square", "squares", "shape", 0.13, _outline(_SQUARE, 0.3, 1.0)),
    Category(16, "triangle", "triangles", "shape", 0.13, _outline(_TRIANGLE, 0.4, 1.25)),
    Category(21, "star", "stars", "shape", 0.13, _outline(_star_corners(), 0.5, 1.1)),
    Category(44, "cross", "crosses", "shape", 0.13, _outline(_CROSS, 0.3, 1.2)),
    Category(62, "heart", "hearts", "shape", 0.13, _outline(_heart_corners(), 0.35, 1.15)),
)


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


def _background(
    rng: np.random.Generator, width: int, height: int, gray: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A muted tone, its slow drift over the picture and a little noise: f64[H, W, 3], and the tone
    f64[3]."""
    tone = np.full(3, rng.uniform(95, 135) if gray else rng.uniform(50, 215)) + rng.normal(
        0, 0 if gray else 15, 3
    )
    slope = rng.uniform(-12, 12, 2)
    drift = (
        np.linspace(-slope[0], slope[0], width) + np.linspace(-slope[1], slope[1], height)[:, None]
    )
    return tone + drift[..., None] + rng.normal(0, 4, (height, width, 1)), tone


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


def _paint(figures: list[Figure], background: np.ndarray, gray: bool) -> Image.Image:
    canvas = np.clip(background, 0, 255).astype(np.uint8)
    canvas = np.repeat(np.repeat(canvas, SUPERSAMPLE, axis=0), SUPERSAMPLE, axis=1)
    for figure in figures:
        for ring, rgb in figure.parts:
            fill(canvas, ring * SUPERSAMPLE, rgb)
    image = Image.fromarray(canvas).reduce(SUPERSAMPLE)
    return image.convert("L") if gray else image


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
    tolerance = TOLERANCE * max(width, height)

    def make(category: Category, crowd: bool) -> Figure:
        return _figure(rng, category, crowd, (height, width), tone, gray)

    for figures in _arrangements(make, wanted):
        visible, rings, losses = [], [], [0.0]
        covered = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), bool)
        for figure in reversed(figures):
            visible.append(figure.mask & ~covered)
            if len(figure.parts) == 1 and not np.any(figure.mask & covered):
                rings.append([figure.parts[0][0]])
            else:
                outlines, lost = trace(visible[-1], tolerance)
                rings.append(outlines)
                losses.append(0.0 if figure.crowd else lost)  # a crowd is annotated by its mask
            covered |= figure.mask
        if max(losses) <= MAX_LOST:
            return Scene(
                _paint(figures, background, gray),
                tuple(figures),
                tuple(visible[::-1]),
                tuple(rings[::-1]),
            )
    raise AssertionError("arrangements are endless")
