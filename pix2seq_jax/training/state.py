"""The state of a training run: made inside jit with its shardings, or only described."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from pix2seq_jax.models.axes import RULES
from pix2seq_jax.training import sharding, trees


@struct.dataclass
class TrainState:
    """All that a run must carry on with, bit for bit.

    Attributes:
        step: i32[] updates done so far.
        params: f32 parameters.
        batch_stats: running statistics of BatchNorm; empty for a ViT.
        opt_state: of the optax transformation, for the parameters that are trained.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


@struct.dataclass
class AveragedState(TrainState):
    """A state with an average of its parameters over the steps. A class of its own, so that states
    and checkpoints without one stay as they are.

    Attributes:
        average: f32, like params; evaluated, predicted with and exported in their place.
    """

    average: Any


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    rng: jax.Array,
    *,
    mesh: Mesh,
    averaged: bool = False,
    frozen: str = "",
) -> TrainState:
    """Freshly initialised state, created where `abstract_state` says; arguments as there."""

    def create(rng):
        created = nn.meta.unbox(_init_variables(model, rng))
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=created["params"],
            batch_stats=created.get("batch_stats", {}),
            opt_state=tx.init(trees.split(created["params"], frozen)[0]),
        )
        return with_average(state) if averaged else state

    abstract = abstract_state(model, tx, mesh=mesh, averaged=averaged, frozen=frozen)
    return jax.jit(create, out_shardings=jax.tree.map(lambda x: x.sharding, abstract))(rng)


def abstract_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    mesh: Mesh,
    averaged: bool = False,
    frozen: str = "",
) -> TrainState:
    """The train state's shapes, dtypes and shardings as ShapeDtypeStructs; nothing is computed.

    Args:
        model: whose parameters they are.
        tx: optimizer.
        mesh: where the state lies.
        averaged: whether it has an average of the parameters.
        frozen: regex over the names of parameters ("stem/kernel") that are not trained; "" for
            none. The optimizer keeps nothing of them.
    """
    abstract, replicated = abstract_variables(model, mesh=mesh), sharding.replicated(mesh)
    trained, _ = trees.split(abstract["params"], frozen)
    # What the optimizer keeps per parameter (moments) lies where the parameter lies.
    opt_state = optax.tree.map_params(
        tx,
        lambda x, p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=p.sharding),
        jax.eval_shape(tx.init, trained),
        trained,
        transform_non_params=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
    )
    state = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated),
        params=abstract["params"],
        batch_stats=abstract.get("batch_stats", {}),
        opt_state=opt_state,
    )
    return AveragedState(**vars(state), average=state.params) if averaged else state


def abstract_variables(
    model: nn.Module, *, mesh: Mesh, rules: Mapping[str, Sequence[str]] = RULES
) -> dict[str, Any]:
    """What `model.apply` takes ("params", perhaps "batch_stats") as ShapeDtypeStructs with
    shardings by the rules, see `models.axes`."""
    boxed = jax.eval_shape(lambda: _init_variables(model, jax.random.key(0)))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        nn.meta.unbox(boxed),
        sharding.shardings(mesh, boxed, rules=rules),
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


def parameter_names(model: nn.Module) -> list[str]:
    """The names of the parameters of a model, as in "image_encoder/norm/scale"."""
    boxed = jax.eval_shape(lambda: _init_variables(model, jax.random.key(0)))
    return list(trees.flatten_names(nn.meta.unbox(boxed)["params"]))


def _init_variables(model: nn.Module, rng: jax.Array) -> Any:
    # Parameters do not depend on how attention is computed, and its kernels need their devices.
    model = model.clone(attention="plain")
    return model.init(rng, jnp.zeros((1, *model.image_size, 3)), jnp.zeros((1, 1), jnp.int32))


def variables(state: TrainState) -> dict[str, Any]:
    """What `model.apply` takes, of a state: the averaged parameters where there are some."""
    params = state.average if isinstance(state, AveragedState) else state.params
    return {"params": params} | ({"batch_stats": state.batch_stats} if state.batch_stats else {})


def with_average(state: TrainState) -> AveragedState:
    """The state with an average that starts anew from its parameters; abstract ones, too."""
    fields = vars(without_average(state))
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state.params)):
        return AveragedState(**fields, average=state.params)
    # Arrays of their own, because a step is given the buffers of the whole state; lying alike.
    layout = None
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state.params)):
        layout = jax.tree.map(lambda x: x.sharding, state.params)
    copy = jax.jit(lambda params: jax.tree.map(jnp.copy, params), out_shardings=layout)
    return AveragedState(**fields, average=copy(state.params))


def without_average(state: TrainState) -> TrainState:
    """The state without its average, if there is one."""
    return TrainState(state.step, state.params, state.batch_stats, state.opt_state)
