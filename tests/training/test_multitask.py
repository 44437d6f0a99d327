"""Several tasks in one step: what comes out is the weighted sum of what each gives alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.tasks.captioning import Captioning
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step
from pix2seq_jax.training import trees
from tests.helpers import four_tasks

TASKS = four_tasks.TASKS
ROWS = {"detection": 32, "segmentation": 24, "keypoints": 28, "captioning": 30}
WEIGHTS = {"detection": 0.4, "segmentation": 0.3, "keypoints": 0.2, "captioning": 0.1}
PER_SEQUENCE = ("segmentation", "keypoints", "captioning")  # several sequences per image
KEY = jax.random.key(0)
MODEL = four_tasks.tiny()


@functools.cache
def initial_state() -> train_state.TrainState:
    return four_tasks.initial(MODEL)


def batch(name: str, seed: int = 0) -> dict[str, jax.Array]:
    return four_tasks.example(ROWS[name], four_tasks.slots_of(name), seed)


@functools.cache
def compiled(names: tuple[str, ...]) -> jax.stages.Compiled:
    """Weighted gradients of some of the tasks, for batches of ROWS images."""
    weights, batches = (
        {name: WEIGHTS[name] for name in names},
        {name: batch(name) for name in names},
    )
    gradients = train_step.make_gradients(
        MODEL, {name: TASKS[name] for name in names}, weights=weights
    )
    return jax.jit(gradients).lower(initial_state(), batches, KEY).compile()


@functools.cache
def alone(name: str):
    """(weighted gradients, metrics) of a task by itself."""
    grads, _, metrics = compiled((name,))(initial_state(), {name: batch(name)}, KEY)
    return grads, metrics


def assert_close(tree, other, *, atol: float):
    for (name, a), b in zip(trees.flatten_names(tree).items(), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=atol, rtol=0, err_msg=name)


def test_four_tasks_of_different_batches_add_up_by_weight():
    batches = {name: batch(name) for name in TASKS}
    grads, _, metrics = compiled(tuple(TASKS))(initial_state(), batches, KEY)
    total = jax.tree.map(lambda *parts: sum(parts), *(alone(name)[0] for name in TASKS))
    assert_close(total, grads, atol=1e-5)
    assert max(float(jnp.max(jnp.abs(grad))) for grad in jax.tree.leaves(grads)) > 1e-2

    single = {name: alone(name)[1] for name in TASKS}
    whole = ("loss", "token_accuracy", "tokens")
    assert set(metrics) == {*whole, *(f"{name}/{kind}" for name in TASKS for kind in whole[:2])}
    for name in TASKS:
        assert set(single[name]) == set(whole)
        np.testing.assert_allclose(
            WEIGHTS[name] * metrics[f"{name}/loss"], single[name]["loss"], rtol=1e-5
        )
        np.testing.assert_allclose(
            metrics[f"{name}/token_accuracy"], single[name]["token_accuracy"], rtol=1e-6
        )
    np.testing.assert_allclose(
        metrics["loss"], sum(one["loss"] for one in single.values()), rtol=1e-5
    )
    assert float(metrics["tokens"]) == sum(float(one["tokens"]) for one in single.values())
    hits = sum(one["token_accuracy"] * one["tokens"] for one in single.values())
    np.testing.assert_allclose(metrics["token_accuracy"], hits / metrics["tokens"], rtol=1e-6)


def test_memory_is_that_of_the_largest_task():
    """Temporary memory, without the batches, which are arguments: those of all tasks lie on the
    device at once.

    Activations make nearly all of it. One after the other without a loop the tasks took 2.8 times
    as much. Optimised code needs the same number of bytes.
    """
    single = [compiled((name,)).memory_analysis().temp_size_in_bytes for name in TASKS]
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(initial_state().params))
    assert max(single) > 10 * parameters and sum(single) > 2 * max(single)
    assert compiled(tuple(TASKS)).memory_analysis().temp_size_in_bytes <= 1.15 * max(single)


def test_every_task_draws_for_itself():
    """Two tasks alike, on the same rows, are corrupted differently."""
    task = Captioning(four_tasks.VOCAB, captions_per_image=2, max_tokens=four_tasks.PIECES)
    gradients = jax.jit(
        lambda *given: train_step.make_gradients(MODEL, {"a": task, "b": task})(*given)[2]
    )
    metrics = gradients(initial_state(), dict.fromkeys("ab", batch("captioning")), KEY)
    assert float(metrics["a/loss"]) != float(metrics["b/loss"])


@pytest.mark.parametrize("name", PER_SEQUENCE)
def test_rows_that_are_not_valid_weigh_nothing(name):
    rows = jnp.arange(ROWS[name])
    first, other = batch(name, seed=1), batch(name, seed=2)
    valid = rows < ROWS[name] // 2
    mixed = jax.tree.map(
        lambda a, b: jnp.where(valid.reshape(-1, *(1,) * (a.ndim - 1)), a, b), first, other
    )
    (grads, _, metrics), (again, _, same) = (
        compiled((name,))(initial_state(), {name: given | {"valid": valid}}, KEY)
        for given in (first, mixed)
    )
    assert_close(grads, again, atol=1e-6)
    weights = TASKS[name].encode(first, KEY).weights
    assert weights.ndim == 3 and bool(jnp.any(weights[~valid] > 0))
    assert 0 < float(metrics["tokens"]) == float(same["tokens"]) == int(jnp.sum(weights[valid] > 0))
    np.testing.assert_allclose(metrics["loss"], same["loss"], rtol=1e-6)


@pytest.mark.parametrize("name", PER_SEQUENCE)
def test_a_batch_without_objects_is_harmless(name):
    empty = batch(name) | {
        field: jnp.zeros_like(batch(name)[field]) for field in ("labels", "captions")
    }
    grads, _, metrics = compiled((name,))(initial_state(), {name: empty}, KEY)
    assert (
        float(metrics["loss"]) == float(metrics["tokens"]) == float(metrics["token_accuracy"]) == 0
    )
    assert all(bool(jnp.all(grad == 0)) for grad in jax.tree.leaves(grads))
