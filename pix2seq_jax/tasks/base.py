"""What a task is on the device: the contract, and what several tasks share.

The trainer runs the model on `concat(prompt, inputs)[..., :-1]`. It scores the outputs from
position P - 1 on against `targets` with `weights`: the output at the last prompt token predicts the
first response token. Prompts never weigh.

Axes: B images, N objects per image, K samples per object, P prompt tokens, T response tokens.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from pix2seq_jax.vocab import (
    INVISIBLE,
    PADDING,
    POINT_INVISIBLE,
    POINT_PADDING,
    POINT_SEPARATOR,
    SEPARATOR,
    Vocab,
)

PICTURE_FIELDS = ("image", "unpadded_size", "pad_value")  # of an example, what `images` reads
OBJECT_PROMPT_TOKENS = 6  # task, four coordinates, class; see `object_prompt`


class Sequences(NamedTuple):
    """Tokens of a batch, a pytree.

    Attributes:
        prompt: i32[B,(N,)P] tokens that are given.
        inputs: i32[B,(N,)T] response as the decoder reads it, corrupted where the task corrupts.
        targets: i32[B,(N,)T] clean response; 0 is padding.
        weights: f32[B,(N,)T] share of each target token in the loss; the loss divides by their sum.
    """

    prompt: jnp.ndarray
    inputs: jnp.ndarray
    targets: jnp.ndarray
    weights: jnp.ndarray


class Task(Protocol):
    """The device half of a task: pure functions between examples and token sequences.

    A task is a frozen dataclass of plain fields that inherits from this class; its line in
    `tasks.TASKS` makes it known. The fields are those of its section in a config, but for `vocab`.

    Attributes:
        name: of its section in a config, and in everything that is written.
        vocab: token ranges.
        prompted: whether its prompts are objects with boxes: then prompts are i32[B,N,P].
        max_instances: objects per image that `encode` takes; None if it reads none.
        eos_token: a sequence ends with it; None if every position is filled.
        decoding_fields: those of its fields that only `decode` reads.
    """

    name: ClassVar[str]
    vocab: Vocab
    prompted: ClassVar[bool] = False
    max_instances: Any = None
    eos_token: Any = None
    decoding_fields: ClassVar[tuple[str, ...]] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What its losses are called; several where one batch holds several tasks."""
        return (self.name,)

    @property
    def per_image(self) -> int:
        """Token sequences of an image in training."""
        return 1

    @property
    def max_len(self) -> int:
        """Tokens of prompt and response together."""
        raise NotImplementedError

    @property
    def allowed(self) -> tuple[tuple[tuple[int, int], ...], ...] | None:
        """The grammar: response position t may hold tokens of the half-open ranges
        `allowed[t % len(allowed)]`. None: any token."""
        return None

    @property
    def against_grammar(self) -> str:
        """Why its training does not suit decoding that is held to the grammar; "" where it does."""
        return ""

    @property
    def class_positions(self) -> tuple[int, int, int, int] | None:
        """(start, stop, first, every): decoding keeps P(tokens start..stop-1) at the response
        positions first, first + every, ... None: it keeps none."""
        return None

    def encode(self, example: Mapping[str, jnp.ndarray], rng: jax.Array) -> Sequences:
        """What the trainer learns from."""
        raise NotImplementedError

    def prompt(self, example: Mapping[str, jnp.ndarray]) -> jnp.ndarray:
        """i32[B,(N,)P], what decoding starts from."""
        raise NotImplementedError

    def decode(
        self, tokens: jnp.ndarray, scores: jnp.ndarray, example: Mapping[str, jnp.ndarray]
    ) -> dict[str, jnp.ndarray]:
        """Arrays in pixels of the original image, rows on their first axis.

        Args:
            tokens: i32[B,N,K,T] responses; N is 1 for a task that is not prompted by objects.
            scores: f32[B,N,K,T], the likelihood of each token; with `class_positions`
                f32[B,N,K,M,stop-start], the probabilities at the M positions.
            example: fields of the images, and of the objects that prompted.
        """
        raise NotImplementedError


