"""Rows of four tasks in one batch: every row is what its own task would make of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.tasks.mixed import PER_OBJECT, Mixed
from pix2seq_jax.training import losses
from pix2seq_jax.training import step as train_step
from pix2seq_jax.vocab import PADDING
from tests.helpers import four_tasks

TASKS = tuple(four_tasks.TASKS.values())
MIXED = Mixed(TASKS)
ROWS, SLOTS = 16, 8  # more slots than any of the tasks takes
KEY = jax.random.key(0)
MODEL = four_tasks.tiny()
DRAWS = 12


def union(seed: int = 0) -> dict[str, jax.Array]:
    """A batch as several streams give it: rows have the objects that their task takes, and zeros
    behind them."""
    rows = [number % len(TASKS) for number in range(ROWS)]
    taken = jnp.asarray([four_tasks.slots_of(TASKS[number].name) for number in rows])
    batch = four_tasks.example(ROWS, SLOTS, seed)
    there = jnp.arange(SLOTS)[None] < taken[:, None]  # [B,N]
    for name in PER_OBJECT:
        batch[name] = jnp.where(
            there.reshape(ROWS, SLOTS, *(1,) * (batch[name].ndim - 2)), batch[name], 0
        )
    is_caption = jnp.asarray(rows)[:, None, None] == len(TASKS) - 1
    batch["captions"] = jnp.where(is_caption, batch["captions"], 0)
    return batch | {"task": jnp.asarray(rows, jnp.int32)}


BATCH = union()


def cut(batch: dict, task) -> dict:
    """The batch with as many object slots as a task takes."""
    slots = four_tasks.slots_of(task.name)
    return {
        name: value[:, :slots] if name in PER_OBJECT else value for name, value in batch.items()
    }


@pytest.fixture(scope="module")
def drawn():
    """Sequences [DRAWS,B,...] of as many keys."""
    keys = jax.random.split(KEY, DRAWS)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(MIXED.encode, (None, 0)))(BATCH, keys))


def written(task, row: int) -> list[dict[str, np.ndarray]]:
    """The sequences that a task makes of a row, as a mixed batch should hold them."""
    prompt, inputs, targets, weights = (
        np.asarray(array)[row] for array in task.encode(cut(BATCH, task), KEY)
    )
    every = [array.reshape(-1, array.shape[-1]) for array in (prompt, inputs, targets, weights)]
    found = []
    for prompt, inputs, targets, weights in zip(*every, strict=True):
        given, missing = prompt[1:], MIXED.max_len - task.max_len
        found.append(
            {
                "prompt": prompt[:1],
                "inputs": np.concatenate([given, inputs, np.full(missing, PADDING)]),
                "targets": np.concatenate([given, targets, np.full(missing, PADDING)]),
                "weights": np.concatenate([np.zeros(len(given)), weights, np.zeros(missing)]),
            }
        )
    return found


def test_a_row_is_one_of_the_sequences_of_its_task(drawn):
    assert BATCH["labels"].shape[1] > max(four_tasks.slots_of(task.name) for task in TASKS)
    assert drawn.prompt.shape == (DRAWS, ROWS, 1)
    assert (
        drawn.inputs.shape
        == drawn.targets.shape
        == drawn.weights.shape
        == (DRAWS, ROWS, MIXED.max_len - 1)
    )
    silent, varied = set(), set()
    for row in range(ROWS):
        task = TASKS[int(BATCH["task"][row])]
        every = written(task, row)
        weighs = [one for one in every if one["weights"].any()] or every
        taken = set()
        for draw in range(DRAWS):
            got = {name: array[draw, row] for name, array in drawn._asdict().items()}
            same = [
                i
                for i, one in enumerate(weighs)
                if all(np.array_equal(got[name], one[name]) for name in one)
            ]
            assert same, (row, draw, task.name)
            taken.add(same[0])
        if weighs[0]["weights"].any():
            assert len(taken) >= min(len(weighs), 2)
        else:
            silent.add(task.name)
        if len(taken) > 1:
            varied.add(task.name)
    assert varied == {
        "segmentation",
        "keypoints",
        "captioning",
    }  # the batch has rows to choose from, and images
    assert silent  # of which nothing is known


def test_padding_that_weighs_is_not_drawn_in_place_of_an_object():
    task = dataclasses.replace(four_tasks.TASKS["segmentation"], padding_weight=1.0)
    batch = {name: BATCH[name] for name in ("boxes", "labels", "polygons")} | {
        "task": jnp.zeros(ROWS, jnp.int32)
    }
    keys = jax.random.split(KEY, DRAWS)
    targets = jax.vmap(Mixed((task,)).encode, (None, 0))(batch, keys).targets[
        ..., 5:
    ]  # behind the prompt
    outlined = (batch["labels"][:, : task.max_instances] > 0) & (
        batch["polygons"][:, : task.max_instances, 0] > 0
    )
    has_one = np.asarray(outlined.any(axis=1))
    assert 0 < has_one.sum() < ROWS
    np.testing.assert_array_equal(
        (targets != PADDING).any(axis=-1), np.broadcast_to(has_one, (DRAWS, ROWS))
    )


def test_what_is_given_weighs_nothing(drawn):
    for row, number in enumerate(BATCH["task"].tolist()):
        task = TASKS[number]
        given = {"detection": 1, "captioning": 1}.get(
            task.name, 6
        ) - 1  # tokens of the prompt after the first
        assert not drawn.weights[:, row, :given].any()
        assert not drawn.weights[:, row, task.max_len - 1 :].any()
        if given and drawn.weights[0, row].any():
            assert (drawn.targets[:, row, :given] != PADDING).all()


@pytest.fixture(scope="module")
def state():
    return four_tasks.initial(MODEL)


@pytest.fixture(scope="module")
def metrics(state):
    """batch -> metrics of a mixed batch, as training has them."""
    gradients = train_step.make_gradients(MODEL, {"mixed": MIXED})
    compiled = jax.jit(lambda batch: gradients(state, {"mixed": batch}, KEY)[2])
    return lambda batch: jax.tree.map(float, compiled(batch))


def test_the_loss_is_finite_and_padding_rows_do_not_count(metrics):
    whole = metrics(BATCH)
    assert np.isfinite(whole["loss"]) and whole["loss"] > 0
    valid = jnp.arange(ROWS) < 9
    other = union(seed=1)
    spoilt = {
        name: jnp.where(valid.reshape(-1, *(1,) * (value.ndim - 1)), value, other[name])
        for name, value in BATCH.items()
    }
    some, same = (metrics(batch | {"valid": valid}) for batch in (BATCH, spoilt))
    assert 0 < some["tokens"] == same["tokens"] < whole["tokens"]
    np.testing.assert_allclose(some["loss"], same["loss"], rtol=1e-6)
    nothing = metrics(BATCH | {"valid": jnp.zeros(ROWS, bool)})
    assert nothing["loss"] == nothing["tokens"] == 0


@pytest.mark.parametrize("number", range(len(TASKS)))
def test_each_task_is_told_by_itself(metrics, number):
    name, whole = TASKS[number].name, metrics(BATCH)
    own = metrics(BATCH | {"valid": BATCH["task"] == number})
    for figure in ("loss", "token_accuracy"):
        assert own[figure] > 0 or figure == "token_accuracy"
        np.testing.assert_allclose(whole[f"{name}/{figure}"], own[figure], rtol=1e-5)
        assert all(np.isnan(own[f"{other.name}/{figure}"]) for other in TASKS if other.name != name)


@pytest.mark.parametrize("number", range(len(TASKS)))
def test_rows_of_one_task_have_its_loss(state, metrics, number):
    """Images with at most one sequence that weighs leave nothing to draw."""
    task, batch = TASKS[number], four_tasks.example(ROWS, SLOTS, seed=number)
    first = 1 if task.name in ("segmentation", "keypoints") else four_tasks.slots_of(task.name)
    batch["labels"] = batch["labels"] * (jnp.arange(SLOTS) < first)[None]
    batch["captions"] = batch["captions"].at[:, 1:].set(0)
    mixed = metrics(batch | {"task": jnp.full(ROWS, number, jnp.int32)})
    prompt, inputs, targets, weights = task.encode(cut(batch, task), KEY)
    tokens = jnp.concatenate([prompt, inputs], axis=-1)[..., :-1]
    logits = jax.jit(MODEL.apply)({"params": state.params}, batch["image"], tokens)[
        ..., prompt.shape[-1] - 1 :, :
    ]
    weighs = weights > 0
    assert 0 < mixed["tokens"] == int(jnp.sum(weighs))
    loss = jnp.sum(weights * losses.token_loss(logits, targets)) / jnp.sum(weights)
    np.testing.assert_allclose(mixed["loss"], loss, rtol=1e-5)
    hits = jnp.sum((jnp.argmax(logits, axis=-1) == targets) & weighs)
    np.testing.assert_allclose(mixed["token_accuracy"], hits / jnp.sum(weighs), rtol=1e-6)
