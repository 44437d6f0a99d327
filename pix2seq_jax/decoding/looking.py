"""Where the decoder looks: cross-attention and probabilities of tokens that are there already.

The normal path keeps no attention. Here the tokens go through the same layers once more, all at
once, and the weights are computed from the queries that these layers make (Pix2Seq,
arXiv:2109.10852, section 4.4, shows such maps). Keys of tokens are not rounded, nor on a CPU
those of the image, also where `model.cache_dtype` is int8.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pix2seq_jax.models.attention import ToHeads
from pix2seq_jax.models.cached import CachedLayers
from pix2seq_jax.models.pix2seq import Pix2Seq


class Look(NamedTuple):
    """What the decoder makes of tokens.

    Attributes:
        logits: f32[B,N,T,V], of the token that follows each.
        attention: f32[B,N,T,S], share of each image token, mean over heads and layers; what is
            looked at to write the token that follows. Sums to 1.
    """

    logits: jnp.ndarray
    attention: jnp.ndarray


def look(model: Pix2Seq, variables: Any, memory: jnp.ndarray, tokens: jnp.ndarray) -> Look:
    """Reads tokens by teacher forcing. Pure; under jit the model is static.

    Args:
        model, variables: the model and its variables.
        memory: f32[B,S,D] of `encode`.
        tokens: i32[B,N,T] from the start of N sequences per image, prompts included.
    """
    batch, rows, length = tokens.shape
    cut = model.cut_variables(variables)
    cross_kv = model.apply(variables, memory, method="cross_kv")
    cache = model.empty_cache(batch * rows, length)
    _, kept = model.apply(
        cut, tokens, cache, cross_kv, 0, method="step", capture_intermediates=_is_kept
    )
    layers = kept["intermediates"]["decoder"]["steps"]
    (hidden, _), *_ = layers["__call__"]
    logits = model.apply(cut, hidden, method=_logits)
    total = jnp.zeros((batch, rows * length, memory.shape[1]))
    for number, image in enumerate(cross_kv):
        (query,) = layers[f"layer{number}"]["cross_attention"]["query"]["__call__"]
        total += jnp.mean(jax.nn.softmax(image.scores(query)), axis=1)
    attention = total / len(cross_kv)
    return Look(logits, attention.reshape(batch, rows, length, -1))


def _is_kept(module: Any, method: str) -> bool:
    """The queries of cross-attention, and what leaves the last layer."""
    return method == "__call__" and isinstance(module, ToHeads | CachedLayers)


def _logits(model: Pix2Seq, hidden: jnp.ndarray) -> jnp.ndarray:
    """[B,N,T,D] -> f32[B,N,T,V], on variables of `cut_variables`."""
    return model.decoder.cut_logits(hidden)
