"""Pix2Seq: an image encoder and an autoregressive decoder over one vocabulary (Chen et al., 2022,
section 3)."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from flax import linen as nn
from jax import numpy as jnp

from pix2seq_jax.models import backbones
from pix2seq_jax.models.backbones.base import Backbone
from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.cached import Cache, cut_variables
from pix2seq_jax.models.decoder import Decoder
from pix2seq_jax.models.encoder import PROJECTIONS, Encoder, Projection
from pix2seq_jax.models.fixed_keys import FixedKeys, dtype_of_keys
from pix2seq_jax.models.layers import ATTENTION_INITS, ATTENTIONS, REMAT_POLICIES, Stack
from pix2seq_jax.models.positions import KINDS

ALLOWED = {
    "pos_encoding": KINDS,
    "dec_pos_encoding": KINDS,
    "proj_mode": PROJECTIONS,
    "attention_init": ATTENTION_INITS,
    "attention": ATTENTIONS,
    "remat_policy": REMAT_POLICIES,
    "dtype": ("float32", "bfloat16"),
    "cache_dtype": ("", "float32", "bfloat16", "int8"),
    "kernel_dtype": ("", "int8"),
}


class Pix2Seq(nn.Module):
    """The model.

    Axes: B images, N sequences per image, P prompt tokens, T sequence tokens, S image tokens, V
    vocabulary, D_dec the decoder's width.

    Attributes:
        image_size: (height, width) in pixels of the padded images.
        backbone: what makes image tokens, one of models.backbones with its own fields.
        enc_layers, enc_dim, enc_mlp, enc_heads: the transformer on top of any backbone; enc_mlp is
            a multiple of enc_dim.
        dec_layers, dec_dim, dec_mlp, dec_heads: the decoder's.
        vocab_size: V.
        max_seq_len: longest sequence, prompt and response together.
        pos_encoding: of image tokens, 'sin_cos' or 'learned'.
        dec_pos_encoding: of sequence tokens, 'learned' or 'sin_cos'.
        use_cls_token: whether the encoder has a class token, which the decoder sees too.
        stem_norm: whether the backbone's tokens are normalised before positions are added, as
            published; a ViT pretrained elsewhere has no such norm.
        proj_mode: from encoder to decoder, 'mlp', 'linear' or 'linear_p' (linear with positions).
        shared_embedding: whether logits use the token embedding.
        output_bias: whether logits have a bias.
        drop_path, drop_units, drop_att: rates of stochastic depth and of dropout in MLP and
            attention.
        attention_init: how attention kernels start, 'keras' as published or 'matrix', see
            models.layers; small models trained from scratch leave the first plateau much sooner
            with 'matrix'.
        attention: how attention of whole sequences is computed: 'plain', 'blockwise' (memory grows
            with the length, not its square), 'cudnn' (GPU and bfloat16 only), 'splash' (TPU only),
            or 'auto', the one of them that suits length, dtype and machine; see
            models.attention.attend_whole.
        dtype: of the computation, 'float32' or 'bfloat16'; parameters, softmax and logits are
            float32.
        cache_dtype: of the decoder's cache of sequence tokens; '' for `dtype`, on a CPU for
            float32. 'bfloat16' halves the cache of a float32 model, where the device multiplies
            such numbers itself. 'int8' is for its blocks of 128 tokens that are full (the last one
            stays as with '', and so does all of a beam search), and for the keys and values of the
            image, which are most of the bytes: each of their D_dec rows is rounded to 127 steps
            either way. On a CPU those of the image are rounded where it has one sequence, as in
            detection and captioning; for others they are float32.
        kernel_dtype: of the decoder's kernels while it writes tokens; '' for `dtype`. With 'int8'
            they are a quarter of their bytes in float32: each column is rounded to 127 steps either
            way, and so is each row that is multiplied with them, as it comes. The token embedding
            and what makes the image's keys and values stay as they are.
        remat: recompute activations of each layer in the backward pass.
        remat_policy: which of them: 'all', or the 'elementwise' ones, so that the results of matrix
            products, of attention and of the sums of LayerNorm are kept.

    Raises:
        ValueError: at construction, where a field has a value that is not allowed.
    """

    image_size: tuple[int, int]
    vocab_size: int
    backbone: Backbone = VitBackbone()
    enc_layers: int = 12
    enc_dim: int = 768
    enc_mlp: int = 3072
    enc_heads: int = 12
    dec_layers: int = 6
    dec_dim: int = 512
    dec_mlp: int = 2048
    dec_heads: int = 16
    max_seq_len: int = 512
    pos_encoding: str = "sin_cos"
    dec_pos_encoding: str = "learned"
    use_cls_token: bool = False
    stem_norm: bool = True
    proj_mode: str = "mlp"
    shared_embedding: bool = True
    output_bias: bool = True
    drop_path: float = 0.1
    drop_units: float = 0.1
    drop_att: float = 0.0
    attention_init: str = "keras"
    attention: str = "auto"
    dtype: str = "float32"
    cache_dtype: str = ""
    kernel_dtype: str = ""
    remat: bool = False
    remat_policy: str = "all"

    def __post_init__(self) -> None:
        _check_fields(self)
        super().__post_init__()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Pix2Seq":
        """The model of `config.model`, whose keys are exactly the fields; ValueError names keys
        unknown or missing."""
        names = field_names()
        unknown, missing = sorted(set(config) - set(names)), sorted(set(names) - set(config))
        if unknown:
            raise ValueError(f"config.model has unknown keys {unknown}; it may hold {names}")
        if missing:
            raise ValueError(
                f"config.model lacks {missing}; every field is given, so that the logged "
                "config is complete"
            )
        values = dict(config)
        values["image_size"] = tuple(values["image_size"])
        values["backbone"] = backbones.from_config(values["backbone"])
        return cls(**values)

    def setup(self) -> None:
        enc = self._stack(self.enc_layers, self.enc_dim, self.enc_mlp, self.enc_heads)
        dec = self._decoder_stack()
        # The MLP of the projection widens by the encoder's ratio, as in the official release.
        proj = self._stack(
            1, self.dec_dim, self.dec_dim * (self.enc_mlp // self.enc_dim), self.dec_heads
        )
        grid = self.backbone.grid(self.image_size)
        self.stem = self.backbone.stem(enc)
        self.image_encoder = Encoder(
            enc, grid, self.pos_encoding, self.use_cls_token, self.stem_norm
        )
        self.projection = Projection(
            proj, grid, self.pos_encoding, self.use_cls_token, self.proj_mode
        )
        self.decoder = Decoder(
            dec,
            self.vocab_size,
            self.max_seq_len,
            self.dec_pos_encoding,
            self.shared_embedding,
            self.output_bias,
        )

    def _stack(self, layers: int, dim: int, mlp: int, heads: int) -> Stack:
        return Stack(
            layers,
            dim,
            mlp,
            heads,
            drop_path=self.drop_path,
            drop_units=self.drop_units,
            drop_att=self.drop_att,
            dtype=self.dtype,
            remat=self.remat,
            remat_policy=self.remat_policy,
            attention_init=self.attention_init,
            attention=self.attention,
        )

    def _decoder_stack(self) -> Stack:
        return self._stack(self.dec_layers, self.dec_dim, self.dec_mlp, self.dec_heads)

    def encode(self, images: jnp.ndarray, train: bool = False) -> jnp.ndarray:
        """Images f32[B,H,W,3] in [0,1] -> memory f32[B,S,D_dec], S image tokens in rows from
        the top left."""
        if images.shape[1:] != (*self.image_size, 3):
            raise ValueError(
                f"images have shape {images.shape}, but the model takes (batch, height, width, "
                f"channels) = (B, {self.image_size[0]}, {self.image_size[1]}, 3); resize or pad "
                "them, or set model.image_size"
            )
        x = self.image_encoder(self.stem(images, train), train)
        return self.projection(x, train).astype(jnp.float32)

    def decode(self, memory: jnp.ndarray, tokens: jnp.ndarray, train: bool = False) -> jnp.ndarray:
        """Teacher-forced logits.

        Args:
            memory: f32[B,S,D_dec] of `encode`.
            tokens: i32[B,T], or i32[B,N,T] for N sequences per image; position t predicts token
                t + 1.
            train: whether dropout is on.

        Returns:
            f32[B,T,V] or f32[B,N,T,V].
        """
        if tokens.shape[0] != memory.shape[0]:
            raise ValueError(
                f"tokens of {tokens.shape[0]} images for memory of {memory.shape[0]}; give "
                "both the same batch"
            )
        rows = tokens if tokens.ndim == 3 else tokens[:, None]  # [B,N,T]
        hidden = self.decoder.hidden(rows, self.decoder.cross_kv(memory), train)
        logits = self.decoder.logits(hidden)
        return logits if tokens.ndim == 3 else logits[:, 0]

    def __call__(
        self, images: jnp.ndarray, tokens: jnp.ndarray, train: bool = False
    ) -> jnp.ndarray:
        """Logits of `decode` for the images f32[B,H,W,3]; training needs a 'dropout' rng."""
        return self.decode(self.encode(images, train), tokens, train)

    def before_logits(
        self, images: jnp.ndarray, tokens: jnp.ndarray, train: bool = False
    ) -> tuple[jnp.ndarray, jnp.ndarray, jnp.ndarray]:
        """What the logits of `__call__` are made of, for a loss that needs no more than a part of
        them at a time.

        Returns:
            The decoder's output [B,(N,)T,D_dec], the embeddings f32[V,D_dec] that it is multiplied
            with, and the bias f32[V].
        """
        rows = tokens if tokens.ndim == 3 else tokens[:, None]  # [B,N,T]
        cross_kv = self.decoder.cross_kv(self.encode(images, train))
        hidden = self.decoder.hidden(rows, cross_kv, train)
        hidden = hidden if tokens.ndim == 3 else hidden[:, 0]
        return hidden, self.decoder.output_embedding, self.decoder.output_bias_or_zeros()

    def cross_kv(self, memory: jnp.ndarray, queries: int | None = None) -> tuple[FixedKeys, ...]:
        """Memory f32[B,S,D_dec] -> cross-attention keys and values of each decoder layer for
        `step`, in a form for so many tokens of an image at a time; None where that is not known."""
        dtype = dtype_of_keys(self.dtype, self.cache_dtype, queries)
        keys, values = self.decoder.cross_kv(memory)
        layers = range(self.dec_layers)
        return tuple(FixedKeys.create(keys[layer], values[layer], dtype) for layer in layers)

    def cut_variables(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables for `step`, made of those of the model: once, before a loop over tokens."""
        return cut_variables(variables, self._decoder_stack(), self.kernel_dtype)

    def empty_cache(self, rows: int, length: int) -> Cache:
        """Room for `rows` = B·N sequences of at most `length` tokens; needs no parameters."""
        rounds_full = self.cache_dtype == "int8"
        dtype = "" if rounds_full else self.cache_dtype  # of what is written token by token
        dtype = dtype or dtype_of_keys(self.dtype, "", None)
        return Cache.create(self._decoder_stack(), rows, length, dtype, rounds_full=rounds_full)

    def step(
        self,
        tokens: jnp.ndarray,
        cache: Cache,
        cross_kv: tuple[FixedKeys, ...],
        index: jnp.ndarray | int,
    ) -> tuple[jnp.ndarray, Cache]:
        """Feeds tokens i32[B,N,T] at positions index..index+T (T = P for the prompt, then 1).

        Its variables are those of `cut_variables`.

        Returns:
            Logits f32[B,N,V] that follow the last of them, and the cache with all of them
            written.
        """
        return self.decoder.step(tokens, cross_kv, cache, index)


