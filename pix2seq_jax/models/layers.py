"""What encoder and decoder are built of: initialisers, dense layers, normalisation, the MLP block, stacks of layers.

Parameters are float32 and carry logical axis names; computation is in the dtype of the stack.
"""

from dataclasses import dataclass
from typing import Any

from flax import linen as nn
from jax import numpy as jnp

# The official release leaves dense and attention kernels at the default of Keras, and starts embeddings, positions,
# class token and output bias at a normal distribution cut off at two deviations.
KERNEL_INIT = nn.initializers.glorot_uniform()
EMBEDDING_INIT = nn.initializers.truncated_normal(0.02)
NORM_EPSILON = 1e-6


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


def dense(features: int, axes: tuple[str | None, str], dtype: str, name: str) -> nn.Dense:
    """Dense layer with Keras' initialisation; `axes` are the logical names of its input and output."""
    return nn.Dense(
        features,
        dtype=jnp.dtype(dtype),
        kernel_init=nn.with_logical_partitioning(KERNEL_INIT, axes),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, axes[1:]),
        name=name,
    )


def layer_norm(dtype: str, name: str) -> nn.LayerNorm:
    """LayerNorm over the last axis; its statistics are float32 whatever the dtype."""
    return nn.LayerNorm(
        epsilon=NORM_EPSILON,
        dtype=jnp.dtype(dtype),
        use_fast_variance=False,  # E[x²] − E[x]² loses digits where the mean is large
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("embed",)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
        name=name,
    )


def drop_path(rate: float, train: bool) -> nn.Dropout:
    """Stochastic depth (Huang et al., 2016): drops the whole residual branch [..., T, D] of a sequence."""
    return nn.Dropout(rate, broadcast_dims=(-2, -1), deterministic=not train)


class MlpBlock(nn.Module):
    """x + DropPath(MLP(LayerNorm(x))) on [..., T, D], with the exact (erf) GELU."""

    stack: Stack
    train: bool

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        stack = self.stack
        h = layer_norm(stack.dtype, "norm")(x)
        h = nn.gelu(dense(stack.mlp, ("embed", "mlp"), stack.dtype, "dense1")(h), approximate=False)
        h = nn.Dropout(stack.drop_units, deterministic=not self.train)(h)
        h = dense(stack.dim, ("mlp", "embed"), stack.dtype, "dense2")(h)
        return x + drop_path(stack.drop_path, self.train)(h)


def scan_layers(block: type[nn.Module], stack: Stack, in_axes: Any, unroll: int = 1) -> type[nn.Module]:
    """`block` repeated over the layers: parameters get a leading axis [L, ...] named 'layers'.

    Args:
        block: module whose call takes (carry, *inputs) and returns (carry, output).
        stack: gives the number of layers and whether activations are recomputed.
        in_axes: for each of the inputs, 0 where it has a leading layer axis, or nn.broadcast.
        unroll: how many layers a turn of the loop runs.
    """
    if stack.remat:
        block = nn.remat(block, prevent_cse=False)
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=stack.layers,
        unroll=unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
