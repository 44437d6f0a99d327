"""What encoder and decoder are built of: initialisers, dense layers, normalisation, the MLP block,
stacks of layers.

Parameters are float32; computation is in the dtype of the stack. Every dimension of a parameter has
a logical name, which `axes.RULES` sends to a mesh axis or leaves whole: layers, embed (a model
width, or channels), mlp, heads, head_dim, vocab, positions, or None.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import linen as nn
from jax import lax
from jax import numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pix2seq_jax.models.axes import constrain

# The official release leaves dense and attention kernels at the default of Keras, and starts
# embeddings, positions, class token and output bias at a normal distribution cut off at two
# deviations.
KERNEL_INIT = nn.initializers.glorot_uniform()
# For kernels [D,H,D/H] and [H,D/H,D] Keras takes all but the last two axes for a receptive
# field, so queries, keys and values start small: attention begins almost uniform, and a small model
# stays on that plateau for long. "matrix" takes such a kernel for the matrix that it is.
ATTENTION_INITS = ("keras", "matrix")
# See models.attention.attend_whole.
ATTENTIONS = ("auto", "plain", "blockwise", "cudnn", "splash")
# What the backward pass computes again of a layer where memory is to be saved: all of it, or all
# but its matrix products, its attention and the sums of its LayerNorms.
REMAT_POLICIES = ("all", "elementwise")
# Names of what attention, matrix products and LayerNorm keep for the backward pass.
ATTENDED, PRODUCT, STATISTIC = "attended", "product", "statistic"
EMBEDDING_INIT = nn.initializers.truncated_normal(0.02)
ZEROS = nn.initializers.zeros
NORM_EPSILON = 1e-6
# So few layers run a fifth faster in a row than in a loop (two layers of width 128 on a CPU).
SHORT_STACK = 4


@dataclass(frozen=True)
class Stack:
    """Sizes and regularisation of one stack of transformer layers.

    Attributes:
        layers: number of layers, L.
        dim: width, D.
        mlp: hidden width of the MLP blocks.
        heads: attention heads, H; each is dim / heads wide.
        drop_path: probability of dropping a residual branch of one sequence (stochastic depth).
        drop_units: dropout of the hidden units of MLP blocks.
        drop_att: dropout of attention weights.
        dtype: of the computation, 'float32' or 'bfloat16'.
        remat: recompute activations in the backward pass instead of keeping them.
        remat_policy: which of them, one of REMAT_POLICIES.
        attention_init: one of ATTENTION_INITS.
        attention: how attention of whole sequences is computed, one of ATTENTIONS.
    """

    layers: int
    dim: int
    mlp: int
    heads: int
    drop_path: float = 0.0
    drop_units: float = 0.0
    drop_att: float = 0.0
    dtype: str = "float32"
    remat: bool = False
    remat_policy: str = "all"
    attention_init: str = "keras"
    attention: str = "auto"

    def kernel_init(
        self, inputs: tuple[int, ...], outputs: tuple[int, ...], layers: tuple[int, ...] = ()
    ) -> Any:
        """Glorot-uniform initialiser of an attention kernel with these input, output and (stacked)
        layer axes."""
        if self.attention_init == "keras":
            inputs, outputs = -2, -1
        return nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", inputs, outputs, layers)


def multiply(a: jnp.ndarray, b: jnp.ndarray, dtype: Any = None) -> jnp.ndarray:
    """The product of matrices [...,N,D] and [...,D,F], in their dtype or in another.

    XLA has bfloat16 products on CPUs that multiply such numbers themselves, with float32 results
    only. For others it converts both factors, which takes three to six times as long.
    """
    dtype = jnp.dtype(dtype or a.dtype)
    cpu = jax.default_backend() == "cpu"
    summed = jnp.float32 if cpu else jnp.result_type(a, b, dtype)
    return jnp.matmul(a, b, preferred_element_type=summed).astype(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jnp.ndarray, kernel: jnp.ndarray, dtype: Any) -> jnp.ndarray:
    """[N,D] times [D,F]."""
    return _product_forward(x, kernel, dtype)[0]


def _product_forward(x, kernel, dtype):
    # Not by `_product`: `_kept` has to see the name.
    return checkpoint_name(multiply(x, kernel, dtype), PRODUCT), (x, kernel)


def _product_backward(dtype, kept, grad):
    """Gradients [N,D] and [D,F]. A CPU computes that of the kernel a third faster with the narrower
    factor first; without the barrier XLA turns the product round again."""
    x, kernel = kept
    if kernel.shape[0] > kernel.shape[1]:
        of_kernel = lax.optimization_barrier(multiply(grad.T, x, kernel.dtype)).T
    else:
        of_kernel = multiply(x.T, grad, kernel.dtype)
    return multiply(grad, kernel.T, x.dtype), of_kernel


_product.defvjp(_product_forward, _product_backward)


def matmul(
    x: jnp.ndarray, kernel: jnp.ndarray, dtype: Any = None, steps: jnp.ndarray | None = None
) -> jnp.ndarray:
    """[...,D] times [D,F] in the dtype of x or in another; with `steps` f32[F] the kernel is
    int8[D,F] · steps, and the rows of x are rounded to int8 as well.

    It is one flat product: with several leading axes XLA's CPU backend transposes the gradient,
    which doubled the time of an MLP block.
    """
    flat, dtype = x.reshape(-1, x.shape[-1]), dtype or x.dtype
    if steps is None:
        h = _product(flat, kernel.astype(x.dtype), dtype)
    else:
        h = _int8_product(flat, kernel, steps).astype(dtype)
    return h.reshape(*x.shape[:-1], -1)


def to_int8(x: jnp.ndarray, axes: tuple[int, ...]) -> tuple[jnp.ndarray, jnp.ndarray]:
    """(int8 numbers, f32 steps between them with the axes kept): the largest along the axes is
    127 steps away from zero."""
    step = jnp.max(jnp.abs(x), axis=axes, keepdims=True).astype(jnp.float32) / 127
    rounded = jnp.round(x.astype(jnp.float32) / jnp.where(step > 0, step, 1.0))
    return rounded.astype(jnp.int8), step


def _int8_product(x: jnp.ndarray, kernel: jnp.ndarray, steps: jnp.ndarray) -> jnp.ndarray:
    """[N,D] times int8[D,F] · steps f32[F]: f32[N,F], with each row of x rounded to int8."""
    numbers, step = to_int8(x, (1,))
    count = x.shape[0]  # not a number in an exported program for any number of images
    if not isinstance(count, int) or count == 1:
        # For one row XLA's CPU backend would convert the kernel to int32.
        numbers = jnp.pad(numbers, ((0, 1), (0, 0)))
    sums = jnp.matmul(numbers, kernel, preferred_element_type=jnp.int32)[:count]
    return sums * (step * steps[None])


def kernel_steps(module: nn.Module) -> jnp.ndarray | None:
    """f32[F], the steps between the numbers of an int8 kernel of `models.cached.cut_variables`, for
    each of its outputs; None for other kernels."""
    return module.get_variable("params", "kernel_steps")


class Dense(nn.Module):
    """Dense layer on [...,D] with Keras' initialisation; `axes` are the logical names of its input
    and output."""

    features: int
    axes: tuple[str | None, str]
    dtype: str

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        dtype, shape = jnp.dtype(self.dtype), (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.with_logical_partitioning(KERNEL_INIT, self.axes), shape)
        bias = self.param("bias", nn.with_logical_partitioning(ZEROS, self.axes[1:]), shape[1:])
        h = matmul(x.astype(dtype), kernel, steps=kernel_steps(self))
        return h + jnp.expand_dims(bias.astype(dtype), range(h.ndim - 1))


def gelu(x: jnp.ndarray) -> jnp.ndarray:
    """The exact GELU, by erf; nn.gelu takes erfc, which is slower.

    Computed in float32: bfloat16 would round 1 + erf(x) where it is near 0, which makes gelu(-3)
    wrong by 45 %.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + lax.erf(wide * 0.5**0.5))).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(x: jnp.ndarray, scale: jnp.ndarray, bias: jnp.ndarray, dtype: Any) -> jnp.ndarray:
    """LayerNorm of [N,D] over the last axis, computed in float32; the result is of `dtype`."""
    return _normalise_forward(x, scale, bias, dtype)[0]


