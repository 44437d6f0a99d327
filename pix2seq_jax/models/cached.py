"""The decoder a few tokens at a time: its parameters cut up for the loop over tokens, and the
key-value cache.

Axes: B images, N sequences per image, R = B·N, T new tokens, C cached tokens, S image tokens, H
heads, D width.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from flax import struct
from jax import lax
from jax import numpy as jnp

from pix2seq_jax.models.attention import FromHeads, enough_queries, side_by_side
from pix2seq_jax.models.axes import constrain
from pix2seq_jax.models.fixed_keys import CachedCrossAttention, FixedKeys
from pix2seq_jax.models.layers import Dense, LayerNorm, MlpBlock, Stack, multiply, to_int8


def cut_variables(
    variables: Mapping[str, Any], stack: Stack, kernel_dtype: str = ""
) -> dict[str, Any]:
    """The variables that `Pix2Seq.step` takes, made of those of the model.

    A loop over tokens reads every parameter in every turn. Stacked layers would be sliced, and the
    embedding transposed, in every turn as well. So each layer gets its own parameters here, once,
    kernels in the dtype of the computation or in `kernel_dtype`. Queries, keys and values become
    one product.
    """
    decoder = dict(variables["params"]["decoder"])
    dtype = kernel_dtype or stack.dtype
    body = decoder.pop("body")
    embedding = decoder.get("output_embedding", decoder["embedding"])
    decoder["output"] = _as_dtype(embedding.T, dtype, 1)
    decoder["steps"] = {"norm": body["norm"]}
    for number in range(stack.layers):
        layer = jax.tree.map(lambda x, number=number: x[number], body["layers"])
        layer["self_attention"] = _join(layer["self_attention"])
        decoder["steps"][f"layer{number}"] = _cut_kernels(layer, dtype)
    return {"params": {"decoder": decoder}}


def _cut_kernels(module: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The parameters of a module, and of those in it, with kernels in `dtype`."""
    cut = {
        name: _cut_kernels(part, dtype) if isinstance(part, Mapping) else part
        for name, part in module.items()
    }
    if "kernel" not in cut:
        return cut
    return cut | _as_dtype(cut["kernel"], dtype, cut["bias"].ndim)


def _as_dtype(kernel: jnp.ndarray, dtype: str, outputs: int) -> dict[str, jnp.ndarray]:
    """The `kernel` in another dtype; where that is int8 with its `kernel_steps` f32[F], one for
    each of the F outputs that its last axes are."""
    if dtype != "int8":
        return {"kernel": kernel.astype(dtype)}
    numbers, step = to_int8(kernel, tuple(range(kernel.ndim - outputs)))
    return {"kernel": numbers, "kernel_steps": step.reshape(-1)}


def _join(attention: Mapping[str, Any]) -> dict[str, Any]:
    """Queries, keys and values of an attention as one dense layer."""
    parts = [attention[name] for name in ("query", "key", "value")]
    kernel, bias = side_by_side([(part["kernel"], part["bias"]) for part in parts])
    joint = {"kernel": kernel, "bias": bias.reshape(-1)}
    return {"query_key_value": joint, "out": attention["out"]}


@struct.dataclass
class Block:
    """Self-attention keys and values of some tokens in a row.

    Attributes:
        key, value: [R,H,C,D/H].
    """

    key: jnp.ndarray
    value: jnp.ndarray

    @property
    def length(self) -> int:
        """C."""
        return self.key.shape[2]

    def scores(self, query: jnp.ndarray, mask: jnp.ndarray | None = None) -> jnp.ndarray:
        """[R,H,T,D/H] -> f32[R,H,T,C] before the softmax, the least number where the mask
        bool[1 or T,C] forbids to look."""
        query = query.astype(self.key.dtype)
        scores = jnp.einsum("rhtk,rhsk->rhts", query, self.key, preferred_element_type=jnp.float32)
        scores = scores * query.shape[-1] ** -0.5
        if mask is None:
            return scores
        return jnp.where(mask[None, None], scores, jnp.finfo(jnp.float32).min)

    def weighed(self, weights: jnp.ndarray, query: jnp.ndarray) -> jnp.ndarray:
        """The sum [R,H,T,D/H] of the values by the weights f32[R,H,T,C] of queries."""
        return multiply(weights.astype(self.value.dtype), self.value, query.dtype)