def images(example: Mapping[str, jnp.ndarray]) -> jnp.ndarray:
    """The images of an example as the model takes them: f32[B,H,W,3] in [0, 1].

    Args:
        example: `image`: f32[B,H,W,3], which is returned as it is, or u8[B,H,W,3] in [0, 255], as
            the pipeline sends it to spare memory. With the latter `unpadded_size i32[B,2]` and
            `pad_value f32[B]`: what lies below and to the right of the unpadded size gets exactly
            that value (0.3 as published is no whole number of 255ths).
    """
    image = example["image"]
    if image.dtype != jnp.uint8:
        return image
    height, width = image.shape[1:3]
    size = example["unpadded_size"]
    rows = jnp.arange(height)[None, :] < size[:, :1]  # [B,H]
    columns = jnp.arange(width)[None, :] < size[:, 1:]  # [B,W]
    inside = (rows[:, :, None] & columns[:, None, :])[..., None]  # [B,H,W,1]
    return jnp.where(
        inside, image.astype(jnp.float32) * (1 / 255), example["pad_value"][:, None, None, None]
    )


def to_original(points: jnp.ndarray, example: Mapping[str, jnp.ndarray]) -> jnp.ndarray:
    """Points of the padded image -> pixels of the original image, clipped to it.

    For images that were resized and padded only, as for evaluation and prediction, after a cut to
    the window that `crop_offset` and `orig_size` give; other crops and flips are not undone.

    Args:
        points: f32[B,...,2], yx, normalised to [0, 1] of the padded image.
        example: `image f32[B,H,W,3]` (only its shape is read), `unpadded_size i32[B,2]` the height
            and width in pixels that the resized image fills from the top left corner, `orig_size
            i32[B,2]` those of the original, or of the window cut from it; perhaps `crop_offset
            i32[B,2]`, the window's corner (y, x) in pixels of the original, 0 for whole images.

    Returns:
        f32[B,...,2], yx in pixels of the original image, inside the window.
    """
    per_row = (points.shape[0],) + (1,) * (points.ndim - 2) + (2,)
    padded = jnp.asarray(example["image"].shape[1:3], jnp.float32)
    unpadded = example["unpadded_size"].astype(jnp.float32).reshape(per_row)
    original = example["orig_size"].astype(jnp.float32).reshape(per_row)
    scale = padded.reshape((1,) * len(per_row[:-1]) + (2,)) / unpadded * original
    pixels = jnp.clip(points * scale, 0.0, original)
    if "crop_offset" not in example:
        return pixels
    return pixels + example["crop_offset"].astype(jnp.float32).reshape(per_row)


def from_original(boxes: jnp.ndarray, example: Mapping[str, jnp.ndarray]) -> jnp.ndarray:
    """The inverse of `boxes_to_original` for whole images: f32[B,N,4], yxyx in pixels of the
    original image, clipped to it, -> normalised to the padded image; example as in `to_original`,
    without a window."""
    padded = jnp.asarray(example["image"].shape[1:3], jnp.float32)
    share = (
        example["unpadded_size"].astype(jnp.float32) / padded[None]
    )  # [B,2], of the padded image that is filled
    limits = jnp.tile(example["orig_size"].astype(jnp.float32), (1, 2))[:, None]  # [B,1,4]
    return jnp.clip(boxes, 0.0, limits) / limits * jnp.tile(share, (1, 2))[:, None]


def boxes_to_original(example: Mapping[str, jnp.ndarray]) -> jnp.ndarray:
    """`boxes f32[B,N,4]` of an example -> f32[B,N,4], yxyx in pixels of the original image; see
    `to_original`."""
    boxes = example["boxes"]
    return to_original(boxes.reshape(*boxes.shape[:2], 2, 2), example).reshape(boxes.shape)


def pad_objects(
    example: Mapping[str, jnp.ndarray], fields: tuple[str, ...], count: int, task: str
) -> tuple[jnp.ndarray, ...]:
    """The fields of an example, each [B,N,...], with zeros appended until there are `count` objects
    per image.

    Raises:
        ValueError: more objects per image than `count`, which is `max_instances` of the task named
            `task`.
    """
    present = example["labels"].shape[1]
    if present > count:
        raise ValueError(
            f"{present} objects per image but {task}.max_instances={count}; "
            "raise it, or give the preprocessing a smaller pad_objects(...)"
        )
    arrays = (example[field] for field in fields)
    return tuple(
        jnp.pad(a, ((0, 0), (0, count - present)) + ((0, 0),) * (a.ndim - 2)) for a in arrays
    )


