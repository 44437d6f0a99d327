"""The column `segmentation` of an annotation file: read, checked, and turned into point lists."""

from itertools import chain
from pathlib import Path

import numpy as np

from pix2seq_jax.data.coco.json import LARGEST, BadAnnotations, Report, shown, whole_numbers
from pix2seq_jax.geometry.point_lists import point_list
from pix2seq_jax.geometry.rings import areas, clockwise, fit, largest, most_rings, trace
from pix2seq_jax.geometry.run_lengths import mask_of_runs, read_runs
from pix2seq_jax.vocab import POINT_PADDING

_MIN_AREA = 1e-6  # px²; a ring of less is a line
_LONGEST_SIDE = 60_000  # pixels of a mask; a run fits into 32 bits
_BROKEN = "a broken segmentation"


def read_segmentations(records: list[dict], bad: BadAnnotations) -> dict[str, np.ndarray]:
    """The segmentations of all annotations, end to end; rings that enclose nothing are left out.

    Args:
        records: annotations; their segmentation is a list of polygons, each a list of finite x, y,
            x, y, …, or run lengths that fill a mask, compressed or not.
        bad: gets the annotations whose segmentation is none of these.

    Returns:
        ring_points: f64[P,2], x, y in pixels of all rings.
        ring_ends: i64[R], of each ring in it.
        ring_rows: i64[R], row of its annotation, ascending.
        ring_dropped: i64[D], the rows of rings that enclose nothing.
        rle_rows: i64[Q], rows of annotations with run lengths, ascending.
        rle_sizes: i64[Q,2], height and width.
        rle_runs: u32[S], all run lengths.
        rle_ends: i64[Q], of each in it.
    """
    rings, ring_rows, rle_rows, rle_sizes, runs = [], [], [], [], []
    faults: dict[int, str] = {}
    for row, record in enumerate(records):
        value = record.get("segmentation")
        if isinstance(value, dict):
            try:
                size = _mask_size(value)
                lengths = read_runs(value.get("counts"), size)
            except ValueError as error:
                faults[row] = f"cannot be read, {error}: {shown(value)}"
                continue
            rle_rows.append(row)
            rle_sizes.append(size)
            runs.append(lengths)
        elif isinstance(value, list) and all(isinstance(ring, list) for ring in value):
            rings += value
            ring_rows += [row] * len(value)
        elif value:
            faults[row] = (
                "is no list of polygons [[x, y, x, y, ...], ...] and no run lengths: "
                f"{shown(value)}"
            )
    columns = {
        "rle_rows": np.array(rle_rows, np.int64),
        "rle_sizes": np.array(rle_sizes, np.int64).reshape(-1, 2),
        "rle_runs": np.concatenate([np.zeros(0, np.uint32), *runs]),
        "rle_ends": np.cumsum([len(lengths) for lengths in runs], dtype=np.int64),
    }
    columns |= _read_rings(rings, np.array(ring_rows, np.int64), faults)
    if faults:
        rows = sorted(faults)
        bad.add(rows, _BROKEN, f"the segmentation of {bad.name(rows[0])} {faults[rows[0]]}")
    return columns


def _mask_size(rle: dict) -> tuple[int, int]:
    """Height and width of run lengths; ValueError where it has none."""
    size = rle.get("size")
    sides, wrong = whole_numbers(size if isinstance(size, list) else [])
    if len(sides) != 2 or wrong.any() or (sides < 1).any() or (sides > _LONGEST_SIDE).any():
        raise ValueError(f"the size of its run lengths is {shown(size)}; give [height, width]")
    return tuple(sides.tolist())


def _read_rings(
    rings: list[list], rows: np.ndarray, faults: dict[int, str]
) -> dict[str, np.ndarray]:
    """The columns of rings; `faults` gets row -> what is wrong with a ring of it."""
    lengths = np.array([len(ring) for ring in rings], np.int64)
    flat = _coordinates(rings, lengths)
    wrong = _find_faults(rings, rows, flat, lengths, faults)
    if wrong.any():
        flat, lengths, rows = flat[np.repeat(~wrong, lengths)], lengths[~wrong], rows[~wrong]
    full = lengths > 0  # an empty ring has no first point
    starts = (np.cumsum(lengths) - lengths)[full] // 2
    area = np.zeros(len(lengths))
    area[full] = areas(flat[0::2], flat[1::2], starts)
    real = (lengths >= 6) & (np.abs(area) > _MIN_AREA)
    return {
        "ring_points": flat[np.repeat(real, lengths)].reshape(-1, 2),
        "ring_ends": np.cumsum(lengths[real]) // 2,
        "ring_rows": rows[real],
        "ring_dropped": rows[~real],
    }


