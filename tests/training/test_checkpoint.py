import json
import logging
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.training import checkpoint, hashes, optim, sharding
from pix2seq_jax.training.state import TrainState

META = {"category_names": ["Straße", "person"]}


def make_state(seed: int = 0, *, width: int = 8, optimizer: str = "adamw", mesh=None) -> TrainState:
    """A state with every kind of leaf, of random bits."""
    rng = np.random.default_rng(seed)
    params = {
        "dense": {"kernel": rng.normal(size=(16, width)), "bias": rng.normal(size=width)},
        "embedding": rng.normal(size=(32, 8)),
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    tx = optim.make(
        optimizer, optim.schedule("linear", base=1e-3, batch_size=8, total=100), clip=1.0
    )
    opt_state = jax.tree.map(lambda x: x + rng.integers(1, 9), tx.init(params))
    state = TrainState(
        jnp.asarray(seed, jnp.int32), params, {"norm": {"mean": jnp.ones(8)}}, opt_state
    )
    return jax.device_put(state, sharding.replicated(mesh or sharding.make_mesh()))


def abstract(state: TrainState) -> TrainState:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_equal(restored, expected):
    """The same structure, dtypes and bits."""
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


def save(directory, *steps, **options):
    saver = checkpoint.Checkpointer(directory, **options)
    for step in steps:
        saver.save(step, make_state(step), META | {"step": step})
    saver.close()


def restore(directory, template=None):
    saver = checkpoint.Checkpointer(directory)
    try:
        return saver.restore_latest(abstract(template or make_state()))
    finally:
        saver.close()


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 10 and 20; copy it before changing it."""
    directory = tmp_path_factory.mktemp("saved")
    save(directory, 10, 20)
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def test_restored_state_is_the_saved_one(saved):
    state, meta = restore(saved)
    assert_equal(state, make_state(20))
    assert meta == META | {"step": 20}


def test_nothing_saved_restores_nothing(tmp_path):
    assert restore(tmp_path / "new") is None


def test_state_may_be_donated_while_it_is_written(tmp_path):
    saver = checkpoint.Checkpointer(tmp_path)
    advance = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = make_state(3)
    saver.save(3, state, META)
    for _ in range(50):
        state = advance(state)
    saver.close()
    assert_equal(restore(tmp_path)[0], make_state(3))


def test_restores_onto_another_mesh(saved):
    mesh = sharding.make_mesh({"fsdp": 4, "model": 2})
    whole = sharding.replicated(mesh)
    template = abstract(make_state())
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "model"))
    template = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut if x.ndim == 2 else whole),
        template,
    )
    state, _ = restore(saved, template)
    assert_equal(state, make_state(20))
    assert state.params["embedding"].sharding == cut
    one = sharding.replicated(sharding.make_mesh(devices=jax.devices()[:1]))
    state, _ = restore(
        saved,
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), template),
    )
    assert_equal(state, make_state(20))


def damage_array(step):
    flip_bit(
        max((step / "state").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    )


def damage_every(step):
    for path in (step / "state" / "d").iterdir():
        flip_bit(path)


def damage_meta(step):
    flip_bit(step / "meta" / "metadata")


def damage_sums(step):
    flip_bit(step / hashes.SUMS)


def drop_file(step):
    (step / "state" / "_METADATA").unlink()


def truncate(step):
    path = max((step / "state").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    path.write_bytes(path.read_bytes()[:-7])


def drop_sums(step):
    (step / hashes.SUMS).unlink()


def drop_all_but_one(step):
    shutil.rmtree(step / "state")


@pytest.mark.parametrize(
    "harm",
    [
        damage_array,
        damage_every,
        damage_meta,
        damage_sums,
        drop_file,
        truncate,
        drop_sums,
        drop_all_but_one,
    ],
    ids=lambda harm: harm.__name__,
)
def test_damaged_newest_is_named_and_the_previous_used(directory, harm, caplog):
    harm(directory / "20")
    with caplog.at_level(logging.WARNING, logger="pix2seq_jax"):
        state, meta = restore(directory)
    assert_equal(state, make_state(10))
    assert meta["step"] == 10
    assert "step 20 is damaged" in caplog.text and str(directory / "20") in caplog.text
    if harm is not drop_sums:
        assert "SHA-256" in caplog.text
    save(directory, 20)  # the step is free again
    assert_equal(restore(directory)[0], make_state(20))


def test_damage_to_what_is_not_hashed_is_harmless(directory):
    for name in set(hashes.UNHASHED) - {hashes.SUMS}:
        (directory / "20" / name).write_bytes(b"\x00garbage")
    assert_equal(restore(directory)[0], make_state(20))
    save(directory, 30)
    assert_equal(restore(directory)[0], make_state(30))


def test_only_damaged_checkpoints_do_not_start_from_scratch(directory):
    for step in ("10", "20"):
        damage_meta(directory / step)
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged .*delete the folder"):
        restore(directory)
    assert (directory / "20").exists()


def test_empty_and_unfinished_folders_do_not_count(directory):
    (directory / "30").mkdir()
    shutil.copytree(directory / "20", directory / "40.orbax-checkpoint-tmp")
    assert_equal(restore(directory)[0], make_state(20))
    save(directory, 30, 40)
    assert_equal(restore(directory)[0], make_state(40))


KILLED = """
import os, signal, sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 8)
sys.path.insert(0, {tests!r})
import test_checkpoint as t
directory = Path(sys.argv[1])
saver = t.checkpoint.Checkpointer(directory)
saver.save(1, t.make_state(1), t.META)
saver.wait()
# All is written, nothing is renamed.
t.hashes.write_sums = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
saver.save(2, t.make_state(2), t.META)
saver.wait()
"""


def test_kill_in_mid_save_leaves_the_previous_step(tmp_path, request):
    code = KILLED.format(tests=str(request.path.parent))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=request.config.rootpath,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert any("tmp" in path.name for path in tmp_path.iterdir())
    assert_equal(restore(tmp_path)[0], make_state(1))
    save(tmp_path, 2)
    assert_equal(restore(tmp_path)[0], make_state(2))
    assert not any("tmp" in path.name for path in tmp_path.iterdir())


def test_latest_and_best_are_kept_across_restarts(tmp_path):
    def kept():
        return sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal())

    scores = [(1, 0.1), (2, 0.7), (3, None), (4, 0.3), (5, float("nan")), (6, None)]
    for step, score in scores:
        saver = checkpoint.Checkpointer(tmp_path, keep_latest=2, best_metric="AP")
        saver.save(
            step,
            make_state(step),
            META,
            metrics=None if score is None else {"AP": score, "AP50": 1.0},
        )
        saver.close()
        if step == 4:
            assert kept() == [2, 3, 4]
    assert kept() == [2, 5, 6]
    assert (
        checkpoint.load_variables(tmp_path, {"params": abstract(make_state()).params}, step=2)[0]
        == 2
    )


def test_metrics_that_come_after_the_save_choose_the_best(tmp_path):
    """A run saves a step before it evaluates it; another process goes on after each step."""
    for step, score in [(1, 0.1), (2, 0.7), (3, None), (4, 0.3), (5, float("nan")), (6, None)]:
        saver = checkpoint.Checkpointer(tmp_path, keep_latest=2, best_metric="AP")
        saver.save(step, make_state(step), META)
        assert not saver.has_metrics(step)
        if score is not None:
            saver.set_metrics(step, {"AP": score, "AP50": 1.0})
        saver.close()
        again = checkpoint.Checkpointer(tmp_path)
        assert again.has_metrics(step) == (score is not None)
    assert sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()) == [
        2,
        5,
        6,
    ]
    # 4 was there with 5.
    assert json.loads((tmp_path / checkpoint.METRICS).read_text()).keys() == {
        "2",
        "4",
        "5",
    }
    (tmp_path / checkpoint.METRICS).write_text("[")
    save(tmp_path, 7, best_metric="AP")
    assert_equal(restore(tmp_path)[0], make_state(7))


def test_saves_with_and_without_metrics_are_quiet(tmp_path, caplog):
    """A run saves before it evaluates, so that most saves have no metrics; Orbax reads them back
    where there are some."""
    saver = checkpoint.Checkpointer(tmp_path, best_metric="AP")
    with caplog.at_level(logging.WARNING):
        saver.save(1, make_state(1), META)
        saver.save(2, make_state(2), META, metrics={"AP": 0.5})
        saver.close()
    assert not caplog.records
    assert not (tmp_path / "1" / "metrics").exists()
    assert json.loads((tmp_path / "2" / "metrics" / "metrics").read_text()) == {"AP": 0.5}
    again = checkpoint.Checkpointer(tmp_path, keep_latest=1, best_metric="AP")
    again.save(3, make_state(3), META)
    again.close()
    assert checkpoint.steps(tmp_path) == [3, 2]


def test_damaged_metrics_of_an_older_step_do_not_stop_the_run(tmp_path):
    for step in (1, 2):
        saver = checkpoint.Checkpointer(tmp_path, best_metric="AP")
        saver.save(step, make_state(step), META, metrics={"AP": 0.1 * step})
        saver.close()
    flip_bit(tmp_path / "1" / "metrics" / "metrics")
    saver = checkpoint.Checkpointer(tmp_path, best_metric="AP")
    assert_equal(saver.restore_latest(abstract(make_state()))[0], make_state(2))
    saver.save(3, make_state(3), META)
    saver.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.damaged1", "2", "3"]


def test_saving_a_step_twice_is_harmless(tmp_path):
    save(tmp_path, 1)
    before = files(tmp_path / "1")
    save(tmp_path, 1)
    assert files(tmp_path / "1") == before


@pytest.mark.parametrize("change,name,there,here", [
    ({"width": 9}, "params/dense/bias", r"float32\[8\]", r"float32\[9\]"),
    ({"optimizer": "momentum"}, "opt_state/2/trace/dense/bias", "missing", r"float32\[8\]"),
])  # fmt: skip
def test_checkpoint_of_another_model_is_refused(saved, change, name, there, here):
    with pytest.raises(
        ValueError, match=f"another model.*: {name} is {there} in the checkpoint and {here} in the"
    ):
        restore(saved, make_state(**change))


def test_missing_and_surplus_parameters_are_named(saved):
    state = make_state()
    fewer = state.replace(params={"dense": state.params["dense"]})
    with pytest.raises(
        ValueError, match=r"params/embedding is float32\[32, 8\] in the checkpoint and missing in"
    ):
        restore(saved, fewer)
    more = state.replace(params=state.params | {"extra": jnp.zeros(3)})
    with pytest.raises(
        ValueError, match=r"params/extra is missing in the checkpoint and float32\[3\] in the model"
    ):
        restore(saved, more)


def test_variables_are_loaded_without_the_optimizer(directory):
    flip_bit(directory / "20" / "meta" / "metadata")
    before = files(directory)
    state = abstract(make_state())
    wanted = {"params": state.params, "batch_stats": state.batch_stats}
    step, variables, meta = checkpoint.load_variables(directory, wanted)
    assert step == meta["step"] == 10
    assert_equal(
        variables, {"params": make_state(10).params, "batch_stats": make_state(10).batch_stats}
    )
    assert variables["params"]["embedding"].sharding == state.params["embedding"].sharding
    assert files(directory) == before


def test_bad_requests_for_variables_are_refused(directory, tmp_path):
    wanted = {"params": abstract(make_state()).params}
    with pytest.raises(ValueError, match=r"no checkpoint in .*train first"):
        checkpoint.load_variables(tmp_path / "none", wanted)
    with pytest.raises(ValueError, match=r"has no checkpoint of step 15; steps there: \[20, 10\]"):
        checkpoint.load_variables(directory, wanted, step=15)
    with pytest.raises(
        ValueError, match=r"params/dense/bias is float32\[8\] in the checkpoint and float32\[9\]"
    ):
        checkpoint.load_variables(directory, {"params": abstract(make_state(width=9)).params})


def test_failed_save_is_not_silent(tmp_path, monkeypatch):
    def fail(folder):
        raise OSError("disk full")

    saver = checkpoint.Checkpointer(tmp_path)
    monkeypatch.setattr(hashes, "write_sums", fail)
    saver.save(1, make_state(1), META)
    with pytest.raises(OSError, match="disk full"):
        saver.wait()
    monkeypatch.undo()
    assert restore(tmp_path) is None
