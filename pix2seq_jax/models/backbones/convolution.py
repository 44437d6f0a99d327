"""Convolutions whose gradients are fast on a CPU wherever they stand.

XLA's CPU compiler brings a convolution into the layout of its library only where it stands in the
entry computation. The gradients of a training step stand in its loop over tasks, and there the
compiler wrote plain loops for them: a step of a ResNet-50 took 2.4 times as long at 128 pixels. So
a convolution over single points is a matrix product here, and the gradients of the others are
written in the layout of the library.
"""

from functools import partial

import jax
from jax import lax
from jax import numpy as jnp

from pix2seq_jax.models.layers import matmul

AXES = ("NHWC", "HWIO", "NHWC")  # the only layout that the library takes


def convolve(
    x: jnp.ndarray, kernel: jnp.ndarray, stride: int = 1, dilation: int = 1
) -> jnp.ndarray:
    """[B,H,W,C] and an odd square kernel [k,k,C,D] -> [B,⌈H/stride⌉,⌈W/stride⌉,D]; padding is the
    same on both sides."""
    if kernel.shape[0] == 1:
        return matmul(x[:, ::stride, ::stride], kernel[0, 0])
    return _convolve(x, kernel, stride, dilation)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, stride, dilation):
    pad = dilation * (kernel.shape[0] - 1) // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad), (pad, pad)],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=AXES,
    )


def _forward(x, kernel, stride, dilation):
    return _convolve(x, kernel, stride, dilation), (x, kernel)


def _backward(stride, dilation, kept, grad):
    """Gradients of the input and of the kernel."""
    x, kernel = kept
    reach = dilation * (kernel.shape[0] - 1)  # from the first to the last point under the kernel
    spread = [stride * (size - 1) + 1 for size in grad.shape[1:3]]
    low = reach // 2
    of_x = lax.conv_general_dilated(
        grad,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        [(low, size + low - wide) for size, wide in zip(x.shape[1:3], spread, strict=True)],
        lhs_dilation=(stride, stride),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=AXES,
    )
    # The input convolved with the gradient; the batch is what is summed over.
    of_kernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),  # [C,H,W,B]
        grad.transpose(1, 2, 0, 3),  # [H,W,B,D]
        (dilation, dilation),
        [(low, low + wide - size) for size, wide in zip(x.shape[1:3], spread, strict=True)],
        rhs_dilation=(stride, stride),
        dimension_numbers=AXES,
    )
    return of_x, of_kernel.transpose(1, 2, 0, 3)  # [C,k,k,D] -> [k,k,C,D]


_convolve.defvjp(_forward, _backward)
