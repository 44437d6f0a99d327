"""The average of the weights: its numbers, in checkpoints, on a resume, on meshes, in a run; also
with frozen parts."""

import functools
import logging

import jax
import numpy as np
import pytest

from pix2seq_jax import train
from pix2seq_jax.experiment import hooks, resolve, saved_run
from pix2seq_jax.training import checkpoint, optim, sharding, trees
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step
from tests.helpers import four_tasks, small

MODEL, KEY = four_tasks.tiny(), jax.random.key(0)
TASKS = {"detection": four_tasks.TASKS["detection"]}
RATE = optim.schedule("none", base=1e-2, batch_size=4, total=10)
TX = optim.make("adamw", RATE)
EMA = 0.15
ENCODER = "^(stem|image_encoder)/"


def mesh():
    return sharding.make_mesh(devices=jax.devices()[:1])


@functools.cache
def compiled(averaged: bool):
    """(first state, step)."""
    step = train_step.make_step(MODEL, TASKS, TX, RATE, ema=EMA * averaged)
    with jax.set_mesh(mesh()):
        state = train_state.init_state(MODEL, TX, KEY, mesh=mesh(), averaged=averaged)
    return state, jax.jit(step)


@functools.cache
def trajectory(averaged: bool):
    """The states of three steps, the first one included."""
    state, step = compiled(averaged)
    batch = {"detection": four_tasks.example(4, four_tasks.slots_of("detection"))}
    states = [state]
    with jax.set_mesh(mesh()):
        for _ in range(3):
            states.append(step(states[-1], batch, KEY)[0])
    return states


def assert_equal(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), tree, other))


def abstract(averaged: bool):
    return train_state.abstract_state(MODEL, TX, mesh=mesh(), averaged=averaged)


def test_the_average_is_the_moving_one_with_its_warm_up():
    states = trajectory(True)
    assert_equal(states[0].average, states[0].params)
    expected = trees.flatten_names(states[0].params)
    for step, state in enumerate(states[1:]):
        decay = min(EMA, (1 + step) / (10 + step))  # .1, then EMA
        for name, value in trees.flatten_names(state.params).items():
            expected[name] = decay * expected[name] + (1 - decay) * value
        for name, value in trees.flatten_names(state.average).items():
            np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)
    assert train_state.variables(states[3])["params"] is states[3].average


def test_the_parameters_are_those_of_a_run_without_average():
    for state, plain in zip(trajectory(True), trajectory(False), strict=True):
        assert_equal(train_state.without_average(state), plain)


def save(folder, state):
    saver = checkpoint.Checkpointer(folder)
    saver.save(int(state.step), state, {})
    saver.close()


def restore(folder, averaged: bool):
    saver = checkpoint.Checkpointer(folder)
    try:
        return saver.restore_latest(abstract(averaged))[0]
    finally:
        saver.close()


def test_a_resume_is_exact_and_the_average_is_loaded(tmp_path):
    states = trajectory(True)
    save(tmp_path, states[2])
    restored = restore(tmp_path, averaged=True)
    assert_equal(restored, states[2])
    batch = {"detection": four_tasks.example(4, four_tasks.slots_of("detection"))}
    with jax.set_mesh(mesh()):
        assert_equal(compiled(True)[1](restored, batch, KEY)[0], states[3])
    wanted = train_state.abstract_variables(MODEL, mesh=mesh())
    _, variables, _ = checkpoint.load_variables(tmp_path, wanted)
    assert_equal(variables["params"], states[2].average)


def test_an_average_may_begin_and_end_at_a_resume(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.WARNING, "pix2seq_jax")
    monkeypatch.setattr(logging.getLogger("pix2seq_jax"), "propagate", True)
    save(tmp_path / "plain", trajectory(False)[2])
    begun = restore(tmp_path / "plain", averaged=True)
    assert_equal(begun, train_state.with_average(trajectory(False)[2]))
    assert "has no averaged parameters" in caplog.text
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(begun)]
    assert len(set(pointers)) == len(pointers)  # or the buffers could not be donated
    save(tmp_path / "averaged", trajectory(True)[2])
    assert_equal(restore(tmp_path / "averaged", averaged=False), trajectory(False)[2])
    assert "the average ends here" in caplog.text


