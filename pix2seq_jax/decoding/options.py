"""What decoding is asked for: each option checked, and made into what the loops need."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pix2seq_jax.decoding.sampling import Beam, Greedy
from pix2seq_jax.models.pix2seq import Pix2Seq

Ranges = tuple[tuple[int, int], ...]


class ClassPositions(NamedTuple):
    """Where class probabilities are kept: of tokens start..stop-1, at response positions first,
    first + every, ..."""

    start: int
    stop: int
    first: int
    every: int

    def count(self, length: int) -> int:
        """Kept positions in a response of `length` tokens."""
        return max(math.ceil((length - self.first) / self.every), 0)


def check_lengths(
    model: Pix2Seq, memory: jnp.ndarray, prompt: jnp.ndarray, max_len: int, eos_token: int
) -> None:
    """Refuses shapes, lengths and an end token that do not fit, with a ValueError."""
    if prompt.ndim not in (2, 3) or prompt.shape[0] != memory.shape[0]:
        raise ValueError(
            f"prompt{list(prompt.shape)} for memory{list(memory.shape)}: give i32[B,P] or "
            "i32[B,N,P]"
        )
    if not prompt.shape[-1] < max_len <= model.max_seq_len:
        raise ValueError(
            f"max_len={max_len} counts prompt and response: it must be above the "
            f"{prompt.shape[-1]} prompt tokens and at most model.max_seq_len={model.max_seq_len}; "
            "decode fewer tokens or train a longer model"
        )
    if not 0 <= eos_token < model.vocab_size:
        raise ValueError(
            f"eos_token={eos_token} is not within the vocabulary 0..{model.vocab_size}"
        )


def check_options(
    model: Pix2Seq,
    sampler: Any,
    num_samples: int,
    class_positions: tuple[int, int, int, int] | None,
) -> ClassPositions | None:
    """The class positions, if there are any; ValueError for options that do not fit."""
    if isinstance(sampler, Beam):
        raise ValueError(
            f"{sampler} draws no tokens: call decoding.beam.beam_search, or give another sampler"
        )
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples}; at least one sample is needed")
    if class_positions is None:
        return None
    class_positions = ClassPositions(*class_positions)
    within = 0 <= class_positions.start < class_positions.stop <= model.vocab_size
    if not within or class_positions.first < 0 or class_positions.every < 1:
        raise ValueError(
            f"class_positions={class_positions}: tokens must be within the vocabulary "
            f"0..{model.vocab_size}, every at least 1"
        )
    return class_positions


def image_keys(rng: jax.Array | None, sampler: Any, batch: int) -> jax.Array:
    """One key per image, so that what is drawn for an image does not depend on the others of its
    batch."""
    if rng is None:
        if not isinstance(sampler, Greedy):
            raise ValueError(
                f"{sampler} draws at random: give rng, a jax.random.key or one key per image"
            )
        rng = jax.random.key(0)
    if not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) or rng.shape not in ((), (batch,)):
        raise ValueError(
            f"rng is {rng.dtype}{list(rng.shape)}; give a jax.random.key, or {batch} keys, "
            "one per image"
        )
    return rng if rng.shape else jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(batch))


def grammar_table(allowed: tuple[Ranges, ...] | None, vocab_size: int) -> jnp.ndarray | None:
    """bool[period,V], True for the tokens that may be drawn at response position t % period; None
    for all tokens."""
    if allowed is None:
        return None
    table = np.zeros((len(allowed), vocab_size), bool)
    for row, ranges in zip(table, allowed, strict=True):
        for start, stop in ranges:
            if not 0 <= start < stop <= vocab_size:
                raise ValueError(
                    f"allowed range {(start, stop)} is not within the vocabulary 0..{vocab_size}"
                )
            row[start:stop] = True
    if not table.any(axis=1).all():
        raise ValueError(
            f"allowed={allowed} leaves a response position without any token; give each a range"
        )
    return jnp.asarray(table)
