"""Batches of a source. Row k of global batch s is a pure function of (seed, s, k): no state, resuming is arithmetic.

Row k of batch s is place q = s·B/r + k//r of an endless list of images (r repeats, B rows); its epoch e = q // N is a
permutation of the N images by TensorFlow's index shuffle, seeded with (seed, e). Op number i of the row draws from the
stateless seed (seed·2²⁰ + 16·i, s·B + k), which is unique. Process p of P computes rows [p·B/P, (p+1)·B/P) only.
"""

import contextlib
import os
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pix2seq_jax.data import ops_image, ops_objects
from pix2seq_jax.data.parse import parse

OPS = {**ops_image.OPS, **ops_objects.OPS}
INNER = ("keypoint_swap",)  # fields for the ops alone


def _leave_accelerators_to_jax() -> None:
    """TensorFlow would reserve the memory of every GPU it sees."""
    with contextlib.suppress(RuntimeError):  # already in use by the caller, who then has chosen
        tf.config.set_visible_devices([], "GPU")


_leave_accelerators_to_jax()


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _original(message: str, spec: str) -> ValueError:
    """The ValueError of our own code that TensorFlow flattened to text, or all that TensorFlow says."""
    own = re.search(r"ValueError: (.*?)\nTraceback", message, re.DOTALL)
    return ValueError(own.group(1) if own else f"preprocessing {spec!r} failed: {message}")


class BatchIterator:
    """Iterator of NumPy dicts; raises ValueError where a row cannot be made."""

    def __init__(self, dataset: tf.data.Dataset, spec: str) -> None:
        self._spec = spec
        self._held = [dataset.as_numpy_iterator()]
        # TensorFlow's threads run our Python code. Left alone, they deadlock with an interpreter that shuts down;
        # letting go of the iterator before that (finalizers run first) ends them.
        self.close = weakref.finalize(self, self._held.clear)

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._held:
            raise StopIteration
        try:
            return next(self._held[0])
        except tf.errors.OpError as error:
            message = error.message
        self.close()
        raise _original(message, self._spec)


@dataclass(frozen=True)
class Batches:
    """Iterable of NumPy dicts; every `iter()` starts again at the first batch."""

    dataset: tf.data.Dataset
    spec: str
    length: int | None = None

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("training batches have no end")
        return self.length

    def __iter__(self) -> BatchIterator:
        return BatchIterator(self.dataset, self.spec)


def _row_maker(source, ops: str | tuple, seed: int) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """(index i64[], draw i64[]) -> one preprocessed row; `draw` numbers all rows that are ever drawn with this seed."""
    chain = parse(ops, OPS) if isinstance(ops, str) else tuple(ops)
    if not chain or not isinstance(chain[0], ops_image.Decode):
        raise ValueError(f"preprocessing {ops!r} must begin with decode")

    def read(index: np.ndarray) -> tuple:
        features = chain[0].read(source[int(index)])
        return tuple(features[name] for name in source.fields)

    def make(index: tf.Tensor, draw: tf.Tensor) -> dict[str, tf.Tensor]:
        types = [tf.as_dtype(dtype) for dtype, _ in source.fields.values()]
        values = tf.numpy_function(read, [index], types, stateful=False)
        example = {"crop_offset": tf.zeros([2], tf.int32)}
        for (name, (_, shape)), value in zip(source.fields.items(), values, strict=True):
            value.set_shape(shape)
            example[name] = value
        for number, op in enumerate(chain[1:]):
            example = op(example, tf.stack([tf.constant(seed * 2**20 + 16 * number, tf.int64), draw]))
        return {name: value for name, value in example.items() if name not in INNER}

    return make


def _batched(rows: tf.data.Dataset, make: Callable, size: int, workers: int, spec: str) -> tf.data.Dataset:
    """Maps rows in parallel (in order), batches, and keeps two batches ready."""
    make = tf.autograph.experimental.do_not_convert(make)  # errors of our code stay as they are
    dataset = rows.map(make, num_parallel_calls=workers, deterministic=True)
    for name, value in dataset.element_spec.items():
        if not value.shape.is_fully_defined():
            raise ValueError(
                f"preprocessing {spec!r}: {name!r} has no fixed shape ({value.shape}) and cannot be batched; "
                "end with pad_image(size) and pad_objects(n)"
            )
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = workers
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    return dataset.batch(size, drop_remainder=True).prefetch(2).with_options(options)


