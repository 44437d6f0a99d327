"""Several devices decode like one, and send each other nothing while they do."""

import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from pix2seq_jax.evaluation.decoders import make_decoder
from pix2seq_jax.training import optim, sharding
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training.compiled import collectives
from tests.helpers import four_tasks

ROWS, OBJECTS = 16, 2
MODEL = four_tasks.tiny()


def section(sampler: str) -> ml_collections.ConfigDict:
    options = {"sampler": sampler, "grammar": True, "num_samples": 2, "eos_bias": 0.0}
    return ml_collections.ConfigDict(options)


def arguments(task):
    """What a decoder of the task takes, but for the variables."""
    rng = np.random.default_rng(0)
    memory = rng.normal(size=(ROWS, 16, MODEL.dec_dim)).astype(np.float32)
    size = np.full((ROWS, 2), four_tasks.SIDE, np.int32)
    batch = {"ids": np.arange(2 * ROWS, dtype=np.uint32).reshape(ROWS, 2)}
    batch |= {"orig_size": size, "unpadded_size": size, "crop_offset": np.zeros_like(size)}
    rows = {"row": np.arange(ROWS, dtype=np.int32)[::-1].copy()}
    if task.prompted:
        corners = rng.uniform(0, 16, (ROWS, OBJECTS, 2))
        boxes = np.concatenate([corners, corners + 12], axis=2)
        labels = rng.integers(0, 6, (ROWS, OBJECTS))  # some are padding
        rows |= {"boxes": boxes.astype(np.float32), "labels": labels.astype(np.int32)}
        rows["scores"] = np.ones((ROWS, OBJECTS), np.float32)
    return memory, batch, rows, jnp.int32(0)


CASES = [(name, "nucleus(0.9)") for name in four_tasks.TASKS] + [("captioning", "beam(2)")]


@pytest.mark.parametrize("name,sampler", CASES)
def test_no_device_waits_for_another(name, sampler):
    """Also where parameters are cut: they are gathered before."""
    task = four_tasks.TASKS[name]
    decode, results = make_decoder(MODEL, task, section(sampler)), []
    params = four_tasks.initial(MODEL).params
    for axes in ({"data": 1}, {"data": 2, "fsdp": 4}):
        mesh = sharding.make_mesh(axes, devices=jax.devices()[: math.prod(axes.values())])
        cut, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        with jax.set_mesh(mesh):
            memory, batch, rows, seed = jax.device_put(arguments(task), cut_or(whole, cut, task))
            layout = jax.tree.map(lambda x: x.sharding, parameters_on(mesh))
            variables = {"params": jax.device_put(params, layout)}
            program = decode.lower(variables, memory, batch, rows, seed).compile()
            results.append(program(variables, memory, batch, rows, seed))
    inside = [row for row in collectives(program.as_text()) if row.computation != "ENTRY"]
    assert not inside  # all loops are other computations than the program itself
    for key, one in results[0].items():
        np.testing.assert_allclose(one, results[1][key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["segmentation", "keypoints"])
def test_empty_slots_change_nothing(name):
    """So that only as many are decoded as the fullest image needs."""
    task = four_tasks.TASKS[name]
    decode = make_decoder(MODEL, task, section("nucleus(0.9)"))
    variables = train_state.variables(four_tasks.initial(MODEL))
    memory, batch, rows, seed = arguments(task)

    def padded(array):
        return np.pad(array, [(0, 0), (0, 3)] + [(0, 0)] * (array.ndim - 2))

    wide = rows | {field: padded(rows[field]) for field in ("boxes", "labels", "scores")}
    few, many = (decode(variables, memory, batch, some, seed) for some in (rows, wide))
    for key, one in few.items():
        np.testing.assert_allclose(one, many[key][:, :OBJECTS], rtol=1e-5, atol=1e-5)


def parameters_on(mesh):
    """As a run lays them out."""
    tx = optim.make("momentum", 1.0)
    return train_state.abstract_state(MODEL, tx, mesh=mesh).params


def cut_or(whole, cut, task):
    """The shardings of `arguments`: all but the seed are cut."""
    return jax.tree.map(lambda x: cut if jnp.ndim(x) else whole, arguments(task))
