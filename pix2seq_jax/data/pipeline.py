"""Batches of sources. Row k of global batch s is a pure function of (seed, s, k): no state,
resuming is arithmetic.

Row k of batch s of B rows is number d = s·B + k of all rows; data.order says which image that is,
and ops.chain.apply what its ops draw from. Process p of P computes rows [p·B/P, (p+1)·B/P) only.
"""

import os
import re
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pix2seq_jax.data.coco.json import Report
from pix2seq_jax.data.mixing import MixedRowMaker, Row, RowMaker, Stream, mix
from pix2seq_jax.data.ops.chain import Chain, apply, check_shapes, read_chain
from pix2seq_jax.data.order import image_order
from pix2seq_jax.data.reading import ImageCache, Reader
from pix2seq_jax.data.source import Source

INNER = ("keypoint_swap",)  # fields for the ops alone


def train_dataset(
    source: Source | Stream | Sequence[Stream],
    ops: str | tuple | None = None,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    stride: int = 1,
    process_index: int = 0,
    process_count: int = 1,
    workers: int | None = None,
    repeats: int = 1,
    bad_images: Report | None = None,
    cache: ImageCache | None = None,
) -> "Batches":
    """Endless batches for training; the first one is that of `start_step`.

    Args:
        source: of the images. Or Streams, mixed row by row in proportion to their weights, exactly
            so over CYCLE images.
        ops: preprocessing string (or op instances) that ends in fixed shapes; None with Streams.
        batch_size: rows of a global batch, repeats included.
        seed: of the order and of all augmentation, 0 to 2³¹ - 1.
        start_step: s of the first batch.
        stride: from a batch to the next, in steps; worker processes share them out so.
        process_index, process_count: which of that many blocks of rows of each batch to compute
            (feed.row_block).
        workers: images prepared at a time, by default the number of cores; the batches do not
            depend on it.
        repeats: differently augmented copies of each image in a batch (side by side).
        bad_images: counts and names the images that cannot be read. Such a row reads another image
            of its source, the same one whenever it is drawn. None: they are errors.
        cache: of decoded images; one may serve several data sets. None: an image is read whenever
            it is drawn.

    Returns:
        Batches of this process' rows of global batches start_step, start_step + stride, ...:
        Example dicts, `valid` True. With Streams also `task i32[B]`; fields that a row's stream
        does not give are zeros, as are further objects.

    Raises:
        ValueError: ops, sizes, seed, weights or shapes do not fit; while iterating: an image cannot
            be read (names the file), or reading.ATTEMPTS of them in a row.
    """
    # What is read: streams, which image each row shows, and how a row is made of it.
    _check_numbers(batch_size, repeats, seed)
    local = _rows_of_process(batch_size, process_index, process_count)
    streams = _as_streams(source, ops)
    spec = " and ".join(str(stream.ops) for stream in streams)
    weights = [stream.weight for stream in streams]
    lengths = [len(stream.source) for stream in streams]
    image_of = image_order(lengths, weights, seed=seed, repeats=repeats)
    chains = [read_chain(stream.ops) for stream in streams]
    readers = tuple(
        Reader(stream.source, chain.decode, seed, bad_images, cache)
        for stream, chain in zip(streams, chains, strict=True)
    )
    make = _batch_row(streams, chains, readers, seed, mixed=ops is None)

    # Numbers of rows, endlessly.
    def numbered(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        draw = step * batch_size + process_index * local + tf.range(local, dtype=tf.int64)
        return *image_of(draw), draw

    steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max // batch_size, stride)
    numbers = steps.map(numbered).unbatch()

    # Rows, prepared in parallel, and batches of them.
    dataset = _batched(numbers, make, local, workers or cpu_count(), spec)
    return Batches(dataset, spec, readers)


def _check_numbers(batch_size: int, repeats: int, seed: int) -> None:
    """Raises ValueError for numbers that do not fit."""
    if repeats < 1 or batch_size % repeats:
        raise ValueError(f"batch_size={batch_size} must be a multiple of repeats={repeats}")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed={seed} must be in [0, 2**31)")


def _rows_of_process(batch_size: int, process_index: int, process_count: int) -> int:
    """How many rows of a batch one process makes."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size} must be a positive multiple of the {process_count} "
            "processes; change batch_size"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} must be in [0, {process_count})")
    return batch_size // process_count


def _as_streams(
    source: Source | Stream | Sequence[Stream], ops: str | tuple | None
) -> list[Stream]:
    """The streams, or one of a source and its preprocessing."""
    streams = [source] if isinstance(source, Stream) else source
    mixed = isinstance(streams, list | tuple) and all(isinstance(one, Stream) for one in streams)
    if mixed != (ops is None):
        raise ValueError(
            "give a source and its preprocessing, or streams, each of which brings its own"
        )
    return list(streams) if mixed else [Stream(source, ops)]


def _batch_row(
    streams: Sequence[Stream],
    chains: Sequence[Chain],
    readers: Sequence[Reader],
    seed: int,
    *,
    mixed: bool,
) -> MixedRowMaker:
    """How a row of a batch is made; with the task that it is for where streams are mixed."""
    makers = [
        _row_maker(reader, chain, seed) for reader, chain in zip(readers, chains, strict=True)
    ]
    row_of = mix(streams, makers) if mixed else lambda number, *image: makers[0](*image)

    def make(number: tf.Tensor, index: tf.Tensor, epoch: tf.Tensor, draw: tf.Tensor) -> Row:
        return {**row_of(number, index, epoch, draw), "valid": tf.constant(True)}

    return make


def _row_maker(reader: Reader, chain: Chain, seed: int) -> RowMaker:
    """Reads and preprocesses one row; `draw` numbers all rows that are ever drawn with this
    seed."""
    # TensorFlow never forgets a Python function that a graph calls. This one must not keep the
    # source alive.
    weak, fields = weakref.ref(reader), reader.source.fields

    def read(*row: np.ndarray) -> tuple[np.ndarray, ...]:
        return weak()(*map(int, row))

    def make(index: tf.Tensor, epoch: tf.Tensor, draw: tf.Tensor) -> Row:
        types = [tf.as_dtype(dtype) for dtype, _ in fields.values()]
        values = tf.numpy_function(read, [index, epoch, draw], types, stateful=False)
        example = {"crop_offset": tf.zeros([2], tf.int32)}
        for (name, (_, shape)), value in zip(fields.items(), values, strict=True):
            value.set_shape(shape)
            example[name] = value
        example = apply(chain.tensor_ops, example, seed, draw)
        return {name: value for name, value in example.items() if name not in INNER}

    return make


def _batched(
    numbers: tf.data.Dataset, make: MixedRowMaker, size: int, workers: int, spec: str
) -> tf.data.Dataset:
    """Makes rows in parallel (in order), batches them, and keeps two batches ready."""
    make = tf.autograph.experimental.do_not_convert(make)  # errors of our code stay as they are
    dataset = numbers.map(make, num_parallel_calls=workers, deterministic=True)
    check_shapes(dataset.element_spec, spec)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = workers
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    return dataset.batch(size, drop_remainder=True).prefetch(2).with_options(options)


def cpu_count() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # no such call on this system
        return os.cpu_count() or 1


@dataclass(frozen=True)
class Batches:
    """Endless iterable of NumPy dicts; every `iter()` starts again at the first batch.

    Attributes:
        dataset: of batches.
        spec: preprocessing, for errors.
        readers: what the dataset reads with; they live as long as this and its iterators.
    """

    dataset: tf.data.Dataset
    spec: str
    readers: tuple[Reader, ...]

    def __iter__(self) -> "BatchIterator":
        return BatchIterator(self)


class BatchIterator:
    """Iterator of NumPy dicts; raises ValueError where a row cannot be made."""

    def __init__(self, batches: Batches) -> None:
        self._spec = batches.spec
        # In this order: a list is cleared from its end, and TensorFlow's threads read until their
        # iterator is gone.
        self._held = [batches.readers, batches.dataset.as_numpy_iterator()]
        # TensorFlow's threads run our Python code. Left alone, they deadlock with an interpreter
        # that shuts down; letting go of the iterator before that (finalizers run first) ends them.
        self.close = weakref.finalize(self, self._held.clear)

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._held:
            raise StopIteration
        try:
            return next(self._held[-1])
        except tf.errors.OpError as error:
            message = error.message
        self.close()
        raise _original(message, self._spec)


def _original(message: str, spec: str) -> ValueError:
    """The ValueError of our own code that TensorFlow flattened to text, or all that TensorFlow
    says."""
    own = re.search(r"ValueError: (.*?)\nTraceback", message, re.DOTALL)
    return ValueError(own.group(1) if own else f"preprocessing {spec!r} failed: {message}")
