"""Several devices decode like one, and send each other nothing while they do."""

import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from pix2seq_jax.evaluation.decoders import make_decoder, make_encoder
from pix2seq_jax.models.pix2seq import Pix2Seq, field_names
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
    one, _ = decoded({"data": 1}, four_tasks.TASKS[name], sampler)
    several, inside = decoded({"data": 2, "fsdp": 4}, four_tasks.TASKS[name], sampler)
    assert not inside
    for key, value in one.items():
        np.testing.assert_allclose(value, several[key], rtol=1e-5, atol=1e-5)


def test_parameters_over_fsdp_are_gathered_before_where_a_model_axis_is():
    """Inside the loops is sent what a `model` axis alone sends."""
    task = four_tasks.TASKS["detection"]
    alone, inside_alone = decoded({"data": 4, "model": 2}, task, "greedy")
    both, inside_both = decoded({"data": 2, "fsdp": 2, "model": 2}, task, "greedy")
    assert inside_both and inside_both == inside_alone
    for key, value in alone.items():
        np.testing.assert_allclose(value, both[key], rtol=1e-5, atol=1e-5)


SEEN = []  # images of a call of Watched.encode


class Watched(Pix2Seq):
    def encode(self, images, train=False):
        SEEN.append(len(images))
        return super().encode(images, train)


@pytest.mark.parametrize("axes,alone", [({"data": 8}, True), ({"data": 2, "fsdp": 4}, False)])
def test_each_device_encodes_its_own_images(axes, alone):
    """In a batch that the devices divide, and where they have all parameters."""
    fields = {name: getattr(MODEL, name) for name in field_names()}
    encode, params = make_encoder(Watched(**fields)), four_tasks.initial(MODEL).params
    pixels = jax.random.uniform(jax.random.key(0), (16, *MODEL.image_size, 3))
    one = encode({"params": params}, {"image": pixels})
    mesh = sharding.make_mesh(axes)
    with jax.set_mesh(mesh):
        layout = jax.tree.map(lambda x: x.sharding, parameters_on(mesh))
        variables = {"params": jax.device_put(params, layout)}
        for images, of_a_device in ((16, 2), (3, 3)):
            found = encode(variables, {"image": pixels[:images]})
            np.testing.assert_allclose(found, one[:images], atol=1e-5)
            assert SEEN[-1] == (of_a_device if alone else images)


def decoded(axes, task, sampler):
    """What is decoded on a mesh, and (kind, bytes) of the collectives within the loops, which are
    other computations than the program itself."""
    decode, params = make_decoder(MODEL, task, section(sampler)), four_tasks.initial(MODEL).params
    mesh = sharding.make_mesh(axes, devices=jax.devices()[: math.prod(axes.values())])
    cut, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    with jax.set_mesh(mesh):
        memory, batch, rows, seed = jax.device_put(arguments(task), cut_or(whole, cut, task))
        layout = jax.tree.map(lambda x: x.sharding, parameters_on(mesh))
        variables = {"params": jax.device_put(params, layout)}
        program = decode.lower(variables, memory, batch, rows, seed).compile()
        results = jax.device_get(program(variables, memory, batch, rows, seed))
    found = collectives(program.as_text())
    return results, sorted((row.kind, row.size) for row in found if row.computation != "ENTRY")


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