@struct.dataclass
class Cache:
    """Self-attention keys and values of the tokens so far.

    It grows by blocks, so that attention reads little more than what is filled. All but the last
    are full, and a loop over tokens leaves them alone.

    Attributes:
        full: for each layer its full blocks; FixedKeys where they are rounded.
        last: for each layer the block that new tokens are written to.
        rounds_full: whether full blocks are rounded to int8.
    """

    full: tuple[tuple[Block | FixedKeys, ...], ...]
    last: tuple[Block, ...]
    rounds_full: bool = struct.field(pytree_node=False)

    @classmethod
    def create(
        cls, stack: Stack, rows: int, length: int, dtype: str, *, rounds_full: bool
    ) -> "Cache":
        """One empty block in `dtype` for `rows` = B·N sequences of `length` tokens."""
        shape = (rows, stack.heads, length, stack.dim // stack.heads)
        empty = constrain(jnp.zeros(shape, dtype), "batch", "heads")
        return cls(((),) * stack.layers, (Block(empty, empty),) * stack.layers, rounds_full)

    @property
    def start(self) -> int:
        """Tokens in the full blocks."""
        return sum(keys.length for keys in self.full[0])

    @property
    def length(self) -> int:
        """Tokens that there is room for."""
        return self.start + self.last[0].length

    def widen(self, length: int) -> "Cache":
        """The same with room for `length` more tokens in the last block."""
        return self.replace(last=jax.tree.map(lambda x: _pad_tokens(x, length), self.last))

    def grow(self, length: int, after: jnp.ndarray | int = 0) -> "Cache":
        """The same with one more block, for `length` tokens; what was the last one is full.

        Args:
            length: of the block.
            after: i32[], not negative, known when the block before is full. Where full blocks are
                rounded, the new one waits for it: else XLA makes all blocks of zeros at the start,
                and the memory that is saved is lost again.
        """
        done, zero = self.last, 0
        if self.rounds_full:
            done = tuple(FixedKeys.create(block.key, block.value, "int8") for block in self.last)
            zero = jnp.minimum(after, 0)

        def empty(before: jnp.ndarray) -> jnp.ndarray:
            block = jnp.full((*before.shape[:2], length, before.shape[3]), zero, before.dtype)
            return constrain(block, "batch", "heads")

        full = tuple((*blocks, one) for blocks, one in zip(self.full, done, strict=True))
        return self.replace(full=full, last=jax.tree.map(empty, self.last))

    def write(
        self, new: tuple[Block, ...], index: jnp.ndarray | int, after: jnp.ndarray
    ) -> "Cache":
        """Puts T tokens of every layer at positions index..index+T, in the last block.

        Args:
            new: by layer.
            index: tokens that are there.
            after: what is computed from the cache as it was. The write waits for it, so that it
                can be done in place: else XLA copies the block, because something may read it yet.
        """
        nothing = jnp.minimum(jnp.abs(after.reshape(-1)[0]), 0.0).astype(jnp.int32)
        place = (0, 0, index - self.start + nothing, 0)
        return self.replace(last=jax.tree.map(lambda x, n: _put(x, n, place), self.last, new))

    def take(self, rows: jnp.ndarray) -> "Cache":
        """Of the N sequences of each image those that rows i32[B,N'] says."""
        return _merged(take_rows(_by_image(self, rows.shape[0]), rows))

    def put(self, part: "Cache", rows: jnp.ndarray) -> "Cache":
        """The same with what `take` took in its place again; tokens were written to it since."""
        own, new = (_by_image(cache.last, rows.shape[0]) for cache in (self, part))
        return self.replace(last=_merged(put_rows(own, new, rows)))


def _by_image(tree: Any, images: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(images, -1, *x.shape[1:]), tree)


def _merged(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def take_rows(tree: Any, rows: jnp.ndarray) -> Any:
    """Of every array [B,N,...] the entries rows i32[B,N'] of each image: [B,N',...]."""

    def take(x, row):
        return x.at[row].get(mode="promise_in_bounds")

    return jax.tree.map(lambda x: jax.vmap(take)(x, rows), tree)


def put_rows(tree: Any, part: Any, rows: jnp.ndarray) -> Any:
    """Every array [B,N,...] with the entries rows i32[B,N'] of each image, no row twice, replaced
    by [B,N',...] of `part`."""

    def put(x, new, row):
        return x.at[row].set(new, mode="promise_in_bounds", unique_indices=True)

    return jax.tree.map(lambda x, new: jax.vmap(put)(x, new, rows), tree, part)


def _pad_tokens(x: jnp.ndarray, length: int) -> jnp.ndarray:
    return jnp.pad(x, ((0, 0), (0, 0), (0, length), (0, 0)))


def _put(block: jnp.ndarray, new: jnp.ndarray, place: tuple) -> jnp.ndarray:
    return lax.dynamic_update_slice(block, new.astype(block.dtype), place)


def attend_cached(
    query: jnp.ndarray,
    new: Block,
    full: tuple[Block | FixedKeys, ...],
    last: Block,
    index: jnp.ndarray | int,
) -> jnp.ndarray:
    """Causal attention of T new tokens to the `index` tokens of the cache and to themselves.

    Args:
        query: [R,H,T,D/H].
        new: keys and values of the new tokens.
        full, last: those that are cached, see `Cache`; they may be of another dtype.
        index: i32[], cached tokens.

    Returns:
        [R,H,T,D/H]; scores and softmax are float32.
    """
    length, start = query.shape[2], sum(block.length for block in full)
    query = enough_queries(query)
    filled = (start + jnp.arange(last.length) < index)[None]
    causal = jnp.tril(jnp.ones((query.shape[2], length), bool))
    scores = [block.scores(query) for block in full]
    scores += [last.scores(query, filled), new.scores(query, causal)]
    largest = functools.reduce(jnp.maximum, [jnp.max(s, axis=-1, keepdims=True) for s in scores])
    weights = [jnp.exp(s - largest) for s in scores]
    total = functools.reduce(jnp.add, [jnp.sum(w, axis=-1, keepdims=True) for w in weights])
    parts = zip(weights, (*full, last, new), strict=True)
    sums = [block.weighed(w, query) for w, block in parts]
    return (functools.reduce(jnp.add, sums) / total).astype(query.dtype)[:, :, :length]


class CachedSelfAttention(nn.Module):
    """Attention of new tokens [R,T,D] to the cached tokens before them and to themselves."""

    stack: Stack

    @nn.compact
    def __call__(
        self,
        x: jnp.ndarray,
        full: tuple[Block | FixedKeys, ...],
        last: Block,
        index: jnp.ndarray | int,
    ) -> tuple[jnp.ndarray, Block]:
        """Returns [R,T,D] and the keys and values of the new tokens."""
        heads, size = self.stack.heads, self.stack.dim // self.stack.heads
        joint = Dense(
            3 * self.stack.dim, ("embed", "heads"), self.stack.dtype, name="query_key_value"
        )
        h = joint(x).reshape(*x.shape[:2], heads, 3, size)
        query, key, value = (h[:, :, :, part].swapaxes(1, 2) for part in range(3))
        new = Block(key, value)
        h = attend_cached(query, new, full, last, index)
        return FromHeads(self.stack, name="out")(h), new


class CachedLayer(nn.Module):
    """The same function as a DecoderLayer without dropout, for new tokens [B,N,T,D]."""

    stack: Stack

    @nn.compact
    def __call__(
        self,
        x: jnp.ndarray,
        image: FixedKeys,
        full: tuple[Block | FixedKeys, ...],
        last: Block,
        index: jnp.ndarray | int,
    ) -> tuple[jnp.ndarray, Block]:
        """Returns [B,N,T,D] and the self-attention's keys and values of the new tokens."""
        batch, rows, length, dim = x.shape
        h = LayerNorm(self.stack.dtype, name="self_norm")(x).reshape(batch * rows, length, dim)
        h, new = CachedSelfAttention(self.stack, name="self_attention")(h, full, last, index)
        x = x + h.reshape(x.shape)
        h = LayerNorm(self.stack.dtype, name="cross_norm")(x)
        x = x + CachedCrossAttention(self.stack, name="cross_attention")(h, image)
        return MlpBlock(self.stack, train=False, name="mlp")(x), new


class CachedLayers(nn.Module):
    """All layers in a row and the final LayerNorm, on variables of `cut_variables`."""

    stack: Stack

    @nn.compact
    def __call__(
        self,
        x: jnp.ndarray,
        cross_kv: tuple[FixedKeys, ...],
        cache: Cache,
        index: jnp.ndarray | int,
    ) -> tuple[jnp.ndarray, Cache]:
        """[B,N,T,D] -> same, and the cache with the new tokens written at index..index+T."""
        written = []
        layers = zip(cross_kv, cache.full, cache.last, strict=True)
        for number, (image, full, last) in enumerate(layers):
            layer = CachedLayer(self.stack, name=f"layer{number}")
            x, new = layer(x, image, full, last, index)
            written.append(new)
        x = LayerNorm(self.stack.dtype, name="norm")(x)
        return x, cache.write(tuple(written), index, after=x)
