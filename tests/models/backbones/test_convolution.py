"""Convolutions and their gradients against those of JAX."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pix2seq_jax.models.backbones.convolution import AXES, convolve


def reference(x, kernel, stride, dilation):
    pad = dilation * (kernel.shape[0] - 1) // 2
    return lax.conv_general_dilated(
        x, kernel, (stride,) * 2, [(pad, pad)] * 2, None, (dilation,) * 2, AXES
    )


@pytest.mark.parametrize("side", [(8, 8), (9, 7)], ids=str)
@pytest.mark.parametrize("stride,dilation", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_values_and_gradients(size, stride, dilation, side):
    x = jax.random.normal(jax.random.key(0), (2, *side, 3))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 4))
    expected, pull = jax.vjp(lambda *a: reference(*a, stride, dilation), x, kernel)
    found, our_pull = jax.vjp(lambda *a: convolve(*a, stride, dilation), x, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    direction = jax.random.normal(jax.random.key(2), found.shape)
    for theirs, ours in zip(pull(direction), our_pull(direction), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_gradients_in_a_loop_have_the_layout_of_the_library():
    """There the compiler leaves the layout of a convolution as it is."""
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))

    def gradients(function):
        def body(_, carry):
            return jax.grad(lambda *a: jnp.sum(function(*a) ** 2), (0, 1))(*carry)

        return lambda *a: lax.fori_loop(0, a[-1], body, a[:2])

    def layouts(function):
        text = jax.jit(gradients(function)).lower(x, kernel, 3).compile().as_text()
        return set(re.findall(r"dim_labels=(\S+->\w+)", text))

    assert layouts(lambda x, kernel: convolve(x, kernel, 2)) == {"b01f_01io->b01f"}
    assert len(layouts(lambda x, kernel: reference(x, kernel, 2, 1))) > 1
