"""The mesh of a run: how its devices are arranged, and where parameters and batches lie on them.

Which dimension is cut over which axis is in `models.axes`, whose RULES are used here.

Every mesh has some of the axes `data` (each device its images), `fsdp` (the same, with parameters
cut as well) and `model` (wide dimensions cut). Training by data parallelism needs nothing but the
default mesh.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pix2seq_jax.models.axes import RULES, partition_spec

AXES = ("data", "fsdp", "model")


def make_mesh(
    axes: Mapping[str, int] | None = None, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Mesh over all devices, or over `devices`, to be entered with `jax.set_mesh`.

    Args:
        axes: size by axis name, of AXES; one size may be -1 for "the rest". Default: all devices on
            `data`.

    Raises:
        ValueError: unknown axis, or sizes whose product is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    axes = dict(axes or {"data": -1})
    sized = math.prod(size for size in axes.values() if size != -1)
    free = [name for name, size in axes.items() if size == -1]
    if len(free) == 1 and sized > 0:
        axes[free[0]] = len(devices) // sized
    if unknown := set(axes) - set(AXES):
        raise ValueError(f"mesh axes {axes}: unknown axis {unknown.pop()!r}; use {AXES}")
    if math.prod(axes.values()) != len(devices) or min(axes.values()) < 1:
        raise ValueError(
            f"mesh axes {axes} do not multiply to the {len(devices)} devices there are; give "
            "sizes that do, or -1 once"
        )
    # The default axis type is Explicit, which convolutions and gathers refuse without annotations.
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        axis_types=(AxisType.Auto,) * len(axes),
        devices=tuple(devices),
    )


def shardings(mesh: Mesh, boxed: Any, *, rules: Mapping[str, Sequence[str]] = RULES) -> Any:
    """Tree of NamedSharding for the unboxed tree.

    Args:
        boxed: (abstract) variables as `model.init` returns them, leaves in `nn.Partitioned` boxes
            or bare; bare ones are replicated.
        rules: logical dimension name -> mesh axes.
    """

    def of(leaf: Any) -> NamedSharding:
        names = leaf.names if isinstance(leaf, nn.Partitioned) else ()
        shape = nn.meta.unbox(leaf).shape
        return NamedSharding(mesh, partition_spec(mesh.shape, names, shape, rules))

    return jax.tree.map(of, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


def left_whole(mesh: Mesh, boxed: Any) -> list[str]:
    """The dimensions of parameters that RULES would cut and whose size the mesh does not divide,
    each once, with the first parameter that has it: "heads of 12 over model=8
    (params/encoder/...)". Every device then holds and computes all of it."""
    texts = {}
    leaves, _ = jax.tree.flatten_with_path(
        boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
    )
    for path, leaf in leaves:
        names = leaf.names if isinstance(leaf, nn.Partitioned) else ()
        for name, size in zip(names, nn.meta.unbox(leaf).shape, strict=False):
            axes = [axis for axis in RULES.get(name, ()) if mesh.shape.get(axis, 1) > 1]
            if size % math.prod(mesh.shape[axis] for axis in axes):
                over = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in axes)
                first = jax.tree_util.keystr(path, simple=True, separator="/")
                texts.setdefault(f"{name} of {size} over {over}", first)
    return [f"{text} ({first})" for text, first in sorted(texts.items())]


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension, images, is cut over the data axes of the mesh."""
    axes = tuple(axis for axis in RULES["batch"] if axis in mesh.axis_names)
    return NamedSharding(mesh, PartitionSpec(axes))


def auto_batch_axes() -> tuple[str, ...]:
    """The axes of the current mesh over which XLA spreads the images: not those of a shard_map
    around the caller."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(
        axis
        for axis in RULES["batch"]
        if mesh.shape.get(axis, 1) > 1 and axis not in mesh.manual_axes
    )


def data_parallel_axes() -> tuple[str, ...]:
    """The axes of the current mesh along which devices differ in nothing but their images: `data`,
    and those of one device where there are no others. () where one device holds all images, or
    somebody else cuts the work by hand."""
    mesh = jax.sharding.get_abstract_mesh()
    count = mesh.shape.get("data", 1)
    if count == 1 or mesh.manual_axes:
        return ()
    return mesh.axis_names if count == math.prod(mesh.shape.values()) else ("data",)


def image_axes() -> tuple[str, ...]:
    """All axes of the current mesh, where each device has images of its own and nobody else cuts
    the work by hand; else (). Parameters may be cut over `fsdp`."""
    mesh = jax.sharding.get_abstract_mesh()
    images = math.prod(mesh.shape.get(axis, 1) for axis in RULES["batch"])
    alone = images == math.prod(mesh.shape.values()) > 1
    return mesh.axis_names if alone and not mesh.manual_axes else ()


def check_batch(mesh: Mesh, batch_size: int, *, accum: int = 1, name: str = "") -> None:
    """Refuses a global batch that the data axes, times the `accum` parts it is computed in, do
    not divide.

    Args:
        mesh: of the run.
        batch_size: rows.
        accum: parts.
        name: of the task, for the message.

    Raises:
        ValueError: with the nearest batch sizes that fit.
    """
    devices = math.prod(mesh.shape[axis] for axis in RULES["batch"] if axis in mesh.axis_names)
    part = devices * accum
    if batch_size < 1 or batch_size % part:
        below = max(batch_size // part, 1) * part
        parts = f" x {accum} gradient accumulation steps" if accum > 1 else ""
        title = f"{name}: " if name else ""
        raise ValueError(
            f"{title}batch size {batch_size} is not a multiple of {part} ({devices} data-parallel "
            f"devices{parts}); use {below} or {below + part}, or fewer devices"
        )


def round_batch(mesh: Mesh, batch_size: int) -> int:
    """The smallest batch of at least `batch_size` rows that the data axes divide; the rest is
    padding."""
    devices = math.prod(mesh.shape[axis] for axis in RULES["batch"] if axis in mesh.axis_names)
    return -(-max(batch_size, 1) // devices) * devices
