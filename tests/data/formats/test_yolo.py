"""YOLO's text files in their own layout become COCO's JSON, pixel for pixel."""

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.data.formats import yolo
from pix2seq_jax.data.shards.reading import ImageShards
from tests.helpers.prepared import prepare

YAML = """# Ultralytics
path: ../datasets/mine # dataset root dir
train: images/train # train images (relative to 'path')
val: images/val
test: # test images (optional)

# Classes
names:
  0: person
  1: bicycle
"""
WIDTH, HEIGHT = 40, 20
LABELS = {
    "train/a": "1 0.5 0.5 0.25 0.5\n0 0.1 0.2 0.1 0.2\n",
    "train/b": None,
    "train/more/c": "0 0.25 0.5 0.75 0.5 0.75 1.0\n",
    "val/d": "",
}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "mine"
    for name, text in LABELS.items():
        image = root / "images" / f"{name}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(image)
        labels = root / "labels" / f"{name}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            labels.write_text(text)
    (root / "data.yaml").write_text(YAML)
    return root


@pytest.mark.parametrize("start", ["", "data.yaml"])
def test_objects_are_those_of_the_files(folder, start):
    made = yolo.convert(folder / start)
    images, contents = made["train"]
    content = contents["instances"]
    size = {"height": HEIGHT, "width": WIDTH}
    assert images == folder / "images" / "train"
    assert content["images"] == [
        {"id": i, "file_name": name, **size}
        for i, name in enumerate(("a.png", "b.png", "more/c.png"), 1)
    ]
    assert content["categories"] == [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}]
    first, second, third = content["annotations"]
    assert (first["image_id"], second["image_id"], third["image_id"]) == (1, 1, 3)
    assert (first["category_id"], second["category_id"], third["category_id"]) == (2, 1, 1)
    np.testing.assert_allclose(first["bbox"], [15, 5, 10, 10])
    np.testing.assert_allclose(second["bbox"], [2, 2, 4, 4])
    np.testing.assert_allclose(third["bbox"], [10, 10, 20, 10])
    np.testing.assert_allclose(third["segmentation"], [[10, 10, 30, 10, 30, 20]])
    np.testing.assert_allclose([first["area"], third["area"]], [100, 100])
    assert (
        made["val"][1]["instances"]["annotations"] == []
        and len(made["val"][1]["instances"]["images"]) == 1
    )


def test_lists_of_images_and_of_names(folder):
    (folder / "train.txt").write_text("./images/train/a.png\n./images/val/d.png\n")
    text = YAML.replace("train: images/train", "train: [train.txt]")
    text = text.split("names:")[0] + "names: [person, bicycle]\n"
    (folder / "data.yaml").write_text(text)
    images, contents = yolo.convert(folder)["train"]
    content = contents["instances"]
    assert images == folder / "images"
    assert [image["file_name"] for image in content["images"]] == ["train/a.png", "val/d.png"]
    assert len(content["annotations"]) == 2


def test_shards_of_it_are_a_source(folder, tmp_path):
    out = tmp_path / "out"
    prepare("yolo", folder, out)
    path = out / "annotations" / "instances_train.json"
    source = CocoDir(ImageShards(out / "train"), path, max_points=8, bad_annotations="error")
    assert source.category_names == ("person", "bicycle") and len(source) == 3
    np.testing.assert_allclose(source[0]["boxes"][0], [0.25, 0.375, 0.75, 0.625])
    assert source[1]["boxes"].shape == (0, 4)
    points = source[2]["polygons"][0]
    ring = [0.5, 0.25, 0.5, 0.75, 1, 0.75]
    np.testing.assert_allclose(points[points >= 0], ring, atol=1e-6)


