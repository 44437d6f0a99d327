"""Blockwise attention against the plain form, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from pix2seq_jax.models import attention, blockwise
from pix2seq_jax.models.attention import attend_whole

# (images, heads, queries, keys, width of a head): whole blocks, odd ones, cross attention.
SHAPES = [(2, 3, 40, 40, 8), (1, 2, 37, 37, 4), (2, 1, 11, 53, 6), (1, 1, 1, 5, 2)]


def arrays(shape: tuple[int, ...], dtype: str = "float32") -> list[jnp.ndarray]:
    """Query, key, value, and a direction of the output for gradients."""
    images, heads, queries, keys, width = shape
    lengths = (queries, keys, keys, queries)
    seeds = jax.random.split(jax.random.key(0), len(lengths))
    return [
        (2 * jax.random.normal(seed, (images, heads, length, width))).astype(dtype)
        for seed, length in zip(seeds, lengths, strict=True)
    ]


def value_and_gradients(kind: str, causal: bool, query, key, value, direction):
    def along(*inputs):
        out = attend_whole(*inputs, kind=kind, causal=causal)
        return jnp.sum((out * direction).astype(jnp.float32)), out

    (_, out), grads = jax.jit(jax.value_and_grad(along, (0, 1, 2), has_aux=True))(query, key, value)
    return [out, *grads]


@pytest.fixture(params=[False, True], ids=["one device", "several"])
def few_scores(request, monkeypatch):
    """Blocks of few queries, with pictures and heads in a loop and together."""
    monkeypatch.setattr(blockwise, "BLOCK_SCORES", 160)
    if request.param:
        monkeypatch.setattr(jax, "device_count", lambda: 2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_blockwise_equals_plain(few_scores, shape, causal):
    inputs = arrays(shape)
    plain = value_and_gradients("plain", causal, *inputs)
    ours = value_and_gradients("blockwise", causal, *inputs)
    for expected, found in zip(plain, ours, strict=True):
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_bfloat16_is_as_near_to_float32_as_its_rounding(few_scores, causal):
    """The plain form keeps more of its gradients in float32 and is within half of this."""
    inputs = arrays(SHAPES[0], "bfloat16")
    exact = value_and_gradients("plain", causal, *(x.astype(jnp.float32) for x in inputs))
    ours = value_and_gradients("blockwise", causal, *inputs)
    for expected, found in zip(exact, ours, strict=True):
        assert found.dtype == jnp.bfloat16
        error = np.abs(np.asarray(found, np.float32) - expected).mean()
        assert error <= float(jnp.finfo(jnp.bfloat16).eps) * np.abs(expected).mean()


def test_no_array_of_all_scores_is_alive():
    """Temporary memory of the gradients at 2,048 tokens and 8 heads."""
    inputs = [jax.ShapeDtypeStruct((1, 8, 2048, 16), jnp.float32)] * 4

    def temporary(kind):
        function = jax.jit(lambda *x: value_and_gradients(kind, True, *x))
        return function.lower(*inputs).compile().memory_analysis().temp_size_in_bytes

    scores = 8 * 2048 * 2048 * 4
    assert temporary("plain") > scores
    assert temporary("blockwise") < scores / 2


def test_auto_takes_blocks_for_long_sequences_only(monkeypatch):
    calls = []

    def counted(query, key, value, causal):
        calls.append(query.shape)
        return blockwise.blockwise(query, key, value, causal)

    monkeypatch.setattr(attention, "blockwise", counted)
    query, key, value, _ = arrays(SHAPES[0])
    attend_whole(query, key, value, kind="auto")
    assert not calls
    monkeypatch.setattr(attention, "BLOCKWISE_FROM", 40 * 40)
    attend_whole(query, key, value, kind="auto")
    assert calls == [query.shape]


def test_dropout_of_weights_is_not_lost():
    """With it attention is plain whatever was asked for; dropped weights change the output."""
    query, key, value, _ = arrays(SHAPES[0])

    class Module(nn.Module):
        kind: str

        @nn.compact
        def __call__(self, deterministic):
            dropout = nn.Dropout(0.5, deterministic=deterministic)
            return attend_whole(query, key, value, kind=self.kind, dropout=dropout)

    rngs = {"dropout": jax.random.key(0)}
    dropped = Module("blockwise").apply({}, False, rngs=rngs)
    np.testing.assert_array_equal(dropped, Module("plain").apply({}, False, rngs=rngs))
    assert np.abs(dropped - Module("blockwise").apply({}, True)).max() > 0.1


@pytest.mark.parametrize("kind", ["cudnn", "splash"])
def test_a_kernel_without_its_device_says_what_to_set(kind):
    query, key, value, _ = arrays(SHAPES[0])
    with pytest.raises(ValueError, match=rf"attention='{kind}' needs .* model\.attention='auto'"):
        attend_whole(query, key, value, kind=kind)
