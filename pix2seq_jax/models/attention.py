"""Multi-head attention with the heads-first layout [B,H,T,D/H].

Axes: B images, N sequences per image, T tokens that ask, S tokens that are attended to, H heads, D
width, L layers.
"""

import re
from collections.abc import Sequence

import jax
from flax import linen as nn
from jax import lax
from jax import numpy as jnp

from pix2seq_jax.models.axes import constrain, spread_axes
from pix2seq_jax.models.blockwise import blockwise
from pix2seq_jax.models.layers import ZEROS, Stack, kernel_steps, matmul, multiply
from pix2seq_jax.models.splash import splash

# From so many scores of one head, T·S, the blockwise form takes half the time of the plain one for
# the forward and the backward pass together (CPU, 512 · 512); at 400 · 400 they are equal.
BLOCKWISE_FROM = 200_000
# On a GPU plain scores are written to memory and read again, several times, in float32. From
# where on it pays to leave them out was not measured.
CUDNN_FROM = 128 * 128
CUDNN_WIDTHS, CUDNN_MULTIPLE = 128, 8  # of a head, on every GPU that has the kernel
# Of a head; the kernel's outputs have narrower ones in whole rows of 128 of a TPU's memory.
SPLASH_WIDTH = 64
TPU_QUERIES = 8  # of a product on a TPU, whose registers have so many rows


