"""The losses of tokens, and their sum over a batch without the logits of the batch.

The logits of all positions are the largest array of a training step: 2.9 GB for 8 images of 10
objects, 261 tokens each and a vocabulary of 35,000. `weighted_sums` makes them a chunk of positions
at a time, takes loss, accuracy and gradient from the chunk, and forgets it. Positions of weight 0
get no logits.

Axes: B images, L positions of all sequences of an image, R = B·L rows, C rows of a chunk, D width,
V vocabulary.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pix2seq_jax.training import sharding

LOSSES = ("xent", "xent@SMOOTHING", "focal@GAMMA", "logistic", "logistic@SMOOTHING")
# Large enough for the matrix products to run at full speed, small beside a model.
CHUNK_BYTES = 64 * 2**20


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
    chunk_bytes: int = CHUNK_BYTES,
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
        chunk_bytes: most bytes of logits at a time.
    """
    return _forward(output, targets, weights, kind, length, chunk_bytes)[0]


def _forward(
    output: Output,
    targets: jax.Array,
    weights: jax.Array,
    kind: str,
    length: int,
    chunk_bytes: int,
) -> tuple[tuple[jax.Array, Sums], Output]:
    """(what `weighted_loss` returns, the gradient)."""
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
    chunk_bytes: int,
    gradient: Output,
    cotangent: tuple[jax.Array, Sums],
) -> tuple[Output, None, None]:
    del kind, length, chunk_bytes
    factor, _ = cotangent
    return jax.tree.map(lambda g: (factor * g).astype(g.dtype), gradient), None, None


weighted_loss.defvjp(_forward, _backward)


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
    shape, width = targets.shape, output.hidden.shape[-1]
    hidden = output.hidden.reshape(-1, width)  # [R,D]
    targets, weights = targets.reshape(-1), weights.reshape(-1)  # [R]
    counted = weights > 0
    count = len(targets)
    chunk = min(count, max(chunk_bytes // (4 * len(output.table)), 1))
    most = -(-count // chunk)
    # Rows that weigh come first; past the last of them the number is `count`, which is no row.
    order = jnp.nonzero(counted, size=most * chunk, fill_value=count)[0]
    table = output.table.astype(hidden.dtype)

    def add_chunk(index, carry):
        losses, correct, d_hidden, d_table, d_bias = carry
        rows = jax.lax.dynamic_slice_in_dim(order, index * chunk, chunk)
        part = (hidden, targets, weights)
        h, target, weight = (x.at[rows].get(mode="fill", fill_value=0) for x in part)
        logits = jnp.matmul(h, table.T, preferred_element_type=jnp.float32) + output.bias[None]

        def loss(logits):
            each = token_loss(logits, target, kind, length=length)
            return jnp.sum(weight * each), each

        (_, each), d_logits = jax.value_and_grad(loss, has_aux=True)(logits)
        slope = d_logits.astype(hidden.dtype)
        start = index * chunk
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return (
            put(losses, weight * each),
            put(correct, jnp.argmax(logits, axis=-1) == target),
            put(d_hidden, slope @ table),
            d_table + jnp.matmul(slope.T, h, preferred_element_type=jnp.float32),
            d_bias + jnp.sum(d_logits, axis=0),
        )

    start = (
        jnp.zeros(most * chunk),
        jnp.zeros(most * chunk, bool),
        jnp.zeros((most * chunk, width), hidden.dtype),
        jnp.zeros(output.table.shape),
        jnp.zeros(output.bias.shape),
    )
    chunks = -(-jnp.sum(counted) // chunk)
    if axes:  # the loop holds collectives of the model axis, which all devices must reach
        chunks = jax.lax.pmax(chunks, axes)
    losses, correct, d_hidden, d_table, d_bias = jax.lax.fori_loop(0, chunks, add_chunk, start)
    # Back in the order of the batch.
    rows = jnp.where(counted, jnp.cumsum(counted) - 1, most * chunk)
    losses, correct, d_hidden = (
        x.at[rows].get(mode="fill", fill_value=0) for x in (losses, correct, d_hidden)
    )
    columns = (losses, weights, correct, counted)
    sums = Sums(*(jnp.sum(x.reshape(shape).astype(jnp.float32), axis=1) for x in columns))
    d_table, d_bias = (jax.lax.psum(x, axes) if axes else x for x in (d_table, d_bias))
    return sums, Output(d_hidden.reshape(*shape, width), d_table, d_bias)


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