def _check_fields(model: Pix2Seq) -> None:
    """Raises ValueError where a field has a value that is not allowed."""
    for name, allowed in ALLOWED.items():
        if getattr(model, name) not in allowed:
            raise ValueError(
                f"model.{name}={getattr(model, name)!r}; it may be one of {list(allowed)}"
            )
    for name in ("drop_path", "drop_units", "drop_att"):
        if not 0 <= getattr(model, name) < 1:
            raise ValueError(
                f"model.{name}={getattr(model, name)}; a rate is at least 0 and below 1"
            )
    model.backbone.check_size(model.image_size)
    for part, dim, mlp, heads in (
        ("enc", model.enc_dim, model.enc_mlp, model.enc_heads),
        ("dec", model.dec_dim, model.dec_mlp, model.dec_heads),
    ):
        if dim % heads:
            raise ValueError(
                f"model.{part}_dim={dim} is not divisible by model.{part}_heads={heads}; "
                "give a multiple"
            )
        if mlp % dim:
            raise ValueError(
                f"model.{part}_mlp={mlp} is not divisible by model.{part}_dim={dim}; give "
                "a multiple"
            )


def field_names() -> list[str]:
    """The fields of Pix2Seq, which are those of `config.model`."""
    return [field.name for field in fields(Pix2Seq) if field.name not in ("parent", "name")]


def complete(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section `config.model` with the defaults of the fields that it leaves out.

    `backbone` has to be there, with its `name`; image_size and vocab_size have no default.
    """
    defaults = {
        field.name: field.default
        for field in fields(Pix2Seq)
        if field.name in field_names() and field.default is not MISSING
    }
    return defaults | dict(section) | {"backbone": backbones.complete(section["backbone"])}
