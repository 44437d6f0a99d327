"""The losses of tokens, and their sum over a batch without the logits of the batch.

The logits of all positions are the largest array of a training step: 2.9 GB for 8 images of 10
objects, 261 tokens each and a vocabulary of 35,000. `weighted_sums` makes them a chunk of positions
at a time, takes loss, accuracy and gradient from the chunk, and forgets it. Positions of weight 0
get no logits.

Axes: B images, L positions of all sequences of an image, R = B·L rows, C rows of a chunk, D width,
V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pix2seq_jax.decoding.sampling import Greedy
from pix2seq_jax.training import sharding

LOSSES = ("xent", "xent@SMOOTHING", "focal@GAMMA", "logistic", "logistic@SMOOTHING")
# Of the logits at a time: large enough for the matrix products to run at full speed, small beside a
# model. An accelerator needs more rows for that, and each chunk adds to the whole gradient of the
# table.
CHUNK_BYTES, ACCELERATOR_CHUNK_BYTES = 64 * 2**20, 512 * 2**20


class Output(NamedTuple):
    """What logits are made of: hidden @ table.T + bias.

    Attributes:
        hidden: [B,L,D]; products take its dtype and are summed up in float32.
        table: f32[V,D].
        bias: f32[V].
    """

    hidden: jax.Array
    table: jax.Array
    bias: jax.Array


class Sums(NamedTuple):
    """Sums over the positions of each image, f32[B].

    Attributes:
        loss: of weight * token loss.
        weight: of the weights.
        correct: number of weighted targets that are the likeliest token.
        tokens: number of weighted targets.
    """

    loss: jax.Array
    weight: jax.Array
    correct: jax.Array
    tokens: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def weighted_loss(
    output: Output,
    targets: jax.Array,
    weights: jax.Array,
    kind: str,
    length: int,
    chunk_bytes: int | None = None,
) -> tuple[jax.Array, Sums]:
    """(sum of weight * token loss over the batch, sums by image).

    The first has a gradient, with respect to `output`. It is computed along with the value, so that
    the logits of a chunk are made once.

    Args:
        output: of the decoder.
        targets: i32[B,L].
        weights: f32[B,L], at least 0.
        kind: one of LOSSES.
        length: T, positions of a sequence; for the logistic loss.
        chunk_bytes: most bytes of logits at a time; None for `chunk_limit`.
    """
    return _forward(output, targets, weights, kind, length, chunk_bytes)[0]


def _forward(
    output: Output,
    targets: jax.Array,
    weights: jax.Array,
    kind: str,
    length: int,
    chunk_bytes: int | None,
) -> tuple[tuple[jax.Array, Sums], Output]:
    """(what `weighted_loss` returns, the gradient)."""
    chunk_bytes = chunk_limit() if chunk_bytes is None else chunk_bytes
    run = functools.partial(_over_chunks, kind=kind, length=length, chunk_bytes=chunk_bytes)
    # Every device takes chunks of its own rows. Chunks of the rows of all would have to be fetched.
    if axes := sharding.auto_batch_axes():
        rows, whole = PartitionSpec(axes), PartitionSpec()
        gradient = Output(rows, whole, whole)
        run = jax.shard_map(
            functools.partial(run, axes=axes),
            in_specs=(gradient, rows, rows),
            out_specs=(Sums(rows, rows, rows, rows), gradient),
            axis_names=set(axes),
            check_vma=False,
        )
    sums, gradient = run(output, targets, weights)
    return (jnp.sum(sums.loss), sums), gradient


def _backward(
    kind: str,
    length: int,
    chunk_bytes: int | None,
    gradient: Output,
    cotangent: tuple[jax.Array, Sums],
) -> tuple[Output, None, None]:
    del kind, length, chunk_bytes
    factor, _ = cotangent
    return jax.tree.map(lambda g: (factor * g).astype(g.dtype), gradient), None, None


weighted_loss.defvjp(_forward, _backward)


def chunk_limit() -> int:
    """Most bytes of logits at a time on this machine."""
    return CHUNK_BYTES if jax.default_backend() == "cpu" else ACCELERATOR_CHUNK_BYTES


class Rows(NamedTuple):
    """Positions of all sequences in one row each: hidden [R,D], targets i32[R], weights f32[R]."""

    hidden: jax.Array
    targets: jax.Array
    weights: jax.Array


class ChunkSums(NamedTuple):
    """What is summed up over the chunks, or written for the rows of each."""

    loss: jax.Array  # f32[R] weighted
    correct: jax.Array  # bool[R]
    hidden: jax.Array  # [R,D] gradient
    table: jax.Array  # f32[V,D] gradient
    bias: jax.Array  # f32[V] gradient


def _over_chunks(
    output: Output,
    targets: jax.Array,
    weights: jax.Array,
    *,
    kind: str,
    length: int,
    chunk_bytes: int,
    axes: tuple[str, ...] = (),
) -> tuple[Sums, Output]:
    """(sums by image, gradient of the sum of all) of the rows of this device, or of all rows.

    Args:
        axes: of the mesh, over which the rows are cut; the gradients of table and bias are summed
            up over them.
    """
    hidden, table, bias = output
    rows = Rows(hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1), weights.reshape(-1))
    counted = rows.weights > 0
    chunk = min(len(counted), max(chunk_bytes // (4 * len(table)), 1))
    room = -(-len(counted) // chunk) * chunk
    # Rows that weigh come first; past the last of them the number is that of no row.
    order = jnp.nonzero(counted, size=room, fill_value=len(counted))[0]
    chunks = -(-jnp.sum(counted) // chunk)
    if axes:  # the loop holds collectives of the model axis, which all devices must reach
        chunks = jax.lax.pmax(chunks, axes)
    table = table.astype(hidden.dtype)
    work = functools.partial(_chunk, table=table, bias=bias, kind=kind, length=length)
    sums = _sum_up(work, rows, order.reshape(-1, chunk), chunks)
    # Back to the order of the batch.
    source = jnp.where(counted, jnp.cumsum(counted) - 1, room)
    loss, correct, d_hidden = (x.at[source].get(mode="fill", fill_value=0) for x in sums[:3])
    by_image = Sums(
        *(
            jnp.sum(x.reshape(targets.shape).astype(jnp.float32), axis=1)
            for x in (loss, rows.weights, correct, counted)
        )
    )
    d_table, d_bias = sums.table, sums.bias
    if axes:
        d_table, d_bias = jax.lax.psum((d_table, d_bias), axes)
    return by_image, Output(d_hidden.reshape(hidden.shape), d_table, d_bias)


def _sum_up(
    work: Callable[[Rows], ChunkSums], rows: Rows, order: jax.Array, chunks: jax.Array
) -> ChunkSums:
    """The work on the first `chunks` of the chunks i32[chunk,C] of rows, in their order."""

    def take(index) -> Rows:
        return Rows(*(x.at[order[index]].get(mode="fill", fill_value=0) for x in rows))

    one = jax.eval_shape(work, jax.eval_shape(take, 0))
    start = ChunkSums(
        *(jnp.zeros((order.size, *x.shape[1:]), x.dtype) for x in one[:3]),
        table=jnp.zeros(one.table.shape),
        bias=jnp.zeros(one.bias.shape),
    )

    def add(index, sums):
        new = work(take(index))
        put = functools.partial(
            jax.lax.dynamic_update_slice_in_dim, start_index=index * order.shape[1], axis=0
        )
        return ChunkSums(
            *(put(old, x) for old, x in zip(sums[:3], new[:3], strict=True)),
            table=sums.table + new.table,
            bias=sums.bias + new.bias,
        )

    return jax.lax.fori_loop(0, chunks, add, start)


def _chunk(rows: Rows, table: jax.Array, bias: jax.Array, kind: str, length: int) -> ChunkSums:
    """Loss, accuracy and gradient of C rows; the only place with logits, f32[C,V]."""
    hidden, targets, weights = rows
    logits = jnp.matmul(hidden, table.T, preferred_element_type=jnp.float32) + bias[None]

    def weighted(logits):
        loss = weights * token_loss(logits, targets, kind, length=length)
        return jnp.sum(loss), loss

    (_, loss), d_logits = jax.value_and_grad(weighted, has_aux=True)(logits)
    slope = d_logits.astype(hidden.dtype)
    return ChunkSums(
        loss=loss,
        correct=Greedy()(logits) == targets,
        hidden=slope @ table,
        table=jnp.matmul(slope.T, hidden, preferred_element_type=jnp.float32),
        bias=jnp.sum(d_logits, axis=0),
    )


def token_loss(
    logits: jax.Array, targets: jax.Array, kind: str = "xent", *, length: int | None = None
) -> jax.Array:
    """Loss of every token.

    Args:
        logits: f32[...,T,V].
        targets: i32[...,T].
        kind: one of LOSSES. "xent@s" smooths labels by s (Szegedy et al. 2016), "focal@g" is the
            focal loss (Lin et al. 2017), "logistic" a sum of V binary losses.
        length: of the sequences, where `logits` are not whole ones; for the logistic loss.

    Returns:
        f32[...,T], unweighted.

    Raises:
        ValueError: unknown kind.
    """
    name, _, number = kind.partition("@")
    try:
        value = float(number) if "@" in kind else 0.0
    except ValueError:
        name = ""
    # A sum, because the gradient of a gather is a scatter into an array like the logits.
    columns = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    target_logit = jnp.sum(jnp.where(columns == targets[..., None], logits, 0.0), axis=-1)
    if name == "xent":
        log_sum = jax.nn.logsumexp(logits, axis=-1)
        smooth = value * jnp.mean(logits, axis=-1) if value else 0.0
        return log_sum - (1.0 - value) * target_logit - smooth
    if name == "focal":
        # The 1e-8 inside the logarithm is the release's; it bounds the loss of one token by 18.4.
        p = jnp.exp(target_logit - jax.nn.logsumexp(logits, axis=-1))
        # The slope of (1 - p)^g at p = 1 is infinite for g < 1; loss and gradient are 0 there.
        rest = 1.0 - p
        power = jnp.where(rest > 0.0, jnp.where(rest > 0.0, rest, 1.0) ** value, 0.0**value)
        return -power * jnp.log(p + 1e-8)
    if name == "logistic":
        # The release shifts by the log of the sequence length, not of the vocabulary.
        shift = jnp.log(jnp.asarray(length or logits.shape[-2], logits.dtype))
        logits, target_logit = logits - shift, target_logit - shift
        negative = jnp.sum(jax.nn.softplus(logits) - value * logits, axis=-1)
        return negative - (1.0 - 2.0 * value) * target_logit
    raise ValueError(
        f"train.loss={kind!r}: use one of {LOSSES}, the capital word a number as in 'xent@0.1'"
    )
