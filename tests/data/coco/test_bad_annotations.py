"""Values that no COCO file has: each is one line that names file, value and remedy; annotations can
be left out."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data.coco.captions import CocoCaptions
from pix2seq_jax.data.coco.folder import CocoDir

INF, NAN, HUGE, LONG = float("inf"), float("nan"), 2**63, 10**400
SQUARE = [[1, 1, 6, 1, 6, 6, 1, 6]]
ROW = {
    "image_id": 1,
    "category_id": 5,
    "bbox": [1, 1, 5, 5],
    "area": 25.0,
    "iscrowd": 0,
    "segmentation": SQUARE,
}
CONTENT = {
    "images": [{"id": 1, "file_name": "0.png", "height": 16, "width": 20}],
    "annotations": [
        ROW | {"id": 10, "keypoints": [1, 2, 2, 3, 4, 1]},
        ROW | {"id": 11, "keypoints": [5, 2, 2, 3, 4, 1]},
    ],
    "categories": [
        {"id": 5, "name": "a", "keypoints": ["left eye", "right eye"], "skeleton": [[1, 2]]}
    ],
}


def opened(folder: Path, key: str, value, part: str = "annotations", **options) -> CocoDir:
    """The source with one value put into the last record of a part."""
    content = copy.deepcopy(CONTENT)
    if key:
        content[part][-1][key] = value
    else:
        content[part][-1] = value
    Image.new("RGB", (20, 16)).save(folder / "0.png")
    (folder / "a.json").write_text(json.dumps(content))
    return CocoDir(folder, folder / "a.json", max_points=8, keypoints=True, **options)


def rle(counts, size=(16, 20)) -> dict:
    return {"size": size if size is None else list(size), "counts": counts}


BAD = [
    *[
        ("image_id", value)
        for value in (None, 1.5, True, HUGE, LONG, INF, NAN, "x", "1.0", [1], {})
    ],
    *[("category_id", value) for value in (None, 5.9, False, HUGE, -LONG, INF, NAN, "five", [5])],
    *[("category_id", value) for value in (6, "6", -5)],
    *[
        ("bbox", value)
        for value in ([1, 1, 5], [1, 1, 5, NAN], [1, 1, 5, -INF], [1, 1, 5, LONG], [1, 1, 5, 1e30])
    ],
    *[
        ("bbox", value)
        for value in (None, "1 1 5 5", {"x": 1}, 7, [1, 1, 5, None], [1, 1, 5, [5]], [[1, 1], [5]])
    ],
    *[("iscrowd", value) for value in (2, -1, 0.5, "yes", "false", "", [0], {}, NAN, LONG)],
    *[
        ("segmentation", value)
        for value in ("x", 5, [5], [[1, 1, 6]], [[1, 1, 6, 1, 6, NAN]], [[1, 1, 6, 1, 6, LONG]])
    ],
    *[("segmentation", [[1, 1, 6, 1, 6, value]]) for value in (None, "x", [6], -INF, 1e12)],
    *[
        ("segmentation", rle(counts))
        for counts in ([320, 1], [-1, 321], [HUGE], [LONG], [1.5], "0", "~", [], None, 5)
    ],
    *[
        ("segmentation", rle([320], size))
        for size in ((20, 16), (16, 20, 1), (16.5, 20), (0, 0), ("a", 1), (LONG, 1))
    ],
    *[("segmentation", rle([320], None)), ("segmentation", {})],
    *[
        ("keypoints", value)
        for value in ([1, 2], [1, 2, 2, 3, 4, NAN], [1, 2, 2, 3, 4, LONG], "abc", 7, {"x": 1})
    ],
    *[("", value) for value in (None, 5, "x", [1])],
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_annotation_is_named_or_left_out(tmp_path, key, value):
    with pytest.raises(
        ValueError, match=r"a\.json: 1 annotations with .* --config\.data\.bad_annotations=drop"
    ) as caught:
        opened(tmp_path, key, value)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    assert "annotation 11" in message or "annotations[1]" in message
    assert (key if key != "bbox" else "box") in message
    source = opened(tmp_path, key, value, bad_annotations="drop")
    assert len(source[0]["boxes"]) == 1
    (kind,) = source.report
    assert (
        source.report[kind] == 1
        and kind.startswith("annotations with ")
        and kind.endswith(", left out")
    )
    assert "(first: 1" in source.describe()  # 11, or 1, the place of what has no id
    assert len(source.coco_dict()["annotations"]) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("iscrowd", value) for value in (0, 1, True, False, "0", "1", None)],
        *[("image_id", value) for value in (1.0, "1")],
        *[("category_id", value) for value in (5.0, " 5 ")],
        ("segmentation", None),
        ("keypoints", None),
        ("id", 2**70),
        ("id", {"a": 1}),
    ],
)
def test_what_has_one_meaning_is_taken(tmp_path, key, value):
    source = opened(tmp_path, key, value)
    assert source[0]["is_crowd"].tolist() == [False, key == "iscrowd" and value in (1, "1")]
    np.testing.assert_array_equal(source[0]["labels"], [1, 1])


@pytest.mark.parametrize("value", [None, 0, -3, 0.0, NAN, INF, "25", True, LONG, [25]])
def test_areas_that_are_none_are_counted_and_those_of_the_boxes(tmp_path, value):
    source = opened(tmp_path, "area", value)
    np.testing.assert_array_equal(source[0]["area"], [25, 25])
    assert source.report == {"annotations without a positive area, that of the box is taken": 1}
    assert "(first: 11)" in source.describe()


PARTS = [
    *[("images", "id", value) for value in (None, 1.5, True, HUGE, LONG, INF, NAN, "x", [1])],
    *[("images", "width", value) for value in (INF, -INF, HUGE, LONG)],
    *[("images", "height", value) for value in (INF, 1e300)],
    *[("images", "", value) for value in (None, 5, "x")],
    *[("categories", "id", value) for value in (None, 5.5, True, HUGE, LONG, INF, NAN, "x", [1])],
    *[
        ("categories", "keypoints", value)
        for value in ("abc", 5, {"a": 1}, [1, 2], [None], ["a", "a"], [["a"]])
    ],
    *[
        ("categories", "skeleton", value)
        for value in ("abc", 5, {"a": 1}, [1, 2], [[1]], [[1, 3]], [[1, "2"]])
    ],
    *[("categories", "skeleton", [[1, value]]) for value in (0, 1.5, NAN, INF, LONG, None)],
    *[("categories", "", value) for value in (None, 5, "x", [1])],
]


@pytest.mark.parametrize(("part", "key", "value"), PARTS)
@pytest.mark.parametrize("rule", ["error", "drop"])
def test_bad_images_and_categories_are_named(tmp_path, part, key, value, rule):
    with pytest.raises(ValueError, match=r"^annotation file .*a\.json") as caught:
        opened(tmp_path, key, value, part, bad_annotations=rule)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    assert key in message and ("give" in message or "must" in message or "has no 'id'" in message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, "nested too deep"),
        ('{"images": ' * 200_000, "nested too deep"),
        ("[1]", "no list 'images'"),
        ("null", "no list 'images'"),
        ('"text"', "no list 'images'"),
        ("NaN", "no list 'images'"),
        ("1" * 5000, "correct this number"),
        ("", "broken JSON"),
        ('{"images": [], "annotations": {}, "categories": []}', "no list 'annotations'"),
    ],
)
def test_files_that_are_no_coco_are_one_line(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        CocoDir(tmp_path, tmp_path / "a.json")
    assert (
        "\n" not in str(caught.value)
        and "a.json" in str(caught.value)
        and len(str(caught.value)) < 500
    )


def test_several_bad_annotations_are_counted_together(tmp_path):
    content = copy.deepcopy(CONTENT)
    content["annotations"] += [ROW | {"id": 20 + i, "bbox": None} for i in range(5)] + [
        ROW | {"id": 30, "iscrowd": 3}
    ]
    Image.new("RGB", (20, 16)).save(tmp_path / "0.png")
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"5 annotations with a box .* annotation 20 has bbox None"
    ):
        CocoDir(tmp_path, tmp_path / "a.json")
    source = CocoDir(tmp_path, tmp_path / "a.json", bad_annotations="drop")
    assert list(source.report.values()) == [5, 1] and "(first: 20, 21, 22)" in source.describe()
    with pytest.raises(
        ValueError, match=r"config\.data.bad_annotations='skip': give 'error' or 'drop'"
    ):
        CocoDir(tmp_path, tmp_path / "a.json", bad_annotations="skip")


class Words:
    """Piece 10 for every letter."""

    def encode(self, sentences: list[str]) -> list[list[int]]:
        return [[10] * len(sentence) for sentence in sentences]


@pytest.mark.parametrize(
    "bad", [{"image_id": 1, "caption": 5}, {"image_id": 1}, {"image_id": 1.5, "caption": "a"}, None]
)
def test_bad_captions_are_named_or_left_out(tmp_path, bad):
    Image.new("RGB", (20, 16)).save(tmp_path / "0.png")
    content = {
        "images": CONTENT["images"],
        "annotations": [{"id": 9, "image_id": 1, "caption": "größe 🐘"}, bad],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"a\.json: 1 annotations with .* --config\.data\.bad_annotations=drop"
    ):
        CocoCaptions(tmp_path, tmp_path / "a.json", text=Words())
    source = CocoCaptions(tmp_path, tmp_path / "a.json", text=Words(), bad_annotations="drop")
    assert source.references == {1: ["größe 🐘"]} and source.references.get(2) is None
    assert list(source.report.values()) == [1]
