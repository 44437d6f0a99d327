"""What a run opens: classes and keypoints of every file agree, what is never seen is counted,
columns are kept."""

import json
from pathlib import Path

import ml_collections
import numpy as np
import pytest

from pix2seq_jax.data.coco.part import Part
from pix2seq_jax.data.shapes import dataset
from pix2seq_jax.evaluation.metrics import coco
from pix2seq_jax.experiment import inputs, resolve
from tests.helpers import small

TASKS = ("detection", "segmentation", "keypoints")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("shapes"))


def make(folder: Path, **overrides):
    return resolve.select_tasks(small.config("multitask.py:shapes", folder, **overrides), TASKS)


def changed(folder: Path, path: Path, kind: str, split: str, change) -> dict[str, str]:
    """Overrides that put a changed copy of an annotation file in its place."""
    content = json.loads((folder / "annotations" / f"{small.KINDS[kind]}_{split}.json").read_text())
    change(content)
    path.write_text(json.dumps(content))
    return {f"data__{split}_{kind}": str(path)}


def renumbered(content: dict) -> None:
    """The same classes in another order and with other ids, some of which another class had."""
    ids = [category["id"] for category in content["categories"]]
    new = dict(zip(ids, [*ids[1:], 1000], strict=True))
    for category in content["categories"]:
        category["id"] = new[category["id"]]
    for row in content["annotations"]:
        row["category_id"] = new[row["category_id"]]
    content["categories"].reverse()


def renamed(content: dict) -> None:
    content["categories"][0]["name"] = "yak"


def resolved(folder: Path, **overrides):
    """(config, training sources)."""
    config = make(folder, **overrides)
    opened = inputs.open_sources(config, "train")
    return resolve.resolve(config, opened), opened


def test_validation_classes_in_another_order(folder, tmp_path):
    plain = inputs.open_sources(resolved(folder)[0], "val")["detection"]
    config, _ = resolved(
        folder, **changed(folder, tmp_path / "a.json", "annotations", "val", renumbered)
    )
    source = inputs.open_sources(config, "val")["detection"]
    assert source.category_names == plain.category_names
    assert set(source.category_ids) != set(plain.category_ids)
    labels = [source[i]["labels"] for i in range(len(source))]
    for index, own in enumerate(labels):
        np.testing.assert_array_equal(own, plain[index]["labels"])
    # Results have the ids of the file: perfect boxes score 1.
    truth = source.coco_dict()
    rows = [
        {"score": 1.0} | {key: row[key] for key in ("image_id", "category_id", "bbox")}
        for row in truth["annotations"]
    ]
    found = [row for row, one in zip(rows, truth["annotations"], strict=True) if not one["iscrowd"]]
    by_label = [source.category_ids[label - 1] for own in labels for label in own]
    assert sorted(by_label) == sorted(row["category_id"] for row in rows)
    assert coco.evaluate_boxes(truth, found, image_ids=source.image_ids.tolist())[
        "AP"
    ] == pytest.approx(1)


def test_a_subset_of_the_classes(folder, tmp_path):
    def subset(content):
        kept = content["categories"][1]["id"]
        content["categories"] = [content["categories"][1]]
        content["annotations"] = [
            row for row in content["annotations"] if row["category_id"] == kept
        ]

    config, _ = resolved(
        folder, **changed(folder, tmp_path / "a.json", "annotations", "val", subset)
    )
    source = inputs.open_sources(config, "val")["detection"]
    assert {label for i in range(len(source)) for label in source[i]["labels"].tolist()} == {2}
    assert source.category_ids == config.data.category_ids


def test_an_unknown_class_of_validation_is_refused(folder, tmp_path):
    config, _ = resolved(
        folder, **changed(folder, tmp_path / "a.json", "annotations", "val", renamed)
    )
    with pytest.raises(
        ValueError,
        match=r"a\.json has the class 'yak' .* none of the \d+ classes of the training data",
    ):
        inputs.open_sources(config, "val")


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_classes_of_the_keypoints_file_are_those_of_the_others(folder, tmp_path, split):
    overrides = changed(folder, tmp_path / "k.json", "keypoints", split, renamed)
    with pytest.raises(ValueError, match=r"k\.json has the class 'yak' .* of the training data"):
        config, _ = resolved(folder, **overrides)
        inputs.open_sources(config, split)


