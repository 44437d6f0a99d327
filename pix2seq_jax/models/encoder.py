"""The image encoder on top of a backbone's tokens (positions and transformer layers), and the
projection to the decoder's width."""

from flax import linen as nn
from jax import numpy as jnp

from pix2seq_jax.models.attention import SelfAttention
from pix2seq_jax.models.axes import constrain
from pix2seq_jax.models.layers import (
    EMBEDDING_INIT,
    Dense,
    LayerNorm,
    MlpBlock,
    Stack,
    drop_path,
    scan_layers,
)
from pix2seq_jax.models.positions import grid_positions

PROJECTIONS = ("mlp", "linear", "linear_p")


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer on [B,S,D]; a body of `scan_layers`."""

    stack: Stack
    train: bool

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> tuple[jnp.ndarray, None]:
        h = LayerNorm(self.stack.dtype, name="norm")(x)
        h = SelfAttention(self.stack, self.train, causal=False, name="attention")(h)
        x = x + drop_path(self.stack.drop_path, self.train)(h)
        return MlpBlock(self.stack, self.train, name="mlp")(x), None


class Encoder(nn.Module):
    """Tokens of the backbone [B,rows·columns,D] -> encoded image [B,S,D]; S counts the class
    token, if there is one. Without `stem_norm` the tokens are not normalised first, as in ViT."""

    stack: Stack
    grid: tuple[int, int]
    pos_encoding: str
    use_cls_token: bool
    stem_norm: bool

    @nn.compact
    def __call__(self, tokens: jnp.ndarray, train: bool) -> jnp.ndarray:
        dtype = jnp.dtype(self.stack.dtype)
        x = tokens.astype(dtype)
        if self.stem_norm:
            x = LayerNorm(self.stack.dtype, name="stem_norm")(x)
        positions = grid_positions(self, self.pos_encoding, *self.grid, self.stack.dim)
        x = x + positions.astype(dtype)[None]
        if self.use_cls_token:
            init = nn.with_logical_partitioning(EMBEDDING_INIT, (None, "embed"))
            cls = self.param("cls_token", init, (1, self.stack.dim)).astype(dtype)
            cls = jnp.broadcast_to(cls[None], (x.shape[0], 1, self.stack.dim))
            x = jnp.concatenate([cls, x], axis=1)  # [B,1+rows·columns,D]
        x = constrain(x, "batch")
        x, _ = scan_layers(EncoderLayer, self.stack, ())(self.stack, train, name="layers")(x)
        return LayerNorm(self.stack.dtype, name="norm")(x)


class Projection(nn.Module):
    """Encoded image [B,S,D_enc] -> memory [B,S,D_dec] that the decoder attends to.

    Dense and LayerNorm; then, unless `mode` is 'linear', 2-D positions; then, if it is 'mlp', one
    MLP block.
    """

    stack: Stack
    grid: tuple[int, int]
    pos_encoding: str
    use_cls_token: bool
    mode: str

    @nn.compact
    def __call__(self, x: jnp.ndarray, train: bool) -> jnp.ndarray:
        x = Dense(self.stack.dim, (None, "embed"), self.stack.dtype, name="dense")(x)
        x = LayerNorm(self.stack.dtype, name="norm")(x)
        if self.mode == "linear":
            return x
        positions = grid_positions(self, self.pos_encoding, *self.grid, self.stack.dim)
        if self.use_cls_token:  # it has no position in the image
            positions = jnp.concatenate([jnp.zeros_like(positions[:1]), positions])
        x = x + positions.astype(x.dtype)[None]
        return MlpBlock(self.stack, train, name="mlp")(x) if self.mode == "mlp" else x
