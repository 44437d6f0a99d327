"""Captions as sequences: the text pieces of one caption, then the end piece; all captions of an
image at once.

Pix2Seq v2 (arXiv:2206.07669), sections 3.1 and 3.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from pix2seq_jax.tasks.base import Sequences, Task, first_sample
from pix2seq_jax.vocab import END_PIECE, FAKE, PADDING, PROMPT_CAPTIONING, Vocab


@dataclass(frozen=True)
class Captioning(Task):
    """Captions of an image. Raises ValueError where a field is out of range.

    Attributes:
        vocab: token ranges, with text among them.
        captions_per_image: rows per image, C; images with fewer captions have rows that weigh
            nothing.
        max_tokens: pieces per caption, the end piece included.
        input_drop: chance of each piece to be read as FAKE, so that the image is looked at, not
            only the words before; the papers' release uses 0.5.
        eos_weight: weight of the end piece; the release uses 0.1.
        padding_weight: weight of each padding token behind the end piece, 0 to leave them out. The
            release has 1.0, so that a caption of 12 pieces in 128 tokens has a sum of weights of
            127 and its pieces a tenth of the gradient; the published weights of the tasks belong to
            these sums.
    """

    vocab: Vocab
    captions_per_image: int = 5
    max_tokens: int = 128
    input_drop: float = 0.5
    eos_weight: float = 0.1
    padding_weight: float = 0.0

    name: ClassVar[str] = "captioning"

    def __post_init__(self) -> None:
        if self.vocab.text_size <= END_PIECE + 1:
            raise ValueError(
                f"captioning with vocab.text_size={self.vocab.text_size}: the vocabulary has no "
                "text; set vocab.text_size to the number of pieces of the text model (and "
                "vocab.size so that they fit)"
            )
        for field in ("captions_per_image", "max_tokens"):
            if getattr(self, field) < 1:
                raise ValueError(f"captioning.{field}={getattr(self, field)}: must be at least 1")
        if not 0 <= self.input_drop <= 1:
            raise ValueError(
                f"captioning.input_drop={self.input_drop}: a chance is between 0 and 1"
            )
        for field in ("eos_weight", "padding_weight"):
            if not getattr(self, field) >= 0:
                raise ValueError(
                    f"captioning.{field}={getattr(self, field)}: a token weight must be 0 or more"
                )

    @property
    def per_image(self) -> int:
        """Token sequences of an image in training."""
        return self.captions_per_image

    @property
    def max_len(self) -> int:
        """Tokens of prompt and response together."""
        return 1 + self.max_tokens

    @property
    def eos_token(self) -> int:
        """The token that ends a caption."""
        return self.vocab.text_shift + END_PIECE

    @property
    def allowed(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Every response position may hold any text piece but padding, the end piece among them."""
        return (((self.eos_token, self.vocab.text_range[1]),),)

    def encode(self, example: Mapping[str, jnp.ndarray], rng: jax.Array) -> Sequences:
        """Token sequences of a batch, prompts [B,C,1] and responses [B,C,T], C captions_per_image,
        T max_tokens.

        Args:
            example: `captions i32[B,C',T']` piece ids below vocab.text_size, 0 padding, each
                caption ended by piece 1 unless it was cut; C' and T' at most C and T. A row of
                zeros is no caption and weighs nothing.
            rng: a jax.random key; draws for a row do not depend on how many other rows there are.

        Raises:
            ValueError: more captions than captions_per_image, or longer ones than max_tokens.
        """
        pieces = example["captions"].astype(jnp.int32)
        batch, count, length = pieces.shape
        if count > self.captions_per_image:
            raise ValueError(
                f"{count} captions per image but "
                f"captioning.captions_per_image={self.captions_per_image}; raise it, or open the "
                "data with fewer captions per image"
            )
        if length > self.max_tokens:
            raise ValueError(
                f"captions of {length} pieces but captioning.max_tokens={self.max_tokens}; "
                "raise it (and model.max_seq_len), or open the data with shorter captions"
            )
        pieces = jnp.pad(
            pieces, ((0, 0), (0, self.captions_per_image - count), (0, self.max_tokens - length))
        )
        is_piece = pieces > 0
        targets = jnp.where(is_piece, pieces + self.vocab.text_shift, PADDING)
        dropped = is_piece & jax.random.bernoulli(rng, self.input_drop, pieces.shape)
        weights = jnp.where(
            is_piece, jnp.where(pieces == END_PIECE, self.eos_weight, 1.0), self.padding_weight
        )
        weights *= jnp.any(is_piece, axis=-1, keepdims=True)
        return Sequences(
            prompt=jnp.full((batch, self.captions_per_image, 1), PROMPT_CAPTIONING, jnp.int32),
            inputs=jnp.where(dropped, FAKE, targets),
            targets=targets,
            weights=weights.astype(jnp.float32),
        )

    def prompt(self, example: Mapping[str, jnp.ndarray]) -> jnp.ndarray:
        """i32[B,1], the task token; reads only the shape of `image f32[B,H,W,3]`."""
        return jnp.full((example["image"].shape[0], 1), PROMPT_CAPTIONING, jnp.int32)

    def decode(
        self, tokens: jnp.ndarray, scores: jnp.ndarray, example: Mapping[str, jnp.ndarray]
    ) -> dict[str, jnp.ndarray]:
        """Pieces of the first of K sampled or searched captions.

        Args:
            tokens: i32[B,1,K,T] responses, best first. The axis of objects may be left out.
            scores: f32[B,1,K,T], not read.
            example: not read.

        Returns:
            `pieces i32[B,T]`: up to and with the first end piece, then 0. Tokens that are no piece
            (specials, classes, coordinates, piece 0) are left out and those behind them move up, so
            that the first 0 ends the caption.
        """
        pieces = first_sample(tokens, tokens)[0] - self.vocab.text_shift
        is_piece = (pieces >= END_PIECE) & (pieces < self.vocab.text_size)
        ends = (pieces == END_PIECE).astype(jnp.int32)
        counts = is_piece & (jnp.cumsum(ends, axis=-1) - ends == 0)
        order = jnp.argsort(~counts, axis=-1, stable=True)  # those that count first, in their order
        return {
            "pieces": jnp.take_along_axis(jnp.where(counts, pieces, 0), order, axis=-1).astype(
                jnp.int32
            )
        }