def _coordinates(rings: list[list], lengths: np.ndarray) -> np.ndarray:
    """All coordinates f64[sum of lengths]; NaN for what is no number."""
    try:
        return np.fromiter(chain.from_iterable(rings), np.float64, lengths.sum())
    except (TypeError, ValueError, OverflowError):
        numbers = (
            value if isinstance(value, int | float) else np.nan
            for value in chain.from_iterable(rings)
        )
        return np.array(
            [value if abs(value) < LARGEST else np.nan for value in numbers], np.float64
        )


def _find_faults(
    rings: list[list],
    rows: np.ndarray,
    flat: np.ndarray,
    lengths: np.ndarray,
    faults: dict[int, str],
) -> np.ndarray:
    """Which rings bool[R] are none, `faults` gets the reasons; `flat` are all their coordinates."""
    wrong = lengths % 2 == 1
    for ring in np.flatnonzero(wrong).tolist():
        faults[int(rows[ring])] = (
            f"has an odd number of coordinates, {lengths[ring]}: {shown(rings[ring])}"
        )
    ends = np.cumsum(lengths)
    for position in np.flatnonzero(~(np.abs(flat) < LARGEST)).tolist():
        ring = int(np.searchsorted(ends, position, side="right"))
        wrong[ring] = True
        value = rings[ring][position - ends[ring]]
        faults.setdefault(
            int(rows[ring]),
            f"has a coordinate that is no finite number, {shown(value)}, in: {shown(rings[ring])}",
        )
    return wrong


def check_mask_sizes(
    columns: dict[str, np.ndarray], sizes: np.ndarray, bad: BadAnnotations
) -> None:
    """Adds to the bad annotations those whose run lengths are of another size than their image.

    Args:
        columns: see `read_segmentations`.
        sizes: i32[n,2], height and width of the image of every annotation; 0 is not compared.
        bad: of the file.
    """
    rows = columns["rle_rows"]
    wanted = sizes[rows]
    wrong = np.flatnonzero((wanted != columns["rle_sizes"]).any(axis=1) & (wanted > 0).all(axis=1))
    if len(wrong):
        (height, width), size = wanted[wrong[0]].tolist(), columns["rle_sizes"][wrong[0]].tolist()
        name = bad.name(rows[wrong[0]])
        text = (
            f"the segmentation of {name} has run lengths of size {size} that are not for {height} "
            f"x {width}"
        )
        bad.add(rows[wrong], _BROKEN, f"{text} (height x width)")


