"""Curves and counts behind the numbers of an evaluation: precision against recall, scores against
how often they are right, recall against the number of predictions that are looked at.

Everything is read from what pycocotools matched (`coco.compare`), nothing is matched again.
"""

from typing import NamedTuple

import numpy as np

from pix2seq_jax.evaluation.metrics.coco import Comparison

MATCH = 0.5  # IoU, or OKS of keypoints, from which on a prediction is right
BINS = 10  # of scores
SLOTS = (1, 2, 3, 5, 10, 20, 50, 100)


class Detections(NamedTuple):
    """The predictions of all images and classes, D of them, at T thresholds of IoU.

    Attributes:
        ids: i64[D], of pycocotools.
        image_ids, category_ids: i64[D].
        scores: f64[D].
        matches: i64[T,D], id of the annotation that each is matched with; 0 for none.
        ignored: bool[T,D], matched with a crowd, or of an object that does not count.
        objects: i64[G], ids of the annotations that count.
        thresholds: f64[T].
    """

    ids: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    matches: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray
    thresholds: np.ndarray

    @property
    def at(self) -> int:
        """Row of the threshold MATCH."""
        return int(np.argmin(np.abs(self.thresholds - MATCH)))

    @property
    def right(self) -> np.ndarray:
        """bool[T,D]: matched with an object that counts."""
        return (self.matches > 0) & ~self.ignored


def detections(comparison: Comparison) -> Detections:
    """Of all sizes, and of the most predictions that count, image by image and class by class."""
    params, rows = comparison.run.params, []
    images, areas = len(params.imgIds), len(params.areaRng)
    objects: list[int] = []
    for k in range(len(params.catIds)):
        start = k * areas * images  # the first area holds all
        for row in filter(None, comparison.run.evalImgs[start : start + images]):
            rows.append(row)
            objects += np.asarray(row["gtIds"])[~np.asarray(row["gtIgnore"], bool)].tolist()
    counts = [len(row["dtIds"]) for row in rows]
    empty = np.zeros((len(params.iouThrs), 0))

    def joined(name: str, dtype) -> np.ndarray:
        parts = [row[name] for row in rows if len(row["dtIds"])]
        return np.concatenate([empty, *parts], axis=1).astype(dtype)

    return Detections(
        ids=np.array([i for row in rows for i in row["dtIds"]], np.int64),
        image_ids=np.repeat(np.array([row["image_id"] for row in rows], np.int64), counts),
        category_ids=np.repeat(np.array([row["category_id"] for row in rows], np.int64), counts),
        scores=np.array([s for row in rows for s in row["dtScores"]], np.float64),
        matches=joined("dtMatches", np.int64),
        ignored=joined("dtIgnore", bool),
        objects=np.array(objects, np.int64),
        thresholds=np.asarray(params.iouThrs),
    )


