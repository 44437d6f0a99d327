"""One training step as a pure function: token losses, gradients per task, one update.

The loss of a task is sum(w * token loss) / (sum(w) + 1e-9) over its whole global batch, however the
batch is cut over devices and gradient-accumulation parts. Axes: B images, N objects per image, P
prompt tokens, T sequence tokens (here of the response), V vocabulary.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from pix2seq_jax.tasks.base import PICTURE_FIELDS, Sequences, images
from pix2seq_jax.tasks.mixed import Mixed
from pix2seq_jax.training import losses, sharding, trees
from pix2seq_jax.training.state import AveragedState, TrainState

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


def make_step(
    model: nn.Module,
    tasks: Mapping[str, Any],
    tx: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    loss: str = "xent",
    accum: int = 1,
    weights: Mapping[str, float] | None = None,
    frozen: str = "",
    ema: float = 0.0,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The step (state, batches, rng, before=1) -> (state, metrics); pure. Arguments as for
    `make_gradients`, and

    Args:
        tx: optimizer.
        learning_rate: the schedule that tx follows, for the metrics.
        ema: decay of the average of the parameters, for a state that has one, see `_averaged`.

    The step folds `state.step` into `rng`, so pass the run's one key each time. Metrics are those
    of the gradients and `grad_norm` (before clipping), `lr` and `finite`: where the loss or the
    gradient norm is NaN or infinite, `finite` is 0 and the state comes back unchanged, so that it
    can still be saved. The same where `before`, f32[], is 0: it is `finite` of the step before,
    which the loop reads only after it has sent this one.
    """
    gradients = make_gradients(model, tasks, loss=loss, accum=accum, weights=weights, frozen=frozen)

    def step(state, batches, rng, before=1.0):
        grads, batch_stats, metrics = gradients(state, batches, jax.random.fold_in(rng, state.step))
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm) & (before > 0)
        trained, fixed = trees.split(state.params, frozen)
        updates, opt_state = tx.update(grads, state.opt_state, trained)
        new = state.replace(
            step=state.step + 1,
            params=trees.merge(optax.apply_updates(trained, updates), fixed),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if isinstance(state, AveragedState):
            new = new.replace(average=_averaged(state.average, new.params, state.step, ema))
        metrics |= {
            "grad_norm": grad_norm,
            "lr": jnp.asarray(learning_rate(state.step), jnp.float32),
            "finite": finite.astype(jnp.float32),
        }
        return jax.tree.map(lambda good, old: jnp.where(finite, good, old), new, state), metrics

    return step


def _averaged(average: Any, params: Any, step: jax.Array, ema: float) -> Any:
    """The exponential moving average after a step: d * average + (1 - d) * parameters.

    d = min(ema, (1 + t) / (10 + t)) after t steps, as is usual (TensorFlow's
    ExponentialMovingAverage with num_updates), so that early parameters are soon forgotten.
    """
    decay = jnp.minimum(ema, (1.0 + step) / (10.0 + step))
    # In this form a frozen parameter stays the same to the bit.
    return jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), average, params)


def jit_step(step: Callable, state: TrainState, *, mesh: Mesh, chained: bool = False) -> Callable:
    """The step compiled for a mesh: `state` (arrays or abstract) gives the layout, its buffers are
    donated. With `chained` it takes all four arguments, else no `before`.

    Call it under `jax.set_mesh(mesh)`; batches are cut over the data axes, metrics are on every
    device.
    """
    layout, replicated = jax.tree.map(lambda x: x.sharding, state), sharding.replicated(mesh)
    arguments = layout, sharding.batch_sharding(mesh), replicated
    return jax.jit(
        step,
        in_shardings=(*arguments, replicated) if chained else arguments,
        out_shardings=(layout, replicated),
        donate_argnums=0,
    )


