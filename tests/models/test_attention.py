"""Attention, its shared image keys and its cache."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from pix2seq_jax.models import attention
from pix2seq_jax.models.attention import (
    CrossAttention,
    CrossKeyValue,
    SelfAttention,
    attend,
    attend_whole,
)
from pix2seq_jax.models.layers import Stack

STACK = Stack(layers=3, dim=16, mlp=32, heads=2)


def normal(seed: int, *shape: int) -> jnp.ndarray:
    return jax.random.normal(jax.random.key(seed), shape)


def test_attend_is_softmax_attention():
    query, key, value = normal(0, 2, 4, 5, 8), normal(1, 2, 4, 7, 8), normal(2, 2, 4, 7, 8)
    mask = jax.random.bernoulli(jax.random.key(3), 0.5, (5, 7)).at[:, 0].set(True)
    for m in (np.ones((5, 7), bool), mask):
        ours = attend(query, key, value, None if m.all() else m)
        scores = np.einsum("bhtk,bhsk->bhts", query, key) / np.sqrt(8) + np.where(m, 0, -np.inf)
        weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(ours, np.einsum("bhts,bhsk->bhtk", weights, value), atol=1e-6)


def test_softmax_is_float32_in_bfloat16():
    """Scores of 300 and 301 are the same bfloat16; in float32 the second gets e times the
    weight."""
    query, key = (
        jnp.ones((1, 1, 1, 1), jnp.bfloat16),
        jnp.asarray([300.0, 302.0], jnp.bfloat16)[None, None, :, None],
    )
    out = attend(query, key, jnp.asarray([0.0, 1.0], jnp.bfloat16)[None, None, :, None])
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), 1 / (1 + np.exp(-2)), atol=4e-3)


@pytest.mark.parametrize(
    "queries,keys,causal,kernel",
    [
        (261, 261, True, True),
        (145, 145, False, True),
        (160, 145, False, True),
        (39, 39, True, False),
    ],
)
def test_a_gpu_attends_by_cudnn_which_gets_even_lengths(queries, keys, causal, kernel, monkeypatch):
    """JAX refuses odd ones in training. Here what it has for all devices takes the arguments."""
    seen, run = [], jax.nn.dot_product_attention

    def instead(*arrays, implementation, **options):
        assert implementation == "cudnn"
        seen.extend(array.shape[1] for array in arrays)
        return run(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "has_cudnn", lambda: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    shapes = [(2, 3, length, 8) for length in (queries, keys, keys)]
    # All scores are negative, so a zero behind the keys would be seen.
    scales = (3, -1, 1)
    arrays = [
        scale * jnp.abs(normal(1, *shape)) for scale, shape in zip(scales, shapes, strict=True)
    ]
    mask = jnp.tril(jnp.ones((queries, keys), bool)) if causal else None

    def ours(*arrays):
        out = attend_whole(
            *(array.astype(jnp.bfloat16) for array in arrays), kind="auto", causal=causal
        )
        assert out.dtype == jnp.bfloat16
        return jnp.sum(out.astype(jnp.float32) ** 2), out

    def plain(*arrays):
        out = attend(*arrays, mask)
        return jnp.sum(out**2), out

    (_, out), gradients = jax.value_and_grad(ours, (0, 1, 2), has_aux=True)(*arrays)
    (_, expected), exact = jax.value_and_grad(plain, (0, 1, 2), has_aux=True)(*arrays)
    assert len(seen) == 3 * kernel and all(length % 2 == 0 for length in seen)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=3e-2)
    for found, wanted in zip(gradients, exact, strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "capability,kernel",
    [("8.0", True), ("10.3", True), ("7.5", False), ("gfx942", False), (None, False)],
)
def test_cudnn_is_for_cards_that_have_its_kernel(capability, kernel, monkeypatch):
    fields = {} if capability is None else {"compute_capability": capability}
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(**fields)])
    assert attention.has_cudnn() == kernel


def test_sequences_share_the_keys_of_their_image():
    """R sequences at once give what each gives alone."""
    x, memory = normal(0, 2, 3, 5, 16), normal(1, 2, 6, 16)
    cross = CrossKeyValue(STACK)
    keys, values = cross.apply(cross.init(jax.random.key(0), memory), memory)
    assert keys.shape == values.shape == (3, 2, 2, 6, 8)  # [L, B, H, S, D/H]
    module = CrossAttention(STACK, train=False)
    variables = module.init(jax.random.key(1), x, keys[1], values[1])
    together = module.apply(variables, x, keys[1], values[1])
    for row in range(3):
        alone = module.apply(variables, x[:, row : row + 1], keys[1], values[1])
        np.testing.assert_allclose(together[:, row : row + 1], alone, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_only_causal_attention_hides_the_future(causal):
    x = normal(0, 1, 4, 16)
    module = SelfAttention(STACK, train=False, causal=causal)
    variables = module.init(jax.random.key(0), x)
    before = module.apply(variables, x)
    after = module.apply(variables, x.at[:, 3].add(1.0))
    assert np.allclose(before[:, :3], after[:, :3]) == causal


KERAS_LIMITS = np.sqrt(6 / (64 * 4 + 64 * 16)), np.sqrt(6 / (4 * 16 + 4 * 64))
MATRIX_LIMITS = (np.sqrt(6 / (64 + 64)),) * 2


@pytest.mark.parametrize("init,limits", [("keras", KERAS_LIMITS), ("matrix", MATRIX_LIMITS)])
def test_kernels_start_in_the_limits_of_glorot(init, limits):
    """Keras: fans D·H and D·D/H of a 3-D kernel [D, H, D/H]; matrix: D and D. Stacked kernels start
    layer by layer."""
    stack = Stack(layers=2, dim=64, mlp=64, heads=4, attention_init=init)
    variables = nn.meta.unbox(
        SelfAttention(stack, False, True).init(jax.random.key(0), normal(0, 1, 2, 64))
    )
    cross = nn.meta.unbox(CrossKeyValue(stack).init(jax.random.key(0), normal(0, 1, 2, 64)))[
        "params"
    ]
    into, out = limits
    for kernel, limit in (
        (variables["params"]["query"]["kernel"], into),
        (variables["params"]["out"]["kernel"], out),
        (cross["key_kernel"], into),
    ):
        assert 0.95 * limit < np.abs(kernel).max() <= limit
        np.testing.assert_allclose(np.std(kernel), limit / np.sqrt(3), rtol=0.05)
    assert (cross["key_kernel"][0] != cross["key_kernel"][1]).any()
