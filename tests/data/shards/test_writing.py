"""The command goes on where it was stopped, to the same bytes; what does not fit is named."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data.coco.files import ImageRules
from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.data.shards.reading import ImageShards
from tests.helpers import small
from tests.helpers.prepared import content, prepare, shards

COUNT, EACH = 400, 4  # images and those of a shard, in the run that is killed


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Many images in COCO's format: a folder of training images alone."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "train").mkdir()
    (folder / "annotations").mkdir()
    first = folder / "train" / "0.jpg"
    Image.new("RGB", (20, 12), "red").save(first)
    for number in range(1, COUNT):
        os.link(first, folder / "train" / f"{number}.jpg")
    names = [{"id": i + 7, "file_name": f"{i}.jpg"} for i in range(COUNT)]
    listed = [{**name, "width": 20, "height": 12} for name in names]
    objects = [
        {"id": i + 1, "image_id": i + 7, "category_id": 1, "bbox": [1, 2, 3 + i % 9, 4]}
        for i in range(COUNT)
    ]
    made = {
        "images": listed,
        "annotations": objects,
        "categories": [{"id": 1, "name": "box"}],
    }
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(made))
    return folder


FLAGS = ("--splits=train", f"--images_per_shard={EACH}")


@pytest.fixture(scope="module")
def straight(many, tmp_path_factory):
    """What an uninterrupted run writes."""
    out = tmp_path_factory.mktemp("straight") / "out"
    said = prepare("coco_dir", many, out, *FLAGS)
    assert f"train: {COUNT}/{COUNT} images (100 %)" in said and "ETA 0s" in said
    assert f"--config=configs/detection.py:data={out}" in said
    return out


def test_a_killed_run_goes_on_to_the_same_bytes(many, straight, tmp_path):
    out = tmp_path / "out"
    flags = [f"--from=coco_dir --source={many} --out={out} --workers=2".split(), FLAGS]
    command = [sys.executable, "-m", "pix2seq_jax.prepare", *flags[0], *flags[1]]
    process = subprocess.Popen(command, cwd=small.ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(shards(out / "train")) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    written = {path: path.stat().st_mtime_ns for path in shards(out / "train")}
    assert 3 <= len(written) < COUNT // EACH and not (out / "train" / "index.json").exists()
    with pytest.raises(ValueError, match="or not all of them yet; run `python -m"):
        ImageShards(out / "train")
    left = out / "train" / "train-00099-of-00100.array_record.1.partial"
    left.write_bytes(b"half")
    prepare("coco_dir", many, out, *FLAGS)
    assert content(out) == content(straight) and not left.exists()
    assert all(path.stat().st_mtime_ns == before for path, before in written.items())


@pytest.mark.parametrize("damage", ["truncated", "a bit", "other images", "missing"])
def test_the_command_repairs_a_shard(many, straight, tmp_path, damage):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    path, other = shards(out / "train")[5:7]
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
        (out / "train" / "index.json").unlink()
    elif damage == "a bit":
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
    elif damage == "other images":
        shutil.copy(other, path)
        (out / "train" / "index.json").unlink()
    else:
        path.unlink()
    said = prepare("coco_dir", many, out, *FLAGS)
    assert content(out) == content(straight)
    assert (f"{path.name} was damaged and is written anew" in said) == (damage != "missing")


def test_a_folder_of_other_data_is_refused(many, straight, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    said = prepare("coco_dir", many, out, "--splits=train", "--images_per_shard=7", code=2)
    assert "holds shards of another images_per_shard: 4 and not 7; give another --out" in said
    source = tmp_path / "source"
    shutil.copytree(many, source)
    path = source / "annotations" / "instances_train.json"
    changed = json.loads(path.read_text())
    del changed["annotations"][0]
    path.write_text(json.dumps(changed))
    said = prepare("coco_dir", source, out, *FLAGS, code=2)
    assert "instances_train.json is not what --source=" in said and "give another --out" in said
    said = prepare("coco_dir", many, many, *FLAGS, code=2)
    assert f"{many / 'train'} holds files and no plan.json" in said
    assert content(out) == content(straight)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ("--from=tar",),
            "--from=tar: give one of coco, objects365, coco_dir, voc, yolo, or",
        ),
        (("--source=/none",), "--source=/none does not exist"),
        (("--out=gs://bucket/x",), "give a local folder and copy it there"),
        (("--splits=test",), "--splits=test: give train, val or both"),
        (("--images_per_shard=0",), "--images_per_shard=0: must be at least 1"),
        (("--from=coco",), "annotations/instances_train2017.json"),
        (("--splits=val",), "annotations/captions_val.json exists"),
    ],
)
def test_flags_that_do_not_fit(many, tmp_path, flags, says):
    said = prepare("coco_dir", many, tmp_path / "out", *FLAGS, *flags, code=2)
    assert says in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def lists(folder, images: list[dict], **more) -> None:
    """An annotation file of training images."""
    (folder / "annotations").mkdir(exist_ok=True)
    made = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}], **more}
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(made))


def test_broken_and_turned_images_stay_what_they_are(tmp_path):
    (tmp_path / "train").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (9, 5), "red").save(tmp_path / "train" / "turned.jpg", exif=exif)
    Image.new("RGB", (9, 5), "blue").save(tmp_path / "train" / "whole.jpg")
    (tmp_path / "train" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    names = ("turned", "broken", "whole")
    sizes = ((5, 9), (9, 5), (9, 5))  # width, height: annotations on what a viewer shows
    lists(
        tmp_path,
        [
            {"id": number, "file_name": f"{name}.jpg", "width": width, "height": height}
            for number, (name, (width, height)) in enumerate(zip(names, sizes, strict=True), 1)
        ],
    )
    said = prepare("coco_dir", tmp_path, tmp_path / "out", "--splits=train")
    assert "train: 1 images that cannot be decoded" in said and "broken.jpg" in said
    images = ImageShards(tmp_path / "out" / "train")
    path = tmp_path / "annotations" / "instances_train.json"
    source = CocoDir(images, path, image_rules=ImageRules(bad="replace"))
    assert source.sizes.tolist() == [[9, 5], [5, 9], [5, 9]]
    assert source[1]["image"] == b"\xff\xd8\xff no image"
    assert "1 images that cannot be decoded" in source.describe()
    with pytest.raises(ValueError, match=r"1 of 3 images are broken, first: image .*broken.jpg"):
        CocoDir(images, path)


def test_missing_images_and_lost_annotations_are_named(tmp_path):
    (tmp_path / "train").mkdir()
    Image.new("RGB", (9, 5)).save(tmp_path / "train" / "a.jpg")
    images = [{"id": i, "file_name": f"{name}.jpg"} for i, name in enumerate("ab")]
    boxes = [{"id": 5 + i, "image_id": i, "category_id": 1, "bbox": [0, 0, 2, 2]} for i in range(3)]
    lists(tmp_path, images, annotations=boxes)
    said = prepare("coco_dir", tmp_path, tmp_path / "out", "--splits=train", code=2)
    assert "1 of 2 images of" in said and "b.jpg; add them, or leave them out by --missing" in said
    flags = ("--splits=train", "--missing_images=drop")
    said = prepare("coco_dir", tmp_path, tmp_path / "out", *flags)
    assert "1 images that are not in the folder, left out" in said and "b.jpg" in said
    assert "1 annotations of instances_train.json without an image that it lists" in said
    record = ImageShards(tmp_path / "out" / "train")[0]
    assert record["annotations"]["instances"]["annotations"] == boxes[:1]


def test_a_file_of_two_ids_keeps_the_objects_of_both(tmp_path):
    (tmp_path / "train").mkdir()
    Image.new("RGB", (9, 5)).save(tmp_path / "train" / "a.jpg")
    images = [{"id": i, "file_name": "a.jpg"} for i in (1, 2)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, i, 2]} for i in (1, 2)]
    lists(tmp_path, images, annotations=boxes)
    prepare("coco_dir", tmp_path, tmp_path / "out", "--splits=train")
    (record,) = ImageShards(tmp_path / "out" / "train")
    assert record["annotations"]["instances"]["annotations"] == boxes


def test_objects365_as_it_is_distributed(tmp_path):
    source, out = tmp_path / "objects365", tmp_path / "out"
    for split, patch in (("train", "patch8"), ("val", "patch3")):
        (source / split / patch).mkdir(parents=True)
        name = f"objects365_v2_0{patch[-1]}.jpg"
        Image.new("RGB", (30, 20), "red").save(source / split / patch / name)
        (source / "annotations").mkdir(exist_ok=True)
        made = {
            "images": [
                {"id": 420917, "file_name": f"images/v1/{patch}/{name}", "width": 30, "height": 20}
            ],
            "annotations": [
                {"id": 1, "image_id": 420917, "category_id": 365, "iscrowd": 0, "isfake": 0}
                | {"isreflected": 0, "area": 12.0, "bbox": [1.5, 2, 3, 4]}
            ],
            "categories": [{"id": 365, "name": "Tennis Racket"}],
            "licenses": [{"name": "a license"}],
        }
        path = source / "annotations" / f"zhiyuan_objv2_{split}.json"
        path.write_text(json.dumps(made))
    prepare("objects365", source, out)
    for split, patch in (("train", "patch8"), ("val", "patch3")):
        images = ImageShards(out / split)
        assert images[0]["name"].startswith(f"{patch}/objects365")
        sharded = CocoDir(images, out / "annotations" / f"instances_{split}.json")
        path = source / "annotations" / f"zhiyuan_objv2_{split}.json"
        loose = CocoDir(source / split, path)
        assert sharded[0]["image"] == loose[0]["image"]
        np.testing.assert_array_equal(sharded[0]["boxes"], loose[0]["boxes"])