class Outlines:
    """The outlines of the annotations of a source, made of the columns of its file.

    Attributes:
        max_points: M.
    """

    def __init__(
        self,
        path: Path,
        columns: dict[str, np.ndarray],
        rows: np.ndarray,
        ids: np.ndarray,
        sizes: np.ndarray,
        max_points: int,
    ) -> None:
        """Takes the columns.

        Args:
            path: of the file, for errors.
            columns: see `read_segmentations`.
            rows: i64[n], the source's annotations among those of the file.
            ids: of the source's annotations, for the report.
            sizes: i32[n,2], height and width of the image of each.
            max_points: longest point list, separators included.

        Raises:
            ValueError: max_points is below 3.
        """
        if max_points < 3:
            raise ValueError(f"max_points={max_points}: an outline needs at least 3 points")
        self.max_points, self._path = max_points, path
        self._rows, self._ids, self._sizes = rows, ids, sizes
        self._points, self._ends = columns["ring_points"], columns["ring_ends"]
        self._starts = np.concatenate([[0], self._ends])[:-1]
        # The first ring of each annotation, and how many it has.
        self._first = np.searchsorted(columns["ring_rows"], rows, side="left")
        self._number = np.searchsorted(columns["ring_rows"], rows, side="right") - self._first
        self._runs, self._run_ends = columns["rle_runs"], columns["rle_ends"]
        self._rle = np.full(len(rows), -1, np.int64)  # which of the run lengths an annotation has
        if len(columns["rle_rows"]):
            last = len(columns["rle_rows"]) - 1
            number = np.minimum(np.searchsorted(columns["rle_rows"], rows), last)
            self._rle = np.where(columns["rle_rows"][number] == rows, number, -1)
        self._dropped = columns["ring_dropped"]
        # Points of run lengths that were read before, without padding.
        self._traced: dict[int, np.ndarray] = {}

    def count(self, crowd: np.ndarray, report: Report) -> None:
        """Reports what was dropped and what is missing, crowd regions bool[n] aside.

        Raises:
            ValueError: no object has a segmentation.
        """
        first = np.searchsorted(self._dropped, self._rows, "left")
        times = np.searchsorted(self._dropped, self._rows, "right") - first
        dropped = np.repeat(self._ids, times).tolist()
        report.add("polygons of fewer than 3 points or without area, dropped", dropped)
        missing = np.flatnonzero((self._number == 0) & (self._rle < 0) & ~crowd)
        if 0 < len(missing) == np.count_nonzero(~crowd):
            raise ValueError(
                f"annotation file {self._path}: none of its {len(missing)} objects has a "
                "`segmentation`; give them polygons or run lengths, or leave segmentation out of "
                "the tasks"
            )
        report.add("objects without segmentation", self._ids[missing].tolist())
        over = np.flatnonzero((self._number > most_rings(self.max_points)) & ~crowd)
        report.add(self._too_many, self._ids[over].tolist())

    @property
    def _too_many(self) -> str:
        limit = most_rings(self.max_points)
        return (
            f"objects of more than {limit} parts, the smallest left out ({self.max_points} points "
            f"hold {limit})"
        )

    def _polygons(self, row: int) -> list[np.ndarray]:
        rings = range(self._first[row], self._first[row] + self._number[row])
        return [self._points[self._starts[i] : self._ends[i]] for i in rings]

    def _run_lengths(self, row: int) -> np.ndarray:
        number = self._rle[row]
        start = self._run_ends[number - 1] if number else 0
        return self._runs[start : self._run_ends[number]]

    def segmentation(self, row: int) -> list | dict:
        """As in the file, without what was dropped, run lengths not compressed; a mask of no pixels
        where there is none, as pycocotools wants."""
        size = self._sizes[row].tolist()
        if self._rle[row] >= 0:
            return {"size": size, "counts": self._run_lengths(row).tolist()}
        polygons = [ring.ravel().tolist() for ring in self._polygons(row)]
        return polygons or {"size": size, "counts": [size[0] * size[1]]}

    def points(self, row: int, report: Report) -> np.ndarray:
        """f32[2*max_points] of one annotation, see `point_list`; all padding where it has no
        segmentation.

        Rings run clockwise as seen in the image; the first point is that of the file. Run lengths
        are traced when they are read first, and their points stay in memory (8 bytes each); threads
        may do it together, with the same result.
        """
        if self._rle[row] < 0:
            return self._fitted(self._polygons(row), row)
        if row not in self._traced:
            points = self._traced_points(row, report)
            self._traced[row] = points[points != POINT_PADDING].astype(np.float32)
        points = np.full(2 * self.max_points, POINT_PADDING, np.float32)
        points[: len(self._traced[row])] = self._traced[row]
        return points

    def _traced_points(self, row: int, report: Report) -> np.ndarray:
        rings = trace(mask_of_runs(self._run_lengths(row), tuple(self._sizes[row].tolist())))
        if not rings:
            report.add_once("objects without segmentation", self._ids[row])
        if len(rings) > most_rings(self.max_points):
            report.add_once(self._too_many, self._ids[row])
        return self._fitted(rings, row)

    def _fitted(self, rings: list[np.ndarray], row: int) -> np.ndarray:
        rings = largest(rings, most_rings(self.max_points))
        fitted = fit([clockwise(ring) for ring in rings], self.max_points)
        return point_list(fitted, self._sizes[row], self.max_points)