def _normalise_forward(x, scale, bias, dtype):
    """The output [N,D], and what the backward pass needs: x in its own dtype, and two numbers of
    each row, which `_kept` keeps so that no row is summed up again."""
    wide = x.astype(jnp.float32)
    mean = checkpoint_name(jnp.mean(wide, axis=-1), STATISTIC)
    wide -= mean[:, None]
    # E[x²] − E[x]² would lose digits where the mean is large.
    spread = lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1) + NORM_EPSILON)
    spread = checkpoint_name(spread, STATISTIC)
    h = wide * (spread[:, None] * scale[None]) + bias[None]
    return h.astype(dtype), (x, mean, spread, scale)


def _normalise_backward(dtype, kept, grad):
    """Gradients [N,D], f32[D], f32[D], in half to eight tenths of the time of those that JAX
    derives (CPU)."""
    x, mean, spread, scale = kept
    grad = grad.astype(jnp.float32)
    h, inner = (x.astype(jnp.float32) - mean[:, None]) * spread[:, None], grad * scale[None]
    along = jnp.mean(inner * h, axis=-1, keepdims=True)
    of_x = (inner - jnp.mean(inner, axis=-1, keepdims=True) - h * along) * spread[:, None]
    return of_x.astype(x.dtype), jnp.sum(grad * h, axis=0), jnp.sum(grad, axis=0)