def precision_recall(comparison: Comparison) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Precision at each recall, f64[R] of both, as AP averages it: never rising.

    Returns:
        (recall f64[R] from 0 to 1, {"all at IoU 0.50", "all at IoU 0.75", "all at IoU 0.50:0.95",
        then each class at IoU 0.50 by its name: precision f64[R]}). Classes without objects are
        left out.
    """
    params, precision = comparison.run.params, comparison.run.eval["precision"][:, :, :, 0, -1]
    measured = (precision > -1).any(axis=(0, 1))  # [T,R,K] -> [K]
    kind = "OKS" if params.iouType == "keypoints" else "IoU"
    curves = {}
    if measured.any():
        mean = precision[:, :, measured].mean(axis=2)
        for threshold in (MATCH, 0.75):
            row = int(np.argmin(np.abs(params.iouThrs - threshold)))
            curves[f"all at {kind} {threshold:.2f}"] = mean[row]
        curves[f"all at {kind} 0.50:0.95"] = mean.mean(axis=0)
    names, categories = {}, comparison.truth["categories"]
    listed = [one["name"] for one in categories]
    for one in categories:  # as in metrics.json
        alone = listed.count(one["name"]) == 1
        names[one["id"]] = one["name"] if alone else f"{one['name']} #{one['id']}"
    at = int(np.argmin(np.abs(params.iouThrs - MATCH)))
    for k, category_id in enumerate(params.catIds):
        if measured[k]:
            curves[names[category_id]] = precision[at, :, k]
    return np.asarray(params.recThrs), curves


class Calibration(NamedTuple):
    """How often predictions of a score are right.

    Attributes:
        rows: for each bin of scores with predictions (from, to, number, mean score, share right).
        error: mean distance of score and share, weighted by the numbers; NaN without predictions.
    """

    rows: list[tuple[float, float, int, float, float]]
    error: float


def calibration(found: Detections) -> Calibration:
    """At IoU MATCH; predictions that pycocotools ignores are left out."""
    counted = ~found.ignored[found.at]
    scores, right = found.scores[counted], found.right[found.at][counted]
    bins = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    rows = []
    for number in np.unique(bins).tolist():
        own = bins == number
        shares = float(scores[own].mean()), float(right[own].mean())
        rows.append((number / BINS, (number + 1) / BINS, int(own.sum()), *shares))
    total = sum(row[2] for row in rows)
    apart = sum(row[2] * abs(row[3] - row[4]) for row in rows)
    return Calibration(rows, apart / total if total else float("nan"))


def recall_by_slots(found: Detections) -> list[tuple[int, float, float]]:
    """(number of predictions, recall at IoU MATCH, mean recall over all thresholds): only the so
    many best-scored predictions of each image count, of whatever class.

    Numbers are those of SLOTS up to the most predictions of an image. [] without objects.
    """
    if not len(found.objects):
        return []
    ranks = ranks_in_images(found)
    most = int(ranks.max(initial=0)) + 1
    numbers = [slots for slots in SLOTS if slots < most] + [most]
    rows = []
    for number in numbers:
        # Later predictions never take an object from better ones, so no new matching is needed.
        recall = found.right[:, ranks < number].sum(axis=1) / len(found.objects)
        rows.append((number, float(recall[found.at]), float(recall.mean())))
    return rows


def ranks_in_images(found: Detections) -> np.ndarray:
    """i64[D]: place of each prediction among those of its image, 0 for the best-scored."""
    order = np.lexsort((-found.scores, found.image_ids))  # stable
    images = found.image_ids[order]
    starts = np.flatnonzero(np.diff(images, prepend=images[:1] - 1))
    lengths = np.diff(np.append(starts, len(images)))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return ranks


class ImageCounts(NamedTuple):
    """Of one image, at IoU MATCH and of predictions that score enough: numbers of predictions that
    are right and wrong, and of objects that are missed."""

    image_id: int
    right: int
    wrong: int
    missed: int

    @property
    def f1(self) -> float:
        """2 right / (2 right + wrong + missed); 1 where there is nothing and nothing was said."""
        total = 2 * self.right + self.wrong + self.missed
        return 2 * self.right / total if total else 1.0


def by_image(comparison: Comparison, found: Detections, threshold: float) -> list[ImageCounts]:
    """Of every image, in the order of ids; predictions that score less than `threshold` do not
    count."""
    scored = found.scores >= threshold
    right = found.right[found.at] & scored
    wrong = ~found.right[found.at] & ~found.ignored[found.at] & scored
    image_of = {one["id"]: one["image_id"] for one in comparison.truth["annotations"]}
    objects = np.array([image_of[i] for i in found.objects.tolist()], np.int64)
    counts = []
    for image_id in (image["id"] for image in comparison.truth["images"]):
        own = found.image_ids == image_id
        hits = int((right & own).sum())
        missed = int((objects == image_id).sum()) - hits
        counts.append(ImageCounts(image_id, hits, int((wrong & own).sum()), missed))
    return counts
