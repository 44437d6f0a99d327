"""Steps with a cache give what one pass gives, whatever blocks the cache grows by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.cached import Block, attend_cached
from pix2seq_jax.models.pix2seq import Pix2Seq

SIZES = {"enc_layers": 1, "enc_dim": 8, "enc_mlp": 8, "enc_heads": 1}
SIZES |= {"dec_layers": 6, "dec_dim": 16, "dec_mlp": 32, "dec_heads": 2}  # beyond a short stack


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


CASES = [
    ({}, (9,)),
    ({}, (4, 1, 3)),
    ({}, (1, 8)),
    ({"shared_embedding": False, "output_bias": False}, (4, 1, 3)),
    ({"dtype": "bfloat16"}, (4, 1, 3)),
    ({"cache_dtype": "bfloat16"}, (4, 1, 3)),
    ({"cache_dtype": "int8"}, (4, 1, 3)),
    ({"dtype": "bfloat16", "cache_dtype": "int8"}, (4, 1, 3)),
    ({"kernel_dtype": "int8"}, (4, 1, 3)),
    ({"kernel_dtype": "int8", "shared_embedding": False}, (1, 8)),
]


@pytest.mark.parametrize("options,blocks", CASES)
def test_cached_steps_equal_one_pass(options, blocks):
    """Of a prompt of three tokens and then one, one, two at a time."""
    model = Pix2Seq(
        image_size=(8, 8), vocab_size=40, backbone=VitBackbone(patch_size=8), **SIZES, **options
    )
    tokens = jax.random.randint(jax.random.key(1), (2, 3, 7), 0, 40)
    images = normal(2, 2, 8, 8, 3)
    variables = nn.meta.unbox(model.init(jax.random.key(0), images, tokens))
    memory = model.apply(variables, images, method="encode")
    whole = model.apply(variables, memory, tokens, method="decode")
    cross_kv = model.apply(variables, memory, method="cross_kv")
    cut = model.cut_variables(variables)
    cache, free = model.empty_cache(6, blocks[0]), list(blocks[1:])
    exact = {model.dtype, model.cache_dtype, model.kernel_dtype} <= {"float32", ""}
    start = 0
    for stop in (1, 2, 3, 4, 5, 7) if blocks[0] < 3 else (3, 4, 5, 7):
        while cache.length < stop:
            cache = cache.grow(free.pop(0))
        part = tokens[:, :, start:stop]
        logits, cache = model.apply(cut, part, cache, cross_kv, start, method="step")
        np.testing.assert_allclose(logits, whole[:, :, stop - 1], atol=1e-5 if exact else 0.05)
        start = stop
    assert exact or np.abs(logits - whole[:, :, -1]).max() > 1e-5


def test_attention_reads_filled_tokens_only():
    """What an unfilled place holds makes no difference."""
    query, new = normal(0, 2, 3, 1, 4), Block(normal(1, 2, 3, 1, 4), normal(2, 2, 3, 1, 4))
    full = Block(normal(3, 2, 3, 5, 4), normal(4, 2, 3, 5, 4))
    last = Block(normal(5, 2, 3, 6, 4), normal(6, 2, 3, 6, 4))
    out = attend_cached(query, new, (full,), last, 7)
    dirty = jax.tree.map(lambda x: x.at[:, :, 2:].set(1e6), last)
    np.testing.assert_array_equal(out, attend_cached(query, new, (full,), dirty, 7))
    together = jax.tree.map(
        lambda a, b, c: jnp.concatenate([a, b[:, :, :2], c], axis=2), full, last, new
    )
    weights = nn.softmax(jnp.einsum("rhtk,rhsk->rhts", query, together.key) / 2.0)
    exact = jnp.einsum("rhts,rhsk->rhtk", weights, together.value)
    np.testing.assert_allclose(out, exact, atol=1e-6)


@pytest.mark.parametrize("length", [1, 3])
def test_a_tpu_asks_with_eight_queries(length, monkeypatch):
    """Those that are added see nothing and are left out again."""
    query, key, value = (normal(seed, 2, 3, length, 4) for seed in range(3))
    last = Block(normal(3, 2, 3, 6, 4), normal(4, 2, 3, 6, 4))
    given = (query, Block(key, value), (), last, 5)
    before = attend_cached(*given)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    program = str(jax.make_jaxpr(attend_cached)(*given))
    assert "f32[2,3,8,6]" in program and f"f32[2,3,{length},6]" not in program  # scores
    np.testing.assert_allclose(attend_cached(*given), before, atol=1e-6)