_normalise.defvjp(_normalise_forward, _normalise_backward)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis of [...,D], computed in float32, with its own backward pass."""

    dtype: str

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        width = x.shape[-1]
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        scale = self.param("scale", ones, (width,))
        bias = self.param("bias", nn.with_logical_partitioning(ZEROS, ("embed",)), (width,))
        h = _normalise(x.reshape(-1, width), scale, bias, jnp.dtype(self.dtype))
        return h.reshape(x.shape)


def drop_path(rate: float, train: bool) -> nn.Dropout:
    """Stochastic depth (Huang et al., 2016): drops the whole residual branch [...,T,D] of a
    sequence."""
    return nn.Dropout(rate, broadcast_dims=(-2, -1), deterministic=not train)


class MlpBlock(nn.Module):
    """x + DropPath(MLP(LayerNorm(x))) on [...,T,D], with the exact (erf) GELU."""

    stack: Stack
    train: bool

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        stack = self.stack
        h = LayerNorm(stack.dtype, name="norm")(x)
        h = Dense(stack.mlp, ("embed", "mlp"), stack.dtype, name="dense1")(h)
        h = gelu(constrain(h, "batch", *[None] * (h.ndim - 2), "mlp"))
        h = nn.Dropout(stack.drop_units, deterministic=not self.train)(h)
        h = Dense(stack.dim, ("mlp", "embed"), stack.dtype, name="dense2")(h)
        return constrain(x + drop_path(stack.drop_path, self.train)(h), "batch")


def scan_layers(block: type[nn.Module], stack: Stack, in_axes: Any) -> type[nn.Module]:
    """`block` repeated over the layers: parameters get a leading axis [L,...] named 'layers'.

    Args:
        block: module whose call takes (carry, *inputs) and returns (carry, output).
        stack: gives the number of layers, and what of their activations is recomputed.
        in_axes: for each of the inputs, 0 where it has a leading layer axis, or nn.broadcast.
    """
    if stack.remat:
        policy = _kept if stack.remat_policy == "elementwise" else None
        # The loop keeps the compiler from undoing it, so nothing has to be done against that.
        block = nn.remat(block, prevent_cse=False, policy=policy)
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=stack.layers,
        unroll=stack.layers if stack.layers <= SHORT_STACK and not stack.remat else 1,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def _kept(primitive: Any, *inputs: Any, **options: Any) -> bool:
    """Whether "elementwise" keeps what an operation computes: matrix products, attention, and the
    two numbers of each row of a LayerNorm."""
    if primitive.name == "name":
        return options["name"] in (ATTENDED, PRODUCT, STATISTIC)
    return "dot_product_attention" in primitive.name  # of cuDNN
