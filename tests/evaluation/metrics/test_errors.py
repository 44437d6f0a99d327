"""Curves, confusion and the split of errors on hand-made detectors whose figures are known."""

import numpy as np
import pytest

from pix2seq_jax.evaluation.metrics import coco, curves, errors
from pix2seq_jax.evaluation.metrics.keypoint_errors import keypoint_errors

CAT, DOG = 3, 7


def annotation(number, image_id, category_id, bbox, **more):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
        "iscrowd": 0,
        **more,
    }


# A cat and a dog far apart on each of four images.
TRUTH = {
    "images": [{"id": i, "width": 100, "height": 100} for i in range(1, 5)],
    "annotations": [
        annotation(2 * i + k, i, category, [60 * k, 10, 30, 30])
        for i in range(1, 5)
        for k, category in enumerate((CAT, DOG))
    ],
    "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
}


def result(one, score=0.9, **changes):
    row = {name: one[name] for name in ("image_id", "category_id", "bbox")}
    return row | {"score": score} | changes


PERFECT = [result(one) for one in TRUTH["annotations"]]


def measured(results, truth=TRUTH):
    comparison = coco.compare(truth, results)
    return comparison, curves.detections(comparison)


def kinds(comparison, found, threshold=0.0):
    listed = [error.kind for error in errors.errors(comparison, found, threshold)]
    return {kind: listed.count(kind) for kind in errors.KINDS if kind in listed}


def test_a_perfect_detector():
    comparison, found = measured(PERFECT)
    assert kinds(comparison, found) == {}
    assert errors.confusion(comparison, found, 0.3).tolist() == [[4, 0, 0], [0, 4, 0], [0, 0, 0]]
    before, gained = errors.gains(comparison, found)
    assert before == 1.0 and set(gained.values()) == {0.0}
    recall, precision = curves.precision_recall(comparison)
    assert recall[0] == 0 and recall[-1] == 1
    assert list(precision) == [
        "all at IoU 0.50",
        "all at IoU 0.75",
        "all at IoU 0.50:0.95",
        "cat",
        "dog",
    ]
    assert all((curve == 1).all() for curve in precision.values())
    assert curves.recall_by_slots(found) == [(1, 0.5, 0.5), (2, 1.0, 1.0)]
    (row,) = curves.calibration(found).rows
    assert row == (0.9, 1.0, 8, pytest.approx(0.9), 1.0)
    assert curves.calibration(found).error == pytest.approx(0.1)
    assert all(one[1:] == (2, 0, 0) for one in curves.by_image(comparison, found, 0.3))
    assert all(one.f1 == 1 for one in curves.by_image(comparison, found, 0.3))


