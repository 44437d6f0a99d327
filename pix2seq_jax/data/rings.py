"""Outlines of objects as point lists of bounded length: COCO `segmentation` -> rings -> f32[2M].

Inside this file points are `xy` in pixels, as in the JSON; x runs to the right and y down, pixel
(0, 0) covers [0, 1) x [0, 1). A ring is a closed outline f64[k,2] whose last point is joined to the
first.
"""

import contourpy
import numpy as np
import shapely

from pix2seq_jax.data.coco.json import shown, whole_numbers
from pix2seq_jax.vocab import POINT_PADDING, POINT_SEPARATOR

_LONGEST_SIDE = 60_000  # pixels of a mask; a run fits into 32 bits
_RLE_TOLERANCE = 0.25  # pixels; enough to take the steps of a pixel mask for a slanted edge
_FIRST_TOLERANCE = 0.25  # pixels; doubled until the outline fits, then halved into
_HALVINGS, _FULL = 12, 0.97  # steps back at most, and the share of the room that is enough


def areas(x: np.ndarray, y: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Signed areas f64[R] of rings laid end to end from `starts` i64[R]; positive runs clockwise on
    the screen."""
    lengths = np.diff(np.append(starts, len(x)))
    x, y = x - np.repeat(x[starts], lengths), y - np.repeat(y[starts], lengths)
    follower = np.arange(1, len(x) + 1)
    follower[starts + lengths - 1] = starts
    return (
        np.add.reduceat(x * y[follower] - x[follower] * y, starts) / 2
        if len(starts)
        else np.zeros(0)
    )


def area(ring: np.ndarray) -> float:
    """Area of a ring in px², positive when it runs clockwise on the screen."""
    return float(areas(*ring.T, np.zeros(1, np.int64))[0])


def clockwise(ring: np.ndarray) -> np.ndarray:
    """The ring clockwise on the screen from the same first point, without points that repeat their
    neighbour."""
    ring = ring[(ring != np.roll(ring, -1, axis=0)).any(axis=1)]
    return ring if area(ring) > 0 else np.concatenate([ring[:1], ring[:0:-1]])


def _simplified(rings: list[np.ndarray], tolerance: float) -> list[np.ndarray]:
    """Douglas-Peucker on each ring; a ring stays a ring that does not cross itself."""
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    lines = shapely.linearrings(np.concatenate(rings), indices=owner)
    points, owner = shapely.get_coordinates(shapely.simplify(lines, tolerance), return_index=True)
    ends = np.flatnonzero(np.diff(owner)) + 1
    return [ring[:-1] for ring in np.split(points, ends)]


def _count(rings: list[np.ndarray]) -> int:
    return sum(len(ring) for ring in rings)


def _thinned(rings: list[np.ndarray], room: int) -> list[np.ndarray]:
    """Takes points away one by one, always the one whose triangle with its neighbours is smallest
    (Visvalingam)."""
    rings = list(rings)
    while _count(rings) > room:
        best = (np.inf, 0, 0)
        for number, ring in enumerate(rings):
            if len(ring) > 3:
                (ax, ay), (bx, by) = (
                    (np.roll(ring, 1, axis=0) - ring).T,
                    (np.roll(ring, -1, axis=0) - ring).T,
                )
                size = np.abs(ax * by - ay * bx)
                best = min(best, (float(size.min()), number, int(size.argmin())))
        _, number, place = best
        rings[number] = np.delete(rings[number], place, axis=0)
    return rings


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


def largest(rings: list[np.ndarray], count: int) -> list[np.ndarray]:
    """The `count` rings of largest area, in the order given."""
    if len(rings) <= count:
        return rings
    order = np.argsort([-abs(area(ring)) for ring in rings], kind="stable")[:count]
    return [rings[i] for i in np.sort(order)]


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """Outer outlines of the parts of bool[H,W], through the borders of its pixels; holes are
    filled."""
    if not mask.any():
        return []
    y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = np.pad(mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1], 1).astype(float)
    generator = contourpy.contour_generator(z=window, fill_type=contourpy.FillType.OuterOffset)
    origin = np.array([x[0], y[0]]) - 0.5  # centre of the first padded pixel
    outer = [
        points[: ends[1] - 1] + origin
        for points, ends in zip(*generator.filled(0.5, np.inf), strict=True)
    ]
    return _simplified(outer, _RLE_TOLERANCE)


def _run_lengths(text: str) -> list[int]:
    """COCO's compressed run lengths: numbers of 5 bits a character, the sixth telling that more
    follow, the last one's fifth the sign; from the fourth on each is the difference from the one
    before the last. IndexError if cut off."""
    runs: list[int] = []
    place = 0
    while place < len(text):
        value, shift, code = 0, 0, 32
        while code & 32:
            code = ord(text[place]) - 48
            value |= (code & 31) << shift
            place, shift = place + 1, shift + 5
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def run_lengths(rle: dict) -> tuple[tuple[int, int], np.ndarray]:
    """COCO run lengths, compressed or not -> (height, width), u32[n]; ValueError where they do not
    fill the mask."""
    size, counts = rle.get("size"), rle.get("counts")
    sides, wrong = whole_numbers(size if isinstance(size, list) else [])
    if len(sides) != 2 or wrong.any() or (sides < 1).any() or (sides > _LONGEST_SIDE).any():
        raise ValueError(f"the size of its run lengths is {shown(size)}; give [height, width]")
    if not counts or not isinstance(counts, str | list):
        raise ValueError("it has no run lengths `counts`")
    try:
        runs = np.array(_run_lengths(counts) if isinstance(counts, str) else counts)
    except (IndexError, ValueError) as error:
        raise ValueError(f"the run lengths are broken ({error})") from error
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any():
        raise ValueError("the run lengths are broken (they are no list of whole numbers from 0 on)")
    height, width = sides.tolist()
    if runs.max() > height * width or runs.sum() != height * width:
        raise ValueError(f"the run lengths fill {runs.sum()} of {height} x {width} pixels")
    return (height, width), runs.astype(np.uint32)


def mask_of_runs(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Run lengths i64[n] that fill a mask of this height and width -> bool[H,W]."""
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size[::-1]).T  # runs go down the columns


def point_list(rings: list[np.ndarray], size: np.ndarray, max_points: int) -> np.ndarray:
    """Rings -> f32[2*max_points]: y, x normalised to the image and clipped to it, separators
    between, padding after.

    Args:
        size: height and width of the image.
    """
    points = np.full((max_points, 2), POINT_PADDING, np.float32)
    place = 0
    for ring in rings:
        if place:
            points[place], place = POINT_SEPARATOR, place + 1
        points[place : place + len(ring)] = np.clip(ring[:, ::-1] / size, 0, 1)
        place += len(ring)
    return points.ravel()
