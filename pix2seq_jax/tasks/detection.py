"""Object detection as a sequence: `ymin xmin ymax xmax class` per object, real objects first, then
noise boxes.

Pix2Seq (arXiv:2109.10852), sections 2.1, 2.3 (sequence augmentation, altered inference) and 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from pix2seq_jax.tasks.base import Sequences, Task, first_sample, pad_objects, to_original
from pix2seq_jax.vocab import FAKE, NOISE_LABEL, PADDING, PROMPT_DETECTION, Vocab

TOKENS_PER_BOX = 5  # four coordinates and a class
CLASS_CORRUPTIONS = (
    "none",
    "rand_cls",
    "real_n_fake_cls",
    "rand_n_fake_cls",
    "real_n_rand_n_fake_cls",
)


@dataclass(frozen=True)
class Detection(Task):
    """Boxes of all objects of an image. Raises ValueError where a field is out of range.

    Attributes:
        vocab: token ranges.
        max_instances: boxes per sequence, real and noise ones together; the paper uses 100.
        class_corruption: what the decoder reads in place of a class, drawn anew for every box that
            is not padding: 'none' the class; 'rand_cls' a uniformly random class; 'real_n_fake_cls'
            the class or FAKE, even chances; 'rand_n_fake_cls' a random class or FAKE, even chances;
            'real_n_rand_n_fake_cls' the class with chance 1/2, a random class 1/4, FAKE 1/4. The
            class of a noise box is FAKE.
        noise_weight: weight of the class token of a noise box (its coordinates weigh 0).
        eos_weight: weight of every padding target.
    """

    vocab: Vocab
    max_instances: int = 100
    class_corruption: str = "rand_n_fake_cls"
    noise_weight: float = 1.0
    eos_weight: float = 0.1

    name: ClassVar[str] = "detection"

    def __post_init__(self) -> None:
        if self.max_instances < 1:
            raise ValueError(
                f"detection.max_instances={self.max_instances}: at least one box per image is "
                "needed"
            )
        if self.class_corruption not in CLASS_CORRUPTIONS:
            raise ValueError(
                f"detection.class_corruption={self.class_corruption!r}: choose one of "
                f"{', '.join(CLASS_CORRUPTIONS)}"
            )
        for field in ("noise_weight", "eos_weight"):
            if getattr(self, field) < 0:
                raise ValueError(
                    f"detection.{field}={getattr(self, field)}: a token weight must be 0 or more"
                )

    @property
    def max_len(self) -> int:
        """Tokens of prompt and response together."""
        return 1 + TOKENS_PER_BOX * self.max_instances

    @property
    def class_positions(self) -> tuple[int, int, int, int]:
        """(start, stop, first, every): keep P(tokens start..stop-1) at response positions first,
        first + every, ..."""
        return (*self.vocab.class_range, TOKENS_PER_BOX - 1, TOKENS_PER_BOX)

    @property
    def allowed(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Response position t may hold tokens of the half-open ranges `allowed[t % 5]`.

        No end of sequence among them: decoding fills every slot and leaves it to the scores to rank
        the boxes.
        """
        coordinate = (self.vocab.coord_range,)
        return (coordinate,) * 4 + ((self.vocab.class_range, (FAKE, FAKE + 1)),)

    def encode(self, example: Mapping[str, jnp.ndarray], rng: jax.Array) -> Sequences:
        """Token sequences of a batch, of T = 5 * max_instances tokens; images without objects are
        all padding.

        Args:
            example: `boxes f32[B,N,4]` yxyx normalised to the padded image and `labels i32[B,N]`:
                1..C, 0 padding, NOISE_LABEL noise box. In the order in which they are to be
                written.
            rng: a jax.random key; draws for a row do not depend on how many other rows there are.

        Raises:
            ValueError: more boxes per image than max_instances.
        """
        boxes, labels = pad_objects(example, ("boxes", "labels"), self.max_instances, self.name)
        batch, labels = labels.shape[0], labels.astype(jnp.int32)
        real, noise = (labels > 0), (labels == NOISE_LABEL)  # the rest is padding

        def serialize(coordinates, classes):  # [B,N,4], [B,N] -> [B,5N]
            tokens = jnp.concatenate([coordinates, classes[..., None]], axis=-1)
            tokens = jnp.where((real | noise)[..., None], tokens, PADDING)
            return tokens.reshape(batch, self.max_len - 1)

        coordinates, classes = self.vocab.coord_tokens(boxes), self.vocab.class_tokens(labels)
        coordinate_weights = jnp.where(real, 1.0, jnp.where(noise, 0.0, self.eos_weight))
        class_weights = jnp.where(real, 1.0, jnp.where(noise, self.noise_weight, self.eos_weight))
        weights = jnp.stack([coordinate_weights] * 4 + [class_weights], axis=-1)
        return Sequences(
            prompt=jnp.full((batch, 1), PROMPT_DETECTION, jnp.int32),
            inputs=serialize(coordinates, self._corrupt(classes, rng)),
            targets=serialize(coordinates, classes),
            weights=weights.reshape(batch, self.max_len - 1).astype(jnp.float32),
        )

    def prompt(self, example: Mapping[str, jnp.ndarray]) -> jnp.ndarray:
        """i32[B,1], the task token; reads only the shape of `image f32[B,H,W,3]`."""
        return jnp.full((example["image"].shape[0], 1), PROMPT_DETECTION, jnp.int32)

    def decode(
        self, tokens: jnp.ndarray, scores: jnp.ndarray, example: Mapping[str, jnp.ndarray]
    ) -> dict[str, jnp.ndarray]:
        """Boxes of sampled tokens; tokens after the last whole box are dropped: M = T // 5 boxes.

        Args:
            tokens: i32[B,1,K,T] sampled responses, of which the first is read: class probabilities
                stand for samples of the class. The axes in front of T may be left out.
            scores: either f32[B,1,K,M,C], the probabilities of labels 1..C at the class tokens
                (`class_positions`): the label is the likeliest, whatever was sampled, and its
                probability the score ("altered inference" of the paper). Or f32[B,1,K,T], the
                likelihood of each sampled token: the label is the sampled one and its likelihood
                the score; a sample that is no class gives label 0 and score 0.
            example: `image` (shape), `orig_size`, `unpadded_size`, see `base.to_original`.

        Returns:
            `boxes f32[B,M,4]` yxyx in pixels of the original image, clipped to it, `labels
            i32[B,M]`, `scores f32[B,M]`. A box whose ends are swapped becomes empty; it overlaps
            nothing either way.

        Raises:
            ValueError: `scores` of neither shape.
        """
        boxes, labels, scores = self.read(*first_sample(tokens, scores))
        corners = to_original(boxes.reshape(*labels.shape, 2, 2), example)
        corners = corners.at[..., 1, :].max(corners[..., 0, :])
        return {"boxes": corners.reshape(boxes.shape), "labels": labels, "scores": scores}

    def read(
        self, tokens: jnp.ndarray, scores: jnp.ndarray
    ) -> tuple[jnp.ndarray, jnp.ndarray, jnp.ndarray]:
        """Like `decode`, of tokens i32[B,T], with boxes f32[B,M,4] as they were written: normalised
        to the padded image, ends unchecked."""
        batch, count = tokens.shape[0], tokens.shape[1] // TOKENS_PER_BOX
        slots = tokens[:, : count * TOKENS_PER_BOX].reshape(batch, count, TOKENS_PER_BOX)
        boxes = self.vocab.coords(slots[..., :4])
        if scores.shape == (batch, count, self.vocab.num_classes):
            return (
                boxes,
                jnp.argmax(scores, axis=-1).astype(jnp.int32) + 1,
                jnp.max(scores, axis=-1),
            )
        if scores.shape != tokens.shape:
            raise ValueError(
                f"scores{list(scores.shape)} for tokens{list(tokens.shape)}: give class "
                f"probabilities [{batch}, {count}, {self.vocab.num_classes}] or token likelihoods "
                f"{list(tokens.shape)}"
            )
        labels = self.vocab.labels(slots[..., 4])
        likelihoods = scores[:, : count * TOKENS_PER_BOX].reshape(slots.shape)[..., 4]
        return boxes, labels, jnp.where(labels > 0, likelihoods, 0.0)

    def _corrupt(self, classes: jnp.ndarray, rng: jax.Array) -> jnp.ndarray:
        """Class tokens i32[B,N] -> class tokens to read; see `class_corruption`."""
        rng_class, rng_fake, rng_real = jax.random.split(rng, 3)
        # The release draws from every token between 100 and coord_shift, most of which are no
        # class.
        random = jax.random.randint(rng_class, classes.shape, *self.vocab.class_range)
        fake = jnp.full_like(classes, FAKE)
        random_or_fake = jnp.where(jax.random.bernoulli(rng_fake, 0.5, classes.shape), random, fake)
        is_real = jax.random.bernoulli(rng_real, 0.5, classes.shape)
        return {
            "none": classes,
            "rand_cls": random,
            "real_n_fake_cls": jnp.where(is_real, classes, fake),
            "rand_n_fake_cls": random_or_fake,
            "real_n_rand_n_fake_cls": jnp.where(is_real, classes, random_or_fake),
        }[self.class_corruption]
