"""Rows of one object, and the way of their windows back to the original image."""

import json

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data import pipeline, rows
from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.data.ops.chain import read_chain
from pix2seq_jax.data.selections import PerObject
from pix2seq_jax.tasks.base import to_original
from tests.helpers.epochs import one_epoch

SIZES = {7: (40, 60), 3: (64, 30), 5: (20, 20)}  # image id -> height, width
EVAL_OPS = "decode|crop_to_box(2.0)|resize(32,antialias=True)|pad_image(32)|pad_objects(1)"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three images: two objects and a crowd between them, none, one."""
    folder = tmp_path_factory.mktemp("selections")
    rng = np.random.default_rng(0)
    for image_id, (height, width) in SIZES.items():
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(
            folder / f"{image_id}.png"
        )

    def row(number, image, box, **more):
        x, y, w, h = box
        ring = [x, y, x + w, y, x + w, y + h, x, y + h]
        base = {
            "id": number,
            "image_id": image,
            "category_id": 1,
            "bbox": box,
            "iscrowd": 0,
            "area": w * h,
        }
        return base | {"segmentation": [ring], "keypoints": [x + 1, y + 1, 2, 0, 0, 0]} | more

    crowd = {"iscrowd": 1, "keypoints": [0] * 6}
    rows = [row(1, 7, [4, 6, 20, 10]), row(2, 7, [0, 0, 60, 40], **crowd), row(4, 5, [2, 2, 8, 8])]
    rows += [row(3, 7, [30, 20, 10, 16], category_id=2, keypoints=[31, 21, 2, 32, 22, 1])]
    keypoints = {"keypoints": ["left_hand", "right_hand"], "skeleton": []}
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": h, "width": w}
            for i, (h, w) in SIZES.items()
        ],
        "annotations": rows,
        "categories": [{"id": 1, "name": "one"} | keypoints, {"id": 2, "name": "two"} | keypoints],
    }
    (folder / "persons.json").write_text(json.dumps(content))
    return CocoDir(folder, folder / "persons.json", max_points=6, keypoints=True)


def test_one_row_per_object(source):
    objects = PerObject(source)
    np.testing.assert_array_equal(objects.rows, [[0, 0], [0, 2], [2, 0]])
    assert objects.fields == source.fields
    assert len(objects) == 3
    whole, second = source[0], objects[1]
    assert second.keys() == whole.keys()
    for name in ("boxes", "labels", "area", "is_crowd", "scores", "polygons", "keypoints"):
        np.testing.assert_array_equal(second[name], whole[name][2:3])
    assert second["image"] == whole["image"]


def test_objects_with_few_keypoints_are_left_out(source):
    np.testing.assert_array_equal(PerObject(source, min_keypoints=2).rows, [[0, 2]])
    with pytest.raises(ValueError, match="none of 4 objects is left"):
        PerObject(source, min_keypoints=3)
    plain = CocoDir(source.storage, source.annotations_path)
    assert len(PerObject(plain)) == 3
    with pytest.raises(ValueError, match="min_keypoints=1: the source gives no keypoints"):
        PerObject(plain, min_keypoints=1)


def test_objects_come_back_from_their_windows(source):
    """Through crop_to_box, resize and pad_image, and back by tasks.base.to_original: the same
    pixels."""
    objects = PerObject(source)
    batch = one_epoch(objects, EVAL_OPS)
    assert "keypoint_swap" not in batch
    np.testing.assert_array_equal(batch["crop_offset"], [[1, 0], [12, 25], [0, 0]])
    np.testing.assert_array_equal(batch["orig_size"], [[20, 34], [28, 20], [14, 14]])
    boxes = np.asarray(to_original(batch["boxes"].reshape(3, 1, 2, 2), batch)).reshape(3, 4)
    # Some hundredths: a resized window has whole pixels, its two sides shrink a little differently.
    np.testing.assert_allclose(boxes, [[6, 4, 16, 24], [20, 30, 36, 40], [2, 2, 10, 10]], atol=0.05)
    points = np.asarray(to_original(batch["polygons"][..., :8].reshape(3, 1, 4, 2), batch))[:, 0]
    corners = [[[t, left], [t, r], [b, r], [b, left]] for t, left, b, r in boxes]
    np.testing.assert_allclose(points, corners, atol=0.05)
    assert (batch["polygons"][..., 8:] == -1).all()
    keypoints = np.asarray(to_original(batch["keypoints"].reshape(3, 1, 2, 2), batch))[:, 0]
    np.testing.assert_allclose(keypoints[:, 0], [[7, 5], [21, 31], [3, 3]], atol=0.05)
    assert (batch["keypoints"][[0, 2], 0, 2:] == -3).all()


@pytest.mark.parametrize(
    "box",
    [
        [3, 3, 3, 3],
        [0, 0, 0, 0],
        [40, 60, 40, 60],
        [90, 90, 99, 99],
        [-9, -9, -1, -1],
        [20, 30, 10, 20],
    ],
)
def test_a_window_has_some_pixels_whatever_the_box(box):
    """As evaluation makes rows of predicted boxes; yxyx in pixels, clipped to the image before."""
    make = rows.Preprocess(read_chain(EVAL_OPS).tensor_ops, objects=True, spec=EVAL_OPS)
    features = {
        "image": np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8),
        "orig_size": np.array([40, 60], np.int32),
        "boxes": np.clip([box], 0, [40, 60, 40, 60]).astype(np.float32)
        / np.array([40, 60, 40, 60], np.float32),
        "labels": np.ones(1, np.int32),
        "scores": np.ones(1, np.float32),
        "is_crowd": np.zeros(1, bool),
    }
    batch = make.batch({0: make(features, 0)}, 1)
    (height, width), (top, left) = batch["orig_size"][0], batch["crop_offset"][0]
    assert 8 <= height <= 40 and 8 <= width <= 60
    assert 0 <= top <= 40 - height and 0 <= left <= 60 - width
    assert np.isfinite(batch["boxes"]).all() and batch["labels"][0, 0] == 1


def test_an_image_without_objects_stays_whole(source):
    batch = one_epoch(source, EVAL_OPS)
    np.testing.assert_array_equal(batch["orig_size"][1], [64, 30])
    np.testing.assert_array_equal(batch["crop_offset"][1], [0, 0])


def test_windows_are_for_training_too(source):
    ops = (
        "decode|crop_to_box(2.0)|scale_jitter(24,0.5,1.5)|fixed_crop(24)|flip_lr|"
        "filter_objects(min_keypoints=1)|pad_image(24)|pad_objects(1)"
    )
    batches = iter(pipeline.train_dataset(PerObject(source), ops, batch_size=6, seed=0))
    batch = next(batches)
    shapes = {name: batch[name].shape for name in ("image", "boxes", "polygons", "keypoints")}
    assert shapes == {
        "image": (6, 24, 24, 3),
        "boxes": (6, 1, 4),
        "polygons": (6, 1, 12),
        "keypoints": (6, 1, 4),
    }
    assert {name: batch[name].dtype for name in ("polygons", "keypoints")} == dict.fromkeys(
        ("polygons", "keypoints"), np.float32
    )
    assert (batch["labels"] > 0).any()
