"""Keypoints: the schema, what is not labelled, what is refused."""

import copy
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.data.coco.keypoints import mirrored
from pix2seq_jax.data.shapes.dataset import KEYPOINTS, SKELETON
from tests.helpers import small

NAMES = ["nose", "left_eye", "right_eye"]
ROW = {"image_id": 1, "category_id": 1, "bbox": [2, 2, 10, 5], "area": 50.0, "iscrowd": 0}
CONTENT = {
    "images": [{"id": 1, "file_name": "a.png", "height": 10, "width": 20}],
    "annotations": [
        ROW | {"id": 5, "keypoints": [4, 2, 2, 10, 5, 1, 0, 0, 0], "num_keypoints": 2},
        ROW | {"id": 6, "category_id": 7},
        ROW | {"id": 7, "iscrowd": 1, "keypoints": [0] * 9},
    ],
    "categories": [
        {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [3, 1]]},
        {"id": 7, "name": "car"},
    ],
}


def opened(folder, change=lambda content: None) -> CocoDir:
    content = copy.deepcopy(CONTENT)
    change(content)
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    (folder / "persons.json").write_text(json.dumps(content))
    return CocoDir(folder, folder / "persons.json", keypoints=True)


@pytest.mark.parametrize(
    ("names", "swap"),
    [
        (["nose", "left_eye", "right_eye"], [0, 2, 1]),
        (["Right Eye", "tail", "left eye"], [2, 1, 0]),
        (["wing-LEFT", "wing-Right"], [1, 0]),
        (["bright", "cleft", "copyright"], [-1, -1, -1]),
        (["left_eye", "right_ear"], [-1, -1]),
        (["a", "b"], [-1, -1]),
    ],
)
def test_sides_are_read_from_the_names(names, swap):
    np.testing.assert_array_equal(mirrored(tuple(names)), swap)
    assert mirrored(tuple(names)).dtype == np.int32


