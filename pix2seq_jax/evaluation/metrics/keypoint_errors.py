"""Where predicted keypoints are wrong, keypoint by keypoint (after Ronchi and Perona, 2017,
arXiv:1707.05388, section 3)."""

from typing import NamedTuple

import numpy as np

from pix2seq_jax.evaluation.metrics.coco import Comparison
from pix2seq_jax.evaluation.metrics.curves import Detections

GOOD, NEAR = 0.85, 0.5  # similarity of one keypoint: good from here on; none of it below


class KeypointErrors(NamedTuple):
    """Of one keypoint, over the objects that were found (OKS from 0.5 on).

    Attributes:
        name: of the keypoint.
        labelled: number of those objects where it is labelled.
        pixels: median distance in pixels; NaN where it is labelled nowhere, as all that follows.
        relative: median distance over the square root of the object's area.
        good, jitter, inversion, miss: shares of the labelled ones, one in all: near; somewhat off;
            where another keypoint of the same object is; elsewhere.
    """

    name: str
    labelled: int
    pixels: float
    relative: float
    good: float
    jitter: float
    inversion: float
    miss: float


def keypoint_errors(
    comparison: Comparison, found: Detections, names: tuple[str, ...]
) -> list[KeypointErrors]:
    """One row for each of the J keypoints; an inversion is similar (from NEAR on) to another
    labelled keypoint of its object."""
    distances, areas, labelled = _pairs(comparison, found, len(names))
    deviations = 2 * np.asarray(comparison.run.params.kpt_oks_sigmas)  # as in pycocotools
    spread = 2 * (areas[:, None] + np.spacing(1)) * deviations**2  # [M,J]
    similar = np.exp(-(distances**2) / spread[:, None, :])  # to the target on the last axis
    similar = np.where(labelled[:, None, :], similar, 0.0)
    rows = []
    for j, name in enumerate(names):
        own = labelled[:, j]
        near, apart = similar[own, j, j], distances[own, j, j]
        others = np.delete(similar[own, j], j, axis=1).max(axis=1, initial=0.0)
        good, jitter = near >= GOOD, (near >= NEAR) & (near < GOOD)
        inversion = (near < NEAR) & (others >= NEAR)
        kinds = (good, jitter, inversion, (near < NEAR) & ~inversion)
        shares = [float(kind.mean()) if own.any() else float("nan") for kind in kinds]
        relative = apart / np.sqrt(areas[own] + np.spacing(1))
        rows.append(
            KeypointErrors(name, int(own.sum()), _median(apart), _median(relative), *shares)
        )
    return rows


def _pairs(comparison: Comparison, found: Detections, count: int) -> tuple:
    """Of the M predictions that are right: distances f64[M,J,J] in pixels of predicted to annotated
    keypoints, areas f64[M] of the objects in pixels², labelled bool[M,J]."""
    right = np.flatnonzero(found.right[found.at])
    objects = {one["id"]: one for one in comparison.truth["annotations"]}
    matched = [objects[i] for i in found.matches[found.at][right].tolist()]
    results = [comparison.run.cocoDt.anns[i] for i in found.ids[right].tolist()]
    predicted, target = (
        np.reshape([one["keypoints"] for one in rows], (-1, count, 3)).astype(np.float64)
        for rows in (results, matched)
    )
    between = predicted[:, :, None, :2] - target[:, None, :, :2]
    areas = np.array([one["area"] for one in matched], np.float64)
    return np.sqrt((between**2).sum(-1)), areas, target[..., 2] > 0


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")
