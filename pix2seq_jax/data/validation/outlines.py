"""Checks of segmentations: what cannot be read, what contradicts its box, what a sequence of so
many points loses."""

from collections.abc import Callable, Iterator

import numpy as np

from pix2seq_jax.data.coco.json import shown
from pix2seq_jax.data.validation.dataset import DataSet
from pix2seq_jax.data.validation.findings import ERROR, WARNING, Batch, Check
from pix2seq_jax.data.validation.tables import AnnotationFile
from pix2seq_jax.geometry.rings import most_rings

LEAST_IOU = 0.9  # of an outline with itself when it is simplified; less is a finding
_LEAST_BOX_IOU = 0.5  # of a box and the bounds of its outline; less is a finding
_OVER = 1.0  # pixels beyond the edge that are taken for rounding


def broken(data: DataSet) -> Iterator[Batch]:
    """Segmentations that cannot be read."""
    for file in data.of_objects():
        yield file.of_annotations(file.segmentations.broken, "segmentation")


def wrong_sizes(data: DataSet) -> Iterator[Batch]:
    """Run lengths of another size than their image."""
    for file in data.of_objects():
        yield file.of_annotations(file.segmentations.wrong_size, _mask_size(file))


def _mask_size(file: AnnotationFile) -> Callable[[int], str]:
    def value(row: int) -> str:
        size = shown(file.annotations[row]["segmentation"].get("size"))
        return f"has run lengths of size {size} in {file.image_sizes[row].tolist()} (height, width)"

    return value


def without_area(data: DataSet) -> Iterator[Batch]:
    """Polygons of fewer than three points or without area."""
    for file in data.of_objects():
        rows = np.zeros(len(file.annotations), bool)
        rows[file.segmentations.columns["ring_dropped"]] = True
        yield file.of_annotations(rows, "segmentation")


def missing(data: DataSet) -> Iterator[Batch]:
    """Objects without an outline, where others have one."""
    for file in data.of_objects():
        having = _having(file)
        rows = file.objects & ~having & ~file.segmentations.broken
        if not having.any():
            rows = np.zeros_like(rows)
        yield file.of_annotations(rows, "segmentation")


def _having(file: AnnotationFile) -> np.ndarray:
    """bool[n], which annotations have rings or run lengths."""
    having = np.zeros(len(file.annotations), bool)
    having[file.segmentations.columns["ring_rows"]] = True
    having[file.segmentations.columns["rle_rows"]] = True
    return having


def other_than_box(data: DataSet) -> Iterator[Batch]:
    """Polygons whose bounds are not the box."""
    for file in data.of_objects():
        bounds, having = _bounds(file)
        corners = file.corners
        low = np.maximum(bounds[:, :2], corners[:, :2])
        high = np.minimum(bounds[:, 2:], corners[:, 2:])
        common = np.clip(high - low, 0, None).prod(axis=1)
        both = (bounds[:, 2:] - bounds[:, :2]).prod(axis=1) + file.boxes[:, 2:].prod(axis=1)
        iou = common / np.maximum(both - common, 1e-9)
        rows = having & file.objects & (iou < _LEAST_BOX_IOU)
        yield file.of_annotations(rows, _bounded(file, bounds, iou))


def _bounded(file: AnnotationFile, bounds: np.ndarray, iou: np.ndarray) -> Callable[[int], str]:
    def value(row: int) -> str:
        y0, x0, y1, x1 = bounds[row].round(2).tolist()
        box = file.boxes[row].tolist()
        outline = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
        return f"has bbox {box} and an outline within {outline} (IoU {iou[row]:.2f})"

    return value


def over_edge(data: DataSet) -> Iterator[Batch]:
    """Polygons that leave their image by more than a pixel."""
    for file in data.of_objects():
        bounds, having = _bounds(file)
        sizes = file.image_sizes
        beyond = np.maximum(-bounds[:, :2], bounds[:, 2:] - sizes).max(axis=1)
        rows = having & (beyond > _OVER) & (sizes > 0).all(axis=1)
        yield file.of_annotations(rows, _leaving(file, beyond))


def _leaving(file: AnnotationFile, beyond: np.ndarray) -> Callable[[int], str]:
    def value(row: int) -> str:
        height, width = file.image_sizes[row].tolist()
        return f"has an outline that is {beyond[row]:g} pixels beyond {width} x {height}"

    return value


def _bounds(file: AnnotationFile) -> tuple[np.ndarray, np.ndarray]:
    """f64[n,4], yxyx of the polygons of each annotation, and bool[n], which have some."""
    columns, count = file.segmentations.columns, len(file.annotations)
    bounds, having = np.zeros((count, 4)), np.zeros(count, bool)
    points, rows = columns["ring_points"], columns["ring_rows"]
    if len(rows):
        owners, first = np.unique(rows, return_index=True)
        starts = np.concatenate([[0], columns["ring_ends"]])[first]
        bounds[owners, :2] = np.minimum.reduceat(points, starts)[:, ::-1]
        bounds[owners, 2:] = np.maximum.reduceat(points, starts)[:, ::-1]
        having[owners] = True
    return bounds, having


def many_parts(data: DataSet) -> Iterator[Batch]:
    """Objects of more parts than the points of a sequence hold."""
    most = most_rings(data.options.points)
    for file in data.of_objects():
        rows = file.segmentations.columns["ring_rows"]
        parts = np.bincount(rows, minlength=len(file.annotations))
        over = (parts > most) & file.objects
        yield file.of_annotations(over, lambda row, p=parts: f"has {p[row]} parts, {most} fit")


def lost_shapes(data: DataSet) -> Iterator[Batch]:
    """Objects whose outline is another one when it is simplified."""
    for file in data.of_objects():
        loss = data.losses[str(file.path)]
        worst = loss.iou < LEAST_IOU
        rows, iou = np.zeros(len(file.annotations), bool), np.ones(len(file.annotations))
        rows[loss.rows[worst]] = True
        iou[loss.rows] = loss.iou
        yield file.of_annotations(rows, lambda row, i=iou: f"keeps an IoU of {i[row]:.3f}")


CHECKS = (
    Check(
        "segmentation-broken",
        ERROR,
        "segmentations that are neither polygons nor run lengths",
        "write [[x, y, x, y, ...], ...] or {size, counts}; detection alone does not read them",
        broken,
    ),
    Check(
        "mask-size",
        ERROR,
        "run lengths of another size than their image",
        "write them for the size that the image has in the JSON",
        wrong_sizes,
    ),
    Check(
        "polygon-empty",
        WARNING,
        "annotations with polygons of fewer than 3 points or without area; those are dropped",
        "remove these polygons",
        without_area,
    ),
    Check(
        "outline-missing",
        WARNING,
        "objects without an outline, where others have one; segmentation never sees them",
        "add the outlines",
        missing,
    ),
    Check(
        "outline-other-than-box",
        WARNING,
        "outlines that lie elsewhere than their box (IoU of the bounds below 0.5)",
        "correct the box or the outline",
        other_than_box,
    ),
    Check(
        "outline-over-edge",
        WARNING,
        "outlines that leave their image by more than a pixel; points are moved to the edge",
        "clip the polygons",
        over_edge,
    ),
    Check(
        "outline-many-parts",
        WARNING,
        "objects of more parts than the points of a sequence hold; the smallest are left out",
        "raise config.tasks.segmentation.max_points",
        many_parts,
    ),
    Check(
        "outline-loses-shape",
        WARNING,
        f"outlines that keep an IoU below {LEAST_IOU} with so many points",
        "raise config.tasks.segmentation.max_points",
        lost_shapes,
    ),
)
