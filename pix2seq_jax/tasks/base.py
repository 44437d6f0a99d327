"""What every task shares: the token sequences of a batch, and the way from normalised coordinates to original pixels.

A task is a frozen dataclass of plain fields; no base class, the contract is its methods:

    encode(example, rng) -> Sequences        what the trainer learns from
    prompt(example) -> i32[B,(N,)P]          what decoding starts from
    decode(tokens, scores, example) -> dict  arrays in pixels of the original image
    max_len, allowed, slots                  how to call decoding.generate

The trainer runs the model on `concat(prompt, inputs)[..., :-1]` and scores its outputs from position P - 1 on against
`targets` with `weights`: the output at the last prompt token predicts the first response token. Prompts never weigh.
Axes: B images, N objects per image, P prompt tokens, T response tokens.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp


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


def to_original(points: jnp.ndarray, example: Mapping[str, jnp.ndarray]) -> jnp.ndarray:
    """Points of the padded image -> pixels of the original image, clipped to it.

    For images that were resized and padded only, as for evaluation and prediction; crops and flips are not undone.

    Args:
        points: f32[B,...,2], yx, normalised to [0, 1] of the padded image.
        example: `image f32[B,H,W,3]` (only its shape is read), `unpadded_size i32[B,2]` the height and width in pixels
            that the resized image fills from the top left corner, `orig_size i32[B,2]` those of the original.

    Returns:
        f32[B,...,2], yx in pixels of the original image.
    """
    per_row = (points.shape[0],) + (1,) * (points.ndim - 2) + (2,)
    padded = jnp.asarray(example["image"].shape[1:3], jnp.float32)
    unpadded = example["unpadded_size"].astype(jnp.float32).reshape(per_row)
    original = example["orig_size"].astype(jnp.float32).reshape(per_row)
    scale = padded.reshape((1,) * len(per_row[:-1]) + (2,)) / unpadded * original
    return jnp.clip(points * scale, 0.0, original)
