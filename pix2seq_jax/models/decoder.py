"""Autoregressive decoder: tokens and image memory in, logits out; teacher-forced or step by step
with a cache."""

from flax import linen as nn
from jax import lax
from jax import numpy as jnp

from pix2seq_jax.models.attention import CrossAttention, CrossKeyValue, SelfAttention
from pix2seq_jax.models.axes import constrain
from pix2seq_jax.models.cached import Cache, CachedLayers
from pix2seq_jax.models.fixed_keys import FixedKeys
from pix2seq_jax.models.layers import (
    EMBEDDING_INIT,
    LayerNorm,
    MlpBlock,
    Stack,
    drop_path,
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
        self, x: jnp.ndarray, key: jnp.ndarray, value: jnp.ndarray
    ) -> tuple[jnp.ndarray, None]:
        (batch, rows, length, dim), dtype = x.shape, self.stack.dtype
        h = LayerNorm(dtype, name="self_norm")(x).reshape(batch * rows, length, dim)
        h = SelfAttention(self.stack, self.train, causal=True, name="self_attention")(h)
        x = x + drop_path(self.stack.drop_path, self.train)(h.reshape(batch, rows, length, dim))
        h = LayerNorm(dtype, name="cross_norm")(x)
        h = CrossAttention(self.stack, self.train, name="cross_attention")(h, key, value)
        x = x + drop_path(self.stack.drop_path, self.train)(h)
        return MlpBlock(self.stack, self.train, name="mlp")(x), None


class DecoderLayers(nn.Module):
    """All layers and the final LayerNorm: [B,N,T,D] -> same."""

    stack: Stack

    @nn.compact
    def __call__(
        self, x: jnp.ndarray, cross_kv: tuple[jnp.ndarray, jnp.ndarray], train: bool
    ) -> jnp.ndarray:
        layers = scan_layers(DecoderLayer, self.stack, (0, 0))
        x, _ = layers(self.stack, train, name="layers")(x, *cross_kv)
        return LayerNorm(self.stack.dtype, name="norm")(x)


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
        self.steps = CachedLayers(self.stack)

    def cross_kv(self, memory: jnp.ndarray) -> tuple[jnp.ndarray, jnp.ndarray]:
        """Memory [B,S,D] -> keys and values of every layer, each [L,B,H,S,D/H]."""
        return self.cross(memory)

    def hidden(
        self,
        tokens: jnp.ndarray,
        cross_kv: tuple[jnp.ndarray, jnp.ndarray],
        train: bool = False,
    ) -> jnp.ndarray:
        """Tokens i32[B,N,T] from the start of a sequence -> [B,N,T,D]."""
        return self.body(constrain(self._embed(tokens, 0), "batch"), cross_kv, train)

    def step(
        self,
        tokens: jnp.ndarray,
        cross_kv: tuple[FixedKeys, ...],
        cache: Cache,
        index: jnp.ndarray | int,
    ) -> tuple[jnp.ndarray, Cache]:
        """Logits f32[B,N,V] after the tokens i32[B,N,T] at positions index..index+T, and the cache
        with them written; on variables of `cut_variables`, with cross_kv by layer."""
        hidden, cache = self.steps(self._embed(tokens, index), cross_kv, cache, index)
        return self.cut_logits(hidden[:, :, -1]), cache

    def cut_logits(self, hidden: jnp.ndarray) -> jnp.ndarray:
        """[...,D] -> f32[...,V], on variables of `cut_variables`."""
        output = self.get_variable("params", "output")
        return self._biased(
            matmul(hidden, output["kernel"], jnp.float32, output.get("kernel_steps"))
        )

    def _embed(self, tokens: jnp.ndarray, index: jnp.ndarray | int) -> jnp.ndarray:
        length, dtype = tokens.shape[-1], jnp.dtype(self.stack.dtype)
        if length > self.max_seq_len:
            raise ValueError(
                f"a sequence of {length} tokens does not fit model.max_seq_len={self.max_seq_len}; "
                "raise model.max_seq_len (and train with it) or use fewer objects"
            )
        positions = lax.dynamic_slice_in_dim(self.positions, index, length)  # [T,D]
        # In a shard_map over `data` XLA ends the process where both dimensions are cut.
        table = constrain(self.embedding, "vocab")
        return (jnp.take(table, tokens, axis=0) + positions[None, None]).astype(dtype)

    def logits(self, hidden: jnp.ndarray) -> jnp.ndarray:
        """[...,D] -> f32[...,V]."""
        kernel = self.output_embedding.astype(hidden.dtype).T
        return self._biased(matmul(hidden, kernel, jnp.float32))

    def _biased(self, logits: jnp.ndarray) -> jnp.ndarray:
        if not self.output_bias:
            return logits
        return logits + jnp.expand_dims(self.bias, tuple(range(logits.ndim - 1)))

    def output_bias_or_zeros(self) -> jnp.ndarray:
        """f32[V], what is added to the logits."""
        return self.bias if self.output_bias else jnp.zeros(self.vocab_size)
