"""Which category of a file is which label: by name, whatever its id and place."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data.coco.classes import UNNAMED, match_labels
from pix2seq_jax.data.coco.folder import CocoDir

IDS, NAMES = (7, 3, 12), ("cat", "dog", "emu")


@pytest.mark.parametrize(
    ("listed", "ids"),
    [
        ({7: "cat", 3: "dog", 12: "emu"}, (7, 3, 12)),
        ({3: "dog", 12: "emu", 7: "cat"}, (7, 3, 12)),
        ({1: "emu", 2: "dog", 3: "cat"}, (3, 2, 1)),
        ({12: "emu"}, (7, 3, 12)),  # a subset
        ({3: "emu"}, (7, -2, 3)),  # whose id is another class of the training data
    ],
)
def test_classes_are_matched_by_name(listed, ids):
    assert match_labels(Path("a.json"), listed, IDS, NAMES) == (ids, NAMES)


@pytest.mark.parametrize("listed", [{7: "cat", 20: "yak"}, {7: "yak"}, {7: "Cat"}])
def test_a_class_that_the_training_data_lacks_is_named(listed):
    with pytest.raises(
        ValueError,
        match=r"a.json has the class '(yak|Cat)' .*none of the 3 classes .*\['cat', 'dog'",
    ):
        match_labels(Path("a.json"), listed, IDS, NAMES)


def test_labels_without_a_name_are_matched_by_id():
    names = ("cat", UNNAMED.format(2), UNNAMED.format(3))
    assert match_labels(Path("a.json"), {3: "dog", 5: "cat"}, IDS, names) == (
        (5, 3, 12),
        ("cat", "dog", names[2]),
    )


def test_a_name_that_two_classes_have_is_matched_by_id():
    names = ("glass", "glass", "emu")
    assert match_labels(Path("a.json"), {3: "glass", 7: "glass", 1: "emu"}, IDS, names) == (
        (7, 3, 1),
        names,
    )
    with pytest.raises(ValueError, match="has the class 'glass' "):
        match_labels(Path("a.json"), {5: "glass"}, IDS, names)


def opened(folder: Path, categories: dict[int, str], category_id: int, **options) -> CocoDir:
    Image.new("RGB", (20, 16)).save(folder / "0.png")
    content = {
        "images": [{"id": 1, "file_name": "0.png", "height": 16, "width": 20}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": category_id, "bbox": [1, 1, 5, 5], "area": 25}
        ],
        "categories": [{"id": i, "name": name} for i, name in categories.items()],
    }
    (folder / "a.json").write_text(json.dumps(content))
    return CocoDir(folder, folder / "a.json", **options)


def test_labels_are_those_of_the_training_data_and_ids_those_of_the_file(tmp_path):
    source = opened(tmp_path, {3: "emu", 7: "dog"}, 3, label_ids=IDS, label_names=NAMES)
    np.testing.assert_array_equal(source[0]["labels"], [3])
    assert source.category_names == NAMES
    assert source.category_ids == (-1, 7, 3)
    content = source.coco_dict()
    assert content["categories"] == [{"id": 3, "name": "emu"}, {"id": 7, "name": "dog"}]
    assert content["annotations"][0]["category_id"] == 3


@pytest.mark.parametrize("name", [None, ["cat"], {"en": "cat"}, 1.5, " "])
def test_a_name_is_a_text(tmp_path, name):
    with pytest.raises(ValueError, match=r"a.json: the name of category 3 is .*give a text"):
        opened(tmp_path, {3: name}, 3)
    assert opened(tmp_path, {3: 9}, 3).category_names == ("9",)
