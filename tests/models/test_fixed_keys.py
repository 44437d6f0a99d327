"""Looking at keys and values that stay as they are, in floats and in int8."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.models.attention import attend
from pix2seq_jax.models.fixed_keys import MOST_PARTS, PART, FixedKeys, dtype_of_keys

# Fewer than a part, whole parts, some over, and so many that parts are wider.
TOKENS = [7, 2 * PART, 2 * PART + 3, (MOST_PARTS + 1) * PART + 4]


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def arrays(queries, tokens):
    return normal(0, 2, 3, queries, 4), normal(1, 2, 3, tokens, 4), 3 * normal(2, 2, 3, tokens, 4)


@pytest.mark.parametrize("queries", [1, 3])
def test_floats_give_what_attention_gives(queries):
    query, key, value = arrays(queries, 50)
    image = FixedKeys.create(key, value, "float32")
    np.testing.assert_allclose(image.attend(query), attend(query, key, value), atol=1e-6)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("queries", [1, 3])
def test_int8_gives_what_attention_gives_to_the_rounded_numbers(queries, tokens):
    query, key, value = arrays(queries, tokens)
    image = FixedKeys.create(key, value, "int8")
    assert image.key.dtype == image.value.dtype == jnp.int8
    rounded = [
        (numbers * step).swapaxes(2, 3)
        for numbers, step in ((image.key, image.key_step), (image.value, image.value_step))
    ]
    for exact, near in zip((key, value), rounded, strict=True):
        assert 1e-4 < np.abs(exact - near).max() < np.abs(exact).max() / 127
    found = jax.jit(FixedKeys.attend)(image, query)
    np.testing.assert_allclose(found, attend(query, *rounded), atol=1e-5)
    of_one = [image.attend(query[:, :, i : i + 1]) for i in range(queries)]
    np.testing.assert_allclose(found, jnp.concatenate(of_one, axis=2), atol=1e-5)


def test_int8_of_a_bfloat16_model_and_of_zeros():
    """Single queries are summed in float32; rows of zeros have no step."""
    query, key, value = arrays(1, 50)
    key, value = key.at[:, :, :, 0].set(0), value.at[:, :, :, 1].set(0)
    wide = FixedKeys.create(key, value, "int8").attend(query)
    narrow = FixedKeys.create(key, value, "int8").attend(query.astype(jnp.bfloat16))
    assert narrow.dtype == jnp.bfloat16 and (narrow[..., 1] == 0).all()
    np.testing.assert_allclose(narrow.astype(jnp.float32), wide, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("queries", [1, 3])
def test_a_tpu_asks_with_eight_queries(queries, dtype, monkeypatch):
    """Those that are added are left out again."""
    query, key, value = arrays(queries, 50)
    image = FixedKeys.create(key, value, dtype)
    before = image.attend(query)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    program = jax.make_jaxpr(lambda image, query: image.attend(query))(image, query)
    assert "f32[2,3,8,50]" in str(program)
    np.testing.assert_allclose(image.attend(query), before, atol=1e-5)


def test_single_queries_read_int8_on_a_cpu():
    """There is no product with all keys, for which XLA would convert them."""
    query, key, value = arrays(1, 2 * PART + 3)
    program = jax.make_jaxpr(FixedKeys.attend)(FixedKeys.create(key, value, "int8"), query)
    shapes = {
        str(x.aval)
        for eqn in program.eqns
        for x in eqn.invars
        if eqn.primitive.name == "dot_general"
    }
    assert shapes == {"float32[2,3,4,64]", "float32[64]"}  # columns of the parts are added up


@pytest.mark.parametrize(
    "asked,queries,dtype",
    [
        (("bfloat16", ""), 1, "float32"),
        (("bfloat16", "bfloat16"), 1, "float32"),
        (("bfloat16", "int8"), 1, "int8"),
        (("float32", "int8"), 2, "float32"),
        (("float32", "int8"), None, "float32"),
    ],
)
def test_dtype_of_keys_on_a_cpu(asked, queries, dtype):
    assert dtype_of_keys(*asked, queries) == dtype


def test_dtype_of_keys_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert dtype_of_keys("bfloat16", "", 1) == "bfloat16"
    assert (
        dtype_of_keys("bfloat16", "int8", 80) == dtype_of_keys("bfloat16", "int8", None) == "int8"
    )
