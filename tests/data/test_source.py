"""A source is a class with the members of the protocol: nothing else has to know of it."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data import pipeline
from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.data.selections import PerObject
from pix2seq_jax.data.source import (
    BOX_FIELDS,
    FIELDS,
    IMAGE_FIELDS,
    OBJECT_FIELDS,
    POINT_FIELDS,
    FileSource,
    ImageSource,
    ObjectSource,
    Source,
    layout,
)
from tests.helpers import small
from tests.helpers.epochs import one_epoch

SIDE, COUNT, SLOTS = 24, 5, 3
JITTER = (
    f"decode|scale_jitter({SIDE},0.5,1.5)|fixed_crop({SIDE})|flip_lr|filter_objects|order(random)|"
    f"pad_image({SIDE})|pad_objects({SLOTS})"
)
# Colours that tell the objects of an image; the background is black.
COLOURS = np.array([[250, 0, 0], [0, 250, 0]], np.uint8)


class Arrays:
    """Images u8[16,20,3] with two coloured rectangles, the objects of labels 1 and 2."""

    fields = layout((*IMAGE_FIELDS, *BOX_FIELDS))

    def __init__(self):
        rng = np.random.default_rng(0)
        self.images, self.boxes = [], []
        for _ in range(COUNT):
            image = np.zeros((16, 20, 3), np.uint8)
            tops = rng.integers(1, 4, 2), rng.integers(10, 13, 2)
            boxes = [(y, x, y + 4, x + 6) for y, x in tops]
            for colour, (top, left, bottom, right) in zip(COLOURS, boxes, strict=True):
                image[top:bottom, left:right] = colour
            self.images.append(image)
            self.boxes.append(np.array(boxes, np.float32) / [16, 20, 16, 20])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        stream = io.BytesIO()
        Image.fromarray(self.images[index]).save(stream, "PNG")
        return {
            "image": stream.getvalue(),
            "file": f"array {index}",
            "image_id": np.int64(index),
            "orig_size": np.array([16, 20], np.int32),
            "boxes": self.boxes[index].astype(np.float32),
            "labels": np.array([1, 2], np.int32),
            "area": np.array([24, 24], np.float32),
            "is_crowd": np.zeros(2, bool),
            "scores": np.ones(2, np.float32),
        }

    def describe(self):
        return ""


def test_arrays_are_a_source():
    assert isinstance(Arrays(), Source)
    assert not isinstance(Arrays(), ImageSource | FileSource)


def test_every_row_comes_as_it_is():
    source = Arrays()
    batch = one_epoch(source, f"decode|pad_image((16, 20), 0.0)|pad_objects({SLOTS})")
    np.testing.assert_array_equal(batch["image"], source.images)
    np.testing.assert_array_equal(batch["image_id"], range(COUNT))
    np.testing.assert_array_equal(batch["boxes"][:, :2], np.float32(source.boxes))
    np.testing.assert_array_equal(batch["labels"], [[1, 2, 0]] * COUNT)


def test_batches_of_a_source_are_augmented_together_with_their_boxes():
    """After jitter, crop and flip every box still holds its colour, and only that."""
    batches = pipeline.train_dataset(Arrays(), JITTER, batch_size=4, seed=1)
    seen = 0
    for batch in itertools.islice(batches, 10):
        assert batch["image"].shape == (4, SIDE, SIDE, 3)
        assert batch["labels"].shape == (4, SLOTS)
        for image, boxes, labels in zip(
            batch["image"], batch["boxes"], batch["labels"], strict=True
        ):
            for box, label in zip(boxes * SIDE, labels, strict=True):
                low, high = np.ceil(box[:2] + 0.5).astype(int), np.floor(box[2:] - 0.5).astype(int)
                inside = image[low[0] : high[0], low[1] : high[1]].reshape(-1, 3)
                if label and len(inside):  # large enough to have pixels that are not on its edge
                    own, other = inside[:, label - 1], inside[:, 2 - label]
                    assert own.mean() > 200 and other.mean() < 30
                    seen += 1
    assert seen > 40


def test_the_epochs_of_a_source_are_permutations():
    batches = pipeline.train_dataset(Arrays(), JITTER, batch_size=COUNT, seed=1)
    for batch in itertools.islice(batches, 3):
        assert sorted(batch["image_id"]) == list(range(COUNT))


def test_an_image_that_cannot_be_read_is_named():
    class Damaged(Arrays):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"image": b"damaged"}

    with pytest.raises(ValueError, match=r"image array \d cannot be decoded"):
        one_epoch(Damaged(), JITTER)


def test_the_sources_of_this_library_have_the_members_of_their_protocols(tmp_path):
    folder = small.make_shapes(tmp_path / "shapes")
    path = folder / "annotations" / "person_keypoints_val.json"
    source = CocoDir(folder / "val", path, keypoints=True, max_points=16)
    assert isinstance(source, ObjectSource)
    assert isinstance(source, FileSource)
    assert isinstance(PerObject(source), FileSource)
    names = (*IMAGE_FIELDS, *BOX_FIELDS, "polygons", "keypoints", "keypoint_swap")
    assert source.fields == layout(names, M=16, J=17)


def test_fields_are_listed_once():
    assert set(POINT_FIELDS) < set(OBJECT_FIELDS) < set(FIELDS)
    assert set(BOX_FIELDS) == set(OBJECT_FIELDS) - {"polygons", "keypoints"}
    assert layout(["boxes", "polygons", "captions"], M=8, C=5, T=7) == {
        "boxes": (np.float32, (None, 4)),
        "polygons": (np.float32, (None, 16)),
        "captions": (np.int32, (5, 7)),
    }
