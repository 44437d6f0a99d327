"""A disk that is full, storage that is slow, a clock that jumps: nothing is lost but the steps
since the last save."""

import contextlib
import gc
import json
import math
import resource
import time

import jax
import numpy as np
import pytest

from pix2seq_jax import train
from pix2seq_jax.data.coco import files
from pix2seq_jax.experiment import hooks
from pix2seq_jax.training import checkpoint, hashes
from tests.helpers import small

# TensorStore's tasks that failed are asked by nobody, which Python says when it collects them. That
# may be while a later test runs.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

STEPS, FAILS_AT = 6, 3
FULL = 16 * 1024  # bytes that a file may have; the arrays of a checkpoint have more
HOUR = 3600.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def config(folder):
    return small.config(
        "detection.py:shapes", folder, train__steps=STEPS, train__checkpoint_steps=2
    )


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    train.run(config, workdir, evaluate_too=False)
    return workdir


def losses(workdir) -> list[tuple[int, float]]:
    """(step, loss) of each row of metrics.jsonl."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["train/loss"]) for row in rows]


def arrays(workdir) -> list[np.ndarray]:
    """All arrays of the last checkpoint."""
    folder = workdir / "checkpoints"
    saved = checkpoint.ocp.PyTreeCheckpointHandler().metadata(folder / str(STEPS) / "state").tree
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dict(saved))
    return jax.tree.leaves(checkpoint.load_variables(folder, like, step=STEPS)[1])


def assert_nothing_is_lost(workdir, undisturbed):
    """Every step once, and the same bits at the end."""
    assert losses(workdir) == losses(undisturbed)
    assert checkpoint.newest_whole_step(workdir / "checkpoints") == STEPS
    for one, other in zip(arrays(workdir), arrays(undisturbed), strict=True):
        np.testing.assert_array_equal(one, other)


def at_step(monkeypatch, step: int, action) -> None:
    """Calls `action` with the hooks of the run once a step is reported."""
    report = hooks.RunHooks.report

    def acting(self, number, metrics, waited):
        report(self, number, metrics, waited)
        if number == step:
            action(self)

    monkeypatch.setattr(hooks.RunHooks, "report", acting)


@contextlib.contextmanager
def as_before():
    """A limit of the size of files ends with the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_a_run_that_goes_on_later(config, undisturbed, tmp_path, monkeypatch):
    """The system refuses the arrays of a checkpoint, whoever writes them. Step 2 is saved."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def fill(run):
        run._saver.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, hard))

    with as_before(), monkeypatch.context() as patch:
        at_step(patch, FAILS_AT, fill)
        with pytest.raises(OSError, match=r"step 4 .*cannot be saved.*free some space"):
            train.run(config, tmp_path, evaluate_too=False)
    assert checkpoint.newest_whole_step(tmp_path / "checkpoints") == 2
    train.run(config, tmp_path, evaluate_too=False)
    assert_nothing_is_lost(tmp_path, undisturbed)
    gc.collect()
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))


def test_slow_storage_only_takes_longer(config, undisturbed, tmp_path, monkeypatch):
    """Images that come slowly are waited for. A save that takes longer than the steps to the next
    one is not overtaken."""
    load, write_sums, loaded = files.ImageFolder.load, hashes.write_sums, []

    def slow_load(self, file):
        time.sleep(0.05)
        loaded.append(file)
        return load(self, file)

    def slow_sums(path):
        time.sleep(1.0)
        write_sums(path)

    monkeypatch.setattr(files.ImageFolder, "load", slow_load)
    monkeypatch.setattr(hashes, "write_sums", slow_sums)
    train.run(config, tmp_path, evaluate_too=False)
    assert_nothing_is_lost(tmp_path, undisturbed)
    assert len(loaded) >= STEPS * config.train.batch_size


def test_a_clock_that_jumps_changes_nothing(config, undisturbed, tmp_path, monkeypatch):
    """It goes back by an hour, as where a machine finds out the time, and the run goes on twice."""
    seconds, nanoseconds = time.time, time.time_ns

    def jump(run):
        monkeypatch.setattr(time, "time", lambda: seconds() - HOUR)
        monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() - int(HOUR * 1e9))

    at_step(monkeypatch, FAILS_AT, jump)
    train.run(config, tmp_path, evaluate_too=False)
    assert_nothing_is_lost(tmp_path, undisturbed)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["step"] > 1:
            assert row["train/steps_per_s"] > 0 and 0 <= row["train/eta_s"] < HOUR
            assert math.isfinite(row["train/data_wait"])
    assert checkpoint.steps(tmp_path / "checkpoints") == checkpoint.steps(
        undisturbed / "checkpoints"
    )
    train.run(config, tmp_path, evaluate_too=False)  # nothing to train
    assert losses(tmp_path) == losses(undisturbed)
