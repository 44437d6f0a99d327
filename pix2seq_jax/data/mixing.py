"""Several streams of rows in one batch: every row comes from one of them and has the fields of all.

Which stream a row is drawn from is decided by data.order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from pix2seq_jax.data.ops.chain import check_shapes
from pix2seq_jax.data.source import LISTS, Source

Row = dict[str, tf.Tensor]
# index i64[], epoch i64[], draw i64[] -> the row
RowMaker = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Row]
# the same after the number of the stream i64[]
MixedRowMaker = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], Row]


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


def mix(streams: Sequence[Stream], makers: Sequence[RowMaker]) -> MixedRowMaker:
    """One row with the fields of all streams and `task i32[]`; only the stream that is drawn runs.

    Raises:
        ValueError: rows that cannot share a batch.
    """
    specs = []
    for stream, maker in zip(streams, makers, strict=True):
        traced = tf.autograph.experimental.do_not_convert(lambda i, maker=maker: maker(i, i, i))
        specs.append(tf.data.Dataset.range(1).map(traced).element_spec)
        check_shapes(specs[-1], str(stream.ops))
    union, tasks = _union(specs), [stream.task for stream in streams]

    def make(number: tf.Tensor, index: tf.Tensor, epoch: tf.Tensor, draw: tf.Tensor) -> Row:
        branches = [lambda maker=maker: _fill(maker(index, epoch, draw), union) for maker in makers]
        row = tf.switch_case(tf.cast(number, tf.int32), branches)
        return {**row, "task": tf.constant(tasks, tf.int32)[number]}

    return make


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
                "same max_points, keypoints and max_tokens"
            )
    return union


def _fill(row: Row, union: dict[str, tf.TensorSpec]) -> Row:
    """Appends zeros up to the shapes of the union; fields that are missing are zeros."""
    filled = {}
    for name, spec in union.items():
        value = row.get(name)
        if value is None:
            filled[name] = tf.zeros(spec.shape, spec.dtype)
        elif value.shape == spec.shape:
            filled[name] = value
        else:
            missing = [[0, 0]] * len(spec.shape)
            missing[0] = [0, spec.shape[0] - value.shape[0]]
            filled[name] = tf.ensure_shape(tf.pad(value, missing), spec.shape)
    return filled
