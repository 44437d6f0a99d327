"""Multi-head attention with the heads-first layout [B,H,T,D/H].

Axes: B images, N sequences per image, T tokens that ask, S tokens that are attended to, H heads, D
width, L layers.
"""

from flax import linen as nn
from jax import numpy as jnp

from pix2seq_jax.models.layers import ZEROS, Stack, matmul


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
    weights = nn.softmax(scores)
    if dropout is not None:
        weights = dropout(weights)
    return jnp.einsum("bhts,bhsk->bhtk", weights.astype(value.dtype), value)


class ToHeads(nn.Module):
    """Projects [B,T,D] to queries, keys or values [B,H,T,D/H]."""

    stack: Stack

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        heads, size = self.stack.heads, self.stack.dim // self.stack.heads
        init = nn.with_logical_partitioning(
            self.stack.kernel_init((0,), (1, 2)), ("embed", "heads", "head_dim")
        )
        kernel = self.param("kernel", init, (x.shape[-1], heads, size))
        init = nn.with_logical_partitioning(ZEROS, ("heads", "head_dim"))
        bias = self.param("bias", init, (heads, size))
        dtype = jnp.dtype(self.stack.dtype)
        h = matmul(x.astype(dtype), kernel.astype(dtype).reshape(-1, heads * size))
        h = h.reshape(*x.shape[:2], heads, size) + bias.astype(dtype)[None, None]
        return h.swapaxes(1, 2)  # [B,T,H,D/H] -> [B,H,T,D/H]


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
        h = matmul(x, kernel.astype(dtype).reshape(heads * size, -1))
        return h + bias.astype(dtype)[None, None]


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
            kernel = jnp.moveaxis(kernel.astype(dtype), 0, 1)  # [D,L,H,D/H]
            kernel = kernel.reshape(memory.shape[-1], -1)  # [D,L·H·D/H]
            h = matmul(memory, kernel).reshape(*memory.shape[:2], layers, heads, size)
            return jnp.transpose(h, (2, 0, 3, 1, 4)) + bias.astype(dtype)[:, None, :, None]

        return project("key"), project("value")


class SelfAttention(nn.Module):
    """Attention of a sequence [B,T,D] to itself; causal: each token to those up to itself."""

    stack: Stack
    train: bool
    causal: bool

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        query = ToHeads(self.stack, name="query")(x)
        key = ToHeads(self.stack, name="key")(x)
        value = ToHeads(self.stack, name="value")(x)
        mask = jnp.tril(jnp.ones((x.shape[1],) * 2, bool)) if self.causal else None
        dropout = nn.Dropout(self.stack.drop_att, deterministic=not self.train)
        h = attend(query, key, value, mask, dropout)
        return FromHeads(self.stack, name="out")(h)


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
        h = attend(query, key, value, dropout=dropout)
        return FromHeads(self.stack, name="out")(h).reshape(x.shape)
