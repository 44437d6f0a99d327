"""Layers by themselves."""

import jax
import jax.numpy as jnp
import numpy as np

from pix2seq_jax.models.layers import gelu


def test_gelu_in_bfloat16_is_the_rounded_float32_one():
    x = jnp.linspace(-5.0, 5.0, 401).astype(jnp.bfloat16)
    exact = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    assert gelu(x).dtype == jnp.bfloat16
    # Half a unit in the last place of bfloat16 is 2^-9 of the value; erf itself is exact to 1e-6
    # near -1.
    np.testing.assert_allclose(gelu(x).astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)
    np.testing.assert_allclose(gelu(jnp.bfloat16(-3.0)), -0.00405, rtol=0.01)  # it was -0.0059
