"""Average precision and recall by pycocotools, over all classes and for each, for boxes, masks and
keypoints.

What pycocotools does by surprise is kept away from callers: it prints, changes the dictionaries it
is given, fails on an empty list of results, never matches the annotation with id 0, takes a mask's
area from its box when both are given, and writes -1 where there is nothing to measure (NaN here,
null in JSON, "-" in the table).
"""

import contextlib
import io
import json
import math
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# The numbers that `evaluate` gives for boxes and for masks.
BOX_METRICS = (
    "AP",
    "AP50",
    "AP75",
    "APs",
    "APm",
    "APl",
    "AR1",
    "AR10",
    "AR100",
    "ARs",
    "ARm",
    "ARl",
)
KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
# The key of a result that each kind of evaluation compares, and the official limits on predictions
# per image and class.
IOU_TYPES = {
    "bbox": ("bbox", (1, 10, 100)),
    "segm": ("segmentation", (1, 10, 100)),
    "keypoints": ("keypoints", (20,)),
}


def evaluate(annotations, results: list[dict], iou_type: str = "bbox", **options) -> dict:
    """Scores COCO results. An image counts whether there are predictions for it or not.

    Arguments and errors as in `compare`.

    Returns:
        Fractions in [0, 1], NaN where there is no object: AP (IoU .50:.05:.95), AP50, AP75, APs,
        APm, APl (area below 32², below 96², above), AR1, AR10, AR100 (one for each of `max_dets`),
        ARs, ARm, ARl; of keypoints AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl. Then
        `images`, `instances` (those that are not crowds) and `per_class`:
        {category name: {AP, AP50, AR100, images, instances}}.
    """
    truth, run = compare(annotations, results, iou_type, **options)
    return {
        **_numbers(run.eval["precision"], run.eval["recall"], run.params),
        "images": len(truth["images"]),
        "instances": sum(a["counted"] for a in truth["annotations"]),
        "per_class": _per_class(truth, run),
    }


class Comparison(NamedTuple):
    """Results beside annotations.

    Attributes:
        truth: COCO dictionary of the images that count; `counted` says whether an annotation does.
        run: of pycocotools, evaluated and accumulated.
    """

    truth: dict
    run: COCOeval


def compare(
    annotations,
    results: list[dict],
    iou_type: str = "bbox",
    *,
    image_ids: Iterable[int] | None = None,
    max_dets: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> Comparison:
    """Matches COCO results with annotations.

    Args:
        annotations: path of a COCO JSON, its dictionary, or a pycocotools COCO; never changed.
        results: COCO result dictionaries; never changed. Those on other images than `image_ids` are
            left out.
        iou_type: 'bbox', 'segm' (results hold RLE masks) or 'keypoints' (categories that name
            keypoints only).
        image_ids: the images that count; None: all of the annotations.
        max_dets: best-scored predictions per image and class, ascending; AP uses the last. None:
            the official 1, 10, 100, and 20 for keypoints.
        sigmas: deviation of each keypoint relative to the object's size; None: COCO's for its 17
            keypoints.

    Raises:
        ValueError: annotations that are not COCO, no or unknown `image_ids`, keypoints without as
            many `sigmas`, a result with an unknown image or category or numbers that are not
            finite.
    """
    if iou_type not in IOU_TYPES:
        raise ValueError(f"iou_type={iou_type!r}: must be one of {sorted(IOU_TYPES)}")
    dataset = _dataset(annotations)
    truth = _truth(dataset, iou_type, image_ids)
    predicted = _checked(results, iou_type, dataset, truth)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(predicted) if predicted else COCO(), iou_type)
        run.params.maxDets = sorted(max_dets or IOU_TYPES[iou_type][1])
        if iou_type == "keypoints":
            run.params.kpt_oks_sigmas = _sigmas(
                truth["categories"], sigmas, run.params.kpt_oks_sigmas
            )
        run.evaluate()
        run.accumulate()
    return Comparison(truth, run)


def evaluate_boxes(
    annotations,
    results: list[dict],
    image_ids: Iterable[int] | None = None,
    max_dets: Sequence[int] = IOU_TYPES["bbox"][1],
) -> dict:
    """`evaluate` for boxes."""
    return evaluate(annotations, results, "bbox", image_ids=image_ids, max_dets=max_dets)


def _dataset(annotations) -> dict:
    """The COCO dictionary behind a path, a dictionary or a pycocotools COCO object."""
    source = "annotations"
    if isinstance(annotations, str | Path):
        source, annotations = annotations, json.loads(Path(annotations).read_text(encoding="utf-8"))
    dataset = annotations.dataset if isinstance(annotations, COCO) else annotations
    missing = {"images", "annotations", "categories"} - set(dataset)
    if missing:
        raise ValueError(
            f"{source}: not COCO annotations, {sorted(missing)} missing; found "
            f"{sorted(dataset)[:8]}"
        )
    return dataset


