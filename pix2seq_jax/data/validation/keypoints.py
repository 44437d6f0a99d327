"""Checks of keypoints."""

from collections.abc import Iterator

import numpy as np

from pix2seq_jax.data.coco.json import whole_numbers
from pix2seq_jax.data.validation.dataset import DataSet
from pix2seq_jax.data.validation.findings import ERROR, NOTE, WARNING, Batch, Check
from pix2seq_jax.data.validation.tables import KEYPOINTS, AnnotationFile

_OVER = 1.0  # pixels beyond the edge that are taken for rounding
_BOX_SHARE = 0.25  # of a side of its box that a keypoint may lie beside it


def _files(data: DataSet) -> Iterator[AnnotationFile]:
    return (file for file in data.files if file.kind == KEYPOINTS)


def bad_schemas(data: DataSet) -> Iterator[Batch]:
    """Names of keypoints or skeletons that cannot be read."""
    for file in _files(data):
        fault = "" if file.missing_lists or file.broken else file.keypoints.fault
        yield file.of_file([fault] if fault else [])


def not_numbers(data: DataSet) -> Iterator[Batch]:
    """Keypoints that are not three finite numbers for each name."""
    for file in _files(data):
        yield file.of_annotations(file.keypoints.broken, "keypoints")


def visibilities(data: DataSet) -> Iterator[Batch]:
    """Keypoints whose visibility is not 0, 1 or 2."""
    for file in _files(data):
        odd = ~np.isin(file.keypoints.xyv[..., 2], (0, 1, 2)).all(axis=1)
        yield file.of_annotations(odd & file.keypoints.present, "keypoints")


def missing(data: DataSet) -> Iterator[Batch]:
    """Objects of a class with keypoints that have none."""
    for file in _files(data):
        wanted = np.isin(file.category_id, list(file.keypoints.categories)) & file.objects
        yield file.of_annotations(wanted & ~file.keypoints.present, "keypoints")


def unlabelled(data: DataSet) -> Iterator[Batch]:
    """Objects of a class with keypoints, none of which is labelled."""
    for file in _files(data):
        none = (file.keypoints.xyv[..., 2] <= 0).all(axis=1) & ~file.keypoints.broken
        yield file.of_annotations(none & file.keypoints.present & file.objects, "num_keypoints")


def outside(data: DataSet) -> Iterator[Batch]:
    """Labelled keypoints outside their image."""
    for file in _files(data):
        beyond = _beyond(file, np.zeros_like(file.corners[:, :2]), file.image_sizes)
        rows = (beyond > _OVER) & (file.image_sizes > 0).all(axis=1)
        yield file.of_annotations(rows, lambda row, b=beyond: f"is {b[row]:g} pixels outside")


def beside_box(data: DataSet) -> Iterator[Batch]:
    """Labelled keypoints far from the box of their object."""
    for file in _files(data):
        low, high = file.corners[:, :2], file.corners[:, 2:]
        room = _BOX_SHARE * np.maximum((high - low).max(axis=1), 4)
        beyond = _beyond(file, low, high)
        rows = (beyond > room) & file.objects
        yield file.of_annotations(
            rows, lambda row, b=beyond: f"has a keypoint {b[row]:g} pixels beside its box"
        )


def _beyond(file: AnnotationFile, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """f64[n], pixels that the labelled keypoints lie at the most beyond yx low and high
    f64[n,2]."""
    xyv = file.keypoints.xyv
    if not xyv.shape[1]:
        return np.zeros(len(xyv))
    yx = xyv[..., 1::-1].astype(np.float64)
    beyond = np.maximum(low[:, None] - yx, yx - high[:, None]).max(axis=2)
    return np.where(xyv[..., 2] > 0, beyond, 0).max(axis=1)


def wrong_numbers(data: DataSet) -> Iterator[Batch]:
    """Annotations whose num_keypoints is not the number of their labelled keypoints."""
    for file in _files(data):
        said, odd = whole_numbers([record.get("num_keypoints", -1) for record in file.annotations])
        labelled = np.count_nonzero(file.keypoints.xyv[..., 2] > 0, axis=1)
        differs = (said != labelled) & (said != -1)
        rows = (odd | differs) & file.keypoints.present & ~file.keypoints.broken
        yield file.of_annotations(
            rows,
            lambda row, s=said, n=labelled: f"says {s[row]} keypoints and has {n[row]} labelled",
        )


CHECKS = (
    Check(
        "keypoint-names-invalid",
        ERROR,
        "files whose names of keypoints or skeletons cannot be read",
        "give the category a list keypoints of names and a skeleton of pairs from 1 on",
        bad_schemas,
    ),
    Check(
        "keypoints-invalid",
        ERROR,
        "keypoints that are not x, y, v for every name",
        "write three finite numbers for each keypoint, zeros for those that are not labelled",
        not_numbers,
    ),
    Check(
        "keypoint-visibility",
        WARNING,
        "annotations with a visibility other than 0, 1 and 2",
        "write 0 not labelled, 1 hidden, 2 visible",
        visibilities,
    ),
    Check(
        "keypoints-missing",
        WARNING,
        "objects of a class with keypoints that have none; keypoints never sees them",
        "label them, or write zeros where nobody can",
        missing,
    ),
    Check(
        "keypoints-unlabelled",
        NOTE,
        "objects none of whose keypoints is labelled; keypoints never sees them",
        "nothing needs to be done if nobody can tell where they are",
        unlabelled,
    ),
    Check(
        "keypoint-outside",
        WARNING,
        "objects with labelled keypoints outside their image; they count as not labelled",
        "correct them",
        outside,
    ),
    Check(
        "keypoint-beside-box",
        NOTE,
        "objects with keypoints beside their box by more than a quarter of its side",
        "see whether box and keypoints are of the same object; hidden parts may well lie there",
        beside_box,
    ),
    Check(
        "keypoint-count",
        WARNING,
        "annotations whose num_keypoints is not the number of labelled keypoints",
        "count them again: OKS leaves out objects with 0",
        wrong_numbers,
    ),
)
