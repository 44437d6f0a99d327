"""The numbers are pycocotools' own, each under its name; what pycocotools gets wrong or hides is
guarded."""

import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pix2seq_jax.evaluation.metrics import coco

BOX_NUMBERS = [
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
]
KEYPOINT_NUMBERS = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]
CATEGORIES = [  # sparse ids, not ascending; the last one has no objects
    {"id": 7, "name": "cercle à l'été", "keypoints": [f"k{i}" for i in range(17)]},
    {"id": 3, "name": "box"},
    {"id": 90, "name": "星"},
]
CATEGORY_IDS = [category["id"] for category in CATEGORIES]


def corners(bbox) -> list[float]:
    """COCO's xywh -> yxyx."""
    x, y, width, height = bbox
    return [y, x, y + height, x + width]


def random_set(num_images: int = 30) -> dict:
    """Objects of three sizes, some of them crowds; every fifth image is empty."""
    rng = np.random.default_rng(0)
    annotations = []
    for image in range(num_images):
        for _ in range(0 if image % 5 == 4 else rng.integers(1, 5)):
            width, height = rng.choice([20, 60, 150]) * rng.uniform(0.7, 1.3, 2)
            x, y = rng.uniform(0, 400, 2)
            points = np.stack(
                [x + width * rng.random(17), y + height * rng.random(17), rng.integers(0, 3, 17)],
                axis=1,
            )
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + image,
                    "category_id": int(rng.choice([7, 3])),
                    "bbox": [float(x), float(y), float(width), float(height)],
                    "area": float(width * height),
                    "iscrowd": int(rng.random() < 0.1),
                    "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
                    "keypoints": points.ravel().tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                }
            )
    images = [{"id": 100 + image, "width": 640, "height": 640} for image in range(num_images)]
    return {"images": images, "annotations": annotations, "categories": copy.deepcopy(CATEGORIES)}


def noisy_results(dataset: dict) -> list[dict]:
    """Two shifted, partly relabelled predictions of each object, with boxes, masks and
    keypoints."""
    rng = np.random.default_rng(1)
    found = []
    for annotation in dataset["annotations"] * 2:
        x, y, width, height = np.abs(np.array(annotation["bbox"]) * rng.normal(1, 0.06, 4))
        polygon = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        points = np.array(annotation["keypoints"]).reshape(17, 3) + np.append(
            rng.normal(0, width / 20, 2), 0
        )
        found.append(
            {
                "image_id": annotation["image_id"],
                "category_id": int(
                    rng.choice([annotation["category_id"], 3, 90], p=[0.8, 0.1, 0.1])
                ),
                "bbox": [float(v) for v in (x, y, width, height)],
                "segmentation": mask.merge(mask.frPyObjects(polygon, 640, 640)),
                "keypoints": points.ravel().tolist(),
                "score": float(rng.random()),
            }
        )
    return found


def reference(dataset: dict, found: list[dict], iou_type: str, image_ids=None) -> list[float]:
    """The numbers of a plain pycocotools run, as published in its documentation."""
    key = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[iou_type]
    found = [
        {name: entry[name] for name in ("image_id", "category_id", "score", key)} for entry in found
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(dataset)
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), iou_type)
        if image_ids is not None:
            run.params.imgIds = image_ids
        if iou_type == "keypoints":
            run.params.catIds = [7]
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats.tolist()


@pytest.fixture(scope="module")
def dataset() -> dict:
    return random_set()


@pytest.fixture(scope="module")
def found(dataset) -> list[dict]:
    return noisy_results(dataset)


