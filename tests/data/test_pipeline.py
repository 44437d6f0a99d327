"""Batches: a pure function of (seed, step); errors that can be read."""

import gc
import io
import itertools
import math
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pix2seq_jax.config.fill import fill
from pix2seq_jax.data import pipeline, reading
from pix2seq_jax.data.coco.json import Report
from pix2seq_jax.data.ops.chain import read_chain
from pix2seq_jax.data.source import BOX_FIELDS, IMAGE_FIELDS, layout
from tests.helpers import small
from tests.helpers.epochs import one_epoch

ALL_OPS = (
    "decode|scale_jitter(24,0.5,1.5)|fixed_crop(24)|flip_lr|color_jitter(0.5)|filter_objects|"
    "order(random)|truncate(5)|noise_boxes(6)|pad_image((24,24))|pad_objects(7)"
)
EVAL_OPS = "decode|resize((16,24),antialias=True)|pad_image((16,24))|pad_objects(3)"
TYPES = {
    "image": np.uint8,
    "image_id": np.int64,
    "boxes": np.float32,
    "labels": np.int32,
    "area": np.float32,
    "is_crowd": bool,
    "scores": np.float32,
    "orig_size": np.int32,
    "unpadded_size": np.int32,
    "pad_value": np.float32,
    "crop_offset": np.int32,
    "valid": bool,
}


class Source:
    """Images of several shapes; image i has i % 3 objects. `broken` names the ones that do not
    decode."""

    fields = layout((*IMAGE_FIELDS, *BOX_FIELDS))

    def __init__(self, count: int, broken: tuple = ()) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        rng, n = np.random.default_rng(index), index % 3
        shape = ((20, 12), (10, 30), (16, 16, 3))[index % 3]
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(stream, "PNG")
        low = rng.uniform(0, 0.5, (n, 2))
        return {
            "image": b"no image" if index in self.broken else stream.getvalue(),
            "file": f"folder/{index}.png",
            "image_id": np.int64(1000 + index),
            "orig_size": np.array(shape[:2], np.int32),
            "boxes": np.concatenate([low, low + rng.uniform(0.1, 0.5, (n, 2))], 1).astype(
                np.float32
            ),
            "labels": np.arange(1, n + 1, dtype=np.int32),
            "area": np.ones(n, np.float32),
            "is_crowd": np.zeros(n, bool),
            "scores": np.ones(n, np.float32),
        }


def train(
    start: int = 0, count: int = 1, source: Source | None = None, ops: str = ALL_OPS, **options
) -> list[dict]:
    """Batches start, start + 1, ..."""
    options = {"batch_size": 4, "seed": 3} | options
    dataset = pipeline.train_dataset(source or Source(7), ops, start_step=start, **options)
    return list(itertools.islice(dataset, count))


def assert_same(one: list[dict], other: list[dict]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_batch_is_the_example_dict():
    (batch,) = train()
    assert {name: value.dtype for name, value in batch.items()} == TYPES
    assert batch["image"].shape == (4, 24, 24, 3)
    assert batch["boxes"].shape == (4, 7, 4)
    assert batch["valid"].all()


def test_a_batch_depends_on_seed_and_step_only():
    whole = train(0, 6, workers=1)
    assert_same(whole, train(0, 6, workers=5))
    assert_same(whole[4:], train(4, 2))
    assert_same(whole[5:], train(5, 1, workers=3))
    assert any(
        (a["image"] != b["image"]).any() for a, b in zip(whole, train(0, 6, seed=4), strict=True)
    )


@pytest.mark.parametrize("repeats", [1, 2, 4])
def test_processes_split_the_same_batches(repeats):
    whole = train(3, 3, repeats=repeats)
    for count in (2, 4):
        parts = [
            train(3, 3, repeats=repeats, process_index=p, process_count=count) for p in range(count)
        ]
        joined = [
            {k: np.concatenate([part[i][k] for part in parts]) for k in TYPES} for i in range(3)
        ]
        assert_same(whole, joined)


def test_every_epoch_is_another_permutation():
    ids = np.concatenate([batch["image_id"] for batch in train(0, 7, batch_size=4)]).reshape(4, 7)
    for epoch in ids:
        assert sorted(epoch) == list(range(1000, 1007))
    assert len({tuple(epoch) for epoch in ids}) == 4


def test_images_of_another_epoch_are_augmented_anew():
    images: dict[int, set] = {}
    for batch in train(0, 14):
        for image_id, image in zip(batch["image_id"], batch["image"], strict=True):
            images.setdefault(int(image_id), set()).add(image.tobytes())
    assert all(len(versions) == 8 for versions in images.values())


def test_order_of_images_is_pinned():
    """Another TensorFlow must not change it: resumed runs would repeat and skip images."""
    ids = [
        batch["image_id"].tolist()
        for batch in train(1000, 2, source=Source(1000), ops=EVAL_OPS, batch_size=8)
    ]
    assert ids == [
        [1983, 1287, 1505, 1781, 1120, 1533, 1800, 1964],
        [1649, 1478, 1696, 1304, 1892, 1997, 1819, 1871],
    ]


def test_repeats_are_the_same_images_augmented_differently():
    (batch,) = train(2, 1, batch_size=6, repeats=3)
    ids = batch["image_id"].reshape(2, 3)
    assert (ids == ids[:, :1]).all()
    assert ids[0, 0] != ids[1, 0]
    assert len({image.tobytes() for image in batch["image"]}) == 6
    with pytest.raises(ValueError, match="batch_size=4 must be a multiple of repeats=3"):
        train(repeats=3)


def test_size_zero_is_that_of_the_file():
    class Unannotated(Source):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"orig_size": np.zeros(2, np.int32)}

    batch = one_epoch(Unannotated(3), EVAL_OPS)
    np.testing.assert_array_equal(batch["orig_size"], [[20, 12], [10, 30], [16, 16]])


