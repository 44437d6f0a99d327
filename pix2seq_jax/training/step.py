"""One training step as a pure function: token losses, gradients per task, one update.

The loss of a task is sum(w * token loss) / (sum(w) + 1e-9) over its whole global batch, however the
batch is cut over devices and gradient-accumulation parts. Axes: B images, N objects per image, P
prompt tokens, T sequence tokens (here of the response), V vocabulary.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from pix2seq_jax.tasks.base import PICTURE_FIELDS, Sequences, images
from pix2seq_jax.tasks.mixed import Mixed
from pix2seq_jax.training import losses, sharding
from pix2seq_jax.training.state import TrainState

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
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The step (state, batches, rng) -> (state, metrics); pure. Arguments as for `make_gradients`,
    and

    Args:
        tx: optimizer.
        learning_rate: the schedule that tx follows, for the metrics.

    The step folds `state.step` into `rng`, so pass the run's one key each time. Metrics are those
    of the gradients and `grad_norm` (before clipping), `lr` and `finite`: where the loss or the
    gradient norm is NaN or infinite, `finite` is 0 and the state comes back unchanged, so that it
    can still be saved.
    """
    gradients = make_gradients(model, tasks, loss=loss, accum=accum, weights=weights)

    def step(state, batches, rng):
        grads, batch_stats, metrics = gradients(state, batches, jax.random.fold_in(rng, state.step))
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        new = TrainState(
            state.step + 1, optax.apply_updates(state.params, updates), batch_stats, opt_state
        )
        metrics |= {
            "grad_norm": grad_norm,
            "lr": jnp.asarray(learning_rate(state.step), jnp.float32),
            "finite": finite.astype(jnp.float32),
        }
        return jax.tree.map(lambda good, old: jnp.where(finite, good, old), new, state), metrics

    return step


def jit_step(step: Callable, state: TrainState, *, mesh: Mesh) -> Callable:
    """The step compiled for a mesh: `state` (arrays or abstract) gives the layout, its buffers are
    donated.

    Call it under `jax.set_mesh(mesh)`; batches are cut over the data axes, metrics are on every
    device.
    """
    layout, replicated = jax.tree.map(lambda x: x.sharding, state), sharding.replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(layout, sharding.batch_sharding(mesh), replicated),
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
) -> Callable[..., tuple[Any, Any, Metrics]]:
    """Function (state, batches, rng) -> (gradients, batch_stats, metrics) of the weighted sum of
    the tasks' losses.

    The tasks are computed one after the other, each in `accum` parts, and their gradients are
    summed up, so no more than one part's activations are alive.

    Args:
        tasks: by name; `encode` runs on the device, on the whole batch.
        loss: one of losses.LOSSES.
        accum: parts that a batch is cut into; must divide it (`sharding.check_batch`). BatchNorm
            sees one part at a time, and dropout draws differ from those of a whole batch; all else
            is the same.
        weights: of the tasks' losses; default 1 each.

    `batches` are Example dicts by task name. Rows whose `valid` is False weigh nothing. Metrics,
    f32[]: `loss`, `token_accuracy` (likeliest token is the target, over targets that weigh),
    `tokens` (number of those), and with several tasks, in one batch or in several, `NAME/loss` and
    so on, unweighted, NaN where nothing of a task weighs.
    """
    weights = dict.fromkeys(tasks, 1.0) | dict(weights or {})
    names = [part for name, task in tasks.items() for part in _names(name, task)]
    factors = [weights[name] for name, task in tasks.items() for _ in _names(name, task)]
    ends = list(itertools.accumulate(len(_names(name, task)) for name, task in tasks.items()))

    def gradients(state, batches, rng):
        def branch(index, name):
            def add_task(carry):
                grads, batch_stats, sums = carry
                grads, batch_stats, own = _task_gradients(
                    grads,
                    state.replace(batch_stats=batch_stats),
                    model,
                    tasks[name],
                    batches[name],
                    jax.random.fold_in(rng, index),
                    loss=loss,
                    accum=accum,
                    weight=weights[name],
                )
                return grads, batch_stats, sums.at[ends[index] - len(own) : ends[index]].set(own)

            return add_task

        branches = [branch(index, name) for index, name in enumerate(tasks)]
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        start = zeros, state.batch_stats, jnp.zeros((len(names), 4))
        # A loop over branches, because straight code lets XLA hold the activations of all tasks at
        # once.
        grads, batch_stats, sums = jax.lax.fori_loop(
            0, len(tasks), lambda index, carry: jax.lax.switch(index, branches, carry), start
        )
        return grads, batch_stats, _metrics(sums, dict(zip(names, factors, strict=True)))

    return gradients


def _metrics(sums: jax.Array, factors: Mapping[str, float]) -> Metrics:
    """The metrics of `make_gradients`, of f32[G,4] in `_weighted_loss`'s columns, a row for each of
    the G tasks, whose losses count by `factors`."""
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


def _task_gradients(
    grads: Any,
    state: TrainState,
    model: nn.Module,
    task: Any,
    batch: Batch,
    rng: jax.Array,
    *,
    loss: str,
    accum: int,
    weight: float,
) -> tuple[Any, Any, jax.Array]:
    """Adds the gradients of one task, computed in `accum` parts.

    Returns:
        Gradients, BatchNorm statistics, and f32[G,4], see `_weighted_loss`, summed over the rows of
        each of the tasks that are in the batch (G is 1, but for `tasks.mixed`).
    """
    rng_encode, rng_dropout = jax.random.split(rng)
    sequences = _normalised(task.encode(batch, rng_encode), batch)

    def add_part(carry, part):
        grads, batch_stats, sums = carry
        index, pictures, sequences, group = part
        (_, (batch_stats, rows)), new = jax.value_and_grad(_weighted_loss, has_aux=True)(
            state.params,
            batch_stats,
            model,
            images(pictures),  # float32 of one part at a time
            sequences,
            jax.random.fold_in(rng_dropout, index),
            loss=loss,
        )
        grads = jax.tree.map(lambda g, n: g + weight * n, grads, new)
        return (grads, batch_stats, sums + jax.ops.segment_sum(rows, group, groups)), None

    groups = len(_names("", task))
    group = batch["task"] if groups > 1 else jnp.zeros(len(batch["image"]), jnp.int32)
    pictures = {name: batch[name] for name in PICTURE_FIELDS if name in batch}
    cut = jax.tree.map(lambda x: _cut(x, accum), (pictures, sequences, group))
    start = grads, state.batch_stats, jnp.zeros((groups, 4))
    (grads, batch_stats, sums), _ = jax.lax.scan(add_part, start, (jnp.arange(accum), *cut))
    return grads, batch_stats, sums


def _normalised(sequences: Sequences, batch: Batch) -> Sequences:
    """The sequences with weights that sum to one over the batch; padding rows weigh nothing.

    Dividing before the sum makes the gradients of the parts add up to those of the whole batch.
    """
    weights = sequences.weights
    if "valid" in batch:
        weights = weights * batch["valid"].reshape(-1, *(1,) * (weights.ndim - 1))
    return sequences._replace(weights=weights / (jnp.sum(weights) + 1e-9))


def _cut(x: jax.Array, accum: int) -> jax.Array:
    """[B,...] -> [accum,B/accum,...], strided so that every device keeps its rows."""
    return x.reshape(-1, accum, *x.shape[1:]).swapaxes(0, 1)


def _weighted_loss(
    params: Any,
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
        {"params": params, "batch_stats": batch_stats},
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