def test_only_the_splits_that_are_asked_for_are_read(folder, tmp_path):
    """Nor are hidden files and folders read."""
    (folder / "data.yaml").write_text(YAML.replace("val: images/val", ""))
    for name in ("._a.png", ".checkpoints/a.png"):
        path = folder / "images" / "train" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    prepare("yolo", folder, tmp_path / "out", "--splits=train")
    assert len(ImageShards(tmp_path / "out" / "train")) == 3
    assert "val=None; give a folder" in prepare("yolo", folder, tmp_path / "both", code=2)


def test_files_may_start_with_a_mark(folder):
    expected = yolo.convert(folder)["train"][1]
    (folder / "train.txt").write_text(
        "".join(f"images/train/{name}.png\n" for name in ("a", "b", "more/c"))
    )
    (folder / "data.yaml").write_text(YAML.replace("train: images/train", "train: train.txt"))
    for path in (*folder.rglob("*.txt"), folder / "data.yaml"):
        path.write_text(path.read_text(), encoding="utf-8-sig")
    assert yolo.convert(folder)["train"][1] == expected


def test_images_without_labels_are_counted(folder, caplog):
    (folder / "labels" / "train" / "more" / "c.txt").unlink()
    content = yolo.convert(folder)["train"][1]["instances"]
    assert len(content["images"]) == 3 and len(content["annotations"]) == 2
    (said,) = (record.getMessage() for record in caplog.records)
    where = f"2 of 3 images in {folder / 'images' / 'train'} have no label file and are taken for"
    assert said == f"{where} images without objects: b.png, more/c.png"


def test_a_split_without_labels_is_refused(folder, tmp_path):
    (folder / "labels" / "val" / "d.txt").unlink()
    said = prepare("yolo", folder, tmp_path / "out", code=2)
    assert "val: none of 1 images in" in said and "read the other split alone with --sp" in said
    assert f"that of d.png was looked for at {folder / 'labels' / 'val' / 'd.txt'}; put " in said
    prepare("yolo", folder, tmp_path / "out", "--splits=train")


def test_labels_without_images_are_counted(folder, caplog):
    """Those of images in no list are none, nor are hidden files and classes.txt."""
    labels = folder / "labels" / "train"
    (folder / "labels" / "train" / "b.txt").write_text("")
    (folder / "train.txt").write_text("images/train/a.png\n")
    (folder / "data.yaml").write_text(YAML.replace("train: images/train", "train: train.txt"))
    for name in ("classes.txt", "._a.txt", "more/classes.txt"):
        (labels / name).write_text("person\n")
    yolo.convert(folder)
    assert not caplog.records
    for name in ("lost/e.txt", "f.txt"):
        (labels / name).parent.mkdir(exist_ok=True)
        (labels / name).write_text("")
    (folder / "labels" / "val" / "g.txt").write_text("")
    yolo.convert(folder)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("3 label files have no image in the folder of images and are not read: ")
    files = (labels / "f.txt", labels / "lost" / "e.txt", folder / "labels" / "val" / "g.txt")
    assert said.endswith(", ".join(map(str, files)))


def test_text_files_beside_images_are_no_labels(folder, caplog):
    """Where no folder is called images, labels lie beside them."""
    (folder / "images").rename(folder / "pictures")
    for path in list((folder / "labels").rglob("*.txt")):
        path.rename(folder / "pictures" / path.relative_to(folder / "labels"))
    (folder / "data.yaml").write_text(YAML.replace("images/", "pictures/"))
    (folder / "pictures" / "train" / "notes.txt").write_text("seen")
    (folder / "pictures" / "train" / "b.txt").write_text("")
    assert len(yolo.convert(folder)["train"][1]["instances"]["annotations"]) == 3
    assert not caplog.records


