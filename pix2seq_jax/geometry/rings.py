"""Geometry of outlines: the only copy of it.

A ring is a closed outline f64[k,2] whose last point is joined to the first. Its points are `xy` in
pixels, as in COCO's files; x runs to the right and y down, pixel (0, 0) covers [0, 1) x [0, 1). No
jax here: the processes that draw the `shapes` data import this file.
"""

from itertools import pairwise

import contourpy
import numpy as np
import shapely

_MASK_TOLERANCE = 0.25  # pixels; enough to take the steps of a pixel mask for a slanted edge
_FIRST_TOLERANCE = 0.25  # pixels; doubled until the outline fits, then halved into
_HALVINGS, _FULL = 12, 0.97  # steps back at most, and the share of the room that is enough


def area(ring: np.ndarray) -> float:
    """Area of a ring in pixels², positive when it runs clockwise on the screen."""
    x, y = (ring - ring[0]).T
    return 0.5 * float(np.dot(x, _following(y)) - np.dot(y, _following(x)))


def _following(values: np.ndarray) -> np.ndarray:
    """The values from the second one on, then the first: np.roll(values, -1, axis=0), which takes
    five times as long for the few points of a ring."""
    return np.concatenate([values[1:], values[:1]])


def areas(x: np.ndarray, y: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """`area` of many rings that are laid end to end from `starts` i64[R]: f64[R]."""
    if not len(starts):
        return np.zeros(0)
    lengths = np.diff(np.append(starts, len(x)))
    x, y = x - np.repeat(x[starts], lengths), y - np.repeat(y[starts], lengths)
    follower = np.arange(1, len(x) + 1)
    follower[starts + lengths - 1] = starts
    return np.add.reduceat(x * y[follower] - x[follower] * y, starts) / 2


def clockwise(ring: np.ndarray) -> np.ndarray:
    """The ring clockwise on the screen from the same first point, without points that repeat their
    neighbour."""
    ring = ring[(ring != _following(ring)).any(axis=1)]
    return ring if area(ring) > 0 else np.concatenate([ring[:1], ring[:0:-1]])


def simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Douglas-Peucker from an extreme point, which is a real corner: few points of the ring that
    stay within `tolerance` of it. Unlike that of `fit`, the result may cross itself."""
    start = int(np.argmax(np.sum((ring - ring.mean(0)) ** 2, axis=1)))
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
        height = np.abs(chord[0] * offset[:, 1] - chord[1] * offset[:, 0])
        distance = height / max(np.hypot(*chord), 1e-9)
        far = int(np.argmax(distance))
        if distance[far] > tolerance:
            keep[first + 1 + far] = True
            todo += [(first, first + 1 + far), (first + 1 + far, last)]
    return ring[keep[:-1]]


def contours(mask: np.ndarray) -> list[list[np.ndarray]]:
    """Through the borders of the pixels of bool[H,W], for each part of it: the outer ring, which
    runs clockwise, and then its holes."""
    if not mask.any():
        return []
    y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = np.pad(mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1], 1).astype(float)
    generator = contourpy.contour_generator(z=window, fill_type=contourpy.FillType.OuterOffset)
    origin = np.array([x[0], y[0]]) - 0.5  # centre of the first padded pixel
    return [
        [points[start : end - 1] + origin for start, end in pairwise(offsets)]
        for points, offsets in zip(*generator.filled(0.5, np.inf), strict=True)
    ]


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """Outer outlines of the parts of bool[H,W], the steps of the pixels smoothed; holes are
    filled."""
    outer = [rings[0] for rings in contours(mask)]
    return _simplified(outer, _MASK_TOLERANCE) if outer else []


def largest(rings: list[np.ndarray], count: int) -> list[np.ndarray]:
    """The `count` rings of largest area, in their order."""
    if len(rings) <= count:
        return rings
    order = np.argsort([-abs(area(ring)) for ring in rings], kind="stable")[:count]
    return [rings[i] for i in np.sort(order)]


def most_rings(max_points: int) -> int:
    """Rings that fit: each needs three points, and a separator before the next."""
    return (max_points + 1) // 4


def fit(rings: list[np.ndarray], max_points: int) -> list[np.ndarray]:
    """Simplifies rings until they and the separators between them are at most `max_points` points.

    All share one tolerance, the smallest that will do, so that a large ring gets more points than a
    small one and none is cut. Rings that cannot be simplified further without crossing themselves
    lose their least points instead.

    Args:
        rings: at most `most_rings(max_points)`, of three points or more.
    """
    room = max_points - (len(rings) - 1)
    if _count(rings) <= room:
        return rings
    low, high, extent = 0.0, _FIRST_TOLERANCE, np.ptp(np.concatenate(rings), axis=0).max()
    while _count(best := _simplified(rings, high)) > room:
        if high > extent:
            return _thinned(best, room)
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        if _count(best) >= _FULL * room:
            break
        middle = (low + high) / 2
        trial = _simplified(rings, middle)
        if _count(trial) <= room:
            best, high = trial, middle
        else:
            low = middle
    return best


def _simplified(rings: list[np.ndarray], tolerance: float) -> list[np.ndarray]:
    """Douglas-Peucker from the first point of each ring; a ring that does not cross itself stays
    one."""
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    lines = shapely.linearrings(np.concatenate(rings), indices=owner)
    points, owner = shapely.get_coordinates(shapely.simplify(lines, tolerance), return_index=True)
    ends = np.flatnonzero(np.diff(owner)) + 1
    return [ring[:-1] for ring in np.split(points, ends)]


def _thinned(rings: list[np.ndarray], room: int) -> list[np.ndarray]:
    """Takes points away one by one, always the one whose triangle with its neighbours is smallest
    (Visvalingam)."""
    rings = list(rings)
    while _count(rings) > room:
        best = (np.inf, 0, 0)
        for number, ring in enumerate(rings):
            if len(ring) > 3:
                ax, ay = (np.roll(ring, 1, axis=0) - ring).T
                bx, by = (np.roll(ring, -1, axis=0) - ring).T
                size = np.abs(ax * by - ay * bx)
                best = min(best, (float(size.min()), number, int(size.argmin())))
        _, number, point = best
        rings[number] = np.delete(rings[number], point, axis=0)
    return rings


def _count(rings: list[np.ndarray]) -> int:
    return sum(len(ring) for ring in rings)
