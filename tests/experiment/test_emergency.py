"""An error ends a run, and the last good state is saved all the same."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest

from pix2seq_jax import train
from pix2seq_jax.experiment import emergency, hooks
from pix2seq_jax.training import checkpoint
from pix2seq_jax.training.state import TrainState
from tests.helpers import small

STEPS, FAILS_AT = 5, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


def saved(workdir) -> list[int]:
    return checkpoint.steps(workdir / "checkpoints")


def rows(workdir) -> list[int]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.fixture
def config(folder):
    return small.config(
        "detection.py:shapes", folder, train__steps=STEPS, train__checkpoint_steps=100
    )


def test_a_run_goes_on_from_the_step_before_the_error(config, tmp_path, monkeypatch):
    """What fails is the log line of a step; with a full disk it is that."""
    report = hooks.RunHooks.report

    def failing(self, step, metrics, waited):
        report(self, step, metrics, waited)
        if step == FAILS_AT:
            raise OSError("No space left on device")

    monkeypatch.setattr(hooks.RunHooks, "report", failing)
    with pytest.raises(OSError, match="No space left"):
        train.run(config, tmp_path, evaluate_too=False)
    assert saved(tmp_path) == [FAILS_AT]
    monkeypatch.setattr(hooks.RunHooks, "report", report)
    train.run(config, tmp_path, evaluate_too=False)
    assert rows(tmp_path) == [1, 2, 3, 4, 5] and saved(tmp_path)[0] == STEPS


def test_the_state_before_a_loss_that_is_not_finite_is_saved(config, tmp_path):
    config.update_from_flattened_dict({"schedule.base": 1e30, "schedule.warmup": 0})
    config.optim.clip = 0.0
    with pytest.raises(FloatingPointError, match=r"step 2: loss .* the state before it"):
        train.run(config, tmp_path, evaluate_too=False)
    assert saved(tmp_path) == [1] and rows(tmp_path) == [1]


def state(step: int) -> TrainState:
    return TrainState(jnp.int32(step), {"w": jnp.ones(3)}, {}, ())


@pytest.fixture
def saver(tmp_path):
    made = checkpoint.Checkpointer(tmp_path / "checkpoints")
    yield made
    made.close()


def test_what_a_failed_update_has_consumed_is_not_saved(saver, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(emergency.log, "propagate", True)
    consumed = state(4)
    jax.jit(lambda x: x + 1, donate_argnums=0)(consumed.params["w"])
    emergency.save(consumed, saver, functools.partial(saver.save, meta={}))
    assert "is not saved (ValueError: the update that failed has consumed it)" in caplog.text
    assert saved(tmp_path) == []


def test_a_save_that_fails_is_told_and_hides_nothing(saver, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(emergency.log, "propagate", True)
    emergency.save(state(4), saver, functools.partial(saver.save, meta={"no JSON": {1, 2}}))
    assert "and its last state is not saved (" in caplog.text and "are lost" in caplog.text
    assert saved(tmp_path) == []


def test_a_step_that_is_saved_is_not_saved_again(saver, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(emergency.log, "propagate", True)
    saver.save(4, state(4), {})
    emergency.save(state(4), saver, functools.partial(saver.save, meta={}))
    emergency.save(state(0), saver, functools.partial(saver.save, meta={}))
    assert "step 4 is saved" in caplog.text and "no step was done" in caplog.text
    assert saved(tmp_path) == [4]
