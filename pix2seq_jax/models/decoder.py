"""Autoregressive decoder: tokens and image memory in, logits out; teacher-forced or step by step
with a cache."""

from flax import linen as nn
from jax import lax
from jax import numpy as jnp

from pix2seq_jax.models.attention import Cache, CrossAttention, CrossKeyValue, SelfAttention
from pix2seq_jax.models.layers import (
    EMBEDDING_INIT,
    MlpBlock,
    Stack,
    drop_path,
    layer_norm,
    matmul,
    scan_layers,
)
from pix2seq_jax.models.positions import sequence_positions


class DecoderLayer(nn.Module):
    """Pre-norm layer on [B,N,T,D]: causal self-attention, attention to the image, MLP; a body of
    `scan_layers`."""

    stack: Stack
    train: bool

    @nn.compact
    def __call__(
        self,
        carry: tuple[jnp.ndarray, Cache | None],
        layer: jnp.ndarray,
        key: jnp.ndarray,
        value: jnp.ndarray,
        index: jnp.ndarray,
    ) -> tuple[tuple[jnp.ndarray, Cache | None], None]:
        (x, cache), dtype = carry, self.stack.dtype
        batch, rows, length, dim = x.shape
        h = layer_norm(dtype, "self_norm")(x).reshape(batch * rows, length, dim)
        h, cache = SelfAttention(self.stack, self.train, causal=True, name="self_attention")(
            h, cache, layer, index
        )
        x = x + drop_path(self.stack.drop_path, self.train)(h.reshape(batch, rows, length, dim))
        h = layer_norm(dtype, "cross_norm")(x)
        h = CrossAttention(self.stack, self.train, name="cross_attention")(h, key, value)
        x = x + drop_path(self.stack.drop_path, self.train)(h)
        return (MlpBlock(self.stack, self.train, name="mlp")(x), cache), None


class DecoderLayers(nn.Module):
    """All layers and the final LayerNorm: [B,N,T,D] -> same, and the cache when there is one."""

    stack: Stack

    @nn.compact
    def __call__(
        self,
        x: jnp.ndarray,
        cross_kv: tuple[jnp.ndarray, jnp.ndarray],
        cache: Cache | None,
        index: jnp.ndarray | int,
        train: bool,
    ) -> tuple[jnp.ndarray, Cache | None]:
        # In decoding the layers are unrolled: the slices of the stacked parameters are then
        # constants of the loop over tokens, not copies in every turn.
        decoding = cache is not None
        layers = scan_layers(DecoderLayer, self.stack, (0, 0, 0, nn.broadcast), unroll=decoding)
        numbers, index = jnp.arange(self.stack.layers), jnp.asarray(index, jnp.int32)
        run = layers(self.stack, train, name="layers")
        (x, cache), _ = run((x, cache), numbers, *cross_kv, index)
        return layer_norm(self.stack.dtype, "norm")(x), cache


class Decoder(nn.Module):
    """Token embedding, positions, layers, and logits by the (shared) embedding.

    Sequences are [B,N,T]: N sequences of each of B images, which share that image's keys and
    values.
    """

    stack: Stack
    vocab_size: int
    max_seq_len: int
    pos_encoding: str
    shared_embedding: bool
    output_bias: bool

    def setup(self) -> None:
        init = nn.with_logical_partitioning(EMBEDDING_INIT, ("vocab", "embed"))
        shape = (self.vocab_size, self.stack.dim)
        self.embedding = self.param("embedding", init, shape)
        self.output_embedding = self.embedding
        if not self.shared_embedding:
            self.output_embedding = self.param("output_embedding", init, shape)
        if self.output_bias:
            init = nn.with_logical_partitioning(EMBEDDING_INIT, ("vocab",))
            self.bias = self.param("output_bias", init, (self.vocab_size,))
        self.positions = sequence_positions(
            self, self.pos_encoding, self.max_seq_len, self.stack.dim
        )
        self.cross = CrossKeyValue(self.stack)
        self.body = DecoderLayers(self.stack)

    def cross_kv(self, memory: jnp.ndarray) -> tuple[jnp.ndarray, jnp.ndarray]:
        """Memory [B,S,D] -> keys and values of every layer, each [L,B,H,S,D/H]."""
        return self.cross(memory)

    def hidden(
        self,
        tokens: jnp.ndarray,
        cross_kv: tuple[jnp.ndarray, jnp.ndarray],
        cache: Cache | None = None,
        index: jnp.ndarray | int = 0,
        train: bool = False,
    ) -> tuple[jnp.ndarray, Cache | None]:
        """Tokens i32[B,N,T] at positions index..index+T -> [B,N,T,D] and the cache with them
        written."""
        length, dtype = tokens.shape[-1], jnp.dtype(self.stack.dtype)
        if length > self.max_seq_len:
            raise ValueError(
                f"a sequence of {length} tokens does not fit model.max_seq_len={self.max_seq_len}; "
                "raise model.max_seq_len (and train with it) or use fewer objects"
            )
        positions = lax.dynamic_slice_in_dim(self.positions, index, length)  # [T,D]
        x = (jnp.take(self.embedding, tokens, axis=0) + positions[None, None]).astype(dtype)
        return self.body(x, cross_kv, cache, index, train)

    def logits(self, hidden: jnp.ndarray) -> jnp.ndarray:
        """[...,D] -> f32[...,V]."""
        kernel = self.output_embedding.astype(hidden.dtype).T
        logits = matmul(hidden, kernel, preferred_element_type=jnp.float32)
        if not self.output_bias:
            return logits
        return logits + jnp.expand_dims(self.bias, tuple(range(hidden.ndim - 1)))

    def output_bias_or_zeros(self) -> jnp.ndarray:
        """f32[V], what is added to the logits."""
        return self.bias if self.output_bias else jnp.zeros(self.vocab_size)
