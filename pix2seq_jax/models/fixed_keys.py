"""Keys and values that do not change while tokens are written one by one and look at them: those
of an image, and those of the tokens in a block of the cache that is full.

Axes: B images (or sequences), N sequences per image, T new tokens, Q = N·T queries of an image, S
tokens that are looked at, H heads, D width.
"""

import functools
import operator

import jax
from flax import linen as nn
from flax import struct
from jax import lax
from jax import numpy as jnp

from pix2seq_jax.models.attention import FromHeads, ToHeads, enough_queries
from pix2seq_jax.models.layers import Stack, to_int8

PART, MOST_PARTS = 64, 25  # tokens of a part of a sum at least, and parts: 25 of 64 are 1,600


@struct.dataclass
class FixedKeys:
    """What an attention of one layer looks at.

    Attributes:
        key, value: [B,H,D/H,S], int8 where there are steps.
        key_step, value_step: f32[B,H,D/H,1], steps between the numbers of each row; or None.
    """

    key: jnp.ndarray
    value: jnp.ndarray
    key_step: jnp.ndarray | None = None
    value_step: jnp.ndarray | None = None

    @classmethod
    def create(cls, key: jnp.ndarray, value: jnp.ndarray, dtype: str) -> "FixedKeys":
        """Of keys and values [B,H,S,D/H], in a dtype that may be int8."""
        if dtype != "int8":
            return cls(key.astype(dtype).swapaxes(2, 3), value.astype(dtype).swapaxes(2, 3))
        (key, key_step), (value, value_step) = to_int8(key, (2,)), to_int8(value, (2,))
        return cls(*(x.swapaxes(2, 3) for x in (key, value, key_step, value_step)))

    @property
    def length(self) -> int:
        """How many tokens are looked at."""
        return self.key.shape[3]

    def scores(self, query: jnp.ndarray) -> jnp.ndarray:
        """[B,H,Q,D/H] -> f32[B,H,Q,S], before the softmax."""
        if self.key_step is None:
            scores = _of_keys(query.astype(self.key.dtype), self.key)
        else:
            stepped = query.astype(jnp.float32) * self.key_step.swapaxes(2, 3)
            # Else XLA would convert all keys before the loop over tokens, and keep them.
            stepped, key = lax.optimization_barrier((stepped, self.key))
            if _is_single(query):
                scores = _of_keys_summed(stepped, key)
            else:
                scores = _of_keys(stepped.astype(query.dtype), key.astype(query.dtype))
        return scores * query.shape[-1] ** -0.5

    def attend(self, query: jnp.ndarray) -> jnp.ndarray:
        """`models.attention.attend` to all of the tokens: [B,H,Q,D/H] -> the same."""
        scores = self.scores(enough_queries(query))
        weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
        out = self.weighed(weights, query) / jnp.sum(weights, axis=-1, keepdims=True)
        return out.astype(query.dtype)[:, :, : query.shape[2]]

    def weighed(self, weights: jnp.ndarray, query: jnp.ndarray) -> jnp.ndarray:
        """The sum f32[B,H,Q,D/H] of the values by the weights f32[B,H,Q,S] of queries."""
        if self.value_step is None:
            return _of_values(weights.astype(self.value.dtype), self.value)
        weights, value = lax.optimization_barrier((weights, self.value))
        if _is_single(query):
            out = _of_values_summed(weights, value)
        else:
            out = _of_values(weights.astype(query.dtype), value.astype(query.dtype))
        return out * self.value_step.swapaxes(2, 3)


def dtype_of_keys(dtype: str, cache_dtype: str, queries: int | None) -> str:
    """The dtype of an image's keys and values, in a computation in `dtype`, for so many queries at
    a time (None: not known).

    On a CPU int8 is for single queries. Else keys are float32 there: XLA would convert others at
    every token.
    """
    cpu = jax.default_backend() == "cpu"
    if cache_dtype == "int8" and (not cpu or (isinstance(queries, int) and queries == 1)):
        return "int8"
    return "float32" if cpu else dtype


def _of_keys(query: jnp.ndarray, key: jnp.ndarray) -> jnp.ndarray:
    """[B,H,Q,D/H] times [B,H,D/H,S]: f32[B,H,Q,S]."""
    return jnp.einsum("bhqk,bhks->bhqs", query, key, preferred_element_type=jnp.float32)


def _of_values(weights: jnp.ndarray, value: jnp.ndarray) -> jnp.ndarray:
    """[B,H,Q,S] times [B,H,D/H,S]: f32[B,H,Q,D/H]."""
    return jnp.einsum("bhqs,bhks->bhqk", weights, value, preferred_element_type=jnp.float32)


def _is_single(query: jnp.ndarray) -> bool:
    """Whether products with int8 are written out as sums: on a CPU, of one query [B,H,1,D/H].

    XLA has no product of one row there that reads int8 as it is.
    """
    count = query.shape[2]  # not a number in an exported program for any number of sequences
    return jax.default_backend() == "cpu" and isinstance(count, int) and count == 1


def _of_keys_summed(query: jnp.ndarray, key: jnp.ndarray) -> jnp.ndarray:
    """`_of_keys` of one query in float32 and int8 keys.

    The rounding, to the precision that is there already, ends what XLA computes at once: the
    maximum that comes next would double the time.
    """

    def term(i: int) -> jnp.ndarray:
        row = lax.slice_in_dim(key, i, i + 1, axis=2).astype(jnp.float32)
        return lax.slice_in_dim(query, i, i + 1, axis=3) * row

    kept = jnp.finfo(jnp.float32)
    scores = functools.reduce(operator.add, map(term, range(key.shape[2])))
    return lax.reduce_precision(scores, kept.nexp, kept.nmant)


def _of_values_summed(weights: jnp.ndarray, value: jnp.ndarray) -> jnp.ndarray:
    """`_of_values` of one query's weights in float32 and int8 values.

    The sum over tokens is made in parts, whose columns are added up last, and of those that are
    left over.
    """
    tokens = value.shape[-1]
    width = max(PART, tokens // MOST_PARTS)

    def terms(start: int, stop: int) -> jnp.ndarray:
        part = lax.slice_in_dim(value, start, stop, axis=3).astype(jnp.float32)
        return lax.slice_in_dim(weights, start, stop, axis=3) * part

    left_over = jnp.sum(terms(tokens - tokens % width, tokens), axis=-1)
    if tokens < width:
        return left_over[:, :, None]
    parts = (terms(start, start + width) for start in range(0, tokens - width + 1, width))
    sums = functools.reduce(operator.add, parts)  # [B,H,D/H,width]
    return (jnp.matmul(sums, jnp.ones(width)) + left_over)[:, :, None]


class CachedCrossAttention(nn.Module):
    """The same function as a CrossAttention without dropout."""

    stack: Stack

    @nn.compact
    def __call__(self, x: jnp.ndarray, image: FixedKeys) -> jnp.ndarray:
        """[B,N,T,D] -> the same."""
        flat = x.reshape(x.shape[0], -1, x.shape[-1])  # [B,N·T,D]
        h = image.attend(ToHeads(self.stack, name="query")(flat))
        return FromHeads(self.stack, name="out")(h).reshape(x.shape)