def make_gradients(
    model: nn.Module,
    tasks: Mapping[str, Any],
    *,
    loss: str = "xent",
    accum: int = 1,
    weights: Mapping[str, float] | None = None,
    frozen: str = "",
) -> Callable[..., tuple[Any, Any, Metrics]]:
    """Function (state, batches, rng) -> (gradients, batch_stats, metrics) of the weighted sum of
    the tasks' losses.

    The tasks are computed one after the other, each in `accum` parts, and their gradients are
    summed up, so no more than one part's activations are alive.

    Args:
        tasks: by name; `encode` runs on the device, on the whole batch.
        loss: one of losses.LOSSES.
        accum: parts that a batch is cut into; must divide it (`sharding.check_batch`). BatchNorm
            sees one part at a time, and dropout draws differ from those of a whole batch, as they
            do with the number of devices on the data axis; all else is the same.
        weights: of the tasks' losses; default 1 each.
        frozen: regex over the names of parameters without a gradient; "" for none. The gradients
            are those of the rest, `trees.split`.

    `batches` are Example dicts by task name. Rows whose `valid` is False weigh nothing. Metrics,
    f32[]: `loss`, `token_accuracy` (likeliest token is the target, over targets that weigh),
    `tokens` (number of those), and with several tasks, in one batch or in several, `NAME/loss` and
    so on, unweighted, NaN where nothing of a task weighs.
    """
    weights = dict.fromkeys(tasks, 1.0) | dict(weights or {})
    names = [part for name, task in tasks.items() for part in _names(name, task)]
    factors = [weights[name] for name, task in tasks.items() for _ in _names(name, task)]

    def gradients(state, batches, rng):
        keys = {
            name: jax.random.split(jax.random.fold_in(rng, index))
            for index, name in enumerate(tasks)
        }
        prepared = {
            name: _prepared(task, batches[name], keys[name][0]) for name, task in tasks.items()
        }
        dropout = {name: key[1] for name, key in keys.items()}
        groups = {name: len(_names(name, task)) for name, task in tasks.items()}
        run = functools.partial(
            _all_tasks, model=model, groups=groups, weights=weights, loss=loss, accum=accum
        )
        # Every device sums up the gradients of its own images over all tasks and parts; then they
        # are added once. XLA by itself adds them after each part, as it still does over `fsdp`,
        # where no device has room for all of them.
        if axes := sharding.data_parallel_axes():
            cut, whole = PartitionSpec(axes), PartitionSpec()
            run = jax.shard_map(
                functools.partial(run, axes=axes),
                in_specs=(whole, whole, whole, cut, whole),
                out_specs=(whole, whole, whole),
                axis_names=set(axes),
                check_vma=False,  # or gradients of whole parameters would be added at once
            )
        trained, fixed = trees.split(state.params, frozen)
        grads, batch_stats, sums = run(trained, fixed, state.batch_stats, prepared, dropout)
        return grads, batch_stats, _metrics(sums, dict(zip(names, factors, strict=True)))

    return gradients


def _metrics(sums: jax.Array, factors: Mapping[str, float]) -> Metrics:
    """The metrics of `make_gradients`, of f32[G,4], losses.Sums of each of the G tasks, whose
    losses count by `factors`."""
    losses, shares, correct, tokens = sums.T
    metrics = {
        "loss": jnp.sum(jnp.asarray(list(factors.values())) * losses),
        "token_accuracy": jnp.sum(correct) / jnp.maximum(jnp.sum(tokens), 1.0),
        "tokens": jnp.sum(tokens),
    }
    if len(factors) > 1:
        for index, name in enumerate(factors):
            metrics[f"{name}/loss"] = losses[index] / shares[index]
            metrics[f"{name}/token_accuracy"] = correct[index] / tokens[index]
    return metrics


def _names(name: str, task: Any) -> tuple[str, ...]:
    """The tasks in the batches of a task: those that it mixes, or itself."""
    return task.names if isinstance(task, Mixed) else (name,)


class Prepared(NamedTuple):
    """The batch of a task as the model and the loss take it.

    Attributes:
        pictures: the fields that `tasks.base.images` reads.
        sequences: with weights that sum to one over the batch.
        group: i32[B], which of the tasks in the batch a row is of (0, but for `tasks.mixed`).
    """

    pictures: Mapping[str, jax.Array]
    sequences: Sequences
    group: jax.Array


def _prepared(task: Any, batch: Batch, rng: jax.Array) -> Prepared:
    pictures = {name: batch[name] for name in PICTURE_FIELDS if name in batch}
    mixed = isinstance(task, Mixed)
    group = batch["task"] if mixed else jnp.zeros(len(batch["image"]), jnp.int32)
    return Prepared(pictures, _normalised(task.encode(batch, rng), batch), group)


def _normalised(sequences: Sequences, batch: Batch) -> Sequences:
    """The sequences with weights that sum to one over the batch; padding rows weigh nothing.

    Dividing before the sum makes the gradients of the parts add up to those of the whole batch.
    """
    weights = sequences.weights
    if "valid" in batch:
        weights = weights * batch["valid"].reshape(-1, *(1,) * (weights.ndim - 1))
    return sequences._replace(weights=weights / (jnp.sum(weights) + 1e-9))