def attend(
    query: jnp.ndarray,
    key: jnp.ndarray,
    value: jnp.ndarray,
    mask: jnp.ndarray | None = None,
    dropout=None,
) -> jnp.ndarray:
    """Softmax attention; scores and softmax are float32.

    Args:
        query: [B,H,T,D/H].
        key: [B,H,S,D/H].
        value: [B,H,S,D/H].
        mask: bool[T,S], True where a query may look; None for everywhere.
        dropout: function applied to the weights f32[B,H,T,S], or None.

    Returns:
        [B,H,T,D/H] in the dtype of `value`.
    """
    scores = jnp.einsum("bhtk,bhsk->bhts", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if dropout is not None:
        weights = dropout(weights)
    # Divided last, where the arrays are small.
    out = multiply(weights.astype(value.dtype), value)
    return (out / total).astype(value.dtype)


def attend_whole(
    query: jnp.ndarray,
    key: jnp.ndarray,
    value: jnp.ndarray,
    *,
    kind: str,
    causal: bool = False,
    dropout: nn.Dropout | None = None,
) -> jnp.ndarray:
    """Softmax attention of a whole sequence, as in encoding and training.

    Args:
        query: [B,H,T,D/H].
        key: [B,H,S,D/H].
        value: [B,H,S,D/H].
        kind: 'plain' (`attend`), 'blockwise' (`models.blockwise`), 'cudnn' (the kernel for NVIDIA
            GPUs), 'splash' (`models.splash`, the kernel for TPUs), or 'auto': cudnn on a GPU and
            splash on a TPU where the arrays suit them, else plain for short sequences and blockwise
            for long ones.
        causal: whether query t sees the keys 0 to t only; T is S then.
        dropout: of the weights, or None; where it drops any, `attend` computes them whatever the
            kind.

    Returns:
        [B,H,T,D/H] in the dtype of `value`.

    Raises:
        ValueError: `kind` is 'cudnn' and there is no GPU, or the dtype is float32; or it is
            'splash' and there is no TPU.
    """
    if dropout is not None and dropout.rate > 0 and not dropout.deterministic:
        kind = "plain"
    if kind == "auto":
        kind = _suited(query, key)
    if kind == "blockwise":
        return blockwise(query, key, value, causal)
    if kind == "cudnn":
        return _cudnn(query, key, value, causal)
    if kind == "splash":
        return _splash(query, key, value, causal)
    if causal:
        mask = jnp.tril(jnp.ones((query.shape[2], key.shape[2]), bool))
        return attend(query, key, value, mask, dropout)
    return attend(query, key, value, None, dropout)


def enough_queries(query: jnp.ndarray) -> jnp.ndarray:
    """The queries [B,H,T,D/H]; on a TPU followed by zeros, until there are eight.

    Its compiler makes sums of a product with one query, and for those it keeps the keys with the
    few numbers of a head in the rows of 128 that its memory has: four times the bytes.
    """
    count = query.shape[2]  # not a number in an exported program for any number of sequences
    if jax.default_backend() != "tpu" or not isinstance(count, int) or count >= TPU_QUERIES:
        return query
    return jnp.pad(query, ((0, 0), (0, 0), (0, TPU_QUERIES - count), (0, 0)))


def _suited(query: jnp.ndarray, key: jnp.ndarray) -> str:
    """The kind of attention for these arrays on this machine."""
    scores = query.shape[2] * key.shape[2]
    kind = "plain" if scores < BLOCKWISE_FROM else "blockwise"
    if query.dtype != jnp.bfloat16:
        return kind
    size, platform = query.shape[-1], jax.default_backend()
    if platform == "gpu" and size <= CUDNN_WIDTHS and size % CUDNN_MULTIPLE == 0:
        return "cudnn" if scores >= CUDNN_FROM and has_cudnn() else kind
    # XLA cannot spread the kernel of TPUs over devices.
    if platform == "tpu" and size >= SPLASH_WIDTH and not spread_axes():
        return "splash" if kind == "blockwise" else kind
    return kind


def has_cudnn() -> bool:
    """Whether the GPU is one of NVIDIA's that has the kernel, an Ampere or later."""
    capability = getattr(jax.devices()[0], "compute_capability", "")
    return re.fullmatch(r"\d+\.\d+", capability) is not None and float(capability) >= 8


def _cudnn(query: jnp.ndarray, key: jnp.ndarray, value: jnp.ndarray, causal: bool) -> jnp.ndarray:
    """`attend_whole` by cuDNN, whose arrays are [B,T,H,D/H].

    JAX refuses odd lengths in training, since it takes its own empty bias for a bias. Whether it
    trains is not known here, so a row of zeros follows odd ones, and no query sees that of the
    keys.
    """
    if jax.default_backend() != "gpu" or query.dtype != jnp.bfloat16:
        raise ValueError(
            f"model.attention='cudnn' needs a GPU and model.dtype='bfloat16'; this is a "
            f"{jax.default_backend()} and {query.dtype}: set model.attention='auto'"
        )
    arrays = [x.swapaxes(1, 2) for x in (query, key, value)]
    padding = [((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)) for x in arrays]
    arrays = [jnp.pad(x, width) for x, width in zip(arrays, padding, strict=True)]
    options = {"is_causal": causal, "implementation": "cudnn"}
    if key.shape[2] % 2 and not causal:  # a causal query never sees the last key
        options |= {
            f"{name}_seq_lengths": constrain(jnp.full(x.shape[0], x.shape[2], jnp.int32), "batch")
            for name, x in (("query", query), ("key_value", key))
        }
    out = jax.nn.dot_product_attention(*arrays, **options)
    return out[:, : query.shape[2]].swapaxes(1, 2)


def _splash(query: jnp.ndarray, key: jnp.ndarray, value: jnp.ndarray, causal: bool) -> jnp.ndarray:
    """`attend_whole` by the kernel for TPUs; in blocks where XLA spreads the arrays over devices,
    since it cannot spread the kernel."""
    if jax.default_backend() != "tpu":
        raise ValueError(
            f"model.attention='splash' needs a TPU; this is a {jax.default_backend()}: set "
            "model.attention='auto'"
        )
    return (blockwise if spread_axes() else splash)(query, key, value, causal)


class ToHeads(nn.Module):
    """Projects [B,T,D] to queries, keys or values [B,H,T,D/H]."""

    stack: Stack

    def setup(self) -> None:
        heads, size = self.stack.heads, self.stack.dim // self.stack.heads
        init = nn.with_logical_partitioning(
            self.stack.kernel_init((0,), (1, 2)), ("embed", "heads", "head_dim")
        )
        self.kernel = self.param("kernel", init, (self.stack.dim, heads, size))
        init = nn.with_logical_partitioning(ZEROS, ("heads", "head_dim"))
        self.bias = self.param("bias", init, (heads, size))

    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        kernel, dtype = self.kernel.reshape(x.shape[-1], -1), jnp.dtype(self.stack.dtype)
        h = matmul(x.astype(dtype), kernel, steps=kernel_steps(self))
        h = h.reshape(*x.shape[:2], *self.bias.shape) + self.bias.astype(dtype)[None, None]
        return constrain(h.swapaxes(1, 2), "batch", "heads")

    def weights(self) -> tuple[jnp.ndarray, jnp.ndarray]:
        """The kernel [D,H,D/H] and the bias [H,D/H], in the dtype of the computation."""
        dtype = jnp.dtype(self.stack.dtype)
        return self.kernel.astype(dtype), self.bias.astype(dtype)


def project(x: jnp.ndarray, *weights: tuple[jnp.ndarray, jnp.ndarray]) -> list[jnp.ndarray]:
    """Queries, keys or values [B,H,T,D/H] of [B,T,D], for each of some ToHeads' weights.

    They are one product, which takes three quarters of the time of three (CPU, width 128, with the
    gradients).
    """
    kernel, bias = side_by_side(weights)
    h = matmul(x.astype(kernel.dtype), kernel).reshape(*x.shape[:2], *bias.shape)
    h = h + bias[None, None]
    # [B,T,H,D/H] -> [B,H,T,D/H]
    parts = [h[:, :, :, part].swapaxes(1, 2) for part in range(len(weights))]
    return [constrain(part, "batch", "heads") for part in parts]


def side_by_side(
    weights: Sequence[tuple[jnp.ndarray, jnp.ndarray]],
) -> tuple[jnp.ndarray, jnp.ndarray]:
    """Kernels [D,H,D/H] and biases [H,D/H] of n ToHeads as one kernel [D,H·n·D/H] and one bias
    [H,n,D/H]: what belongs to a head lies side by side, so that heads can be cut over devices."""
    kernels, biases = zip(*weights, strict=True)
    kernel = jnp.stack(kernels, axis=2)  # [D,H,n,D/H]
    return kernel.reshape(kernel.shape[0], -1), jnp.stack(biases, axis=1)


class FromHeads(nn.Module):
    """Projects attended values [B,H,T,D/H] back to [B,T,D]."""

    stack: Stack

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        batch, heads, length, size = x.shape
        init = nn.with_logical_partitioning(
            self.stack.kernel_init((0, 1), (2,)), ("heads", "head_dim", "embed")
        )
        kernel = self.param("kernel", init, (heads, size, self.stack.dim))
        init = nn.with_logical_partitioning(ZEROS, ("embed",))
        bias = self.param("bias", init, (self.stack.dim,))
        dtype = jnp.dtype(self.stack.dtype)
        x = x.astype(dtype).swapaxes(1, 2).reshape(batch, length, heads * size)
        h = matmul(x, kernel.reshape(heads * size, -1), steps=kernel_steps(self))
        return constrain(h + bias.astype(dtype)[None, None], "batch")


class CrossKeyValue(nn.Module):
    """Cross-attention keys and values of all layers at once: memory [B,S,D] -> two arrays
    [L,B,H,S,D/H].

    They depend on the image only, so decoding computes them once; the parameters are those of the
    decoder layers, stacked on a leading axis.
    """

    stack: Stack

    @nn.compact
    def __call__(self, memory: jnp.ndarray) -> tuple[jnp.ndarray, jnp.ndarray]:
        layers, heads = self.stack.layers, self.stack.heads
        size = self.stack.dim // heads
        kernel_init = nn.with_logical_partitioning(
            self.stack.kernel_init((1,), (2, 3), (0,)), ("layers", "embed", "heads", "head_dim")
        )
        bias_init = nn.with_logical_partitioning(ZEROS, ("layers", "heads", "head_dim"))
        dtype = jnp.dtype(self.stack.dtype)
        memory = memory.astype(dtype)

        def project(name: str) -> jnp.ndarray:
            shape = (layers, memory.shape[-1], heads, size)
            kernel = self.param(f"{name}_kernel", kernel_init, shape)
            bias = self.param(f"{name}_bias", bias_init, (layers, heads, size))
            # Heads first: cutting them over devices cuts the columns of the product.
            kernel = jnp.transpose(kernel.astype(dtype), (1, 2, 0, 3))  # [D,H,L,D/H]
            kernel = kernel.reshape(memory.shape[-1], -1)  # [D,H·L·D/H]
            h = matmul(memory, kernel).reshape(*memory.shape[:2], heads, layers, size)
            h = jnp.transpose(h, (3, 0, 2, 1, 4)) + bias.astype(dtype)[:, None, :, None]
            return constrain(h, None, "batch", "heads")

        return project("key"), project("value")


class SelfAttention(nn.Module):
    """Attention of a sequence [B,T,D] to itself; causal: each token to those up to itself."""

    stack: Stack
    train: bool
    causal: bool

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        parts = [ToHeads(self.stack, name=name) for name in ("query", "key", "value")]
        query, key, value = project(x, *(part.weights() for part in parts))
        dropout = nn.Dropout(self.stack.drop_att, deterministic=not self.train)
        options = {"kind": self.stack.attention, "causal": self.causal, "dropout": dropout}
        return FromHeads(self.stack, name="out")(attend_whole(query, key, value, **options))


class CrossAttention(nn.Module):
    """Attention of N sequences per image [B,N,T,D] to that image's keys and values [B,H,S,D/H].

    There is no mask between queries, so N·T is one query axis and the image's keys are never
    repeated.
    """

    stack: Stack
    train: bool

    @nn.compact
    def __call__(self, x: jnp.ndarray, key: jnp.ndarray, value: jnp.ndarray) -> jnp.ndarray:
        flat = x.reshape(x.shape[0], -1, x.shape[-1])  # [B,N·T,D]
        query = ToHeads(self.stack, name="query")(flat)  # [B,H,N·T,D/H]
        dropout = nn.Dropout(self.stack.drop_att, deterministic=not self.train)
        h = attend_whole(query, key, value, kind=self.stack.attention, dropout=dropout)
        return FromHeads(self.stack, name="out")(h).reshape(x.shape)