@pytest.mark.parametrize(
    ("iou_type", "names"),
    [("bbox", BOX_NUMBERS), ("segm", BOX_NUMBERS), ("keypoints", KEYPOINT_NUMBERS)],
)
@pytest.mark.parametrize("image_ids", [None, [100, 103, 104, 111]])
def test_numbers_are_those_of_pycocotools(dataset, found, iou_type, names, image_ids):
    metrics = coco.evaluate(dataset, found, iou_type, image_ids=image_ids)
    expected = reference(dataset, found, iou_type, image_ids)
    assert list(metrics)[: len(names)] == names
    assert len(set(expected)) >= 5  # numbers under swapped names would show
    for name, value in zip(names, expected, strict=True):
        np.testing.assert_allclose(
            metrics[name], math.nan if value == -1 else value, atol=1e-12, err_msg=name
        )


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "keypoints"])
def test_classes_average_to_the_whole(dataset, found, iou_type):
    metrics = coco.evaluate(dataset, found, iou_type)
    names = (
        ["cercle à l'été"]
        if iou_type == "keypoints"
        else [category["name"] for category in CATEGORIES]
    )
    assert list(metrics["per_class"]) == names
    for key in ("AP", "AP50", "AR" if iou_type == "keypoints" else "AR100"):
        np.testing.assert_allclose(
            np.nanmean([row[key] for row in metrics["per_class"].values()]), metrics[key]
        )


def test_images_and_instances_are_counted_without_crowds(dataset, found):
    metrics = coco.evaluate(dataset, found)
    counted = [a for a in dataset["annotations"] if not a["iscrowd"]]
    assert (metrics["images"], metrics["instances"]) == (30, len(counted))
    boxes = [a["image_id"] for a in counted if a["category_id"] == 3]
    row = metrics["per_class"]["box"]
    assert (row["images"], row["instances"]) == (len(set(boxes)), len(boxes))
    assert (
        row["images"]
        < row["instances"]
        < len([a for a in dataset["annotations"] if a["category_id"] == 3])
    )


def as_batch(dataset: dict, slots: int = 6):
    """The annotations as the arrays a perfect model would give, with empty slots; crowds are not
    predicted."""
    ids = [image["id"] for image in dataset["images"]]
    boxes = np.zeros((len(ids), slots, 4), np.float32)
    labels = np.zeros((len(ids), slots), np.int32)
    for row, image_id in enumerate(ids):
        objects = [
            a for a in dataset["annotations"] if a["image_id"] == image_id and not a["iscrowd"]
        ]
        for slot, annotation in enumerate(objects):
            boxes[row, slot] = corners(annotation["bbox"])
            labels[row, slot] = CATEGORY_IDS.index(annotation["category_id"]) + 1
    return ids, boxes, labels, np.where(labels > 0, np.float32(0.7), np.float32(0))


def test_perfect_predictions_reach_one(dataset):
    perfect = coco.results(*as_batch(dataset), CATEGORY_IDS)
    metrics = coco.evaluate_boxes(dataset, perfect)
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR10", "AR100", "ARs", "ARm", "ARl"):
        assert metrics[name] == pytest.approx(1.0, abs=1e-12), name
    assert math.isnan(metrics["per_class"]["星"]["AP"])
    assert metrics["per_class"]["box"]["AP"] == pytest.approx(1.0, abs=1e-12)


def test_no_predictions_give_zero(dataset):
    metrics = coco.evaluate_boxes(dataset, [])
    assert all(metrics[name] == 0 for name in BOX_NUMBERS)
    assert [metrics["per_class"]["box"][name] for name in ("AP", "AP50", "AR100")] == [0, 0, 0]


def test_images_without_predictions_count(dataset):
    ids, boxes, labels, scores = as_batch(dataset)
    half = coco.results(ids[:15], boxes[:15], labels[:15], scores[:15], CATEGORY_IDS)
    assert coco.evaluate_boxes(dataset, half)["AR100"] < 0.7
    assert coco.evaluate_boxes(dataset, half, image_ids=ids[:15])["AR100"] == 1.0


def test_predictions_on_other_images_do_not_count_against_a_subset(dataset):
    perfect = coco.results(*as_batch(dataset), CATEGORY_IDS)
    assert coco.evaluate_boxes(dataset, perfect, image_ids=np.array([100, 101]))[
        "AP"
    ] == pytest.approx(1.0, abs=1e-12)


def one_object(**fields) -> dict:
    annotation = {"id": 5, "image_id": 1, "category_id": 3, "bbox": [10, 10, 50, 50], **fields}
    images = [{"id": 1, "width": 100, "height": 100}, {"id": 2, "width": 100, "height": 100}]
    return {"images": images, "annotations": [annotation], "categories": CATEGORIES}


def result(bbox=(10, 10, 50, 50), score=0.5, image_id=1, category_id=3) -> dict:
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), "score": score}