def slots(ops: str) -> int:
    """Objects per image that a preprocessing string lets through: the smallest `n` of its ops."""
    return min(op.n for op in parse(ops, OPS) if hasattr(op, "n"))


def _rows(batch_size: int, process_index: int, process_count: int) -> int:
    """Rows of one process."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size} must be a positive multiple of the {process_count} processes; change batch_size"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} must be in [0, {process_count})")
    return batch_size // process_count


def train_dataset(
    source,
    ops: str | tuple,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int | None = None,
    repeats: int = 1,
) -> Batches:
    """Endless batches for training; the first one is that of `start_step`.

    Args:
        source: `len`, `[i]` -> raw features, `fields` (data.sources).
        ops: preprocessing string (or op instances) that ends in fixed shapes.
        batch_size: rows of a global batch, repeats included.
        seed: of the order and of all augmentation, 0 to 2³¹ - 1.
        start_step: s of the first batch.
        process_index, process_count: which rows of each batch to compute.
        workers: images prepared at a time, by default the number of cores; the batches do not depend on it.
        repeats: differently augmented copies of each image in a batch (side by side).

    Returns:
        Batches of this process' rows of global batches start_step, start_step + 1, ...: Example dicts, `valid` True.

    Raises:
        ValueError: ops, sizes or seed do not fit; while iterating: an image cannot be decoded (names the file).
    """
    if repeats < 1 or batch_size % repeats:
        raise ValueError(f"batch_size={batch_size} must be a multiple of repeats={repeats}")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed={seed} must be in [0, 2**31)")
    local, images = _rows(batch_size, process_index, process_count), len(source)
    row_of = _row_maker(source, ops, seed)

    def places(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        draw = step * batch_size + process_index * local + tf.range(local, dtype=tf.int64)
        epoch, place = draw // repeats // images, draw // repeats % images
        seeds = tf.stack([tf.fill([local], tf.constant(seed, tf.int64)), epoch, tf.zeros_like(epoch)], axis=1)
        last = tf.constant(images - 1, tf.int64)
        return tf.raw_ops.RandomIndexShuffle(index=place, seed=seeds, max_index=last, rounds=4), draw

    def make(index: tf.Tensor, draw: tf.Tensor) -> dict[str, tf.Tensor]:
        return {**row_of(index, draw), "valid": tf.constant(True)}

    rows = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max // batch_size).map(places).unbatch()
    return Batches(_batched(rows, make, local, workers or cpu_count(), str(ops)), str(ops))


def eval_dataset(
    source,
    ops: str | tuple,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    limit: int | None = None,
    workers: int | None = None,
) -> Batches:
    """Every image once, in the order of the source; arguments as in `train_dataset`.

    The last batch is filled up with rows of `valid` False, `image_id` -1 and labels 0. All processes get the same
    number of batches; concatenated, their rows are the global batch.

    Args:
        limit: only the first `limit` images.

    Returns:
        `len()` batches of this process' rows.
    """
    images = min(len(source), limit or len(source))
    local = _rows(batch_size, process_index, process_count)
    batches = -(-images // batch_size)
    row_of = _row_maker(source, ops, 0)

    def make(row: tf.Tensor) -> dict[str, tf.Tensor]:
        place = row // local * batch_size + process_index * local + row % local
        valid = place < images
        example = row_of(tf.minimum(place, images - 1), place)
        example["image_id"] = tf.where(valid, example["image_id"], -1)
        if "labels" in example:
            example["labels"] = tf.where(valid, example["labels"], 0)
        return {**example, "valid": valid}

    rows = tf.data.Dataset.range(batches * local)
    return Batches(_batched(rows, make, local, workers or cpu_count(), str(ops)), str(ops), batches)
