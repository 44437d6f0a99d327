"""Decoded images that stay in memory: the same batches, fewer reads, within the room."""

import collections
import dataclasses
import io
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.config.fill import fill
from pix2seq_jax.data import pipeline
from pix2seq_jax.data.coco import files
from pix2seq_jax.data.coco.files import read_file
from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.data.coco.json import Report
from pix2seq_jax.data.images import is_aligned
from pix2seq_jax.data.ops.image import Decode, ImageOp, PadImage
from pix2seq_jax.data.reading import REPLACED, ROW_BYTES, ImageCache, Reader
from pix2seq_jax.data.selections import PerObject
from pix2seq_jax.data.source import IMAGE_FIELDS, layout
from pix2seq_jax.experiment import browsing
from tests.helpers import multitask, small
from tests.helpers.prepared import prepare

SIDE = 16
PIXELS, REST = SIDE * SIDE * 3, ROW_BYTES + 8 + 8  # bytes: of an image; image_id and orig_size


class Pictures:
    """JPEG files, which are decoded into memory that TensorFlow shares; counts what it is asked
    for. `size` is that of the annotations, `turn` the orientation."""

    fields = layout(IMAGE_FIELDS)

    def __init__(self, count: int, *, start=0, size=(SIDE, SIDE), turn=1, broken=()) -> None:
        self.count, self.start, self.size, self.turn = count, start, size, turn
        self.broken, self.asked = broken, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        self.asked.append(index)
        pixels = np.random.default_rng(self.start + index).integers(0, 256, (SIDE, SIDE, 3))
        file, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = self.turn
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", exif=exif)
        return {
            "image": b"no image" if index in self.broken else file.getvalue(),
            "file": f"{index}.jpg",
            "image_id": np.int64(index),
            "orig_size": np.array(self.size, np.int32),
        }


def reader(source: Pictures, cache: ImageCache | None, bad_images: Report | None = None) -> Reader:
    return Reader(source, Decode(), 3, bad_images, cache)


def pixels(one: Reader, index: int) -> np.ndarray:
    image, _, _ = one(index, 0, index)
    return image


def test_an_image_in_memory_is_not_read_again():
    source, plain = Pictures(5), reader(Pictures(5), None)
    cached = reader(source, ImageCache(10 * (PIXELS + REST)))
    for _ in range(3):
        for index in range(5):
            for value, wanted in zip(cached(index, 0, 0), plain(index, 0, 0), strict=True):
                assert value.dtype == wanted.dtype
                np.testing.assert_array_equal(value, wanted)
    assert source.asked == [*range(5)]
    assert cached.cache.taken == 5 * (PIXELS + REST)


def test_those_that_are_read_first_stay_and_the_room_is_not_exceeded():
    source = Pictures(9)
    cached = reader(source, ImageCache(3 * (PIXELS + REST) + PIXELS))
    for _ in range(3):
        for index in range(9):
            pixels(cached, index)
    assert list(cached.rows) == [0, 1, 2]
    assert source.asked == [*range(9), *range(3, 9), *range(3, 9)]
    held = sum(value.nbytes for row in cached.rows.values() for value in row.values())
    assert cached.cache.taken == held + 3 * ROW_BYTES == 3 * (PIXELS + REST)