def test_annotation_with_id_zero_and_no_optional_fields_is_found():
    metrics = coco.evaluate_boxes(one_object(id=0), [result()])
    assert metrics["AP"] == pytest.approx(1.0, abs=1e-12)
    assert metrics["APm"] == pytest.approx(1.0, abs=1e-12) and math.isnan(metrics["APl"])


def test_predictions_in_a_crowd_are_neither_right_nor_wrong():
    dataset = one_object()
    crowd = {
        "id": 6,
        "image_id": 1,
        "category_id": 3,
        "bbox": [70, 0, 30, 100],
        "area": 3000,
        "iscrowd": 1,
    }
    inside = [result((72, y, 20, 20), score=0.9) for y in (0, 30, 60)]
    assert coco.evaluate_boxes(dataset, [result(), *inside])["AP"] < 0.5
    dataset["annotations"].append(crowd)
    assert coco.evaluate_boxes(dataset, [result(), *inside])["AP"] == pytest.approx(1.0, abs=1e-12)
    dataset["annotations"] = [crowd]
    assert math.isnan(coco.evaluate_boxes(dataset, inside)["AP"])


def test_limits_on_predictions_name_the_recalls():
    crowded = [result((0, 0, 5, 5), score=0.9)] * 4
    metrics = coco.evaluate_boxes(one_object(), [*crowded, result()], max_dets=(2, 300))
    assert (metrics["AR2"], metrics["AR300"]) == (0.0, 1.0)
    assert metrics["AP"] == pytest.approx(0.2)  # found at the fifth place, so precision 1/5
    assert list(metrics["per_class"]["box"]) == ["AP", "AP50", "AR300", "images", "instances"]


def test_nothing_is_printed_or_changed(dataset, found, capfd, tmp_path):
    before = copy.deepcopy((dataset, found))
    path = tmp_path / "instances_val.json"
    path.write_text(json.dumps(dataset), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(path))
    metrics = [coco.evaluate(given, found, "segm") for given in (dataset, path, str(path), loaded)]
    assert capfd.readouterr() == ("", "")
    assert (dataset, found) == before and loaded.dataset == before[0]
    assert len({metric["AP"] for metric in metrics}) == 1


def test_mask_area_is_that_of_the_mask(dataset, found):
    """A box beside the mask must not decide whether an object is small."""
    boxless = [{name: value for name, value in entry.items() if name != "bbox"} for entry in found]
    with_boxes = [{**entry, "bbox": [0, 0, 600, 600]} for entry in found]
    assert (
        coco.evaluate(dataset, boxless, "segm")["APs"]
        == coco.evaluate(dataset, with_boxes, "segm")["APs"]
        > 0
    )


def test_keypoints_of_another_schema_need_their_sigmas(dataset, found):
    three = copy.deepcopy(dataset)
    three["categories"][0]["keypoints"] = ["a", "b", "c"]
    for annotation in three["annotations"]:
        annotation["keypoints"] = annotation["keypoints"][:9]
        del annotation["num_keypoints"]
    exact = [
        {**entry, "keypoints": a["keypoints"], "category_id": a["category_id"]}
        for entry, a in zip(found, three["annotations"], strict=False)
        if not a["iscrowd"]
    ]
    with pytest.raises(ValueError, match="has 3 keypoints, but there are 17 sigmas"):
        coco.evaluate(three, exact, "keypoints")
    assert coco.evaluate(three, exact, "keypoints", sigmas=[0.05] * 3)["AR"] == 1.0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (result(image_id=77), "image id 77 is not"),
        (result(category_id=4), r"category id 4 is none of \[3, 7, 90\]"),
        (result(score=math.nan), "score=nan"),
        (result((0, 0, math.inf, 1)), "inf"),
        (result((0, 0, -1, 1)), "sizes >= 0"),
        ({"image_id": 1, "category_id": 3, "score": 0.1}, "'bbox'.* missing"),
    ],
)
def test_bad_results_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        coco.evaluate_boxes(one_object(), [result(), bad])


def test_bad_requests_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"image ids \[9\]"):
        coco.evaluate_boxes(one_object(), [], image_ids=[1, 9])
    with pytest.raises(ValueError, match="no images"):
        coco.evaluate_boxes(one_object(), [], image_ids=[])
    with pytest.raises(ValueError, match="iou_type='boxes'"):
        coco.evaluate(one_object(), [], "boxes")
    path = tmp_path / "other.json"
    path.write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"other.json: not COCO.*'annotations', 'categories'"):
        coco.evaluate_boxes(path, [])


