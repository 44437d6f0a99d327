"""Keypoint detection as a sequence: given an object's box and class, `y x` of each of its keypoints
in a fixed order.

Keypoints that are not labelled are the invisible token, twice. Pix2Seq v2 (arXiv:2206.07669),
sections 3.1 and 3.3; the input masking and the score are the release's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from pix2seq_jax.tasks.base import (
    OBJECT_PROMPT_TOKENS,
    Sequences,
    Task,
    check_samples,
    object_prompt,
    pad_objects,
    point_tokens,
    prompted,
    to_original,
)
from pix2seq_jax.vocab import INVISIBLE, PADDING, PROMPT_KEYPOINTS, Vocab


@dataclass(frozen=True)
class Keypoints(Task):
    """The keypoints of each object of an image, of its box and class. Raises ValueError where a
    field is out of range.

    The published recipe shows the model a crop of twice the box and one object.

    Attributes:
        vocab: token ranges.
        max_instances: objects per image in training; decoding takes as many as the example has.
        num_keypoints: keypoints per object, J; COCO's people have 17.
        invisible_weight: weight of the tokens of a keypoint that is not labelled.
        mask_inputs: replace inputs, each token for itself, by the invisible token with a chance
            that is drawn uniformly for each batch, so that the model learns to place a keypoint
            without the ones before it.
        points_score_weight: share of the tokens' mean likelihood in the score; the rest is the
            score of the box.
    """

    vocab: Vocab
    max_instances: int = 1
    num_keypoints: int = 17
    invisible_weight: float = 0.1
    mask_inputs: bool = True
    points_score_weight: float = 1.0

    name: ClassVar[str] = "keypoints"
    prompted: ClassVar[bool] = True
    decoding_fields: ClassVar[tuple[str, ...]] = ("points_score_weight",)

    def __post_init__(self) -> None:
        for field in ("max_instances", "num_keypoints"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"keypoints.{field}={getattr(self, field)}: at least one is needed"
                )
        if self.invisible_weight < 0:
            raise ValueError(
                f"keypoints.invisible_weight={self.invisible_weight}: a token weight must be "
                "0 or more"
            )
        if not 0 <= self.points_score_weight <= 1:
            raise ValueError(
                f"keypoints.points_score_weight={self.points_score_weight}: give a share, from 0 "
                "(the score of the box) to 1 (the likelihood of the tokens)"
            )

    @property
    def per_image(self) -> int:
        """Token sequences of an image in training."""
        return self.max_instances

    @property
    def max_len(self) -> int:
        """Tokens of prompt and response together."""
        return OBJECT_PROMPT_TOKENS + 2 * self.num_keypoints

    @property
    def allowed(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Every response token is a coordinate: a guess costs nothing in the metric, an invisible
        keypoint does."""
        return ((self.vocab.coord_range,),)

    @property
    def against_grammar(self) -> str:
        """Without masked inputs the model never reads a coordinate of an unlabelled keypoint."""
        if self.mask_inputs:
            return ""
        return (
            "decoding then writes a coordinate for a keypoint that is not labelled, and with "
            "mask_inputs=False the model has never read one there, so that what follows is wrong"
        )

    def encode(self, example: Mapping[str, jnp.ndarray], rng: jax.Array) -> Sequences:
        """Token sequences of the objects of a batch: [B,N,...] with N = max_instances and T = 2 *
        num_keypoints.

        Args:
            example: `boxes f32[B,N,4]` yxyx normalised to the padded image, `labels i32[B,N]`
                (1..C; others are padding) and `keypoints f32[B,N,2J]`: y, x, ... normalised,
                POINT_INVISIBLE where not labelled.
            rng: a jax.random.key, for `mask_inputs`; draws for a row do not depend on how many
                other rows there are.

        Returns:
            Padding objects weigh nothing, and there is no end of sequence to learn.

        Raises:
            ValueError: more objects per image than max_instances, or another number of keypoints.
        """
        boxes, labels, points = pad_objects(
            example, ("boxes", "labels", "keypoints"), self.max_instances, self.name
        )
        if points.shape[-1] != 2 * self.num_keypoints:
            raise ValueError(
                f"{points.shape[-1] / 2:g} keypoints per object but "
                f"keypoints.num_keypoints={self.num_keypoints}; set it to the number of keypoints "
                "of the data"
            )
        targets = jnp.where(labels[..., None] > 0, point_tokens(self.vocab, points), PADDING)
        weights = jnp.where(targets == INVISIBLE, self.invisible_weight, 1.0) * (targets != PADDING)
        return Sequences(
            prompt=object_prompt(self.vocab, PROMPT_KEYPOINTS, boxes, labels),
            inputs=self._mask(targets, rng) if self.mask_inputs else targets,
            targets=targets,
            weights=weights.astype(jnp.float32),
        )

    def prompt(self, example: Mapping[str, jnp.ndarray]) -> jnp.ndarray:
        """i32[B,N,6], task token, box and class of each of the example's objects; PADDING for
        padding objects."""
        return object_prompt(self.vocab, PROMPT_KEYPOINTS, example["boxes"], example["labels"])

    def decode(
        self, tokens: jnp.ndarray, scores: jnp.ndarray, example: Mapping[str, jnp.ndarray]
    ) -> dict[str, jnp.ndarray]:
        """Keypoints of sampled tokens, the mean over the samples.

        Args:
            tokens: i32[B,N,K,T] sampled responses of T = 2J tokens. A keypoint of which y or x is
                no coordinate does not count; where it counts in none of the samples it lies in the
                centre of the box.
            scores: f32[B,N,K,T], the likelihood of each sampled token under the model.
            example: `boxes` normalised to the padded image, `labels` and `scores f32[B,N]`, those
                of the prompts; `image` (shape), `orig_size`, `unpadded_size`, perhaps
                `crop_offset`, see `base.to_original`.

        Returns:
            `keypoints f32[B,N,J,2]` yx and `boxes f32[B,N,4]` yxyx, in pixels of the original
            image; `labels i32[B,N]`; `scores f32[B,N]`, see `score`, 0 for padding objects.

        Raises:
            ValueError: tokens or scores of another shape.
        """
        check_samples(tokens, scores, example["labels"])
        if tokens.shape[-1] != 2 * self.num_keypoints:
            raise ValueError(
                f"{tokens.shape[-1]} tokens per object; "
                f"keypoints.num_keypoints={self.num_keypoints} are {2 * self.num_keypoints}: "
                f"decode with max_len={self.max_len}"
            )
        pairs = tokens.reshape(*tokens.shape[:3], self.num_keypoints, 2)
        start, stop = self.vocab.coord_range
        located = jnp.all((pairs >= start) & (pairs < stop), axis=-1, keepdims=True)  # [B,N,K,J,1]
        count = jnp.sum(located, axis=2)
        mean = jnp.sum(self.vocab.coords(pairs) * located, axis=2) / jnp.maximum(
            count, 1
        )  # [B,N,J,2]
        boxes = example["boxes"]
        centre = (boxes[..., None, :2] + boxes[..., None, 2:]) / 2  # [B,N,1,2]
        points = jnp.where(count > 0, mean, centre)
        objects = prompted(example, self.score(tokens, scores, example["scores"]))
        return objects | {"keypoints": to_original(points, example)}

    def score(
        self, tokens: jnp.ndarray, scores: jnp.ndarray, box_scores: jnp.ndarray
    ) -> jnp.ndarray:
        """w * mean likelihood of the tokens that are not padding + (1 - w) * score of the box; w:
        points_score_weight.

        Args:
            tokens: i32[B,N,K,T].
            scores: f32[B,N,K,T], the likelihood of each token.
            box_scores: f32[B,N].

        Returns:
            f32[B,N], of several samples the mean.
        """
        counts = tokens != PADDING
        likelihood = jnp.sum(scores * counts, axis=-1) / jnp.maximum(jnp.sum(counts, axis=-1), 1)
        weight = self.points_score_weight
        return weight * jnp.mean(likelihood, axis=-1) + (1 - weight) * box_scores

    def _mask(self, tokens: jnp.ndarray, rng: jax.Array) -> jnp.ndarray:
        """Response tokens i32[B,N,T] -> the same with some of them INVISIBLE; see `mask_inputs`."""
        rng_ratio, rng_mask = jax.random.split(rng)
        ratio = jax.random.uniform(rng_ratio)
        masked = jax.random.uniform(rng_mask, tokens.shape) < ratio
        return jnp.where(masked, INVISIBLE, tokens)
