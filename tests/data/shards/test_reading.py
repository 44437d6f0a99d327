"""Shards give what loose files give, bit for bit; a damaged one is named with the remedy."""

import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from etils import epath

from pix2seq_jax.data import pipeline
from pix2seq_jax.data.coco.captions import CocoCaptions
from pix2seq_jax.data.coco.checked_images import CheckedImages
from pix2seq_jax.data.coco.files import Storage
from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.data.shards.index import read_index
from pix2seq_jax.data.shards.reading import ImageShards
from pix2seq_jax.experiment import inputs, resolve
from tests.helpers import small
from tests.helpers.prepared import prepare, shards

TASKS = ("detection", "segmentation", "keypoints")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare("coco_dir", folder, out, "--images_per_shard=10")
    return out


@pytest.fixture
def copy(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "copy")


def batches(folder, source: str) -> list[list[dict]]:
    """Four batches of each task that looks at objects."""
    config = small.config("multitask.py:shapes", folder, data__source=source)
    config = resolve.select_tasks(config, TASKS)
    opened = inputs.open_sources(config, "train")
    config = resolve.resolve(config, opened)
    streams = inputs.open_streams(config, opened, None)
    drawn = [pipeline.train_dataset(one, batch_size=8, seed=3) for one in streams.values()]
    return [list(itertools.islice(one, 4)) for one in drawn]


def test_batches_are_those_of_loose_files(folder, prepared):
    loose = batches(folder, "coco_dir")
    sharded = batches(prepared, "array_record")
    assert len(loose) == 3
    for one, other in zip(itertools.chain(*loose), itertools.chain(*sharded), strict=True):
        assert one.keys() == other.keys() and "image" in one
        for name, value in one.items():
            assert value.dtype == other[name].dtype
            np.testing.assert_array_equal(value, other[name])


class Letters:
    """Piece 3 for every letter."""

    def encode(self, sentences: list[str]) -> list[list[int]]:
        return [[3] * len(sentence) for sentence in sentences]


def test_captions_are_those_of_loose_files(folder, prepared):
    path = "annotations/captions_val.json"
    loose = CocoCaptions(folder / "val", folder / path, text=Letters())
    sharded = CocoCaptions(ImageShards(prepared / "val"), prepared / path, text=Letters())
    assert len(loose) == len(sharded) == small.VAL_IMAGES
    assert loose.references == sharded.references
    for one, other in zip(loose, sharded, strict=True):
        assert one["image"] == other["image"] and one["image_id"] == other["image_id"]
        np.testing.assert_array_equal(one["captions"], other["captions"])


def test_a_record_has_the_image_and_all_annotations(folder, prepared):
    images = ImageShards(prepared / "train")
    assert len(images) == small.TRAIN_IMAGES
    joined = [images[row] for row in range(len(images))]
    for record in joined:
        assert record["image"] == (folder / "train" / record["name"]).read_bytes()
    for kind in ("instances", "person_keypoints", "captions"):
        content = json.loads((folder / "annotations" / f"{kind}_train.json").read_text())
        own = [record["annotations"][kind] for record in joined]
        assert [one["image"] for one in own] == content["images"]
        every = sorted(content["annotations"], key=lambda one: one["id"])
        found = [annotation for one in own for annotation in one["annotations"]]
        assert sorted(found, key=lambda one: one["id"]) == every and len(every) >= 10


def test_threads_may_read_together(folder, prepared):
    images = ImageShards(prepared / "train")
    names = [record["name"] for record in map(images.__getitem__, range(len(images)))]
    files = images.locate(folder / "a.json", names) * 20
    expected = [(folder / "train" / name).read_bytes() for name in names] * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.load, files)) == expected


def test_what_the_headers_say_is_in_the_index(folder, prepared):
    images: Storage = ImageShards(prepared / "val")
    names = sorted(path.name for path in (folder / "val").iterdir())
    files = images.locate(folder / "a.json", names)
    looked = CheckedImages()([str(folder / "val" / name) for name in names])
    known = images.headers(files)
    np.testing.assert_array_equal(known.sizes, looked.sizes)
    np.testing.assert_array_equal(known.turned, looked.turned)
    assert known.errors == looked.errors == {}


def test_names_are_read_that_begin_with_other_folders(folder, prepared):
    images = ImageShards(prepared / "val")
    name = next((folder / "val").iterdir()).name
    (file,) = images.locate(folder / "a.json", [f"images/v1\\{name}"])
    assert images.load(file) == (folder / "val" / name).read_bytes()
    assert images.locate(folder / "a.json", [name, "none.jpg"]) == [file, None]


def test_an_image_that_no_shard_has_is_named(folder, prepared, tmp_path):
    content = json.loads((folder / "annotations" / "instances_val.json").read_text())
    content["images"][3]["file_name"] = "none.jpg"
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"1 of 20 .* not in the shards of .*none.jpg; give the a"):
        CocoDir(ImageShards(prepared / "val"), path)


def test_a_truncated_shard_is_one_error_before_anything_is_read(copy):
    path = shards(copy / "train")[1]
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=rf"shard {path} is damaged: it has .* run `python -m pix"):
        ImageShards(copy / "train")
    path.unlink()
    with pytest.raises(ValueError, match=rf"shard {path} cannot be read: .* run `python -m pix2"):
        ImageShards(copy / "train")


def flip(path, inside: bytes) -> None:
    """Changes a bit of a file where these bytes are."""
    data = bytearray(path.read_bytes())
    data[data.index(inside) + len(inside) // 2] ^= 1
    path.write_bytes(data)


def test_a_changed_bit_is_named_and_the_other_images_are_read(folder, copy):
    images = ImageShards(copy / "train")
    name, data = images[12]["name"], images[12]["image"]
    path = shards(copy / "train")[1]
    flip(path, data[-60:])
    images = ImageShards(copy / "train")
    file = images.locate(folder / "a.json", [name])[0]
    expected = rf"shard {path} cannot be read at the image {name} \(.*hash mismatch.*\); .*run `py"
    for _ in range(2):
        with pytest.raises(ValueError, match=expected):
            images.load(file)
    assert [images[row]["name"] for row in (11, 13)]


def test_a_damaged_index_is_named(copy):
    flip(copy / "train" / "images.npz", b"names")
    with pytest.raises(ValueError, match=r"images.npz is damaged, its checksum .* run `python"):
        ImageShards(copy / "train")
    index = copy / "val" / "index.json"
    text = index.read_text()
    index.write_text(text[:100])
    with pytest.raises(ValueError, match=r"index.json is damaged .* run `python"):
        ImageShards(copy / "val")
    index.write_text(text.replace('"version": 1', '"version": 9'))
    with pytest.raises(ValueError, match="is of version 9, this library reads version 1"):
        ImageShards(copy / "val")
    index.unlink()
    with pytest.raises(ValueError, match=r"has no index.json: it holds no shards, or not all"):
        ImageShards(copy / "val")


def test_paths_of_etils_are_read(prepared):
    """As they stand for gs://; here on the disk."""
    here = read_index(prepared / "val")
    there = read_index(epath.Path(prepared / "val"))
    assert here.shards == there.shards and list(here.names) == list(there.names)
