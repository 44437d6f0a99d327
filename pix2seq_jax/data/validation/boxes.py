"""Checks of boxes and areas."""

from collections.abc import Callable, Iterator

import numpy as np

from pix2seq_jax.data.validation.dataset import DataSet, per_image
from pix2seq_jax.data.validation.findings import ERROR, NOTE, WARNING, Batch, Check
from pix2seq_jax.data.validation.tables import AnnotationFile

_ROUNDING = 1e-3  # pixels; JSON files round box + size to two decimals
_OVER = 1.0  # pixels beyond the edge that are taken for rounding by whoever made the boxes
_AREA_OVER = 1.02  # of its box that an area may be, and a pixel²


def not_numbers(data: DataSet) -> Iterator[Batch]:
    """Boxes that are not four finite numbers."""
    for file in data.of_objects():
        wrong = np.isnan(file.boxes).any(axis=1)
        there = np.array([bool(record) for record in file.annotations], bool)
        yield file.of_annotations(wrong & there, "bbox")


def empty(data: DataSet) -> Iterator[Batch]:
    """Boxes whose width or height is not above zero."""
    for file in data.of_objects():
        yield file.of_annotations((file.boxes[:, 2:] <= 0).any(axis=1), "bbox")


def outside(data: DataSet) -> Iterator[Batch]:
    """Boxes that have nothing in common with their image."""
    for file in data.of_objects():
        yield file.of_annotations(_outside(file), _in_image(file))


def over_edge(data: DataSet) -> Iterator[Batch]:
    """Boxes that leave their image by more than a pixel."""
    for file in data.of_objects():
        rows = (_beyond(file) > _OVER) & ~_outside(file)
        yield file.of_annotations(rows, _in_image(file))


def slightly_over_edge(data: DataSet) -> Iterator[Batch]:
    """Boxes that leave their image by up to a pixel."""
    for file in data.of_objects():
        beyond = _beyond(file)
        rows = (beyond > _ROUNDING) & (beyond <= _OVER) & ~_outside(file)
        yield file.of_annotations(rows, _in_image(file))


def _beyond(file: AnnotationFile) -> np.ndarray:
    """f64[n], pixels that a box lies beyond its image at the most; 0 where its size is not
    known."""
    limits = np.concatenate([file.image_sizes, file.image_sizes], axis=1)
    beyond = np.maximum(-file.corners, file.corners - limits).max(axis=1)
    area = (file.boxes[:, 2:] > 0).all(axis=1)
    return np.where(area & (limits > 0).all(axis=1), beyond, 0)


def _outside(file: AnnotationFile) -> np.ndarray:
    """bool[n], boxes with an area of which no part lies in the image."""
    sizes, corners = file.image_sizes, file.corners
    apart = (corners[:, :2] >= sizes).any(axis=1) | (corners[:, 2:] <= 0).any(axis=1)
    return apart & (_beyond(file) > 0)


def _in_image(file: AnnotationFile) -> Callable[[int], str]:
    def value(row: int) -> str:
        height, width = file.image_sizes[row].tolist()
        return f"has bbox {file.boxes[row].tolist()} in {width} x {height} pixels"

    return value


def below_bin(data: DataSet) -> Iterator[Batch]:
    """Boxes so small that a side is less than one coordinate bin of the padded image."""
    for file in data.of_objects():
        longer = file.image_sizes.max(axis=1)
        bins = file.boxes[:, 2:].min(axis=1) * (data.options.bins - 1)
        yield file.of_annotations((bins < longer) & file.objects, _in_image(file))


def doubles(data: DataSet) -> Iterator[Batch]:
    """Boxes that an image has twice with the same class."""
    for file in data.of_objects():
        keys = np.column_stack([file.index, file.category_id, file.boxes])
        yield file.of_annotations(_again(keys, file.objects), _in_image(file))


def two_classes(data: DataSet) -> Iterator[Batch]:
    """Boxes that an image has twice with different classes."""
    for file in data.of_objects():
        boxes = np.column_stack([file.index, file.boxes])
        same_class = np.column_stack([file.index, file.category_id, file.boxes])
        rows = _again(boxes, file.objects) & ~_again(same_class, file.objects)
        yield file.of_annotations(rows, "category_id")