def test_classes_of_one_name_are_told_apart():
    """By their ids, all of them, as in metrics.json."""
    named = TRUTH | {"categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "cat"}]}
    comparison, _ = measured(PERFECT, named)
    _, precision = curves.precision_recall(comparison)
    classes = list(precision)[3:]
    assert classes == ["cat #3", "cat #7"]
    assert classes == list(coco.evaluate_boxes(named, PERFECT)["per_class"])


def test_swapped_classes():
    swapped = [result(one, category_id=CAT + DOG - one["category_id"]) for one in PERFECT_OBJECTS]
    comparison, found = measured(swapped)
    assert kinds(comparison, found) == {"class": 8}
    assert errors.confusion(comparison, found, 0.3).tolist() == [[0, 4, 0], [4, 0, 0], [0, 0, 0]]
    before, gained = errors.gains(comparison, found)
    assert before == 0 and gained["class"] == 1
    assert all(gained[kind] == 0 for kind in errors.KINDS if kind != "class")
    assert curves.calibration(found).rows[0][4] == 0


PERFECT_OBJECTS = TRUTH["annotations"]


def test_duplicates():
    twice = PERFECT + [result(one, 0.95 if i < 4 else 0.5) for i, one in enumerate(PERFECT_OBJECTS)]
    comparison, found = measured(twice)
    assert kinds(comparison, found) == {"duplicate": 8}
    assert kinds(comparison, found, threshold=0.6) == {"duplicate": 4}  # the other ones score .5
    counts = errors.confusion(comparison, found, 0.3)
    assert counts.tolist() == [[4, 0, 0], [0, 4, 0], [4, 4, 0]]  # the others are of no object
    before, gained = errors.gains(comparison, found)
    assert before < 1 and gained["duplicate"] == pytest.approx(1 - before)
    assert max(gained[kind] for kind in errors.KINDS if kind != "duplicate") == 0
    slots = curves.recall_by_slots(found)
    assert [row[0] for row in slots] == [1, 2, 3, 4] and slots[-1][1] == 1.0
    # On the first two images the two copies of .95 and .9 are right and a duplicate of each object.
    assert slots[0][1] == 0.5 and slots[1][1] == 1.0


def test_every_kind_on_one_image():
    truth = TRUTH | {
        "annotations": [
            annotation(1, 1, CAT, [0, 0, 40, 40]),
            annotation(2, 1, DOG, [60, 0, 20, 20]),
            annotation(3, 2, DOG, [0, 0, 40, 40]),
            annotation(4, 2, CAT, [60, 60, 20, 20]),
            annotation(5, 3, CAT, [10, 10, 30, 30]),
            annotation(6, 4, CAT, [0, 0, 50, 50], iscrowd=1),
        ]
    }
    results = [
        result(truth["annotations"][0]),
        result(truth["annotations"][0], 0.8, bbox=[1, 0, 40, 40]),  # duplicate
        result(truth["annotations"][1], 0.7, bbox=[70, 0, 20, 20]),  # IoU 1/3: localisation
        result(truth["annotations"][2], 0.6, category_id=CAT),  # class
        result(truth["annotations"][2], 0.5, category_id=CAT, bbox=[20, 0, 40, 40]),  # both: 1/3
        result(truth["annotations"][4], 0.4, bbox=[70, 70, 20, 20]),  # background
        result(truth["annotations"][5], 0.9, bbox=[5, 5, 20, 20]),  # in a crowd: does not count
    ]
    comparison, found = measured(results, truth)
    assert kinds(comparison, found) == {
        "duplicate": 1,
        "localisation": 1,
        "class": 1,
        "both": 1,
        "background": 1,
        "missed": 2,
    }
    listed = errors.errors(comparison, found)
    missed = {error.annotation for error in listed if error.kind == "missed"}
    of_truth = {one["id"]: one["bbox"] for one in comparison.truth["annotations"]}
    assert [of_truth[i] for i in sorted(missed)] == [[60, 60, 20, 20], [10, 10, 30, 30]]
    # Of six predictions that count one is right; five objects are no crowds.
    counts = errors.confusion(comparison, found, 0.3)
    assert counts.sum() - counts[:, -1].sum() == 6 and counts[:-1].sum() == 5
    before, gained = errors.gains(comparison, found)
    assert before == coco.evaluate_boxes(truth, results)["AP50"]
    for kind in ("localisation", "class", "missed"):
        assert gained[kind] > 0, kind
    assert sum(one.wrong for one in curves.by_image(comparison, found, 0.3)) == 5


def test_a_mended_object_is_mended_once():
    """Two boxes near one object: one becomes right, the other is removed."""
    near = [
        result(one, score, bbox=[one["bbox"][0] + shift, *one["bbox"][1:]])
        for one in PERFECT_OBJECTS
        for shift, score in ((15, 0.9), (-15, 0.8))
    ]
    comparison, found = measured(near)
    assert kinds(comparison, found) == {"localisation": 16}
    assert errors.gains(comparison, found)[1]["localisation"] == pytest.approx(1)


def test_nothing_at_all():
    comparison, found = measured([])
    assert kinds(comparison, found) == {"missed": 8}
    assert errors.confusion(comparison, found, 0.3)[:, -1].tolist() == [4, 4, 0]
    assert curves.recall_by_slots(found) == [(1, 0.0, 0.0)]
    assert curves.calibration(found).rows == []
    empty = coco.compare(TRUTH | {"annotations": []}, [])
    none = curves.detections(empty)
    assert curves.recall_by_slots(none) == [] and kinds(empty, none) == {}
    assert curves.precision_recall(empty)[1] == {}
    assert np.isnan(errors.gains(empty, none)[0])


def test_what_is_matched_is_what_pycocotools_counts():
    """Recall of all predictions is AR100, and the curves average to AP."""
    rng = np.random.default_rng(0)
    rows = []
    for one in PERFECT_OBJECTS * 3:
        bbox = np.array(one["bbox"], float)
        bbox[:2] += rng.normal(0, 6, 2)
        rows.append(
            result(one, rng.random(), bbox=bbox.tolist(), category_id=int(rng.choice([CAT, DOG])))
        )
    comparison, found = measured(rows)
    metrics = coco.evaluate_boxes(TRUTH, rows)
    assert curves.recall_by_slots(found)[-1][2] == pytest.approx(metrics["AR100"])
    _, precision = curves.precision_recall(comparison)
    assert precision["all at IoU 0.50"].mean() == pytest.approx(metrics["AP50"])
    assert precision["all at IoU 0.50:0.95"].mean() == pytest.approx(metrics["AP"])
    assert precision["cat"].mean() == pytest.approx(metrics["per_class"]["cat"]["AP50"])


def test_keypoints_by_name():
    names = ("nose", "hand", "foot")
    points = [10, 10, 2, 40, 10, 2, 25, 60, 2]
    truth = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "annotations": [annotation(1, 1, CAT, [0, 0, 50, 80], keypoints=points, num_keypoints=3)],
        "categories": [{"id": CAT, "name": "person", "keypoints": list(names)}],
    }
    # The nose is 2 px off, the hand lies on the nose, the foot is where it should be.
    predicted = {"image_id": 1, "category_id": CAT, "score": 1.0}
    predicted["keypoints"] = [12, 10, 1, 10, 10, 1, 25, 60, 1]
    comparison = coco.compare(truth, [predicted], "keypoints", sigmas=[0.05] * 3)
    nose, hand, foot = keypoint_errors(comparison, curves.detections(comparison), names)
    assert nose.pixels == 2 and nose.relative == pytest.approx(2 / 4000**0.5) and nose.good == 1
    assert hand[4:] == (0, 0, 1, 0) and hand.pixels == 30
    assert foot == ("foot", 1, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    none = coco.compare(truth, [], "keypoints", sigmas=[0.05] * 3)
    rows = keypoint_errors(none, curves.detections(none), names)
    assert [row.labelled for row in rows] == [0, 0, 0] and np.isnan(rows[0].good)
