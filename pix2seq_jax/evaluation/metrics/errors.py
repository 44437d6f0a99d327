"""What the errors of a detector are: the confusion of classes, and a split of its errors after TIDE
(Bolya et al., 2020, arXiv:2008.08115, section 2.2).

Boxes only. `docs/evaluation.md` has the definitions in words.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pix2seq_jax.evaluation.metrics.coco import Comparison
from pix2seq_jax.evaluation.metrics.curves import MATCH, Detections

NEAR = 0.1  # IoU below which a prediction has nothing to do with an object (TIDE, section 2.2)
CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = KINDS = (
    "class",
    "localisation",
    "both",
    "duplicate",
    "background",
    "missed",
)


class Error(NamedTuple):
    """One error.

    Attributes:
        kind: of KINDS.
        image_id: where.
        result: id of the prediction; 0 for a missed object.
        annotation: id of the object it is about; 0 for none.
    """

    kind: str
    image_id: int
    result: int
    annotation: int


class Scene(NamedTuple):
    """The predictions and objects of one image, the best-scored prediction first; D and G of them.

    Attributes:
        image_id: of the image.
        results, objects: COCO dictionaries; objects that do not count are left out.
        matches: i64[D], number of the object that a prediction is matched with; -1 for none.
        ignored: bool[D].
        iou: f64[D,G].
        same: bool[D,G], of one class.
    """

    image_id: int
    results: list[dict]
    objects: list[dict]
    matches: np.ndarray
    ignored: np.ndarray
    iou: np.ndarray
    same: np.ndarray


def scenes(comparison: Comparison, found: Detections, threshold: float = 0.0) -> Iterator[Scene]:
    """The images in the order of ids; predictions that score less than `threshold` are left out."""
    counted = set(found.objects.tolist())
    objects: dict[int, list[dict]] = {}
    for one in comparison.truth["annotations"]:
        if one["id"] in counted:
            objects.setdefault(one["image_id"], []).append(one)
    order = np.lexsort((-found.scores, found.image_ids))
    order = order[found.scores[order] >= threshold]
    by_id, images = comparison.run.cocoDt.anns, found.image_ids[order]
    for image_id in (image["id"] for image in comparison.truth["images"]):
        start, stop = np.searchsorted(images, [image_id, image_id + 1])
        rows, own = order[start:stop], objects.get(image_id, [])
        results = [by_id[i] for i in found.ids[rows].tolist()]
        number = {one["id"]: g for g, one in enumerate(own)}
        matches = [number.get(i, -1) for i in found.matches[found.at][rows].tolist()]
        theirs = np.array([one["category_id"] for one in own])
        same = found.category_ids[rows][:, None] == theirs[None, :]
        ignored = found.ignored[found.at][rows]
        yield Scene(
            image_id, results, own, np.array(matches, int), ignored, _iou(results, own), same
        )


def _iou(results: list[dict], objects: list[dict]) -> np.ndarray:
    """f64[D,G]."""
    if not results or not objects:
        return np.zeros((len(results), len(objects)))
    boxes = [np.array([one["bbox"] for one in own], np.float64) for own in (results, objects)]
    return coco_mask.iou(*boxes, [0] * len(objects))


def confusion(comparison: Comparison, found: Detections, threshold: float) -> np.ndarray:
    """i64[C+1,C+1]: objects of a class (row) that were called a class (column), in the order of
    `truth["categories"]`.

    The last row counts predictions on background, the last column objects that were missed.
    Predictions that are right are paired with their objects; then the others with objects that are
    left, whatever the classes, by score, from IoU MATCH on.
    """
    number = {one["id"]: c for c, one in enumerate(comparison.truth["categories"])}
    background = len(number)
    counts = np.zeros((background + 1, background + 1), np.int64)
    for scene in scenes(comparison, found, threshold):
        pairs = scene.matches.copy()
        left = np.ones(len(scene.objects), bool)
        left[pairs[pairs >= 0]] = False
        for d, result in enumerate(scene.results):
            if scene.ignored[d]:
                continue
            if pairs[d] < 0 and left.any():
                best = int(np.argmax(np.where(left, scene.iou[d], -1)))
                if scene.iou[d, best] >= MATCH:
                    pairs[d], left[best] = best, False
            row = background
            if pairs[d] >= 0:
                row = number[scene.objects[pairs[d]]["category_id"]]
            counts[row, number[result["category_id"]]] += 1
        for g in np.flatnonzero(left):
            counts[number[scene.objects[g]["category_id"]], background] += 1
    return counts


def errors(comparison: Comparison, found: Detections, threshold: float = 0.0) -> list[Error]:
    """All errors of the predictions that score at least `threshold`, image by image."""
    return [error for scene in scenes(comparison, found, threshold) for error in _errors_of(scene)]


def _errors_of(scene: Scene) -> list[Error]:
    used = np.zeros(len(scene.objects), bool)
    used[scene.matches[scene.matches >= 0]] = True
    explained, listed = used.copy(), []
    for d, result in enumerate(scene.results):
        if scene.ignored[d] or scene.matches[d] >= 0:
            continue
        kind, g = _kind(scene.iou[d], scene.same[d], used)
        if kind in (LOCALISATION, CLASS):
            explained[g] = True
        annotation = scene.objects[g]["id"] if g >= 0 else 0
        listed.append(Error(kind, scene.image_id, result["id"], annotation))
    missed = [scene.objects[g]["id"] for g in np.flatnonzero(~explained)]
    return listed + [Error(MISSED, scene.image_id, 0, i) for i in missed]


def _kind(iou: np.ndarray, same: np.ndarray, used: np.ndarray) -> tuple[str, int]:
    """(kind of a wrong prediction, number of the object it is about or -1), of f64[G], bool[G] and
    bool[G]. The order is that of TIDE."""

    def best(among: np.ndarray, low: float, high: float = np.inf) -> int:
        overlap = np.where(among, iou, -1.0)
        g = int(np.argmax(overlap)) if len(iou) else -1
        return g if g >= 0 and low <= overlap[g] < high else -1

    if (g := best(same & ~used, NEAR, MATCH)) >= 0:
        return LOCALISATION, g
    if (g := best(~same, MATCH)) >= 0:
        return CLASS, g
    if (g := best(same & used, MATCH)) >= 0:
        return DUPLICATE, g
    if (g := best(np.ones(len(iou), bool), NEAR)) >= 0:
        return BOTH, g
    return BACKGROUND, -1


def gains(comparison: Comparison, found: Detections) -> tuple[float, dict[str, float]]:
    """(AP50, how much higher it would be without the errors of each kind), all scores counted.

    Mended is a box by that of its object, a class by that of its object (the best-scored such
    prediction of an object that nothing else found; others are removed). Predictions that are
    duplicates, on background, or both are removed; of missed objects the annotations are.
    """
    results = {i: comparison.run.cocoDt.anns[i] for i in found.ids.tolist()}
    before = _ap50(comparison.truth, list(results.values()))
    objects = {one["id"]: one for one in comparison.truth["annotations"]}
    every = errors(comparison, found)
    matched = set(found.matches[found.at][found.right[found.at]].tolist())
    gained = {}
    for kind in KINDS:
        changed, truth, mended = dict(results), comparison.truth, set(matched)
        of_kind = [error for error in every if error.kind == kind]
        for error in of_kind:
            result = changed.pop(error.result, None)
            if kind in (LOCALISATION, CLASS) and error.annotation not in mended:
                mended.add(error.annotation)
                one = objects[error.annotation]
                corrected = {name: one[name] for name in ("bbox", "category_id")}
                changed[error.result] = result | corrected
        if kind == MISSED:
            gone = {error.annotation for error in of_kind}
            rest = [one for one in truth["annotations"] if one["id"] not in gone]
            truth = truth | {"annotations": rest}
        gained[kind] = _ap50(truth, list(changed.values())) - before
    return before, gained


def _ap50(truth: dict, results: list[dict]) -> float:
    """Mean over the classes that have objects; NaN without any."""
    fields = ("image_id", "category_id", "bbox", "score")
    rows = [{name: row[name] for name in fields} for row in results]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(rows) if rows else COCO(), "bbox")
        run.params.iouThrs = np.array([MATCH])
        run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], ["all"]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][0, :, :, 0, -1]
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else float("nan")