def test_size_of_the_annotations_wins():
    """Annotations may be made on a smaller copy; what contradicts is refused before
    (coco.files)."""

    class Smaller(Source):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"orig_size": np.array([40, 24], np.int32)}

    batch = one_epoch(Smaller(1), EVAL_OPS)
    np.testing.assert_array_equal(batch["orig_size"], [[40, 24]])


def test_an_image_that_does_not_decode_is_one_clear_error():
    source = Source(7, broken=(4,))
    batches = iter(pipeline.train_dataset(source, EVAL_OPS, batch_size=7, seed=0))
    with pytest.raises(
        ValueError, match=r"^image folder/4\.png cannot be decoded .*; replace the file"
    ) as caught:
        next(batches)
    assert "node" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    with pytest.raises(StopIteration):
        next(batches)


def test_an_image_that_does_not_decode_is_replaced_and_named():
    """The same one whenever the row is drawn, also after a resume."""
    whole, report = train(0, 6, source=Source(7)), Report()
    replaced = train(0, 6, source=Source(7, broken=(2, 4)), bad_images=report)
    ids, others = (
        np.concatenate([batch["image_id"] for batch in batches]) for batches in (whole, replaced)
    )
    bad = np.isin(ids, [1002, 1004])
    assert bad.sum() > 3 and not np.isin(others, [1002, 1004]).any()
    np.testing.assert_array_equal(others[~bad], ids[~bad])
    assert len(set(others[bad].tolist())) > 1
    assert_same(replaced[3:], train(3, 3, source=Source(7, broken=(2, 4)), bad_images=Report()))
    assert report == {reading.REPLACED: 2}
    assert "folder/4.png" in report.describe() and "folder/2.png" in report.describe()


def test_images_that_all_do_not_decode_are_an_error():
    with pytest.raises(
        ValueError,
        match=r"20 images in a row cannot be read, first: image folder/\d\.png cannot be",
    ):
        train(source=Source(7, broken=tuple(range(7))), bad_images=Report())


def test_batches_that_are_closed_let_go_of_their_source():
    """TensorFlow keeps every Python function of its graphs; with it, it kept each source that was
    ever read."""
    source = Source(3)
    alive = weakref.ref(source)
    batches = iter(pipeline.train_dataset(source, EVAL_OPS, batch_size=1, seed=0))
    del source
    next(batches)
    assert alive() is not None  # the iterator alone keeps it
    batches.close()
    gc.collect()
    assert alive() is None


def test_an_image_larger_than_its_padding_is_refused():
    with pytest.raises(
        ValueError,
        match=r"^an image of \d+ x \d+ pixels is larger than its padding, 8 x 8; resize or crop "
        "before pad_image$",
    ):
        train(ops="decode|pad_image(8)|pad_objects(3)")


def test_a_published_batch_is_a_quarter_of_its_floats():
    """128 images of 640 pixels, as the multi-task recipe has them for each of four tasks."""
    config = fill(small.load("multitask.py:"))
    batches = pipeline.train_dataset(
        Source(7), config.tasks.detection.train_ops, batch_size=128, seed=0
    )
    size = {
        name: math.prod(s.shape) * s.dtype.size for name, s in batches.dataset.element_spec.items()
    }
    step = len(config.tasks) * sum(size.values())
    print(
        f"a step {step / 1e9:.2f} GB, 3 on the host {3 * step / 1e9:.2f}, 4 on the devices "
        f"{4 * step / 1e9:.2f}"
    )
    assert size["image"] == 128 * 640 * 640 * 3
    assert step < 4 * 1.01 * size["image"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ops": "flip_lr|pad_image(8)"}, "must begin with decode"),
        ({"ops": "decode|pad_objects(3)"}, "'image' has no fixed shape"),
        ({"ops": "decode|pad_image(32)|flip_lr|pad_objects(3)"}, "flip_lr stands behind pad_image"),
        (
            {"ops": "decode|pad_image(32)|pad_image(40)|pad_objects(3)"},
            "pad_image stands behind pad_image",
        ),
        ({"ops": "decode|fixed_crop(8)|pad_image(8)"}, "'boxes' has no fixed shape"),
        ({"ops": "decode|pad_image(-8)|pad_objects(3)"}, "image size -8"),
        ({"seed": -1}, "seed=-1 must be in"),
        ({"batch_size": 0}, "batch_size=0 must be a positive multiple"),
        (
            {"batch_size": 5, "process_count": 2},
            "batch_size=5 must be a positive multiple of the 2 processes",
        ),
        ({"process_index": 2, "process_count": 2}, "process_index=2 must be in"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_batch(options, message):
    with pytest.raises(ValueError, match=message):
        pipeline.train_dataset(Source(7), **{"ops": ALL_OPS, "batch_size": 4, "seed": 0} | options)


def test_evaluation_refuses_ops_in_the_wrong_order_too():
    with pytest.raises(ValueError, match="flip_lr stands behind pad_image"):
        read_chain("decode|pad_image(8)|flip_lr")


def test_accelerators_are_left_to_jax():
    assert tf.config.get_visible_devices("GPU") == []


def test_python_ends_while_batches_are_being_made():
    """TensorFlow's threads run Python code; they used to deadlock with an interpreter that shuts
    down."""
    script = f"""
        import sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(pipeline.__file__).parents[2])!r}]
        import test_pipeline
        from pix2seq_jax.data import pipeline
        source, options = test_pipeline.Source(50), dict(batch_size=8, seed=0, workers=2)
        batches = iter(pipeline.train_dataset(source, {ALL_OPS!r}, **options))
        next(batches)
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60, capture_output=True
    )