def _truth(dataset: dict, iou_type: str, image_ids: Iterable[int] | None) -> dict:
    """The part of a COCO dictionary that is evaluated, as copies with the fields that COCOeval
    needs."""
    images = {image["id"]: image for image in dataset["images"]}
    chosen = images.keys() if image_ids is None else {int(i) for i in image_ids}
    if not chosen:
        raise ValueError("no images to evaluate: give at least one image id")
    unknown = sorted(chosen - images.keys())
    if unknown:
        raise ValueError(
            f"image ids {unknown[:5]} are not among the {len(images)} images of the annotations"
        )
    categories = [c for c in dataset["categories"] if iou_type != "keypoints" or c.get("keypoints")]
    if not categories:
        raise ValueError(
            f"iou_type={iou_type!r}: no category to evaluate, of {len(dataset['categories'])}"
        )
    points = {c["id"]: len(c.get("keypoints", ())) for c in categories}
    annotations = []
    of_images = [a for a in dataset["annotations"] if a["image_id"] in chosen]
    for number, original in enumerate(of_images, start=1):  # id 0 would never be matched
        if original["category_id"] not in points:
            continue
        _, _, width, height = original["bbox"]
        annotation = {"iscrowd": 0, "area": width * height} | original | {"id": number}
        annotation["counted"] = not annotation["iscrowd"]
        if iou_type == "keypoints":
            annotation.setdefault("keypoints", [0] * 3 * points[original["category_id"]])
            labelled = sum(v > 0 for v in annotation["keypoints"][2::3])
            annotation.setdefault("num_keypoints", labelled)
            annotation["counted"] &= annotation["num_keypoints"] > 0
        annotations.append(annotation)
    return {
        "images": [images[i] for i in sorted(chosen)],
        "annotations": annotations,
        "categories": categories,
    }


def _checked(results: list[dict], iou_type: str, dataset: dict, truth: dict) -> list[dict]:
    """Copies of the results on the evaluated images and categories, with nothing but what
    `iou_type` compares.

    Raises ValueError, naming the value, for a missing field, an unknown image or category and
    numbers that cannot be.
    """
    key, _ = IOU_TYPES[iou_type]
    images, categories = _ids(dataset, "images"), _ids(dataset, "categories")
    chosen_images, chosen_categories = _ids(truth, "images"), _ids(truth, "categories")
    fields = ("image_id", "category_id", "score", key)
    copies = []
    for number, result in enumerate(results):
        where = f"result {number} (image {result.get('image_id')})"
        missing = set(fields) - result.keys()
        if missing:
            raise ValueError(
                f"{where}: {sorted(missing)} missing in {sorted(result)}; wrong "
                f"iou_type={iou_type!r}?"
            )
        if result["image_id"] not in images:
            raise ValueError(
                f"{where}: image id {result['image_id']!r} is not in the annotations; wrong split?"
            )
        if result["category_id"] not in categories:
            raise ValueError(
                f"{where}: category id {result['category_id']!r} is none of "
                f"{sorted(categories)[:10]}"
            )
        if not math.isfinite(result["score"]):
            raise ValueError(f"{where}: score={result['score']} is not finite")
        numbers = () if key == "segmentation" else result[key]
        if not all(map(math.isfinite, numbers)) or (key == "bbox" and min(numbers[2:]) < 0):
            raise ValueError(
                f"{where}: {key}={numbers} must be finite, a box x, y, width, height with "
                "sizes >= 0"
            )
        if result["image_id"] in chosen_images and result["category_id"] in chosen_categories:
            copies.append({name: result[name] for name in fields})
    return copies


def _ids(dataset: dict, kind: str) -> set[int]:
    return {entry["id"] for entry in dataset[kind]}


def _sigmas(
    categories: list[dict], sigmas: Sequence[float] | None, default: np.ndarray
) -> np.ndarray:
    """The deviations of the keypoints; ValueError if a category has another number of keypoints."""
    sigmas = default if sigmas is None else np.asarray(sigmas)
    for category in categories:
        if len(category["keypoints"]) != len(sigmas):
            raise ValueError(
                f"category {category['name']!r} has {len(category['keypoints'])} keypoints, but "
                f"there are {len(sigmas)} sigmas; give one sigma for each keypoint"
            )
    return sigmas


