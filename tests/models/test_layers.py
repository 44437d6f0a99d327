"""Layers by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.models.layers import gelu, matmul, to_int8


def test_gelu_in_bfloat16_is_the_rounded_float32_one():
    x = jnp.linspace(-5.0, 5.0, 401).astype(jnp.bfloat16)
    exact = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    assert gelu(x).dtype == jnp.bfloat16
    # Half a unit in the last place of bfloat16 is 2^-9 of the value; erf itself is exact to 1e-6
    # near -1.
    np.testing.assert_allclose(gelu(x).astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)
    np.testing.assert_allclose(gelu(jnp.bfloat16(-3.0)), -0.00405, rtol=0.01)  # it was -0.0059


def test_int8_numbers_are_at_most_half_a_step_off():
    x = jax.random.normal(jax.random.key(0), (30, 20)) * jnp.arange(20.0)[None]
    numbers, step = to_int8(x, (0,))
    assert numbers.dtype == jnp.int8 and step.shape == (1, 20)
    np.testing.assert_array_equal(jnp.abs(numbers).max(axis=0), [0] + [127] * 19)
    np.testing.assert_allclose(jnp.abs(x).max(axis=0), 127 * step[0], rtol=1e-6)
    assert (jnp.abs(x - numbers * step) <= 0.5001 * step).all()


def test_int8_products_are_near_those_of_floats_and_each_row_is_alone():
    x = jax.random.normal(jax.random.key(0), (2, 3, 64)).at[0, 1].set(0.0)
    kernel = jax.random.normal(jax.random.key(1), (64, 32))
    numbers, step = to_int8(kernel, (0,))
    product = matmul(x, numbers, steps=step[0])
    exact = jnp.matmul(x, kernel)
    assert product.dtype == jnp.float32 and not product[0, 1].any()
    error = jnp.linalg.norm(product - exact) / jnp.linalg.norm(exact)
    assert 1e-4 < error < 0.02
    one = matmul(x[1, 2][None], numbers, steps=step[0])
    np.testing.assert_allclose(one[0], product[1, 2], rtol=1e-6)
    assert jnp.isnan(matmul(x.at[0, 0, 0].set(jnp.nan), numbers, steps=step[0])[0, 0]).all()


@pytest.mark.parametrize("rows", [1, 2])
def test_int8_products_have_two_rows_or_more(rows):
    """For one row a CPU would convert the kernel every time."""
    numbers, steps = jnp.ones((64, 32), jnp.int8), jnp.ones(32)
    program = jax.make_jaxpr(lambda x: matmul(x, numbers, steps=steps))(jnp.ones((rows, 64)))
    (product,) = [x for x in program.jaxpr.eqns if x.primitive.name == "dot_general"]
    assert product.outvars[0].aval.str_short() == "int32[2,32]"
    assert [x.aval.dtype for x in product.invars] == [jnp.int8, jnp.int8]


def test_a_cpu_sums_bfloat16_in_float32():
    """For sums in bfloat16 it would convert both factors."""
    x, kernel = jnp.ones((8, 64), jnp.bfloat16), jnp.ones((64, 32), jnp.bfloat16)

    def loss(x, kernel):
        return matmul(x, kernel).astype(jnp.float32).sum()

    assert matmul(x, kernel).dtype == jnp.bfloat16
    program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel))
    assert program.count("dot_general") == program.count("preferred_element_type=float32") == 3