def test_the_pairs_of_coco():
    np.testing.assert_array_equal(
        mirrored(tuple(KEYPOINTS)), [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    )


def test_features(tmp_path):
    source = opened(tmp_path)
    assert source.keypoint_names == tuple(NAMES)
    assert source.skeleton == ((0, 1), (2, 0))
    assert source.fields["keypoints"] == (np.float32, (None, 6))
    assert source.fields["keypoint_swap"] == (np.int32, (3,))
    features = source[0]
    assert features["keypoints"].dtype == np.float32
    np.testing.assert_allclose(
        features["keypoints"], [[0.2, 0.2, 0.5, 0.5, -3, -3], [-3] * 6, [-3] * 6]
    )
    np.testing.assert_array_equal(features["keypoint_swap"], [0, 2, 1])
    np.testing.assert_array_equal(source.objects()["num_keypoints"], [2, 0, 0])
    np.testing.assert_array_equal(source.objects()["is_crowd"], [False, False, True])
    assert not source.report


def test_the_dict_for_pycocotools_has_the_keypoints(tmp_path):
    content = opened(tmp_path).coco_dict()
    assert content["categories"] == CONTENT["categories"]
    assert content["annotations"][0]["keypoints"] == [4, 2, 2, 10, 5, 1, 0, 0, 0]
    assert [row["num_keypoints"] for row in content["annotations"]] == [2, 0, 0]
    coco = COCO()
    coco.dataset = json.loads(json.dumps(content))
    coco.createIndex()
    assert len(coco.getAnnIds()) == 3


def test_keypoints_outside_the_image_and_missing_ones_are_counted(tmp_path):
    def change(content):
        content["annotations"][0]["keypoints"] = [20, 10, 2, 21, 5, 1, -1, 5, 2]
        content["annotations"] += [ROW | {"id": 8}, ROW | {"id": 9, "keypoints": None}]

    source = opened(tmp_path, change)
    np.testing.assert_array_equal(source[0]["keypoints"][0], [1, 1, -3, -3, -3, -3])
    assert source.report == {
        "objects with keypoints outside their image, taken for not labelled": 1,
        "objects without keypoints": 2,
    }


def test_a_file_without_objects_is_read(tmp_path):
    data = opened(tmp_path, lambda content: content.update(annotations=[]))
    assert len(data) == 1 and not data.coco_dict()["annotations"]


def test_names_without_sides_are_reported(tmp_path):
    source = opened(
        tmp_path, lambda content: content["categories"][0].update(keypoints=["a", "b", "c"])
    )
    np.testing.assert_array_equal(source.keypoint_swap, [-1, -1, -1])
    text = "not mirrored; config.data.flip_pairs can say which ones change places (first: a, b, c)"
    assert (
        "3 keypoints without left and right in their names" in source.describe()
        and text in source.describe()
    )


def test_pairs_of_names_may_be_given(tmp_path):
    path = tmp_path / "persons.json"
    opened(tmp_path, lambda content: content["categories"][0].update(keypoints=["a", "b", "c"]))
    source = CocoDir(tmp_path, path, keypoints=True, flip_pairs=(("c", "a"),))
    np.testing.assert_array_equal(source.keypoint_swap, [2, 1, 0])
    assert "mirrored" not in source.describe()


@pytest.mark.parametrize(
    ("names", "pairs", "swap"),
    [
        (["left_eye", "right_eye", "wing_l", "wing_r"], (("wing_l", "wing_r"),), [1, 0, 3, 2]),
        (["left_eye", "wing_l", "wing_r"], (("wing_l", "wing_r"),), [-1, -1, -1]),
        (["a", "b", "left c"], (("left c", "a"),), [2, 1, 0]),
    ],
)
def test_pairs_go_before_the_words(names, pairs, swap):
    np.testing.assert_array_equal(mirrored(tuple(names), pairs), swap)


@pytest.mark.parametrize(
    "pairs", [(("a", "d"),), (("a", "b", "c"),), (("a", "a"),), (("a", "b"), ("b", "c"))]
)
def test_pairs_that_do_not_fit_the_names(pairs):
    with pytest.raises(
        ValueError, match=r"config.data.flip_pairs has .* the names are \['a', 'b', 'c'\]"
    ):
        mirrored(("a", "b", "c"), pairs)


def with_keypoints(value):
    return lambda content: content["annotations"][0].update(keypoints=value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_keypoints([1, 2, 2, 3, 4, 2]),
            r"not 9 finite numbers x, y, v for the 3 keypoints .* of annotation 5 are 6: \[1, 2",
        ),
        (with_keypoints([1]), "annotation 5 are 1"),
        (with_keypoints([float("nan")] * 9), r"annotation 5 are 9: \[nan"),
        (with_keypoints(["x"] * 9), "annotation 5 are 9"),
        (with_keypoints("abc"), "annotation 5: abc"),
        (lambda content: content["categories"][0].pop("keypoints"), "no category has `keypoints`"),
        (
            lambda content: content["categories"][0].update(skeleton=[[0, 1]]),
            r"person has \[0, 1\]; give pairs .* 1 to 3",
        ),
        (
            lambda content: content["categories"][1].update(keypoints=["a"]),
            "person and car have different",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        opened(tmp_path, change)
    assert "persons.json" in str(caught.value)


def test_the_embedded_persons(tmp_path):
    folder = small.make_shapes(tmp_path / "shapes")
    path = folder / "annotations" / "person_keypoints_train.json"
    source = CocoDir(folder / "train", path, keypoints=True, max_points=32)
    assert source.skeleton == tuple((a - 1, b - 1) for a, b in SKELETON)
    rows = [row for row in json.loads(path.read_text())["annotations"] if not row["iscrowd"]]
    found = np.concatenate([source[i]["keypoints"] for i in range(len(source))]).reshape(-1, 17, 2)
    assert len(found) >= len(rows) > 3
    labelled = sum(row["num_keypoints"] for row in rows)
    assert (found[..., 0] >= 0).sum() == labelled
    assert (found[found < 0] == -3).all()
    assert source[0].keys() == source.fields.keys() | {"file"}