LABEL = "labels/train/a.txt"
PIXELS = "shares of the width and height of the image, 0 to 1, are expected; these look like pixels"


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        (LABEL, "0.25 0.5", "0.25", "a.txt, line 1: '1 0.5 0.5 0.25'; a class and four numbers"),
        (LABEL, "0.25", "wide", "a.txt, line 1: '1 0.5 0.5 wide 0.5'; a class and four"),
        (LABEL, "0.25", "nan", "a.txt, line 1: '1 0.5 0.5 nan 0.5'; a class and four numbers"),
        (LABEL, "0 0.1", "7 0.1", "a.txt, line 2: class 7 has no name in data.yaml, which has"),
        (LABEL, "0 0.1", "0.5 0.1", "a.txt, line 2: class 0.5 has no name in data.yaml"),
        (LABEL, "0.25 0.5", "10 0.5", f"a.txt, line 1: '1 0.5 0.5 10 0.5' has 10; {PIXELS}"),
        (LABEL, "0.1 0.2 0.1", "-4 0.2 0.1", f"a.txt, line 2: '0 -4 0.2 0.1 0.2' has -4; {PIXELS}"),
        (LABEL, "0.25 0.5", "0.25 -0.5", "a.txt, line 1: '1 0.5 0.5 0.25 -0.5'; width 0.25 and h"),
        (LABEL, "0.25 0.5", "-0.25 0.5", "a.txt, line 1: '1 0.5 0.5 -0.25 0.5'; width -0.25 and"),
        ("labels/train/more/c.txt", "0.75 1.0", "30 1.0", f"0.5 30 1.0' has 30; {PIXELS}"),
        ("data.yaml", "names:", "labels:", "names=None; give a list of names"),
        ("data.yaml", "names:", "kpt_shape: [2, 3]\nnames:", "11 in all, and there are 5"),
        ("data.yaml", "names:", "kpt_shape: 17\nnames:", "kpt_shape=17; give the number of keyp"),
        (LABEL, "0.25 0.5\n", "0.25 0.5 0 0 1\n", "lines with keypoints need kpt_shape in data."),
        ("data.yaml", "train: images/train", "", "train=None; give a folder of images as in"),
        ("data.yaml", "images/val", "images/other", "val names 'images/other', and "),
        ("data.yaml", "names:", "names: [", "data.yaml cannot be read: "),
    ],
)
def test_what_does_not_fit_is_named(folder, tmp_path, file, old, new, says):
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert says in prepare("yolo", folder, tmp_path / "out", code=2)


POSE = """train: images/train
val: images/val
kpt_shape: [3, 3]
flip_idx: [0, 2, 1]
kpt_names: {0: [nose, left_ear, right_ear]}
names: [dog]
"""


def write_pose(folder, text: str, line: str) -> None:
    """Replaces the labels and data.yaml."""
    (folder / "data.yaml").write_text(text)
    for path in (folder / "labels").rglob("*.txt"):
        path.write_text(line + "\n")


def test_keypoints_are_those_of_the_files(folder, tmp_path):
    write_pose(folder, POSE, "0 0.5 0.5 0.25 0.5  0.5 0.25 2  0.375 0.5 1  0.9 0.9 0")
    made = yolo.convert(folder)["train"][1]
    (one, *_), (person, *_) = (made[kind]["annotations"] for kind in made)
    assert list(made) == ["instances", "person_keypoints"] and "keypoints" not in one
    np.testing.assert_allclose(person["keypoints"], [20, 5, 2, 15, 10, 1, 0, 0, 0])
    assert person["num_keypoints"] == 2 and person["area"] == 100
    assert {key: person[key] for key in one} == one
    out = tmp_path / "out"
    prepare("yolo", folder, out)
    path = out / "annotations" / "person_keypoints_train.json"
    source = CocoDir(ImageShards(out / "train"), path, keypoints=True, bad_annotations="error")
    assert source.keypoint_names == ("nose", "left_ear", "right_ear")
    points = source[0]["keypoints"][0]
    np.testing.assert_allclose(points, [0.25, 0.5, 0.5, 0.375, -3, -3], atol=1e-6)


