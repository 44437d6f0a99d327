"""COCO and Objects365 through TFDS: built from files on disk, read in any order, and back."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data.coco.captions import CocoCaptions
from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.data.shards.reading import ImageShards
from tests.helpers import small
from tests.helpers.prepared import prepare

pytest.importorskip("importlib_resources")  # TFDS wants it to build
tfds = pytest.importorskip("tensorflow_datasets")

YEAR = "2017"


def build(name: str, source, folder, file_format: str):
    """What `tfds build` does."""
    from pix2seq_jax.experiment import tfds_builders

    assert tfds_builders.CocoFormat.__subclasses__()
    builder = tfds.builder(name, data_dir=folder, file_format=file_format)
    config = tfds.download.DownloadConfig(manual_dir=source)
    builder.download_and_prepare(download_config=config)
    return builder


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """The embedded data under the names of COCO 2017."""
    folder = small.make_shapes(tmp_path_factory.mktemp("coco") / "coco")
    for split in ("train", "val"):
        (folder / split).rename(folder / f"{split}{YEAR}")
        for path in (folder / "annotations").glob(f"*_{split}.json"):
            path.rename(path.with_stem(path.stem + YEAR))
    return folder


@pytest.fixture(scope="module")
def built(coco, tmp_path_factory):
    """Folder of TFDS with COCO."""
    folder = tmp_path_factory.mktemp("tfds")
    build("pix2seq_coco", coco, folder, "array_record")
    return folder


def annotations(coco, kind: str, split: str = "train") -> dict:
    return json.loads((coco / "annotations" / f"{kind}_{split}{YEAR}.json").read_text())


def test_a_data_source_has_all_four_annotations(coco, built):
    source = tfds.data_source("pix2seq_coco", data_dir=built, split="train")
    assert len(source) == small.TRAIN_IMAGES
    every = {int(source[row]["image/id"]): source[row] for row in reversed(range(len(source)))}
    instances = annotations(coco, "instances")
    assert every.keys() == {image["id"] for image in instances["images"]}
    image = instances["images"][0]
    with Image.open(coco / f"train{YEAR}" / image["file_name"]) as file:
        assert every[image["id"]]["image"].shape == (file.height, file.width, 3)
    objects = {
        int(i): (own, n) for own in every.values() for n, i in enumerate(own["objects"]["id"])
    }
    assert objects.keys() == {one["id"] for one in instances["annotations"]}
    for one in instances["annotations"]:
        example, row = objects[one["id"]]
        own = {name: value[row] for name, value in example["objects"].items()}
        assert json.loads(own["segmentation"]) == one["segmentation"]
        assert (own["label"], own["is_crowd"]) == (one["category_id"], one["iscrowd"])
        np.testing.assert_allclose(own["area"], one["area"], rtol=1e-6)
    people = annotations(coco, "person_keypoints")["annotations"]
    assert people
    for one in people:
        example, row = objects[one["id"]]
        points = np.reshape(one["keypoints"], (17, 3))
        np.testing.assert_allclose(example["objects"]["keypoints"][row], points, rtol=1e-6)
    captions = annotations(coco, "captions")["annotations"]
    for image_id, example in every.items():
        texts = [one["caption"] for one in captions if one["image_id"] == image_id]
        assert [text.decode() for text in example["captions"]] == texts


def test_images_that_are_missing_or_none_are_left_out(coco, tmp_path, caplog, monkeypatch):
    """One of a million does not end a build of hours."""
    from pix2seq_jax.experiment import tfds_builders

    source = shutil.copytree(coco, tmp_path / "coco")
    first, second, third, *rest = sorted((source / f"train{YEAR}").iterdir())
    first.unlink()
    second.write_bytes(b"no image")
    third.write_bytes(third.read_bytes()[:-400])  # its first bytes are whole
    monkeypatch.setattr(tfds_builders.log, "propagate", True)
    builder = tfds_builders.Pix2seqCoco(data_dir=tmp_path / "tfds")
    made = dict(builder._generate_examples(source, "train"))
    assert made.keys() == {path.name for path in (third, *rest)}
    text = caplog.text
    assert "train: 1 images that cannot be read, left out with their annotations" in text
    assert str(second) in text
    assert "images that are not in the folder, left out with their annotations" in text
    assert first.name in text
    for path in (third, *rest):
        path.unlink()
    second.unlink()
    with pytest.raises(ValueError, match="give the folder that their names start from") as caught:
        list(builder._generate_examples(source, "train"))
    assert "missing_images" not in str(caught.value)


class Letters:
    """Piece 3 for every letter."""

    def encode(self, sentences: list[str]) -> list[list[int]]:
        return [[3] * len(sentence) for sentence in sentences]


def test_shards_of_it_are_those_of_the_files(coco, built, tmp_path):
    out = tmp_path / "out"
    prepare("tfds:pix2seq_coco", built, out)
    assert sorted(path.name for path in out.iterdir()) == ["annotations", "train", "val"]
    before = (out / "annotations" / "instances_train.json").read_bytes()
    prepare("tfds:pix2seq_coco", built, out)  # goes on
    assert (out / "annotations" / "instances_train.json").read_bytes() == before
    options = {"keypoints": True, "max_points": 32}
    kind = "person_keypoints"
    path = coco / "annotations" / f"{kind}_train{YEAR}.json"
    loose = CocoDir(coco / f"train{YEAR}", path, **options)
    images = ImageShards(out / "train")
    sharded = CocoDir(images, out / "annotations" / f"{kind}_train.json", **options)
    rows = {image_id: row for row, image_id in enumerate(sharded.image_ids.tolist())}
    assert rows.keys() == set(loose.image_ids.tolist())
    seen = 0
    for image_id, one in zip(loose.image_ids.tolist(), loose, strict=True):
        other = sharded[rows[image_id]]
        assert one["image"] == other["image"]
        orders = [np.lexsort(own["boxes"].round(4).T) for own in (one, other)]
        for name in ("boxes", "keypoints", "polygons", "is_crowd"):
            left, right = one[name][orders[0]], other[name][orders[1]]
            np.testing.assert_allclose(left, right, atol=1e-5)
        seen += len(one["boxes"])
    assert seen > 5 and loose.keypoint_names == sharded.keypoint_names
    captions = CocoCaptions(images, out / "annotations" / "captions_train.json", text=Letters())
    assert len(captions) == small.TRAIN_IMAGES


def test_objects365_and_record_files_of_tensorflow(tmp_path):
    source, out = tmp_path / "objects365", tmp_path / "out"
    for split, patch in (("train", "patch8"), ("val", "patch3")):
        (source / split / patch).mkdir(parents=True)
        (source / "annotations").mkdir(exist_ok=True)
        Image.new("RGB", (40, 20), "red").save(source / split / patch / "a.jpg")
        name = f"images/v1/{patch}/a.jpg"
        made = {
            "images": [{"id": 4, "file_name": name, "width": 40, "height": 20}],
            "annotations": [{"id": 9, "image_id": 4, "category_id": 7, "bbox": [30, 5, 20, 10]}],
            "categories": [{"id": 7, "name": "Lamp"}],
        }
        (source / "annotations" / f"zhiyuan_objv2_{split}.json").write_text(json.dumps(made))
    folder = tmp_path / "tfds"
    build("pix2seq_objects365", source, folder, "tfrecord")
    prepare("tfds:pix2seq_objects365", folder, out)
    images = ImageShards(out / "val")
    assert images[0]["name"] == "patch3/a.jpg"
    assert images[0]["image"] == (source / "val" / "patch3" / "a.jpg").read_bytes()
    read = CocoDir(images, out / "annotations" / "instances_val.json")
    assert (read.category_ids, read.category_names) == ((7,), ("Lamp",))
    # The box leaves the image, and is clipped.
    np.testing.assert_allclose(read[0]["boxes"], [[0.25, 0.75, 0.75, 1]], rtol=1e-6)


def test_what_is_not_there_is_named(built, tmp_path):
    said = prepare("tfds:none_such", built, tmp_path / "out", code=2)
    assert (
        "--from=tfds:none_such: " in said and "is the --data_dir of `tfds build none_such`" in said
    )
    one = tmp_path / "one"
    shutil.copytree(built, one)
    (info,) = one.rglob("dataset_info.json")
    content = json.loads(info.read_text())
    content["splits"] = [split for split in content["splits"] if split["name"] == "train"]
    info.write_text(json.dumps(content))
    said = prepare("tfds:pix2seq_coco", one, tmp_path / "out", code=2)
    assert "has the splits ['train'], none of ['validation', 'val', 'test']" in said
