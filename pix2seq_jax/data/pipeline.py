"""Batches of sources. Row k of global batch s is a pure function of (seed, s, k): no state,
resuming is arithmetic.

Row k of batch s of B rows is number d = s·B + k of all rows; data.order says which image that is.
Op number i of the row draws from the stateless seed (seed·2²⁰ + 16·i, d), which is unique. Process
p of P computes rows [p·B/P, (p+1)·B/P) only.
"""

import contextlib
import os
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pix2seq_jax.data.coco.json import Report
from pix2seq_jax.data.ops.chain import Chain, read_chain
from pix2seq_jax.data.order import placer
from pix2seq_jax.data.reading import Reader
from pix2seq_jax.data.source import LISTS, Source

INNER = ("keypoint_swap",)  # fields for the ops alone

# index i64[], epoch i64[], draw i64[] -> Example of one image
RowMaker = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]


def _leave_accelerators_to_jax() -> None:
    """TensorFlow would reserve the memory of every GPU it sees."""
    with contextlib.suppress(RuntimeError):  # already in use by the caller, who then has chosen
        tf.config.set_visible_devices([], "GPU")


_leave_accelerators_to_jax()


def cpu_count() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Linux has it alone
        return os.cpu_count() or 1


def _original(message: str, spec: str) -> ValueError:
    """The ValueError of our own code that TensorFlow flattened to text, or all that TensorFlow
    says."""
    own = re.search(r"ValueError: (.*?)\nTraceback", message, re.DOTALL)
    return ValueError(own.group(1) if own else f"preprocessing {spec!r} failed: {message}")


class BatchIterator:
    """Iterator of NumPy dicts; raises ValueError where a row cannot be made."""

    def __init__(self, batches: "Batches") -> None:
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

    def __iter__(self) -> BatchIterator:
        return BatchIterator(self)


@dataclass(frozen=True)
class Stream:
    """One of several kinds of rows in a batch.

    Attributes:
        source: of the images.
        ops: preprocessing string (or op instances) that ends in fixed shapes.
        weight: share of the rows, in proportion to the sum of all weights.
        task: number to tell the rows by.
    """

    source: Source
    ops: str | tuple
    weight: float = 1.0
    task: int = 0


def _row_maker(reader: Reader, chain: Chain, seed: int) -> RowMaker:
    """Reads and preprocesses one row; `draw` numbers all rows that are ever drawn with this
    seed."""
    # TensorFlow never forgets a Python function that a graph calls. This one must not keep the
    # source alive.
    weak, fields = weakref.ref(reader), reader.source.fields

    def read(*row: np.ndarray) -> tuple[np.ndarray, ...]:
        return weak()(*map(int, row))

    def make(index: tf.Tensor, epoch: tf.Tensor, draw: tf.Tensor) -> dict[str, tf.Tensor]:
        types = [tf.as_dtype(dtype) for dtype, _ in fields.values()]
        values = tf.numpy_function(read, [index, epoch, draw], types, stateful=False)
        example = {"crop_offset": tf.zeros([2], tf.int32)}
        for (name, (_, shape)), value in zip(fields.items(), values, strict=True):
            value.set_shape(shape)
            example[name] = value
        for number, op in enumerate(chain.tensor_ops):
            example = op(
                example, tf.stack([tf.constant(seed * 2**20 + 16 * number, tf.int64), draw])
            )
        return {name: value for name, value in example.items() if name not in INNER}

    return make


def _check_shapes(specs: dict[str, tf.TensorSpec], spec: str) -> None:
    for name, value in specs.items():
        if not value.shape.is_fully_defined():
            raise ValueError(
                f"preprocessing {spec!r}: {name!r} has no fixed shape ({value.shape}) and cannot "
                "be batched; end with pad_image(size) and pad_objects(n)"
            )


def _batched(
    rows: tf.data.Dataset, make: Callable, size: int, workers: int, spec: str
) -> tf.data.Dataset:
    """Maps rows in parallel (in order), batches, and keeps two batches ready."""
    make = tf.autograph.experimental.do_not_convert(make)  # errors of our code stay as they are
    dataset = rows.map(make, num_parallel_calls=workers, deterministic=True)
    _check_shapes(dataset.element_spec, spec)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = workers
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    return dataset.batch(size, drop_remainder=True).prefetch(2).with_options(options)