def test_a_keypoints_file_may_number_its_classes_otherwise(folder, tmp_path):
    plain, before = resolved(folder)

    def numbered(content):
        (category,) = content["categories"]
        category["id"] = 1000
        for row in content["annotations"]:
            row["category_id"] = 1000

    overrides = changed(folder, tmp_path / "k.json", "keypoints", "train", numbered)
    config, opened = resolved(folder, **overrides)
    np.testing.assert_array_equal(
        opened["keypoints"][0]["labels"], before["keypoints"][0]["labels"]
    )
    assert config.data.keypoint_categories == plain.data.keypoint_categories  # ids of the instances


def test_the_keypoints_of_validation_are_compared(folder, tmp_path):
    def turned(content):
        content["categories"][0]["keypoints"].reverse()

    config, _ = resolved(folder, **changed(folder, tmp_path / "k.json", "keypoints", "val", turned))
    with pytest.raises(
        ValueError, match=r"k\.json has the keypoints \['right_ankle'.* in the same order"
    ):
        inputs.open_sources(config, "val")


def test_what_training_never_sees_is_counted(folder, tmp_path):
    def hidden(content):
        for row in [row for row in content["annotations"] if not row["iscrowd"]][:3]:
            row["keypoints"] = [0] * (3 * len(dataset.KEYPOINTS))

    overrides = changed(folder, tmp_path / "k.json", "keypoints", "train", hidden)
    config, opened = resolved(folder, **overrides)
    with config.unlocked():
        ops = config.tasks.segmentation.train_ops
        config.tasks.segmentation.train_ops = ops.replace("crop_to_box(1.5)|", "").replace(
            "pad_objects(1)", "pad_objects(2)"
        )
    inputs.open_streams(config, opened, None)
    rows = [opened["segmentation"].take(i)["is_crowd"] for i in range(len(opened["segmentation"]))]
    crowded = sum((~row).sum() > 2 for row in rows)
    report = opened["segmentation"].report
    assert (
        report["images with more than 2 objects, the rest left out of segmentation"] == crowded > 0
    )
    assert (
        opened["keypoints"].report["objects without labelled keypoints, never seen by keypoints"]
        >= 3
    )
    assert "never seen by keypoints (first: " in inputs.describe(opened)


def test_bad_annotations_follow_the_config(folder, tmp_path):
    def broken(content):
        content["annotations"][0]["bbox"] = [1, 2, 3]

    overrides = changed(folder, tmp_path / "a.json", "annotations", "train", broken)
    with pytest.raises(
        ValueError, match=r"a\.json: 1 annotations with a box .*--config.data.bad_annotations=drop"
    ):
        resolved(folder, **overrides)
    _, opened = resolved(folder, **overrides, data__bad_annotations="drop")
    assert "1 annotations with a box that is not four finite numbers" in inputs.describe(opened)


def test_columns_are_kept_in_the_workdir(folder, tmp_path):
    config = make(folder)
    cache = inputs.InputCache(tmp_path)
    first = inputs.open_sources(config, "train", cache=cache)
    assert not (
        tmp_path / inputs.COLUMNS
    ).exists()  # before the workdir is known to be that of this run
    cache.save()
    # Instances, keypoints, headers of images.
    assert len(list((tmp_path / inputs.COLUMNS).iterdir())) == 3
    again = inputs.open_sources(config, "train", cache=inputs.InputCache(tmp_path))
    for name, source in first.items():
        for key, value in source[0].items():
            np.testing.assert_array_equal(value, again[name][0][key])


def test_more_data_may_lack_what_a_task_needs_that_does_not_use_them(folder):
    config = make(folder, data__val_share=0.25)
    boxes = str(folder / "annotations" / "instances_train.json")
    paths = {f"{split}_annotations": boxes for split in ("train", "val")}
    paths |= {f"{split}_images": str(folder / "train") for split in ("train", "val")}
    section = ml_collections.ConfigDict(paths | {"val_share": 0.25, "split_seed": 0})
    assert inputs.part_of(config, "train", section) == Part("train", 0.25, 0)
    section.val_annotations = "others.json"
    assert inputs.part_of(config, "train", section) is None


def test_data_without_a_share_are_not_read(folder):
    config, opened = resolved(folder)
    config.more_data = {"gone": {"train_images": "nowhere", "train_annotations": "nowhere.json"}}
    with config.unlocked():
        config.tasks.detection.mix.gone = 0.0
    assert len(inputs.open_streams(config, opened, None)["detection"]) == 1
