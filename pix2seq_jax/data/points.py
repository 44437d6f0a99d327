"""Outlines of objects as point lists of bounded length: COCO `segmentation` -> rings -> f32[2M].

Inside this file points are `xy` in pixels, as in the JSON; x runs to the right and y down, pixel (0, 0) covers
[0, 1) x [0, 1). A ring is a closed outline f64[k,2] whose last point is joined to the first.
"""

from itertools import chain
from pathlib import Path

import contourpy
import numpy as np
import shapely

from pix2seq_jax.data.coco_json import Report
from pix2seq_jax.vocab import POINT_PADDING, POINT_SEPARATOR

_MIN_AREA = 1e-6  # px²; a ring of less is a line
_RLE_TOLERANCE = 0.25  # pixels; enough to take the steps of a pixel mask for a slanted edge
_FIRST_TOLERANCE = 0.25  # pixels; doubled until the outline fits, then halved into
_HALVINGS, _FULL = 12, 0.97  # steps back at most, and the share of the room that is enough


def _areas(x: np.ndarray, y: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Signed areas f64[R] of rings laid end to end from `starts` i64[R]; positive runs clockwise on the screen."""
    lengths = np.diff(np.append(starts, len(x)))
    x, y = x - np.repeat(x[starts], lengths), y - np.repeat(y[starts], lengths)
    follower = np.arange(1, len(x) + 1)
    follower[starts + lengths - 1] = starts
    return np.add.reduceat(x * y[follower] - x[follower] * y, starts) / 2 if len(starts) else np.zeros(0)


def area(ring: np.ndarray) -> float:
    """Area of a ring in px², positive when it runs clockwise on the screen."""
    return float(_areas(*ring.T, np.zeros(1, np.int64))[0])


def clockwise(ring: np.ndarray) -> np.ndarray:
    """The ring clockwise on the screen from the same first point, without points that repeat their neighbour."""
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
    """Takes points away one by one, always the one whose triangle with its neighbours is smallest (Visvalingam)."""
    rings = list(rings)
    while _count(rings) > room:
        best = (np.inf, 0, 0)
        for number, ring in enumerate(rings):
            if len(ring) > 3:
                (ax, ay), (bx, by) = (np.roll(ring, 1, axis=0) - ring).T, (np.roll(ring, -1, axis=0) - ring).T
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

    All share one tolerance, the smallest that will do, so that a large ring gets more points than a small one and none
    is cut. Rings that cannot be simplified further without crossing themselves lose their least points instead.

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
    """Outer outlines of the parts of bool[H,W], through the borders of its pixels; holes are filled."""
    if not mask.any():
        return []
    y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = np.pad(mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1], 1).astype(float)
    generator = contourpy.contour_generator(z=window, fill_type=contourpy.FillType.OuterOffset)
    origin = np.array([x[0], y[0]]) - 0.5  # centre of the first padded pixel
    outer = [points[: ends[1] - 1] + origin for points, ends in zip(*generator.filled(0.5, np.inf), strict=True)]
    return _simplified(outer, _RLE_TOLERANCE)


def _run_lengths(text: str) -> list[int]:
    """COCO's compressed run lengths: numbers of 5 bits a character, the sixth telling that more follow, the last one's
    fifth the sign; from the fourth on each is the difference from the one before the last. IndexError if cut off."""
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


def run_lengths(rle: dict) -> np.ndarray:
    """COCO run lengths, compressed or not -> i64[n]. ValueError where they do not fill the mask."""
    height, width = (int(side) for side in rle["size"])
    try:
        runs = np.array(_run_lengths(rle["counts"]) if isinstance(rle["counts"], str) else rle["counts"])
    except (IndexError, ValueError) as error:
        raise ValueError(f"the run lengths are broken ({error})") from error
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any():
        raise ValueError("the run lengths are broken (they are no list of whole numbers from 0 on)")
    if runs.sum() != height * width:
        raise ValueError(f"the run lengths fill {runs.sum()} of {height} x {width} pixels")
    return runs


def decode_rle(rle: dict) -> np.ndarray:
    """COCO run lengths, compressed or not -> bool[H,W]. ValueError where they do not fill the mask."""
    runs = run_lengths(rle)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(rle["size"][::-1]).T  # runs go down the columns


def point_list(rings: list[np.ndarray], size: np.ndarray, max_points: int) -> np.ndarray:
    """Rings -> f32[2*max_points]: y, x normalised to the image and clipped to it, separators between, padding after.

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


class Outlines:
    """The column `segmentation` of a file: all coordinates in one array, run lengths as they are.

    Attributes:
        max_points: M.
    """

    def __init__(self, path: Path, records: list[dict], ids: list, sizes: np.ndarray, max_points: int) -> None:
        """Reads and checks.

        Args:
            path: of the file, for errors.
            records: annotations.
            ids: of the annotations, for errors and the report.
            sizes: i32[n,2], height and width of the image of each.
            max_points: longest point list, separators included.

        Raises:
            ValueError: max_points is below 3, or a segmentation is not what COCO allows: a list of polygons, each a
                list of finite x, y, x, y, ..., or run lengths that fill the image.
        """
        if max_points < 3:
            raise ValueError(f"max_points={max_points}: an outline needs at least 3 points")
        self.max_points, self._path, self._ids, self._sizes = max_points, path, ids, sizes
        self._rle: dict[int, dict] = {}
        rings, owner = [], []
        for row, record in enumerate(records):
            value = record.get("segmentation")
            if isinstance(value, dict):
                self._check_rle(row, value)
                self._rle[row] = value
            elif value:
                if not isinstance(value, list) or not all(isinstance(ring, list) for ring in value):
                    raise self._error(row, value, "is no list of polygons [[x, y, x, y, ...], ...] and no run lengths")
                rings += value
                owner += [row] * len(value)
        self._read_rings(rings, np.array(owner, np.int64))

    def _error(self, row: int, value, what: str) -> ValueError:
        return ValueError(
            f"annotation file {self._path}: the segmentation of annotation {self._ids[row]} {what}: "
            f"{str(value)[:200]}; correct or remove it"
        )

    def _check_rle(self, row: int, value: dict) -> None:
        height, width = self._sizes[row].tolist()
        if value.get("size") != [height, width]:
            raise self._error(row, value, f"has run lengths that are not for {height} x {width} (height x width)")
        if not (value.get("counts") and isinstance(value["counts"], str | list)):
            raise self._error(row, value, "has no run lengths `counts`")
        try:
            run_lengths(value)
        except ValueError as error:
            raise self._error(row, value, f"cannot be read, {error}") from error

    def _read_rings(self, rings: list[list], owner: np.ndarray) -> None:
        """Coordinates of all rings end to end, without those that enclose nothing."""
        lengths = np.array([len(ring) for ring in rings], np.int64)
        odd = np.flatnonzero(lengths % 2)
        if odd.size:
            raise self._error(owner[odd[0]], rings[odd[0]], f"has an odd number of coordinates, {lengths[odd[0]]}")
        try:
            flat = np.fromiter(chain.from_iterable(rings), np.float64, lengths.sum())
        except (TypeError, ValueError):
            flat = np.full(lengths.sum(), np.nan)
            for end, ring in zip(np.cumsum(lengths), rings, strict=True):
                flat[end - len(ring) : end] = [n if isinstance(n, int | float) else np.nan for n in ring]
        bad = np.flatnonzero(~np.isfinite(flat))
        if bad.size:
            ring = int(np.searchsorted(np.cumsum(lengths), bad[0], side="right"))
            value = rings[ring][bad[0] - lengths[:ring].sum()]
            raise self._error(owner[ring], rings[ring], f"has a coordinate that is no finite number, {value!r}, in")
        closed = lengths > 0  # an empty ring has no first point
        starts = (np.cumsum(lengths) - lengths)[closed] // 2
        areas = np.zeros(len(rings))
        areas[closed] = _areas(flat[0::2], flat[1::2], starts)
        kept = (lengths >= 6) & (np.abs(areas) > _MIN_AREA)
        self._dropped = owner[~kept]
        self._points = flat[np.repeat(kept, lengths)].reshape(-1, 2)
        self._ends = np.cumsum(lengths[kept]) // 2
        self._starts = self._ends - lengths[kept] // 2
        self._bounds = np.searchsorted(owner[kept], np.arange(len(self._ids) + 1))  # rings of each row

    def count(self, crowd: np.ndarray, report: Report) -> None:
        """Reports what was dropped and what is missing, crowd regions bool[n] aside.

        Raises:
            ValueError: no object has a segmentation.
        """
        report.add(
            "polygons of fewer than 3 points or without area, dropped", [self._ids[i] for i in self._dropped.tolist()]
        )
        number = np.diff(self._bounds)
        described = number > 0
        described[list(self._rle)] = True
        missing = np.flatnonzero(~described & ~crowd)
        if 0 < len(missing) == np.count_nonzero(~crowd):
            raise ValueError(
                f"annotation file {self._path}: none of its {len(missing)} objects has a `segmentation`; give them "
                "polygons or run lengths, or leave segmentation out of the tasks"
            )
        report.add("objects without segmentation", [self._ids[i] for i in missing])
        limit = most_rings(self.max_points)
        over = np.flatnonzero((number > limit) & ~crowd)
        report.add(self._too_many, [self._ids[i] for i in over])

    @property
    def _too_many(self) -> str:
        limit = most_rings(self.max_points)
        return f"objects of more than {limit} parts, the smallest left out ({self.max_points} points hold {limit})"

    def _polygons(self, row: int) -> list[np.ndarray]:
        rings = range(self._bounds[row], self._bounds[row + 1])
        return [self._points[self._starts[i] : self._ends[i]] for i in rings]

    def segmentation(self, row: int) -> list | dict:
        """As in the file, without what was dropped; a mask of no pixels where there is none, as pycocotools wants."""
        if row in self._rle:
            return self._rle[row]
        height, width = self._sizes[row].tolist()
        polygons = [ring.ravel().tolist() for ring in self._polygons(row)]
        return polygons or {"size": [height, width], "counts": [height * width]}

    def points(self, row: int, report: Report) -> np.ndarray:
        """f32[2*max_points] of one annotation, see `point_list`; all padding where it has no segmentation.

        Rings run clockwise as seen in the image; the first point is that of the file.
        """
        rings = self._polygons(row)
        if row in self._rle:
            rings = trace(decode_rle(self._rle[row]))
            if not rings:
                report.add_once("objects without segmentation", self._ids[row])
            if len(rings) > most_rings(self.max_points):
                report.add_once(self._too_many, self._ids[row])
        rings = largest(rings, most_rings(self.max_points))
        fitted = fit([clockwise(ring) for ring in rings], self.max_points)
        return point_list(fitted, self._sizes[row], self.max_points)