def test_threads_take_no_more_room_than_there_is():
    cache = ImageCache(20 * (PIXELS + REST))
    readers = [reader(Pictures(30), cache) for _ in range(2)]
    wanted = [pixels(reader(Pictures(30), None), index) for index in range(30)]

    def read(number: int) -> None:
        index = number % 30
        np.testing.assert_array_equal(pixels(readers[number // 30 % 2], index), wanted[index])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(30 * 20)))
    rows = [row for one in readers for row in one.rows.values()]
    held = {id(row["image"]) for row in rows}
    assert cache.taken == len(rows) * REST + len(held) * PIXELS <= cache.size
    assert cache.size - cache.taken < PIXELS + REST


def test_the_pixels_of_a_file_are_there_once():
    cache = ImageCache(10 * (PIXELS + REST))
    one, other = (reader(Pictures(3), cache) for _ in range(2))
    for index in range(3):
        pixels(one, index), pixels(other, index)
        assert pixels(one, index) is pixels(other, index)
    assert cache.taken == 3 * (PIXELS + 2 * REST)


def test_a_file_is_read_once_for_all_objects_and_sources(tmp_path, monkeypatch):
    folder, asked = small.make_shapes(tmp_path / "shapes"), collections.Counter()

    def read(file: str) -> bytes:
        asked[file] += 1
        return read_file(file)

    monkeypatch.setattr(files, "read_file", read)
    images, path = folder / "train", folder / "annotations" / "instances_train.json"
    sources = CocoDir(images, path), PerObject(CocoDir(images, path, max_points=16))
    cache, plain = ImageCache(10**8), [reader(source, None) for source in sources]
    cached = [reader(source, cache) for source in sources]
    rows = [(number, index) for number in range(2) for index in range(len(sources[number]))]
    wanted = [plain[number](index, 0, 0) for number, index in rows]
    assert sum(asked.values()) == len(rows) > 2 * len(sources[0])
    asked.clear()
    for (number, index), values in zip(rows, wanted, strict=True):
        for value, other in zip(cached[number](index, 0, 0), values, strict=True):
            np.testing.assert_array_equal(value, other)
    assert asked == dict.fromkeys(sources[0].files, 1)


@pytest.mark.parametrize(
    "options", [{"start": 100}, {"turn": 3, "size": (0, 0)}], ids=["content", "orientation"]
)
def test_files_of_one_name_may_differ(options):
    cache, turn = ImageCache(10 * (PIXELS + REST)), options.get("turn", 1)
    pixels(reader(Pictures(1, turn=turn), cache), 0)
    other = reader(Pictures(1, **options), cache)
    wanted = pixels(reader(Pictures(1, **options), None), 0)
    for _ in range(2):
        np.testing.assert_array_equal(pixels(other, 0), wanted)
    assert cache.taken == 2 * (PIXELS + REST)
    assert (wanted != pixels(reader(Pictures(1, turn=turn), None), 0)).any()


def test_what_stands_for_an_image_that_cannot_be_read_is_the_same():
    reports = [Report(), Report()]
    caches = (ImageCache(10 * (PIXELS + REST)), None)
    cached, plain = (
        reader(Pictures(5, broken=(1, 2)), cache, report)
        for cache, report in zip(caches, reports, strict=True)
    )
    for draw in range(15):
        for value, wanted in zip(cached(draw % 5, 0, draw), plain(draw % 5, 0, draw), strict=True):
            np.testing.assert_array_equal(value, wanted)
    assert reports[0] == reports[1] == {REPLACED: 2}
    assert sorted(cached.rows) == [0, 3, 4]
    with pytest.raises(ValueError, match=r"1\.jpg cannot be decoded"):
        pixels(reader(Pictures(5, broken=(1,)), ImageCache(10**6)), 1)


def test_another_process_gets_an_empty_one_for_all_its_data_sets():
    cache = ImageCache(10 * (PIXELS + REST))
    pixels(reader(Pictures(1), cache), 0)
    one, other = pickle.loads(pickle.dumps([{"cache": cache}, {"cache": cache}]))
    assert one["cache"] is other["cache"]
    assert (one["cache"].size, one["cache"].taken) == (cache.size, 0)
    assert pixels(reader(Pictures(1), one["cache"]), 0) is not pixels(reader(Pictures(1), cache), 0)


@dataclasses.dataclass(frozen=True)
class Negative(ImageOp):
    """An op that TensorFlow may do in the memory of its operand."""

    def __call__(self, example, seed):
        return {**example, "image": 255 - example["image"]}


def test_ops_do_not_write_into_what_stays():
    source, cache = Pictures(4), ImageCache(10 * (PIXELS + REST))
    ops = (Decode(), Negative(), PadImage(SIDE))
    batches = pipeline.train_dataset(source, ops, batch_size=4, seed=3, workers=1, cache=cache)
    for batch in itertools.islice(batches, 6):
        for index, image in zip(batch["image_id"], batch["image"], strict=True):
            wanted = 255 - pixels(reader(Pictures(4), None), int(index))
            np.testing.assert_array_equal(image, wanted)
    (own,) = batches.readers
    assert sorted(own.rows) == sorted(source.asked) == [0, 1, 2, 3]
    assert all(is_aligned(row["image"]) for row in own.rows.values())  # they are shared


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Drawn images, one of which is broken."""
    made = small.make_shapes(tmp_path_factory.mktemp("shapes"))
    sorted((made / "train").iterdir())[0].write_bytes(b"no image")
    return made


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare("coco_dir", folder, out)
    return out


def three_epochs(streams: list, cache: ImageCache | None) -> tuple[list[dict], Report]:
    """(batches of a task, what was found in the images)."""
    report = Report()
    batches = pipeline.train_dataset(
        streams, batch_size=8, seed=3, workers=2, bad_images=report, cache=cache
    )
    count = -(-3 * len(streams[0].source) // 8)
    return list(itertools.islice(batches, count)), report


@pytest.mark.parametrize(
    "kind,room", [("coco_dir", 10**8), ("coco_dir", 200_000), ("array_record", 10**8)]
)
def test_batches_of_all_tasks_are_those_without_a_cache(folder, prepared, tmp_path, kind, room):
    data = {"coco_dir": folder, "array_record": prepared}[kind]
    config = multitask.make(data, data__source=kind, data__check_images=False)
    _, _, streams = browsing._opened(fill(config), str(tmp_path / "none"))
    assert len(streams) == 4
    cache = ImageCache(room)
    for name, own in streams.items():
        (cached, found), (plain, wanted) = three_epochs(own, cache), three_epochs(own, None)
        assert found == wanted
        for one, other in zip(cached, plain, strict=True):
            assert one.keys() == other.keys() and "image" in one
            for field, value in one.items():
                np.testing.assert_array_equal(value, other[field], err_msg=f"{name} {field}")
    assert 100_000 < cache.taken <= room
    # All tasks show the same files; a second copy would not fit in twice their size.
    assert cache.taken < 2 * small.TRAIN_IMAGES * 64 * 64 * 3