@pytest.mark.parametrize("numbers", [2, 3])
def test_labelled_keypoints_are_shares(folder, tmp_path, numbers):
    text = POSE.replace("[3, 3]", f"[3, {numbers}]")
    end = {2: ["", ""], 3: [" 0", " 2"]}[numbers]
    line = f"0 0.5 0.5 0.25 0.5 -20 30{end[0]} 1.5 0.5{end[1]} 0 0{end[0]}"
    write_pose(folder, text, line)
    points = yolo.convert(folder)["train"][1]["person_keypoints"]["annotations"][0]["keypoints"]
    assert points == [0, 0, 0, 60, 10, 2, 0, 0, 0]
    line = line.replace("1.5", "15")
    write_pose(folder, text, line)
    said = prepare("yolo", folder, tmp_path / "out", code=2)
    assert f"a.txt, line 1: {line!r} has 15; {PIXELS}" in said


def test_objects_may_reach_out_of_the_image_a_little(folder):
    (folder / LABEL).write_text("1 1.0 0.5 0.5 1.2\n0 -0.1 0 0.5 0 0.5 1.1\n")
    first, second, _ = yolo.convert(folder)["train"][1]["instances"]["annotations"]
    np.testing.assert_allclose(first["bbox"], [30, -2, 20, 24])
    np.testing.assert_allclose(second["bbox"], [-4, 0, 24, 22])


def test_two_numbers_and_no_names(folder, caplog):
    text = POSE.replace("[3, 3]", "[3, 2]").replace("kpt_names", "other")
    write_pose(folder, text, "0 0.5 0.5 0.25 0.5  0.5 0.25  0 0  -1 -1")
    content = yolo.convert(folder)["train"][1]["person_keypoints"]
    assert content["annotations"][0]["keypoints"] == [20, 5, 2, *[0] * 6]
    assert content["categories"][0]["keypoints"] == ["keypoint_1", "keypoint_2", "keypoint_3"]
    assert """--config.data.flip_pairs="(('keypoint_2','keypoint_3'),)\"""" in caplog.text


def test_seventeen_that_are_mirrored_like_a_person_are_one(folder):
    flipped = "[0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]"
    text = f"{POSE.split('kpt')[0]}kpt_shape: [17, 3]\nflip_idx: {flipped}\nnames: [person]\n"
    write_pose(folder, text, "0 0.5 0.5 0.25 0.5" + " 0.5 0.5 2" * 17)
    (category,) = yolo.convert(folder)["train"][1]["person_keypoints"]["categories"]
    assert category["keypoints"][:2] == ["nose", "left_eye"] and [16, 14] in category["skeleton"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[0, 2, 1]", "[0, 2]", "flip_idx=[0, 2]; give for each of the 3 keypoints"),
        ("[0, 2, 1]", "[1, 2, 0]", "flip_idx=[1, 2, 0]; give for each of the 3"),
        ("nose, left_ear", "nose", "give 3 different names, the same for every class"),
        ("[3, 3]", "[3, 4]", "kpt_shape=[3, 4]; give the number of keypoints and 2 (x, y) or 3"),
        ("[3, 3]", "[3, 2]", "a.txt, line 1: '0 0.5 0.5 0.2 0.2 0.5 0.5 7 0.5 0.5 2 0.5 0.5 2'; a"),
        ("dog", "dog", "a.txt, line 1: a keypoint has v=7; give 0 (not labelled), 1 (hidden) or 2"),
    ],
)
def test_keypoints_that_do_not_fit_are_named(folder, tmp_path, old, new, says):
    assert old in POSE
    line = "0 0.5 0.5 0.2 0.2 0.5 0.5 7 0.5 0.5 2 0.5 0.5 2"
    write_pose(folder, POSE.replace(old, new), line)
    assert says in prepare("yolo", folder, tmp_path / "out", code=2)


def test_a_broken_image_is_named(folder, tmp_path):
    (folder / "images" / "val" / "d.png").write_bytes(b"no image")
    said = prepare("yolo", folder, tmp_path / "out", code=2)
    assert "d.png cannot be decoded" in said