def object_prompt(
    vocab: Vocab, task_token: int, boxes: jnp.ndarray, labels: jnp.ndarray
) -> jnp.ndarray:
    """`task ymin xmin ymax xmax class` of each object: f32[B,N,4] yxyx normalised, i32[B,N] ->
    i32[B,N,6].

    All PADDING where the label is not above 0 (padding, noise boxes).
    """
    labels = labels.astype(jnp.int32)[..., None]  # [B,N,1]
    task = jnp.full_like(labels, task_token)
    prompt = jnp.concatenate([task, vocab.coord_tokens(boxes), vocab.class_tokens(labels)], axis=-1)
    return jnp.where(labels > 0, prompt, PADDING)


def prompted(example: Mapping[str, jnp.ndarray], scores: jnp.ndarray) -> dict[str, jnp.ndarray]:
    """The prompted objects of an example as `decode` gives them back, with the scores f32[B,N] of
    what was found.

    Returns:
        `boxes f32[B,N,4]` yxyx in pixels of the original image; `labels i32[B,N]`, 0 for padding
        objects; `scores`, 0 for these.
    """
    labels = jnp.maximum(example["labels"].astype(jnp.int32), 0)
    return {
        "boxes": boxes_to_original(example),
        "labels": labels,
        "scores": jnp.where(labels > 0, scores, 0.0),
    }


def point_tokens(vocab: Vocab, points: jnp.ndarray) -> jnp.ndarray:
    """Coordinates in [0, 1] and the floats reserved in point lists, f32[...] -> tokens i32[...]."""
    tokens = vocab.coord_tokens(points)
    for reserved, token in (
        (POINT_PADDING, PADDING),
        (POINT_SEPARATOR, SEPARATOR),
        (POINT_INVISIBLE, INVISIBLE),
    ):
        tokens = jnp.where(points == reserved, token, tokens)
    return tokens


def read_points(vocab: Vocab, tokens: jnp.ndarray) -> jnp.ndarray:
    """Sampled tokens -> points; the inverse of `point_tokens` on what that writes, and defined for
    any tokens.

    Tokens are read in pairs (y, x); a last token without a partner is dropped. The first pair that
    holds PADDING ends the list: it and all that follows are POINT_PADDING. A pair that holds
    SEPARATOR is a separator. Of the others a pair that is not two coordinates is POINT_INVISIBLE: a
    point of which nothing is known.

    Args:
        vocab: token ranges.
        tokens: i32[...,T].

    Returns:
        f32[...,T // 2 * 2] y, x, y, x, ... normalised to the padded image; in a pair both or
        neither are reserved.
    """
    count = tokens.shape[-1] // 2
    pairs = tokens[..., : 2 * count].reshape(*tokens.shape[:-1], count, 2)
    start, stop = vocab.coord_range

    def holds(condition):  # bool[...,count,2] -> bool[...,count,1]
        return jnp.any(condition, axis=-1, keepdims=True)

    points = jnp.where(
        holds((pairs < start) | (pairs >= stop)), POINT_INVISIBLE, vocab.coords(pairs)
    )
    points = jnp.where(holds(pairs == SEPARATOR), POINT_SEPARATOR, points)
    ended = jnp.cumsum(holds(pairs == PADDING), axis=-2) > 0
    return jnp.where(ended, POINT_PADDING, points).reshape(*tokens.shape[:-1], 2 * count)


def first_sample(tokens: jnp.ndarray, scores: jnp.ndarray) -> tuple[jnp.ndarray, jnp.ndarray]:
    """[B,N,K,T...] -> [B,T...], of the first object and its first sample; [B,K,T...] and [B,T...]
    are taken as well."""
    for _ in range(tokens.ndim - 2):
        tokens, scores = tokens[:, 0], scores[:, 0]
    return tokens, scores


def check_samples(tokens: jnp.ndarray, scores: jnp.ndarray, labels: jnp.ndarray) -> None:
    """Raises ValueError unless tokens and their likelihoods are [B,N,K,T] for labels [B,N], with K
    and T at least 1."""
    if (
        tokens.ndim != 4
        or tokens.shape[:2] != labels.shape
        or 0 in tokens.shape[2:]
        or scores.shape != tokens.shape
    ):
        raise ValueError(
            f"tokens{list(tokens.shape)} and scores{list(scores.shape)} for "
            f"labels{list(labels.shape)}: give the tokens and likelihoods [B,N,K,T] that were "
            "decoded from prompt(example)"
        )
