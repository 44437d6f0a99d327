"""How the figures of the `shapes` data look: outlines about any centre and of any size.

Coordinates are `xy`, x to the right and y down.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

BODY, LIMB, FACE = 0, 1, 2  # tones of the parts of a figure

# A figure about any centre and of any size: rings with their tones, and 17 keypoints f64[17, 2] for
# persons.
Sketch = tuple[list[tuple[np.ndarray, int]], np.ndarray | None]


@dataclass(frozen=True)
class Category:
    """One class of objects.

    Attributes:
        id: in COCO's sense; ids are sparse, as there.
        name, plural: words for captions.
        supercategory: for the annotation file.
        share: of the objects.
        sketch: draws one at random.
    """

    id: int
    name: str
    plural: str
    supercategory: str
    share: float
    sketch: Callable[[np.random.Generator], Sketch]


def _person(rng: np.random.Generator) -> Sketch:
    """A figure facing the viewer, about one unit high: its left side is on the right of the
    picture."""
    keypoints, legs, arms = np.zeros((17, 2)), [], []
    for first, side in ((5, 1.0), (6, -1.0)):  # left, right
        keypoints[first::2] = _limbs(rng, side)
        shoulder, elbow, wrist, hip, knee, ankle = keypoints[first::2]
        arms += [_capsule(shoulder, elbow, 0.055), _capsule(elbow, wrist, 0.05)]
        legs += [_capsule(hip, knee, 0.07), _capsule(knee, ankle, 0.06)]
    glance = rng.uniform(-0.03, 0.03)
    head = np.array([0.0, 0.15])
    keypoints[:5] = head + np.array(
        [(glance, 0.03), (0.055 + glance, -0.03), (-0.055 + glance, -0.03), (0.13, 0), (-0.13, 0)]
    )
    torso = np.array([(-0.17, 0.28), (0.17, 0.28), (0.145, 0.64), (-0.145, 0.64)])
    parts = [(ring, LIMB) for ring in legs] + [(torso, BODY)] + [(ring, LIMB) for ring in arms]
    face = [(_disc(point, 0.025, 8), FACE) for point in keypoints[:3]]
    parts += [(_disc(head, 0.15), BODY), *face]
    lean = rng.uniform(-0.2, 0.2)
    return [(_turned(ring, lean), tone) for ring, tone in parts], _turned(keypoints, lean)


def _limbs(rng: np.random.Generator, side: float) -> np.ndarray:
    """Shoulder, elbow, wrist, hip, knee and ankle f64[6,2]; `side` is 1 for the left, -1 for the
    right."""
    arm = rng.uniform(-0.1, 2.5)  # radians outwards from hanging down
    forearm = arm + rng.uniform(-0.4, 0.9)
    thigh = rng.uniform(0.0, 0.55)
    shin = thigh + rng.uniform(-0.5, 0.1)

    def toward(angle: float) -> np.ndarray:
        return np.array([side * np.sin(angle), np.cos(angle)])

    shoulder, hip = np.array([side * 0.13, 0.34]), np.array([side * 0.085, 0.60])
    elbow, knee = shoulder + 0.17 * toward(arm), hip + 0.19 * toward(thigh)
    wrist, ankle = elbow + 0.16 * toward(forearm), knee + 0.17 * toward(shin)
    return np.stack([shoulder, elbow, wrist, hip, knee, ankle])


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
_ARROW = [(0, -1), (0.9, 0), (0.35, 0), (0.35, 1), (-0.35, 1), (-0.35, 0), (-0.9, 0)]


def _moon_corners() -> list[tuple[float, float]]:
    """Half a disc, out of which a flatter half is cut."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 13)
    outer = zip(np.cos(angle), np.sin(angle), strict=True)
    inner = zip(0.35 * np.cos(angle[-2:0:-1]), np.sin(angle[-2:0:-1]), strict=True)
    return [*outer, *inner]


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


CATEGORIES = (
    Category(1, "person", "people", "person", 0.22, _person),
    Category(3, "circle", "circles", "shape", 0.13, _circle),
    Category(7, "square", "squares", "shape", 0.13, _outline(_SQUARE, 0.3, 1.0)),
    Category(16, "triangle", "triangles", "shape", 0.13, _outline(_TRIANGLE, 0.4, 1.25)),
    Category(21, "star", "stars", "shape", 0.13, _outline(_star_corners(), 0.5, 1.1)),
    Category(44, "cross", "crosses", "shape", 0.13, _outline(_CROSS, 0.3, 1.2)),
    Category(62, "heart", "hearts", "shape", 0.13, _outline(_heart_corners(), 0.35, 1.15)),
)
# Drawn only where they are asked for by name: classes that a model of the others has never seen.
FURTHER = (
    Category(70, "arrow", "arrows", "shape", 0.13, _outline(_ARROW, 0.5, 1.2)),
    Category(85, "moon", "moons", "shape", 0.13, _outline(_moon_corners(), 0.5, 1.15)),
)
EVERY = CATEGORIES + FURTHER


def named(names: Sequence[str]) -> tuple[Category, ...]:
    """The classes of these names, in the order of EVERY."""
    return tuple(category for category in EVERY if category.name in names)
