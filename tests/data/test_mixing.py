"""Several streams in one batch: exact shares, resuming, processes, and only the work of the stream
that is drawn."""

import io
import itertools
import threading

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data import order, pipeline
from pix2seq_jax.data.order import CYCLE
from pix2seq_jax.data.pipeline import Stream
from pix2seq_jax.data.source import BOX_FIELDS, IMAGE_FIELDS, layout

OPS = "decode|flip_lr|order(random)|pad_image(16)|pad_objects({})"


class Source:
    """Small images; image_id tells source and number. `extra` adds a field of objects, `silent`
    leaves objects out."""

    def __init__(
        self, first: int, count: int, extra: dict | None = None, silent: bool = False
    ) -> None:
        self.first, self.count, self.extra, self.silent = first, count, extra or {}, silent
        own = {k: (v.dtype, (None, *v.shape[1:])) for k, v in self.extra.items()}
        self.fields = layout(IMAGE_FIELDS if silent else (*IMAGE_FIELDS, *BOX_FIELDS)) | own
        self.read, self.lock = [], threading.Lock()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        with self.lock:
            self.read.append(index)
        stream = io.BytesIO()
        image = np.random.default_rng(self.first + index).integers(0, 256, (10, 12, 3), np.uint8)
        Image.fromarray(image).save(stream, "BMP")
        features = {
            "image": stream.getvalue(),
            "file": "some.bmp",
            "image_id": np.int64(self.first + index),
            "orig_size": np.array([10, 12], np.int32),
            "boxes": np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.9, 1.0]], np.float32),
            "labels": np.array([1, 2], np.int32),
            "area": np.ones(2, np.float32),
            "is_crowd": np.zeros(2, bool),
            "scores": np.ones(2, np.float32),
        }
        return {
            name: features[name] for name in ("file", *self.fields) if name in features
        } | self.extra


POLYGONS = {"polygons": np.array([[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]] * 2, np.float32)}
CAPTIONS = {"captions": np.array([[5, 1, 0], [6, 7, 1]], np.int32)}


def three() -> list[Stream]:
    """Detection, segmentation, captions, by the shares of the paper (and a rest)."""
    silent = Source(3000, 5, CAPTIONS, silent=True)
    silent.fields["captions"] = (np.int32, (2, 3))
    return [
        Stream(Source(1000, 7), OPS.format(4), 0.2),
        Stream(Source(2000, 11, POLYGONS), OPS.format(2), 0.7, task=2),
        Stream(silent, "decode|pad_image(16)", 0.1, task=1),
    ]


def train(streams, start: int = 0, count: int = 1, **options) -> list[dict]:
    options = {"batch_size": 10, "seed": 3} | options
    return list(
        itertools.islice(pipeline.train_dataset(streams, start_step=start, **options), count)
    )


