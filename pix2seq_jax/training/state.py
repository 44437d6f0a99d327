"""The state of a training run: made inside jit with its shardings, or only described."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from pix2seq_jax.training import sharding


@struct.dataclass
class TrainState:
    """All that a run must carry on with, bit for bit.

    Attributes:
        step: i32[] updates done so far.
        params: f32 parameters.
        batch_stats: running statistics of BatchNorm; empty for a ViT.
        opt_state: of the optax transformation.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


def init_state(
    model: nn.Module, tx: optax.GradientTransformation, rng: jax.Array, *, mesh: Mesh
) -> TrainState:
    """Freshly initialised state, created where `abstract_state` says."""

    def create(rng):
        created = nn.meta.unbox(_init_variables(model, rng))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=created["params"],
            batch_stats=created.get("batch_stats", {}),
            opt_state=tx.init(created["params"]),
        )

    layout = jax.tree.map(lambda x: x.sharding, abstract_state(model, tx, mesh=mesh))
    return jax.jit(create, out_shardings=layout)(rng)


def abstract_state(model: nn.Module, tx: optax.GradientTransformation, *, mesh: Mesh) -> TrainState:
    """The train state's shapes, dtypes and shardings as ShapeDtypeStructs; nothing is computed."""
    abstract, replicated = abstract_variables(model, mesh=mesh), sharding.replicated(mesh)
    # What the optimizer keeps per parameter (moments) lies where the parameter lies.
    opt_state = optax.tree.map_params(
        tx,
        lambda x, p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=p.sharding),
        jax.eval_shape(tx.init, abstract["params"]),
        abstract["params"],
        transform_non_params=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
    )
    return TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated),
        params=abstract["params"],
        batch_stats=abstract.get("batch_stats", {}),
        opt_state=opt_state,
    )


def abstract_variables(model: nn.Module, *, mesh: Mesh) -> dict[str, Any]:
    """What `model.apply` takes ("params", perhaps "batch_stats") as ShapeDtypeStructs with
    shardings."""
    boxed = jax.eval_shape(lambda: _init_variables(model, jax.random.key(0)))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        nn.meta.unbox(boxed),
        sharding.shardings(mesh, boxed),
    )


def check_divides(model: nn.Module, *, mesh: Mesh, allow_whole: bool) -> list[str]:
    """What the mesh does not divide and every device holds whole, see `sharding.left_whole`.

    Raises:
        ValueError: there is some, and it is not allowed.
    """
    if mesh.size == mesh.shape.get("data", 1):
        return []  # parameters are whole on every device anyway
    boxed = jax.eval_shape(lambda: _init_variables(model, jax.random.key(0)))
    whole = sharding.left_whole(mesh, boxed)
    if whole and not allow_whole:
        raise ValueError(
            f"the mesh {dict(mesh.shape)} does not divide {'; '.join(whole)}: every device would "
            "hold and compute all of it; choose config.mesh or config.model so that it divides, "
            "or set --config.mesh.allow_whole=True"
        )
    return whole


def _init_variables(model: nn.Module, rng: jax.Array) -> Any:
    return model.init(rng, jnp.zeros((1, *model.image_size, 3)), jnp.zeros((1, 1), jnp.int32))


def variables(state: TrainState) -> dict[str, Any]:
    """What `model.apply` takes, of a state."""
    return {"params": state.params} | (
        {"batch_stats": state.batch_stats} if state.batch_stats else {}
    )