@functools.cache
def after_two_steps(data: int, fsdp: int, model: int) -> dict[str, np.ndarray]:
    """Parameters, average and state of the optimizer on a mesh, by name; the encoder is frozen."""
    axes = {"data": data, "fsdp": fsdp, "model": model}
    mesh = sharding.make_mesh(axes, devices=jax.devices()[: data * fsdp * model])
    # With the usual eps a gradient of nearly 0 moves a parameter as far as its rounding says.
    tx = optim.make("adamw", RATE, eps=1e-3)
    step = train_step.make_step(MODEL, TASKS, tx, RATE, frozen=ENCODER, ema=EMA)
    options = {"averaged": True, "frozen": ENCODER}
    abstract = train_state.abstract_state(MODEL, tx, mesh=mesh, **options)
    with jax.set_mesh(mesh):
        state = train_state.init_state(MODEL, tx, KEY, mesh=mesh, **options)
        run = train_step.jit_step(step, abstract, mesh=mesh)
        batch = {"detection": four_tasks.example(8, four_tasks.slots_of("detection"))}
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        for _ in range(2):
            state, _ = run(state, batch, KEY)
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
    return {name: np.asarray(leaf) for name, leaf in trees.flatten_names(state).items()}


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_meshes_equal_one_device(axes):
    alone, cut = after_two_steps(1, 1, 1), after_two_steps(*axes)
    assert alone.keys() == cut.keys() and any(name.startswith("average/") for name in alone)
    assert not any("/mu/stem/" in name for name in alone)
    for name, value in alone.items():
        np.testing.assert_allclose(cut[name], value, atol=1e-6, err_msg=name)
    moved = np.abs(alone["average/decoder/embedding"] - alone["params/decoder/embedding"])
    assert moved.max() > 1e-4


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")
    changed = {"train__ema": 0.9, "optim__frozen": ENCODER}
    steps = {"train__steps": 4, "train__checkpoint_steps": 2}
    return small.config("detection.py:shapes", folder, **changed, **steps)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The workdir of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train.run(config, workdir, evaluate_too=False)
    return workdir


def last_state(workdir):
    """(the state in the newest checkpoint of a run, its config)."""
    config = saved_run.load_config(workdir)
    model, (tx, _) = resolve.make_model(config), _update(config)
    wanted = train_state.abstract_state(model, tx, mesh=mesh(), **resolve.state_options(config))
    saver = checkpoint.Checkpointer(workdir / "checkpoints")
    try:
        return saver.restore_latest(wanted)[0], config
    finally:
        saver.close()


def _update(config):
    return resolve.make_update(config, resolve.make_model(config), resolve.make_tasks(config))


def test_a_run_predicts_with_the_average(whole):
    state, config = last_state(whole)
    assert not jax.tree.all(jax.tree.map(np.array_equal, state.average, state.params))
    model = resolve.make_model(config)
    _, variables = saved_run.load_variables(whole, config, model, mesh())
    assert_equal(variables["params"], state.average)


def test_an_interrupted_run_goes_on_with_its_average_and_frozen_parts(
    config, whole, tmp_path, monkeypatch
):
    report = hooks.RunHooks.report

    def failing(self, number, metrics, waited):
        report(self, number, metrics, waited)
        if number == 3:
            raise OSError("the machine goes away")

    with monkeypatch.context() as patch:
        patch.setattr(hooks.RunHooks, "report", failing)
        with pytest.raises(OSError, match="goes away"):
            train.run(config, tmp_path, evaluate_too=False)
    assert max(checkpoint.steps(tmp_path / "checkpoints")) == 3  # what an error ends is saved
    train.run(config, tmp_path, evaluate_too=False)
    (expected, _), (state, _) = last_state(whole), last_state(tmp_path)
    assert int(state.step) == 4
    assert_equal(state, expected)
    kept = trees.flatten_names(state.opt_state)
    assert kept and not [name for name in kept if "stem" in name]