def _again(keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """bool[n], rows bool[n] whose key f64[n,k] an earlier one of them has."""
    numbers = np.flatnonzero(rows)
    _, first = np.unique(keys[numbers], axis=0, return_index=True)
    again = rows.copy()
    again[numbers[first]] = False
    return again


def no_area(data: DataSet) -> Iterator[Batch]:
    """Annotations without a positive area."""
    for file in data.of_objects():
        yield file.of_annotations(np.isnan(file.area) & file.objects, "area")


def large_area(data: DataSet) -> Iterator[Batch]:
    """Areas that are larger than their boxes."""
    for file in data.of_objects():
        most = file.boxes[:, 2:].prod(axis=1) * _AREA_OVER + 1
        yield file.of_annotations((file.area > most) & file.objects, _area(file))


def _area(file: AnnotationFile) -> Callable[[int], str]:
    return lambda row: f"has area {file.area[row]:g} in bbox {file.boxes[row].tolist()}"


def over_slots(data: DataSet) -> Iterator[Batch]:
    """Images with more objects than slots."""
    for file in data.of_objects():
        counts = per_image(file, file.objects)
        rows = counts > data.options.slots
        yield file.of_images(rows, lambda row, c=counts: f"has {c[row]} objects")


def no_objects(data: DataSet) -> Iterator[Batch]:
    """Images without objects."""
    for file in data.of_objects():
        if file.kind == "instances":
            rows = (per_image(file, file.index >= 0) == 0) & file.once
            yield file.of_images(rows, lambda row: f"images[{row}] has no annotation")


def only_crowds(data: DataSet) -> Iterator[Batch]:
    """Images whose annotations are crowd regions, or boxes that cannot be used."""
    for file in data.of_objects():
        there = per_image(file, file.index >= 0)
        rows = (there > 0) & (per_image(file, file.objects) == 0)
        yield file.of_images(rows, lambda row, t=there: f"has {t[row]} annotations, none to learn")


CHECKS = (
    Check(
        "box-invalid",
        ERROR,
        "boxes that are not four finite numbers",
        "write bbox as [x, y, width, height] in pixels",
        not_numbers,
    ),
    Check(
        "box-empty",
        WARNING,
        "boxes without width or height; they are dropped",
        "correct or remove them; bbox is [x, y, width, height], not two corners",
        empty,
    ),
    Check(
        "box-outside",
        ERROR,
        "boxes of which no part lies in their image",
        "see whether image and annotation belong together, and in which units the box is",
        outside,
    ),
    Check(
        "box-over-edge",
        WARNING,
        "boxes that leave their image by more than a pixel; they are clipped",
        "clip them; if many do, bbox may hold two corners or another size of the image",
        over_edge,
    ),
    Check(
        "box-slightly-over-edge",
        NOTE,
        "boxes that leave their image by a pixel or less; they are clipped",
        "nothing needs to be done",
        slightly_over_edge,
    ),
    Check(
        "box-below-bin",
        NOTE,
        "boxes with a side of less than one coordinate bin, which the model cannot write",
        "remove them, or cut the images into parts",
        below_bin,
    ),
    Check(
        "box-duplicate",
        WARNING,
        "boxes that their image has twice with the same class",
        "remove the second ones",
        doubles,
    ),
    Check(
        "box-two-classes",
        WARNING,
        "boxes that their image has twice with different classes",
        "decide for a class: a detector is punished for either",
        two_classes,
    ),
    Check(
        "area-missing",
        NOTE,
        "annotations without a positive area; that of the box is taken",
        "write area in pixels²; OKS and AP by size depend on it",
        no_area,
    ),
    Check(
        "area-too-large",
        WARNING,
        "annotations whose area is larger than their box",
        "write area in pixels² of the image",
        large_area,
    ),
    Check(
        "objects-over-slots",
        WARNING,
        "images with more objects than slots; the rest is not seen",
        "raise slots=N of the config, or cut the images into parts",
        over_slots,
    ),
    Check(
        "image-without-objects",
        NOTE,
        "images without annotations",
        "see whether they are empty or were forgotten",
        no_objects,
    ),
    Check(
        "image-nothing-to-learn",
        NOTE,
        "images that have annotations, but none that can be learnt",
        "see whether all of them are crowd regions",
        only_crowds,
    ),
)