def _all_tasks(
    params: Any,
    fixed: Any,
    batch_stats: Any,
    prepared: Mapping[str, Prepared],
    rngs: Mapping[str, jax.Array],
    *,
    model: nn.Module,
    groups: Mapping[str, int],
    weights: Mapping[str, float],
    loss: str,
    accum: int,
    axes: tuple[str, ...] = (),
) -> tuple[Any, Any, jax.Array]:
    """Gradients of the weighted sum of the losses of some rows, those of a device or all.

    Args:
        params: trained ones.
        fixed: the other parameters.
        rngs: of dropout, by task.
        groups: tasks in the batch of each of the tasks.
        axes: of the mesh, over which the rows of other devices are added.

    Returns:
        Gradients, BatchNorm statistics, and f32[G,4], losses.Sums of each of the G tasks.
    """
    ends = dict(zip(groups, itertools.accumulate(groups.values()), strict=True))

    def branch(name):
        def add_task(carry):
            grads, batch_stats, sums = carry
            rng = rngs[name]
            if axes:  # devices draw differently
                rng = jax.random.fold_in(rng, jax.lax.axis_index(axes))
            grads, batch_stats, own = _add_task(
                grads,
                params,
                fixed,
                batch_stats,
                prepared[name],
                rng,
                model=model,
                groups=groups[name],
                weight=weights[name],
                loss=loss,
                accum=accum,
            )
            return grads, batch_stats, sums.at[ends[name] - len(own) : ends[name]].set(own)

        return add_task

    branches = [branch(name) for name in groups]
    zeros = jax.tree.map(jnp.zeros_like, params)
    start = zeros, batch_stats, jnp.zeros((sum(groups.values()), 4))
    # A loop over branches, because straight code lets XLA hold the activations of all tasks at
    # once.
    grads, batch_stats, sums = jax.lax.fori_loop(
        0, len(branches), lambda index, carry: jax.lax.switch(index, branches, carry), start
    )
    if axes:
        grads, sums = jax.lax.psum((grads, sums), axes)
    return grads, batch_stats, sums


def _add_task(
    grads: Any,
    params: Any,
    fixed: Any,
    batch_stats: Any,
    prepared: Prepared,
    rng: jax.Array,
    *,
    model: nn.Module,
    groups: int,
    weight: float,
    loss: str,
    accum: int,
) -> tuple[Any, Any, jax.Array]:
    """Adds the gradients of one task, computed in `accum` parts, to `grads`.

    Returns:
        Gradients, BatchNorm statistics, and f32[groups,4], losses.Sums.
    """

    def add_part(carry, part):
        grads, batch_stats, sums = carry
        index, (pictures, sequences, group) = part
        (_, (batch_stats, rows)), new = jax.value_and_grad(_weighted_loss, has_aux=True)(
            params,
            fixed,
            batch_stats,
            model,
            images(pictures),  # float32 of one part at a time
            sequences,
            jax.random.fold_in(rng, index),
            loss=loss,
        )
        grads = jax.tree.map(lambda g, n: g + weight * n, grads, new)
        return (grads, batch_stats, sums + jax.ops.segment_sum(rows, group, groups)), None

    cut = jax.tree.map(lambda x: _cut(x, accum), prepared)
    start = grads, batch_stats, jnp.zeros((groups, 4))
    (grads, batch_stats, sums), _ = jax.lax.scan(add_part, start, (jnp.arange(accum), cut))
    return grads, batch_stats, sums


def _cut(x: jax.Array, accum: int) -> jax.Array:
    """[B,...] -> [accum,B/accum,...], strided so that every device keeps its rows."""
    return x.reshape(-1, accum, *x.shape[1:]).swapaxes(0, 1)


def _weighted_loss(
    params: Any,
    fixed: Any,
    batch_stats: Any,
    model: nn.Module,
    pixels: jax.Array,
    sequences: Any,
    rng: jax.Array,
    *,
    loss: str,
) -> tuple[jax.Array, tuple[Any, jax.Array]]:
    """(sum of w * token loss, (new BatchNorm statistics, f32[B,4])).

    The columns are those of losses.Sums.
    """
    prompt, inputs, targets, weights = sequences
    tokens = jnp.concatenate([prompt, inputs], axis=-1)[..., :-1]  # [B,(N,)P+T-1]
    # The output at the last prompt token predicts the first target.
    pad = [(0, 0)] * (targets.ndim - 1) + [(prompt.shape[-1] - 1, 0)]
    targets, weights = jnp.pad(targets, pad), jnp.pad(weights, pad)
    output, updated = model.apply(
        {"params": trees.merge(params, fixed), "batch_stats": batch_stats},
        pixels,
        tokens,
        train=True,
        rngs={"dropout": rng},
        mutable=["batch_stats"],
        method="before_logits",
    )
    hidden, table, bias = output
    flat = len(pixels), -1
    total, sums = losses.weighted_loss(
        losses.Output(hidden.reshape(*flat, hidden.shape[-1]), table, bias),
        targets.reshape(flat),
        weights.reshape(flat),
        loss,
        tokens.shape[-1],
    )
    rows = jnp.stack(sums, axis=1)  # f32[B,4]
    return total, (updated.get("batch_stats", batch_stats), rows)