def assert_same(one: list[dict], other: list[dict]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_every_row_has_all_fields():
    (batch,) = train(three(), batch_size=40)
    shapes = {name: (value.dtype, value.shape[1:]) for name, value in batch.items()}
    assert shapes["image"] == (np.uint8, (16, 16, 3))
    assert shapes["labels"] == (np.int32, (4,))
    assert shapes["polygons"] == (np.float32, (4, 6))
    assert shapes["captions"] == (np.int32, (2, 3))
    assert shapes["task"] == (np.int32, ())
    assert batch["valid"].all()
    for row, task in enumerate(batch["task"]):
        assert batch["image_id"][row] // 1000 == {0: 1, 2: 2, 1: 3}[int(task)]
        np.testing.assert_array_equal(
            np.sort(batch["labels"][row]), [0, 0, 0, 0] if task == 1 else [0, 0, 1, 2]
        )
        assert batch["polygons"][row].any() == (task == 2)
        assert not batch["polygons"][row, 2:].any()
        np.testing.assert_array_equal(batch["captions"][row], CAPTIONS["captions"] * (task == 1))
    assert set(batch["task"]) == {0, 1, 2}


def test_shares_are_exact_over_a_cycle():
    ids = np.concatenate([batch["image_id"] for batch in train(three(), 100, 40, batch_size=50)])
    for cycle in ids.reshape(2, CYCLE):
        assert [(cycle // 1000 == n).sum() for n in (1, 2, 3)] == [200, 700, 100]
    places = np.flatnonzero(ids[:CYCLE] // 1000 == 3)
    assert 300 < places.mean() < 700  # mixed, not one after another
    assert (ids[:CYCLE] // 1000 == ids[CYCLE:] // 1000).all()


def test_every_stream_goes_through_its_images_epoch_by_epoch():
    ids = np.concatenate([batch["image_id"] for batch in train(three(), 0, 40)])
    for first, count in ((1000, 7), (2000, 11), (3000, 5)):
        own = ids[ids // 1000 == first // 1000]
        epochs = own[: len(own) // count * count].reshape(-1, count)
        assert len(epochs) >= 4
        np.testing.assert_array_equal(
            np.sort(epochs, axis=1), np.tile(np.arange(first, first + count), (len(epochs), 1))
        )
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_batch_depends_on_seed_and_step_only():
    whole = train(three(), 97, 6, workers=1)
    assert_same(whole, train(three(), 97, 6, workers=4))
    assert_same(whole[4:], train(three(), 101, 2))
    other = train(three(), 97, 6, seed=4)
    assert any((a["task"] != b["task"]).any() for a, b in zip(whole, other, strict=True))


@pytest.mark.parametrize("repeats", [1, 5])
def test_processes_split_the_same_batches(repeats):
    whole = train(three(), 99, 3, repeats=repeats)
    parts = [
        train(three(), 99, 3, repeats=repeats, process_index=p, process_count=2) for p in range(2)
    ]
    assert_same(
        whole, [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)]
    )
    ids = whole[0]["image_id"].reshape(-1, repeats)
    assert (ids == ids[:, :1]).all()


def test_one_stream_gives_the_batches_of_its_source():
    ops = OPS.format(3)
    plain = list(
        itertools.islice(pipeline.train_dataset(Source(0, 7), ops, batch_size=4, seed=5), 4)
    )
    for streams in (
        Stream(Source(0, 7), ops, 0.3, task=6),
        [Stream(Source(0, 7), ops, 0.3, task=6)],
    ):
        mixed = train(streams, 0, 4, batch_size=4, seed=5)
        assert all((batch.pop("task") == 6).all() for batch in mixed)
        assert_same(plain, mixed)


def test_only_the_images_of_the_batch_are_read():
    streams = three()
    iterator = iter(pipeline.train_dataset(streams, batch_size=10, seed=3, workers=1))
    batches = [next(iterator) for _ in range(3)]
    iterator.close()
    drawn = sum((batch["task"] == 1).sum() for batch in batches)
    ahead = 10 * 4  # what is prefetched
    assert drawn <= len(streams[2].source.read) < drawn + ahead
    assert sum(len(stream.source.read) for stream in streams) <= 30 + ahead


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([1], [1000]),
        ([1, 1, 1], [334, 333, 333]),
        ([0.1782, 0.7128, 0.099, 0.01], [178, 713, 99, 10]),
        ([1e-9, 1], [1, 999]),
        ([1e-6] * 500 + [1], [1] * 500 + [500]),
        ([3, 1], [750, 250]),
    ],
)
def test_shares(weights, counts):
    assert order.shares(weights).tolist() == counts


@pytest.mark.parametrize("weights", [[0, 1], [-1, 2], [float("nan")], [float("inf"), 1]])
def test_weights_are_positive(weights):
    with pytest.raises(ValueError, match=r"stream weights .*give positive numbers"):
        train([Stream(Source(0, 3), OPS.format(2), weight) for weight in weights])


def test_streams_that_do_not_fit_are_refused():
    one = Stream(Source(0, 3), OPS.format(2))
    with pytest.raises(
        ValueError, match=r"'image' as uint8\[20, 20, 3\] and as uint8\[16, 16, 3\]"
    ):
        train([one, Stream(Source(0, 3), "decode|pad_image(20)|pad_objects(2)")])
    longer = {"polygons": np.zeros((2, 8), np.float32)}
    with pytest.raises(ValueError, match=r"'polygons' as float32\[2, 8\] .* same max_points"):
        train(
            [
                Stream(Source(0, 3, POLYGONS), OPS.format(2)),
                Stream(Source(0, 3, longer), OPS.format(2)),
            ]
        )
    with pytest.raises(ValueError, match="has no fixed shape"):
        train([one, Stream(Source(0, 3), "decode|pad_image(16)")])
    for source, ops in ((one, OPS), ([one], OPS), (Source(0, 3), None)):
        with pytest.raises(ValueError, match="give a source and its preprocessing, or streams"):
            pipeline.train_dataset(source, ops, batch_size=2, seed=0)
