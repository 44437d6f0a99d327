"""Instance segmentation as a sequence: given an object's box and class, the points (y, x) around
it.

Polygons of one object are joined by a separator pair; the end of the points is padding. Pix2Seq v2
(arXiv:2206.07669), sections 3.1 and 3.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from pix2seq_jax.tasks.base import (
    OBJECT_PROMPT_TOKENS,
    Sequences,
    Task,
    check_samples,
    object_prompt,
    pad_objects,
    point_tokens,
    prompted,
    read_points,
    to_original,
)
from pix2seq_jax.vocab import (
    PADDING,
    POINT_PADDING,
    POINT_SEPARATOR,
    PROMPT_SEGMENTATION,
    SEPARATOR,
    Vocab,
)


def rotate_rings(points: jnp.ndarray, rng: jax.Array) -> jnp.ndarray:
    """Lets every ring of every object begin at a random one of its points; separators and padding
    stay in place.

    Args:
        points: f32[B,N,2M], y, x, ..., with the reserved floats POINT_SEPARATOR and POINT_PADDING.
        rng: a jax.random.key; draws for a row do not depend on how many other rows there are.

    Returns:
        f32[B,N,2M], the same points in the same cyclic order.
    """
    pairs = points.reshape(*points.shape[:2], -1, 2)  # [B,N,M,2]
    shape, size = pairs.shape[:3], pairs.shape[2]
    fixed = (pairs[..., 0] == POINT_SEPARATOR) | (pairs[..., 0] == POINT_PADDING)
    position = lax.broadcasted_iota(jnp.int32, shape, 2)
    # A ring reaches from its start, the position after the last fixed pair, to its stop, the
    # position of the next one.
    start = lax.cummax(jnp.where(fixed, position + 1, 0), axis=2)
    stop = lax.cummin(jnp.where(fixed, position, size), axis=2, reverse=True)
    length = jnp.maximum(stop - start, 1)
    drawn = jax.random.uniform(rng, shape)
    drawn = jnp.take_along_axis(
        drawn, jnp.minimum(start, size - 1), axis=2
    )  # one draw for all points of a ring
    shift = jnp.minimum((drawn * length).astype(jnp.int32), length - 1)
    taken = jnp.where(fixed, position, start + (position - start + shift) % length)
    return jnp.take_along_axis(pairs, taken[..., None], axis=2).reshape(points.shape)


@dataclass(frozen=True)
class Segmentation(Task):
    """The outline of each object of an image, of its box and class. Raises ValueError where a field
    is out of range.

    Attributes:
        vocab: token ranges.
        max_instances: objects per image in training; decoding takes as many as the example has.
        max_points: points per object, separators counted; the paper uses 128.
        random_start: let each polygon begin at a random one of its points, as in the paper.
        eos_weight: weight of the padding targets of an object that has points.
        padding_weight: weight of the tokens of padding objects, 0 to leave them out. The release
            has 1.0: its weights of padding targets are set after those of padding objects were
            zeroed, so that half-empty slots double the sum of weights. It counts the prompt as
            well, all 261 tokens that follow the first one. Here prompts never weigh; the response
            has their share, so that the sum over a padding object is the same.
    """

    vocab: Vocab
    max_instances: int = 10
    max_points: int = 128
    random_start: bool = True
    eos_weight: float = 1.0
    padding_weight: float = 0.0

    name: ClassVar[str] = "segmentation"
    prompted: ClassVar[bool] = True
    eos_token: ClassVar[int] = PADDING  # a sequence may stop here

    def __post_init__(self) -> None:
        if self.max_instances < 1:
            raise ValueError(
                f"segmentation.max_instances={self.max_instances}: at least one object is needed"
            )
        if self.max_points < 3:
            raise ValueError(
                f"segmentation.max_points={self.max_points}: a polygon has at least 3 points"
            )
        for field in ("eos_weight", "padding_weight"):
            if not getattr(self, field) >= 0:
                raise ValueError(
                    f"segmentation.{field}={getattr(self, field)}: a token weight must be 0 or more"
                )

    @property
    def per_image(self) -> int:
        """Token sequences of an image in training."""
        return self.max_instances

    @property
    def max_len(self) -> int:
        """Tokens of prompt and response together."""
        return OBJECT_PROMPT_TOKENS + 2 * self.max_points

    @property
    def allowed(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Every response token is a coordinate, half of a separator or padding, y tokens (even)
        like x tokens (odd).

        That both halves of a pair are of one kind is left to the model; see `base.read_points` for
        pairs that differ.
        """
        return ((self.vocab.coord_range, (SEPARATOR, SEPARATOR + 1), (PADDING, PADDING + 1)),)

    def encode(self, example: Mapping[str, jnp.ndarray], rng: jax.Array) -> Sequences:
        """Token sequences of the objects of a batch: [B,N,...] with N = max_instances and T = 2 *
        max_points.

        Args:
            example: `boxes f32[B,N,4]` yxyx normalised to the padded image, `labels i32[B,N]`
                (1..C; others are padding) and `polygons f32[B,N,2M]`: y, x, ... normalised, with
                the reserved floats of vocab.
            rng: a jax.random.key, for `random_start`; draws for a row do not depend on how many
                other rows there are.

        Returns:
            Padding objects weigh `padding_weight`. Objects without a single point weigh nothing: of
            their masks nothing is known.

        Raises:
            ValueError: more objects per image than max_instances, or more points than max_points.
        """
        boxes, labels, points = pad_objects(
            example, ("boxes", "labels", "polygons"), self.max_instances, self.name
        )
        missing = 2 * self.max_points - points.shape[-1]
        if missing < 0 or missing % 2:
            raise ValueError(
                f"polygons of {points.shape[-1]} numbers per object but "
                f"segmentation.max_points={self.max_points} allows {2 * self.max_points}, y and x "
                "of each point; raise it, or open the data with fewer points"
            )
        points = jnp.pad(points, ((0, 0), (0, 0), (0, missing)), constant_values=POINT_PADDING)
        if self.random_start:
            points = rotate_rings(points, rng)
        targets = jnp.where(labels[..., None] > 0, point_tokens(self.vocab, points), PADDING)
        written = targets != PADDING
        weights = jnp.where(written, 1.0, self.eos_weight) * jnp.any(
            written, axis=-1, keepdims=True
        )
        padding = (
            self.padding_weight * (self.max_len - 1) / (2 * self.max_points)
        )  # with the share of the prompt
        weights = jnp.where(labels[..., None] > 0, weights, padding)
        return Sequences(
            prompt=object_prompt(self.vocab, PROMPT_SEGMENTATION, boxes, labels),
            inputs=targets,
            targets=targets,
            weights=weights.astype(jnp.float32),
        )

    def prompt(self, example: Mapping[str, jnp.ndarray]) -> jnp.ndarray:
        """i32[B,N,6], task token, box and class of each of the example's objects; PADDING for
        padding objects."""
        return object_prompt(self.vocab, PROMPT_SEGMENTATION, example["boxes"], example["labels"])

    def decode(
        self, tokens: jnp.ndarray, scores: jnp.ndarray, example: Mapping[str, jnp.ndarray]
    ) -> dict[str, jnp.ndarray]:
        """Outlines of sampled tokens; `base.read_points` says how tokens are read that are no
        proper outline.

        Args:
            tokens: i32[B,N,K,T] sampled responses, T even.
            scores: f32[B,N,K,T]; only the shape is read: an outline has the score of its box, as in
                the paper.
            example: `boxes` normalised to the padded image, `labels` and `scores f32[B,N]`, those
                of the prompts; `image` (shape), `orig_size`, `unpadded_size`, perhaps
                `crop_offset`, see `base.to_original`.

        Returns:
            `points f32[B,N,K,T]` y, x, ... in pixels of the original image with the reserved floats
            POINT_PADDING (the end), POINT_SEPARATOR (between polygons) and POINT_INVISIBLE (to be
            left out); `boxes f32[B,N,4]` yxyx in pixels of the original image; `labels i32[B,N]`;
            `scores f32[B,N]`. Padding objects: POINT_PADDING, score 0.

        Raises:
            ValueError: tokens or scores of another shape.
        """
        check_samples(tokens, scores, example["labels"])
        objects = prompted(example, example["scores"])
        points = jnp.where(
            objects["labels"][..., None, None] > 0, read_points(self.vocab, tokens), POINT_PADDING
        )
        pairs = points.reshape(*points.shape[:3], -1, 2)
        pixels = to_original(pairs, example).reshape(points.shape)
        return objects | {"points": jnp.where(points < 0, points, pixels)}
