"""The boxes that prompt outlines and keypoints, and where they come from: detection, the
annotations, or a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pix2seq_jax.experiment.logs import log
from pix2seq_jax.experiment.resolve import GROUND_TRUTH


class Boxes(NamedTuple):
    """Boxes of I images that prompt outlines and keypoints.

    Attributes:
        image_ids: i64[I].
        boxes: f32[I,N,4] yxyx in pixels of the original image.
        labels: i32[I,N], 1-based; 0 is an empty slot.
        scores: f32[I,N].
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    @property
    def most(self) -> int:
        """Boxes of the image that has most."""
        return int((self.labels > 0).sum(axis=1).max(initial=0))

    def best(self, count: int, labels=None) -> "Boxes":
        """The `count` best-scored boxes of each image, of the given labels only (None: of all)."""
        counted = self.labels > 0 if labels is None else np.isin(self.labels, list(labels))
        ranks = np.where(counted, -self.scores, np.inf)
        order = np.argsort(ranks, axis=1, kind="stable")[:, :count]
        return Boxes(
            self.image_ids,
            np.take_along_axis(self.boxes, order[..., None], axis=1),
            np.take_along_axis(self.labels * counted, order, axis=1),
            np.take_along_axis(self.scores, order, axis=1),
        )

    def rows(self, slots: int) -> "Boxes":
        """The same boxes with at most `slots` in a row: further rows of the same image hold the
        rest; no empty rows."""
        full = self.best(self.labels.shape[1])  # empty slots last
        number = -(-full.labels.shape[1] // slots)

        def cut(array):  # [I,N,...] -> [I*number,slots,...]
            missing = number * slots - array.shape[1]
            padded = np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2))
            return padded.reshape(-1, slots, *array.shape[2:])

        parts = Boxes(np.repeat(self.image_ids, number), *map(cut, full[1:]))
        return Boxes(*(array[parts.labels.any(axis=1)] for array in parts))

    def of_images(self, image_ids) -> "Boxes":
        """Those of the images that are among `image_ids`."""
        rows = np.isin(self.image_ids, image_ids)
        return Boxes(*(array[rows] for array in self))


def boxes_of_annotations(
    annotations: dict, image_ids, category_ids, prompts: Callable[[dict], bool]
) -> Boxes:
    """The boxes of a COCO dictionary for these images, crowds aside, all with score 1.

    Args:
        annotations: COCO dictionary.
        image_ids: images, in this order.
        category_ids: category id of label l at l - 1.
        prompts: annotation -> whether it prompts.
    """
    rows = {image_id: [] for image_id in image_ids}
    for one in annotations["annotations"]:
        if one["image_id"] in rows and not one["iscrowd"] and prompts(one):
            label = category_ids.index(one["category_id"]) + 1
            rows[one["image_id"]].append((one["bbox"], label, 1.0))
    return _padded(rows)


def boxes_of_results(path: str | Path, image_ids, category_ids) -> Boxes:
    """The boxes of a COCO results file for these images and categories; the log says how many are
    of others.

    Raises:
        ValueError: the file is missing or no results file.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        rows, others = {image_id: [] for image_id in image_ids}, 0
        for result in results:
            if result["image_id"] in rows and result["category_id"] in category_ids:
                label = category_ids.index(result["category_id"]) + 1
                rows[result["image_id"]].append((result["bbox"], label, result["score"]))
            else:
                others += 1
        if results and others == len(results):
            raise ValueError(f"none of its {others} boxes is of these images and categories")
        if without := sum(not row for row in rows.values()):
            log.warning(
                "%s has no box of %d of the %d images: they count as images without objects",
                path,
                without,
                len(rows),
            )
        if others:
            log.info(
                "%s: %d of %d boxes are of other images or categories, left out",
                path,
                others,
                len(results),
            )
        boxes = _padded(rows)
        if not np.isfinite(boxes.boxes).all() or not np.isfinite(boxes.scores).all():
            raise ValueError("it has boxes or scores that are not finite")
        return boxes
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"config.eval.boxes={str(path)!r} cannot be used ({type(error).__name__}: {error}); "
            f"give 'predicted', {GROUND_TRUTH!r}, or the results/detection.json of an evaluation "
            "on the same data"
        ) from error


def _padded(rows: dict[int, list[tuple]]) -> Boxes:
    """Boxes of (x, y, width, height; label; score) by image."""
    most = max((len(row) for row in rows.values()), default=0) or 1
    shape = (len(rows), most)
    boxes, scores = np.zeros((*shape, 4), np.float32), np.zeros(shape, np.float32)
    labels = np.zeros(shape, np.int32)
    for i, row in enumerate(rows.values()):
        for j, ((x, y, width, height), label, score) in enumerate(row):
            boxes[i, j] = y, x, y + height, x + width
            labels[i, j], scores[i, j] = label, score
    return Boxes(np.array(list(rows), np.int64), boxes, labels, scores)


def same_images(one, other) -> None:
    """Raises ValueError where an image id of one source means another file in the other source."""
    files = dict(zip(one.image_ids.tolist(), one.files, strict=True))
    for image_id, file in zip(other.image_ids.tolist(), other.files, strict=True):
        if files.get(image_id, file) != file:
            raise ValueError(
                f"image id {image_id} is {files[image_id]} in {one.annotations_path} and {file} "
                f"in {other.annotations_path}: boxes of one would prompt the other; number the "
                "images alike"
            )
