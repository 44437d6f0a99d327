"""The COCO-folder source: features, repairs that are reported, input that is refused."""

import copy
import json
import time
import unicodedata

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pix2seq_jax.data.coco.folder import CocoDir

CATEGORIES = [{"id": 18, "name": "Hündin"}, {"id": 3, "name": "car"}, {"id": 90, "name": "brush"}]


def annotation(number: int, image: int, category: int, box: list, **more) -> dict:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": 7.0,
        "iscrowd": 0,
    } | more


CONTENT = {
    "images": [
        {"id": 2**40, "file_name": "a.jpg", "width": 20, "height": 10},
        {"id": 5, "file_name": "sub/ü b.png", "width": 8, "height": 16},
        {"id": 9, "file_name": "c.jpg", "width": 20, "height": 10},
    ],
    "annotations": [
        annotation(1, 5, 3, [2, 4, 4, 8]),
        annotation(2, 2**40, 90, [5, 2.5, 10, 5]),
        annotation(3, 5, 18, [0, 0, 8, 16], iscrowd=1),
        annotation(4, 5, 90, [1, 1, 1, 1]),
    ],
    "categories": CATEGORIES,
}


@pytest.fixture
def folder(tmp_path):
    """An image folder for CONTENT."""
    (tmp_path / "sub").mkdir()
    for image in CONTENT["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(tmp_path / image["file_name"])
    return tmp_path


def open_with(folder, change=lambda content: None, **options) -> CocoDir:
    """The source of CONTENT after a change."""
    content = copy.deepcopy(CONTENT)
    change(content)
    path = folder / "instances.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return CocoDir(folder, path, **options)


def test_features(folder):
    source = open_with(folder)
    assert len(source) == 3
    assert source.category_ids == (18, 3, 90)
    assert source.category_names == ("Hündin", "car", "brush")
    np.testing.assert_array_equal(source.image_ids, [2**40, 5, 9])
    assert not source.report
    assert source.describe() == ""
    features = source[1]
    assert features["image"] == (folder / "sub/ü b.png").read_bytes()
    assert features["image_id"] == 5
    np.testing.assert_array_equal(features["orig_size"], [16, 8])
    np.testing.assert_allclose(
        features["boxes"], [[0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1], [1 / 16, 1 / 8, 1 / 8, 1 / 4]]
    )
    np.testing.assert_array_equal(features["labels"], [2, 1, 3])
    np.testing.assert_array_equal(features["is_crowd"], [False, True, False])
    np.testing.assert_array_equal(features["area"], [7, 7, 7])
    np.testing.assert_array_equal(features["scores"], [1, 1, 1])
    types = {
        name: features[name].dtype
        for name in ("boxes", "labels", "is_crowd", "area", "scores", "orig_size")
    }
    assert types == {
        "boxes": np.float32,
        "labels": np.int32,
        "is_crowd": bool,
        "area": np.float32,
        "scores": np.float32,
        "orig_size": np.int32,
    }


def test_image_without_objects(folder):
    features = open_with(folder)[2]
    assert features["boxes"].shape == (0, 4)
    assert features["labels"].shape == (0,)


def test_images_without_objects_can_be_left_out(folder):
    def only_a_crowd(content):
        content["annotations"] = content["annotations"][1:3]

    source = open_with(folder, keep_empty=False)
    np.testing.assert_array_equal(source.image_ids, [2**40, 5])
    np.testing.assert_array_equal(source[1]["labels"], [2, 1, 3])
    source = open_with(folder, only_a_crowd, keep_empty=False)
    np.testing.assert_array_equal(source.image_ids, [2**40])
    assert source.report == {"images without objects, left out": 2}
    assert [image["id"] for image in source.coco_dict()["images"]] == [2**40]
    assert [row["image_id"] for row in source.coco_dict()["annotations"]] == [2**40]
    with pytest.raises(ValueError, match="no image has an object"):
        open_with(folder, lambda content: content["annotations"].clear(), keep_empty=False)


def test_boxes_are_clipped_dropped_and_counted(folder):
    def change(content):
        content["annotations"] += [
            annotation(11, 9, 3, [-5, -5, 15, 10]),  # clipped
            annotation(12, 9, 3, [15, 5, 50, 50]),  # clipped
            annotation(13, 9, 3, [30, 2, 5, 5]),  # wholly outside
            annotation(14, 9, 3, [3, 3, 0, 5]),
            annotation(15, 9, 3, [3, 3, 5, -1]),
            annotation(16, 9, 3, [0, 0, 20.0005, 10]),  # rounding of the file
            annotation(17, 77, 3, [0, 0, 5, 5]),  # of no image
        ]

    source = open_with(folder, change)
    np.testing.assert_allclose(
        source[2]["boxes"], [[0, 0, 0.5, 0.5], [0.5, 0.75, 1, 1], [0, 0, 1, 1]]
    )
    assert source.report == {
        "boxes outside their image, clipped": 2,
        "boxes without area, not learnt (an evaluation counts them)": 3,
        "annotations of images that are not listed, dropped": 1,
    }
    assert "2 boxes outside their image, clipped (first: 11, 12)" in source.describe()


def test_missing_fields_are_filled_in(folder):
    def change(content):
        for row in content["annotations"]:
            del row["area"], row["iscrowd"]
        del content["images"][1]["width"], content["annotations"][0]["id"]

    source = open_with(folder, change)
    np.testing.assert_array_equal(source[1]["orig_size"], [16, 8])
    np.testing.assert_array_equal(source[1]["area"], [32, 128, 1])
    assert not source[1]["is_crowd"].any()
    assert source.report == {
        "images without width and height, read from the file": 1,
        "annotations without a positive area, that of the box is taken": 4,
    }


def test_image_listed_twice_is_read_once(folder):
    source = open_with(folder, lambda content: content["images"].append(content["images"][1]))
    assert len(source) == 3
    assert source.report == {"images listed twice, read once": 1}
    assert source.describe().endswith("images listed twice, read once (first: 5)")
    with pytest.raises(ValueError, match=r"image id 5 is given to sub/ü b\.png and to x\.jpg"):
        open_with(folder, lambda content: content["images"].append({"id": 5, "file_name": "x.jpg"}))


def test_more_objects_than_slots_are_counted(folder):
    source = open_with(folder)
    assert source.count_over(2, "detection") == 0  # the third is a crowd
    assert source.count_over(1, "detection") == 1
    assert source.count_over(1, "detection") == 1
    assert source.report == {"images with more than 1 objects, the rest left out of detection": 1}
    assert "(first: 5)" in source.describe()


def test_data_without_any_object_are_reported(folder):
    source = open_with(folder, lambda content: content["annotations"].clear())
    assert source.count_over(2, "detection") == 0
    assert source.report == {"images, none of which has an object for detection to learn from": 3}


def test_names_in_another_unicode_form_are_found(folder):
    def decompose(content):
        content["images"][1]["file_name"] = unicodedata.normalize("NFD", "sub/ü b.png")

    assert open_with(folder, decompose)[1]["image"] == (folder / "sub/ü b.png").read_bytes()


def test_coco_dict_is_what_pycocotools_wants(folder):
    source = open_with(folder)
    coco = COCO()
    coco.dataset = source.coco_dict()
    coco.createIndex()
    assert sorted(coco.getImgIds()) == [5, 9, 2**40]
    boxes = [
        (row["category_id"], row["bbox"], row["iscrowd"])
        for row in coco.loadAnns(coco.getAnnIds([5]))
    ]
    assert boxes == [(3, [2, 4, 4, 8], 0), (18, [0, 0, 8, 16], 1), (90, [1, 1, 1, 1], 0)]
    assert 0 not in coco.getAnnIds()
    json.dumps(coco.dataset)


def drop(kind: str, key: str):
    return lambda content: content[kind][1].pop(key)


def put(kind: str, key: str, value):
    return lambda content: content[kind][1].update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotations"), "no list 'annotations'"),
        (lambda c: c.update(images={}), "no list 'images'"),
        (lambda c: c.update(images=[]), "images is empty"),
        (lambda c: c.update(categories=[]), "categories is empty"),
        (drop("images", "id"), r"images\[1\] has no 'id'"),
        (drop("images", "file_name"), r"images\[1\] has no 'file_name'"),
        (
            drop("annotations", "image_id"),
            (
                "1 annotations with a value of image_id that is no whole number, first: "
                "annotation 2 has no 'image_id'"
            ),
        ),
        (drop("annotations", "bbox"), "has no 'bbox'"),
        (drop("annotations", "category_id"), "has no 'category_id'"),
        (drop("categories", "name"), r"categories\[1\] has no 'name'"),
        (put("categories", "id", 18), "category id 18 is given twice"),
        (put("images", "id", "x1"), "'id' of images is not an integer"),
        (
            put("annotations", "category_id", 4),
            r"annotation 2 has category_id 4; the categories are \[18, 3, 90\]",
        ),
        (put("annotations", "bbox", [1, 2, float("nan"), 3]), "annotation 2 has bbox"),
        (put("annotations", "bbox", [1, 2, float("inf"), 3]), "annotation 2 has bbox"),
        (put("annotations", "bbox", [1, 2, 3]), "annotation 2 has bbox"),
        (put("annotations", "bbox", None), "annotation 2 has bbox None"),
        (put("images", "file_name", "no.jpg"), r"1 of 3 images .* first: no\.jpg; give the folder"),
    ],
)
def test_what_is_not_coco_is_named(folder, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_with(folder, change)
    assert "instances.json" in str(caught.value)


def test_a_byte_order_mark_is_read_over(folder):
    path = folder / "annotations.json"
    plain = open_with(folder)
    path.write_bytes(b"\xef\xbb\xbf" + plain.annotations_path.read_bytes())
    assert CocoDir(folder, path).coco_dict() == plain.coco_dict()


def test_broken_files_are_named(folder):
    path = folder / "broken.json"
    path.write_text('{"images": [],\n "annotations": [,]}')
    with pytest.raises(ValueError, match=r"broken\.json is broken JSON: .* at line 2 column 18"):
        CocoDir(folder, path)
    path.write_bytes(b'{"images": "\xff"}')
    with pytest.raises(ValueError, match=r"broken\.json is not UTF-8"):
        CocoDir(folder, path)
    path.write_text("[1, 2]")
    with pytest.raises(
        ValueError, match=r"broken\.json is not COCO format: it has no list 'images'"
    ):
        CocoDir(folder, path)
    with pytest.raises(ValueError, match=r"none\.json does not exist"):
        CocoDir(folder, folder / "none.json")


def test_missing_folder_and_vanished_image_are_named(folder):
    open_with(folder)
    with pytest.raises(ValueError, match=r"image folder .*elsewhere does not exist"):
        CocoDir(folder / "elsewhere", folder / "instances.json")
    source = open_with(folder)
    (folder / "a.jpg").unlink()
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        source[0]


def test_opening_many_annotations_is_fast(folder):
    def many(content):
        content["annotations"] = [annotation(i, 5, 3, [1, 1, 2, 2]) for i in range(100_000)]

    start = time.perf_counter()
    source = open_with(folder, many)
    # 1.5 s, of which writing and reading JSON 1 s; 9 times as many in COCO.
    assert time.perf_counter() - start < 10
    assert len(source[1]["labels"]) == 100_000
