"""What outlines lose when they are simplified to the points of a sequence."""

from typing import NamedTuple

import numpy as np
import shapely

from pix2seq_jax.data.validation.tables import AnnotationFile
from pix2seq_jax.geometry.rings import clockwise, fit, largest, most_rings, trace
from pix2seq_jax.geometry.run_lengths import mask_of_runs

MEASURED = 2000  # objects of a file whose loss is measured; of more, as many at equal distances


class Loss(NamedTuple):
    """What the outlines of a file lose.

    Attributes:
        rows: i64[m], the annotations that were measured.
        iou: f64[m], of each with itself when simplified.
        over: how many outlines have more points than a sequence holds.
    """

    rows: np.ndarray
    iou: np.ndarray
    over: int


def measure(file: AnnotationFile, points: int) -> Loss:
    """What outlines lose when they are simplified to so many points, as training does it.

    Only outlines of more points are measured, and those of run lengths; of more than MEASURED, as
    many at equal distances.
    """
    columns, count = file.segmentations.columns, len(file.annotations)
    rows, ends = columns["ring_rows"], columns["ring_ends"]
    lengths = np.diff(np.concatenate([[0], ends])) + 1  # and the separator after each
    points_of = np.bincount(rows, weights=lengths, minlength=count) - 1
    over = (points_of > points) & file.objects
    traced = np.zeros(count, bool)
    traced[columns["rle_rows"]] = True
    chosen = np.flatnonzero(over | (traced & file.objects))
    if len(chosen) > MEASURED:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MEASURED).astype(np.int64)]
    starts = np.concatenate([[0], ends])[:-1]
    iou = np.ones(len(chosen))
    for number, row in enumerate(chosen.tolist()):
        rings = _traced(columns, row)
        if not traced[row]:
            first, last = np.searchsorted(rows, [row, row + 1]).tolist()
            own = zip(starts[first:last].tolist(), ends[first:last].tolist(), strict=True)
            rings = [columns["ring_points"][start:end] for start, end in own]
        iou[number] = _kept(rings, points)
    return Loss(chosen, iou, int(np.count_nonzero(over)))


def _traced(columns: dict[str, np.ndarray], row: int) -> list[np.ndarray]:
    """The outlines of the run lengths of an annotation, if it has some."""
    number = int(np.searchsorted(columns["rle_rows"], row))
    if number == len(columns["rle_rows"]) or columns["rle_rows"][number] != row:
        return []
    start = columns["rle_ends"][number - 1] if number else 0
    runs = columns["rle_runs"][start : columns["rle_ends"][number]]
    return trace(mask_of_runs(runs, tuple(columns["rle_sizes"][number].tolist())))


def _kept(rings: list[np.ndarray], points: int) -> float:
    """IoU of rings with what `coco.outlines` makes of them."""
    if not rings:
        return 1.0
    rings = [clockwise(ring) for ring in rings]
    fitted = fit(largest(rings, most_rings(points)), points)
    whole, kept = _region(rings), _region(fitted)
    union = whole.union(kept).area
    return whole.intersection(kept).area / union if union else 1.0


def _region(rings: list[np.ndarray]) -> shapely.Geometry:
    """What rings enclose."""
    polygons = [shapely.Polygon(ring) for ring in rings if len(ring) >= 3]
    return shapely.union_all(shapely.make_valid(polygons))
