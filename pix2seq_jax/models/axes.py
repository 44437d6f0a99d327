"""Which dimension of an array is cut over which axis of the mesh: the table, and how modules use it
for what they compute.

Parameters carry the names of their dimensions; `training.sharding` lays them out by the same table.
"""

import math
from collections.abc import Mapping, Sequence

import jax
from jax import lax
from jax.sharding import PartitionSpec

# Name of a dimension -> mesh axes it is cut over. A dimension is left whole where the mesh lacks
# the axis, where an earlier dimension of the same array has taken it, or where its size is no
# multiple of the axis; names that are not listed ("layers", "head_dim", ...) are never cut.
RULES = {
    "batch": ("data", "fsdp"),
    "vocab": ("model",),
    "heads": ("model",),
    "mlp": ("model",),
    "embed": ("fsdp",),
}


def partition_spec(
    sizes: Mapping[str, int],
    names: Sequence[str | None],
    shape: Sequence[int],
    rules: Mapping[str, Sequence[str]] = RULES,
) -> PartitionSpec:
    """Mesh axes of an array.

    Args:
        sizes: of the mesh axes, by name.
        names: of the dimensions; fewer than there are: the rest is whole.
        shape: of the array.
        rules: as RULES.
    """
    taken: set[str] = set()
    spec = []
    for name, size in zip(names, shape, strict=False):
        axes = tuple(axis for axis in rules.get(name, ()) if axis in sizes and axis not in taken)
        if size % math.prod(sizes[axis] for axis in axes):
            axes = ()
        taken.update(axes)
        spec.append(axes or None)
    return PartitionSpec(*spec)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """The same array, cut over the current mesh as its dimensions are named.

    Without it XLA may spread what is computed like the parameters it is computed from: with
    parameters cut over `fsdp`, every device then holds the whole batch. Nothing happens without a
    mesh, on one device, and in a `shard_map` over all axes.
    """
    sizes = spread_axes()
    if not sizes:
        return x
    return lax.with_sharding_constraint(x, partition_spec(sizes, names, x.shape))


def spread_axes() -> dict[str, int]:
    """The axes of the current mesh, with their sizes, over which XLA spreads arrays."""
    mesh = jax.sharding.get_abstract_mesh()
    return {
        axis: size for axis, size in mesh.shape.items() if size > 1 and axis not in mesh.manual_axes
    }