def _rows(batch_size: int, process_index: int, process_count: int) -> int:
    """Rows of one process."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size} must be a positive multiple of the {process_count} "
            "processes; change batch_size"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} must be in [0, {process_count})")
    return batch_size // process_count


def _union(rows: Sequence[dict[str, tf.TensorSpec]]) -> dict[str, tf.TensorSpec]:
    """Fields of all streams: as many objects as the stream with most has, and as many captions.

    Raises ValueError where streams differ in other ways: one batch cannot hold them.
    """
    fields = [(name, value) for row in rows for name, value in row.items()]
    longest = {"N": 0, "C": 0}
    for name, value in fields:
        if name in LISTS:
            longest[LISTS[name]] = max(longest[LISTS[name]], value.shape[0])
    union: dict[str, tf.TensorSpec] = {}
    for name, value in fields:
        grown = [longest[LISTS[name]], *value.shape[1:]] if name in LISTS else value.shape
        other = union.setdefault(name, tf.TensorSpec(grown, value.dtype))
        if (other.shape, other.dtype) != (grown, value.dtype):
            raise ValueError(
                f"the streams give {name!r} as {value.dtype.name}{list(grown)} and as "
                f"{other.dtype.name}{list(other.shape)}; they go into one batch, so their "
                "preprocessing must end in images of one size, and their sources must have the "
                "same max_points, joints and max_tokens"
            )
    return union


def _fill(example: dict[str, tf.Tensor], union: dict[str, tf.TensorSpec]) -> dict[str, tf.Tensor]:
    """Appends zeros up to the shapes of the union; fields that are missing are zeros."""
    filled = {}
    for name, spec in union.items():
        value = example.get(name)
        if value is None:
            filled[name] = tf.zeros(spec.shape, spec.dtype)
        elif value.shape != spec.shape:
            value = tf.pad(
                value, [[0, spec.shape[0] - value.shape[0]]] + [[0, 0]] * (len(spec.shape) - 1)
            )
            filled[name] = tf.ensure_shape(value, spec.shape)
        else:
            filled[name] = value
    return filled


def _mixed(
    streams: Sequence[Stream], makers: Sequence[RowMaker]
) -> Callable[..., dict[str, tf.Tensor]]:
    """(stream, index, epoch, draw, each i64[]) -> one row of the fields of all streams; only that
    stream runs."""
    specs = []
    for stream, maker in zip(streams, makers, strict=True):
        traced = tf.autograph.experimental.do_not_convert(lambda i, maker=maker: maker(i, i, i))
        specs.append(tf.data.Dataset.range(1).map(traced).element_spec)
        _check_shapes(specs[-1], str(stream.ops))
    union, tasks = _union(specs), [stream.task for stream in streams]

    def make(
        number: tf.Tensor, index: tf.Tensor, epoch: tf.Tensor, draw: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        branches = [lambda maker=maker: _fill(maker(index, epoch, draw), union) for maker in makers]
        return {
            **tf.switch_case(tf.cast(number, tf.int32), branches),
            "task": tf.constant(tasks, tf.int32)[number],
        }

    return make


def _as_streams(source, ops) -> tuple[list[Stream], bool]:
    """The streams, and whether they were given as such."""
    given = isinstance(source, Stream) or (
        isinstance(source, list | tuple) and isinstance(next(iter(source), None), Stream)
    )
    if given == (ops is not None):
        raise ValueError(
            "give a source and its preprocessing, or streams, each of which brings its own"
        )
    return ([source] if isinstance(source, Stream) else list(source)) if given else [
        Stream(source, ops)
    ], given


def _check_numbers(batch_size: int, repeats: int, seed: int) -> None:
    """Raises ValueError for numbers that do not fit."""
    if repeats < 1 or batch_size % repeats:
        raise ValueError(f"batch_size={batch_size} must be a multiple of repeats={repeats}")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed={seed} must be in [0, 2**31)")


def train_dataset(
    source: Source | Stream | Sequence[Stream],
    ops: str | tuple | None = None,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int | None = None,
    repeats: int = 1,
    bad_images: Report | None = None,
) -> Batches:
    """Endless batches for training; the first one is that of `start_step`.

    Args:
        source: of the images. Or Streams, mixed row by row in proportion to their weights, exactly
            so over CYCLE images.
        ops: preprocessing string (or op instances) that ends in fixed shapes; None with Streams.
        batch_size: rows of a global batch, repeats included.
        seed: of the order and of all augmentation, 0 to 2³¹ - 1.
        start_step: s of the first batch.
        process_index, process_count: which of that many blocks of rows of each batch to compute
            (feed.row_block).
        workers: images prepared at a time, by default the number of cores; the batches do not
            depend on it.
        repeats: differently augmented copies of each image in a batch (side by side).
        bad_images: counts and names the images that cannot be read. Such a row reads another image
            of its source, the same one whenever it is drawn. None: they are errors.

    Returns:
        Batches of this process' rows of global batches start_step, start_step + 1, ...: Example
        dicts, `valid` True. With Streams also `task i32[B]`; fields that a row's stream does not
        give are zeros, as are further objects.

    Raises:
        ValueError: ops, sizes, seed, weights or shapes do not fit; while iterating: an image cannot
            be read (names the file), or reading.ATTEMPTS of them in a row.
    """
    _check_numbers(batch_size, repeats, seed)
    streams, given = _as_streams(source, ops)
    spec = " and ".join(str(stream.ops) for stream in streams)
    local = _rows(batch_size, process_index, process_count)
    weights = [stream.weight for stream in streams]
    place = placer([len(stream.source) for stream in streams], weights, seed=seed, repeats=repeats)
    chains = [read_chain(stream.ops) for stream in streams]
    readers = tuple(
        Reader(stream.source, chain.decode, seed, bad_images)
        for stream, chain in zip(streams, chains, strict=True)
    )
    makers = [
        _row_maker(reader, chain, seed) for reader, chain in zip(readers, chains, strict=True)
    ]
    row_of = _mixed(streams, makers) if given else makers[0]

    def places(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        draw = step * batch_size + process_index * local + tf.range(local, dtype=tf.int64)
        return *place(draw), draw

    def make(
        number: tf.Tensor, index: tf.Tensor, epoch: tf.Tensor, draw: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        row = row_of(number, index, epoch, draw) if given else row_of(index, epoch, draw)
        return {**row, "valid": tf.constant(True)}

    rows = (
        tf.data.Dataset.range(start_step, np.iinfo(np.int64).max // batch_size)
        .map(places)
        .unbatch()
    )
    return Batches(_batched(rows, make, local, workers or cpu_count(), spec), spec, readers)