def test_results_are_plain_and_keep_ranks():
    scores = np.float32([[0.3, np.nextafter(np.float32(0.3), np.float32(1)), 1e-9, 0.3]])
    boxes = np.float32([[[1.5, 2.25, 11.5, 32.25], [0, 0, 1, 1], [9, 9, 4, 20], [0, 0, 640, 480]]])
    made = coco.results(np.array([9]), boxes, np.int32([[2, 1, 3, 0]]), scores, CATEGORY_IDS)
    assert json.loads(json.dumps(made)) == made
    assert made[0] == {
        "image_id": 9,
        "category_id": 3,
        "bbox": [2.25, 1.5, 30.0, 10.0],
        "score": 0.300000012,
    }
    assert [entry["category_id"] for entry in made] == [3, 7, 90]  # slot 3 is empty
    assert [np.float32(entry["score"]) for entry in made] == scores[0, :3].tolist()
    assert made[2]["bbox"] == [9.0, 9.0, 11.0, 0.0]  # bottom above top
    with pytest.raises(ValueError, match="label 4 predicted, but there are 3"):
        coco.results([9], boxes, np.int32([[2, 1, 4, 0]]), scores, CATEGORY_IDS)


def test_box_with_swapped_corners_is_a_false_positive():
    swapped = coco.results(
        [1], np.float32([[[50, 10, 20, 40]]]), [[2]], np.float32([[0.9]]), CATEGORY_IDS
    )
    assert coco.evaluate_boxes(one_object(), [*swapped, result()])["AP"] == pytest.approx(0.5)


def test_json_has_null_for_what_could_not_be_measured(dataset, found):
    safe = coco.json_safe(coco.evaluate_boxes(dataset, found, image_ids=[100]))
    assert json.loads(json.dumps(safe, allow_nan=False)) == safe
    assert safe["per_class"]["星"]["AP"] is None
    assert coco.json_safe({"a": [np.float32(0.5), np.int64(3), np.float64("nan")]}) == {
        "a": [0.5, 3, None]
    }


def test_table_is_aligned_and_shows_a_dash(dataset, found):
    metrics = coco.evaluate_boxes(dataset, found)
    lines = coco.table(metrics).splitlines()
    assert lines[0].split() == ["class", "AP", "AP50", "AR100", "images", "instances"]
    assert [line.split("  ")[0] for line in lines[1:-1]] == ["cercle à l'été", "box", "星", "all"]
    assert lines[3].split() == ["星", "-", "-", "-", "0", "0"]
    assert lines[4].split()[1:4] == [f"{metrics[key]:.3f}" for key in ("AP", "AP50", "AR100")]
    assert lines[4].split()[4:] == ["30", str(metrics["instances"])]
    width = len(lines[0])
    assert [len(line) for line in lines[:5]] == [width] * 3 + [width - 1, width]  # 星: 2 columns
    assert lines[-1].startswith(f"AP {metrics['AP']:.3f}  AP50 ") and len(lines) == 6
    assert coco.table(coco.json_safe(metrics)) == coco.table(metrics)


def test_categories_of_one_name_are_told_apart():
    dataset = one_object()
    dataset["categories"] = [{"id": 3, "name": "box"}, {"id": 4, "name": "box"}]
    assert list(coco.evaluate_boxes(dataset, [result()])["per_class"]) == ["box #3", "box #4"]


def test_boxes_go_to_coco_and_back():
    boxes = np.float32([[[1.5, 2, 30.25, 44], [0, 0, 0, 0]], [[5, 6, 7, 8], [9, 9, 8, 10]]])
    assert coco.xywh(boxes)[0] == [[2.0, 1.5, 42.0, 28.75], [0.0, 0.0, 0.0, 0.0]]
    assert coco.xywh(boxes[1, 1]) == [9.0, 9.0, 1.0, 0.0]  # corners in the wrong order: size 0
    np.testing.assert_array_equal(coco.yxyx(coco.xywh(boxes[0])), boxes[0])
