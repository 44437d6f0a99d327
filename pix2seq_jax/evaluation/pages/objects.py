"""The parts of the report that every task with classes has: classes, sizes, curves, scores."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pix2seq_jax.evaluation.metrics import curves
from pix2seq_jax.evaluation.metrics.coco import Comparison
from pix2seq_jax.evaluation.metrics.keypoint_errors import keypoint_errors
from pix2seq_jax.evaluation.pages.html import Page, shown
from pix2seq_jax.evaluation.pictures import svg

SIZES = {"small (below 32²)": "s", "medium (to 96²)": "m", "large (above 96²)": "l"}
CURVES = 8  # classes with the most objects, whose curves are drawn


def write(
    page: Page,
    title: str,
    metrics: Mapping[str, Any],
    comparison: Comparison,
    found: curves.Detections,
) -> None:
    """Writes the parts into a page; `metrics` are those of the task, from metrics.json."""
    _classes(page, title, metrics)
    _sizes(page, title, metrics)
    _curves(page, title, comparison, metrics)
    _scores(page, title, found)


def _classes(page: Page, title: str, metrics: Mapping[str, Any]) -> None:
    per_class = metrics["per_class"]
    page.heading("By class")
    header = ["class", *next(iter(per_class.values()))]
    page.table(
        f"{title}_classes", header, [[name, *row.values()] for name, row in per_class.items()]
    )


def _sizes(page: Page, title: str, metrics: Mapping[str, Any]) -> None:
    """Keypoints have no small size."""
    page.heading("By size of the object, in pixels²")
    sizes = {name: end for name, end in SIZES.items() if f"AP{end}" in metrics}
    rows = [[name, metrics[f"AP{end}"], metrics[f"AR{end}"]] for name, end in sizes.items()]
    page.table(f"{title}_sizes", ("size", "AP", "AR"), rows)
    values = {row[0]: np.nan if row[1] is None else row[1] for row in rows}
    page.charts(svg.bars("AP by size", "AP", values))


def _curves(page: Page, title: str, comparison: Comparison, metrics: Mapping[str, Any]) -> None:
    recall, precision = curves.precision_recall(comparison)
    page.heading("Precision and recall")
    if not precision:
        page.text("There is no object in these images, so there is nothing to draw.")
        return
    rows = [
        [float(recall[i]), *map(float, row)]
        for i, row in enumerate(zip(*precision.values(), strict=True))
    ]
    name = f"{title}_precision_recall"
    page.file(name, ("recall", *precision), rows)
    mean = [one for one in precision if one not in metrics["per_class"]]
    instances = {one: row["instances"] for one, row in metrics["per_class"].items()}
    classes = [one for one in precision if one in instances]
    most = sorted(classes, key=lambda one: -instances[one])[:CURVES]
    points = {
        one: list(zip(recall.tolist(), precision[one].tolist(), strict=True)) for one in mean + most
    }
    axes = ("recall", "precision")
    kind = "OKS" if comparison.run.params.iouType == "keypoints" else "IoU"
    page.charts(
        svg.lines("Mean over the classes", axes, {one: points[one] for one in mean}),
        svg.lines(f"Classes at {kind} 0.50", axes, {one: points[one] for one in most}),
    )
    page.link(name, "" if len(most) == len(classes) else f" (it has all {len(classes)} classes)")


def _scores(page: Page, title: str, found: curves.Detections) -> None:
    """What a score means, and how many predictions are needed."""
    page.heading("Scores, and predictions for each image")
    calibration = curves.calibration(found)
    page.text(
        "A score is well calibrated where it is the share of right predictions among those of that "
        "score. The expected calibration error, the mean distance from that, is "
        f"{shown(calibration.error)}."
    )
    names = ("score from", "to", "predictions", "mean score", "share right")
    page.table(f"{title}_calibration", names, calibration.rows)
    slots = curves.recall_by_slots(found)
    names = ("best predictions of an image", "recall at 0.50", "mean recall, 0.50 to 0.95")
    page.table(f"{title}_slots", names, slots)
    right = [(row[3], row[4]) for row in calibration.rows]
    axes = ("mean score", "share right")
    drawn = [svg.lines("Calibration", axes, {"predictions": right}, dots=True, diagonal=True)]
    if slots:
        recall = {
            "at 0.50": [(float(row[0]), row[1]) for row in slots],
            "mean of 0.50 to 0.95": [(float(row[0]), row[2]) for row in slots],
        }
        limits = ((0.0, float(slots[-1][0])), (0.0, 1.0))
        axes = ("best-scored predictions of each image", "recall")
        drawn.append(svg.lines("Recall by slots", axes, recall, limits=limits, dots=True))
    page.charts(*drawn)


def write_keypoints(
    page: Page,
    title: str,
    comparison: Comparison,
    found: curves.Detections,
    names: tuple[str, ...],
) -> None:
    """Errors of each keypoint."""
    page.heading("By keypoint")
    page.text(
        "Of the objects whose keypoints were found (OKS from 0.5 on): how far each keypoint lies "
        "from its annotation, as the median in pixels and relative to the square root of the "
        "object's area; and whether it is good, jittered, where another keypoint of the same "
        "object is (inversion), or elsewhere (miss)."
    )
    rows = [list(row) for row in keypoint_errors(comparison, found, names)]
    header = ("keypoint", "labelled", "pixels", "relative")
    page.table(f"{title}_keypoints", (*header, "good", "jitter", "inversion", "miss"), rows)
    page.charts(svg.bars("Share that is good", "share", {row[0]: row[4] for row in rows}))