def _mean(values: np.ndarray) -> float:
    """Mean of the measured entries of pycocotools' arrays (it marks the others with -1), NaN if
    there are none."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else math.nan


def _numbers(precision: np.ndarray, recall: np.ndarray, params) -> dict[str, float]:
    """The official numbers under their names, from precision f64[T,R,K,A,M] and recall
    f64[T,K,A,M].

    T: IoU thresholds .50, .55, … .95; R: recall thresholds; K: classes; A: areas, the first holds
    all; M: max_dets.
    """
    at50, at75 = (int(np.argmin(np.abs(params.iouThrs - threshold))) for threshold in (0.5, 0.75))
    numbers = {
        "AP": _mean(precision[..., 0, -1]),
        "AP50": _mean(precision[at50, ..., 0, -1]),
        "AP75": _mean(precision[at75, ..., 0, -1]),
    }
    areas = list(enumerate(params.areaRngLbl))[1:]
    numbers |= {f"AP{name[0]}": _mean(precision[..., a, -1]) for a, name in areas}
    if params.iouType == "keypoints":
        numbers |= {
            "AR": _mean(recall[..., 0, -1]),
            "AR50": _mean(recall[at50, ..., 0, -1]),
            "AR75": _mean(recall[at75, ..., 0, -1]),
        }
    else:
        numbers |= {
            f"AR{limit}": _mean(recall[..., 0, m]) for m, limit in enumerate(params.maxDets)
        }
    return numbers | {f"AR{name[0]}": _mean(recall[..., a, -1]) for a, name in areas}


def _per_class(truth: dict, run: COCOeval) -> dict[str, dict]:
    """AP, AP50, recall, and the numbers of images and instances of each category, in the order of
    the annotations."""
    names = [category["name"] for category in truth["categories"]]
    rows = {}
    for category, name in zip(truth["categories"], names, strict=True):
        instances = [
            a for a in truth["annotations"] if a["category_id"] == category["id"] and a["counted"]
        ]
        k = [run.params.catIds.index(category["id"])]
        numbers = _numbers(run.eval["precision"][:, :, k], run.eval["recall"][:, k], run.params)
        recall = "AR" if "AR" in numbers else f"AR{run.params.maxDets[-1]}"
        rows[name if names.count(name) == 1 else f"{name} #{category['id']}"] = {
            **{key: numbers[key] for key in ("AP", "AP50", recall)},
            "images": len({a["image_id"] for a in instances}),
            "instances": len(instances),
        }
    return rows


def results(image_ids, boxes, labels, scores, category_ids: Sequence[int]) -> list[dict]:
    """Predictions of a batch as COCO result dictionaries of plain Python numbers, ready for JSON.

    Args:
        image_ids: i64[B].
        boxes: f32[B,N,4] yxyx in pixels of the original image.
        labels: i32[B,N]; 1-based, objects with label 0 are left out.
        scores: f32[B,N].
        category_ids: category id of label l at l - 1.

    Returns:
        [{image_id, category_id, bbox: [x, y, width, height] in pixels, score}]. A box whose corners
        are in the wrong order has size 0, so that it counts as a false positive; with its negative
        area COCO would overlook it.

    Raises:
        ValueError: a label above the number of categories.
    """
    labels = np.asarray(labels)
    if labels.max(initial=0) > len(category_ids):
        raise ValueError(
            f"label {labels.max()} predicted, but there are {len(category_ids)} categories"
        )
    bboxes, scores = xywh(boxes), np.asarray(scores)
    return [
        {
            "image_id": int(image_ids[row]),
            "category_id": int(category_ids[labels[row, slot] - 1]),
            "bbox": bboxes[row][slot],
            "score": float(f"{scores[row, slot]:.9g}"),  # f32 exactly, so that ranks and ties stay
        }
        for row, slot in np.argwhere(labels > 0)
    ]


def xywh(boxes) -> list:
    """Boxes f32[...,4] yxyx in pixels as nested lists of COCO's [x, y, width, height].

    Corners in the wrong order give size 0. 1e-4 px is the resolution of f32 at 1000 px.
    """
    boxes = np.asarray(boxes, np.float64)
    low, high = boxes[..., 1::-1], boxes[..., 3:1:-1]  # [...,2] as x, y
    return np.concatenate([low, np.maximum(high - low, 0)], axis=-1).round(4).tolist()


def yxyx(bboxes) -> np.ndarray:
    """COCO's [x, y, width, height], nested in any way, as f64[...,4] yxyx."""
    bboxes = np.asarray(bboxes, np.float64)
    low = bboxes[..., 1::-1]  # y, x
    return np.concatenate([low, low + bboxes[..., 3:1:-1]], axis=-1)


def json_safe(value):
    """A copy of nested metrics that strict JSON can hold: NaN and infinities become None, numpy
    numbers plain ones."""
    if isinstance(value, dict):
        return {key: json_safe(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(metrics: dict) -> str:
    """Text table of what `evaluate` returns (or of its JSON): a row per class, a row for all, then
    every number."""
    rows = [{"class": name, **row} for name, row in metrics["per_class"].items()]
    rows.append({"class": "all", **{key: metrics[key] for key in list(rows[0])[1:]}})
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *rest in cells:
        padded = [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first + " " * (widths[0] - _width(first)), *padded]))
    numbers = {key: value for key, value in metrics.items() if isinstance(value, float | None)}
    return "\n".join([*lines, "  ".join(f"{key} {_cell(value)}" for key, value in numbers.items())])


def _cell(value) -> str:
    if value is None or value != value:
        return "-"
    return str(value) if isinstance(value, int | str) else f"{value:.3f}"


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
