"""Several processes of one job, on this machine's loopback: the same images, losses, metrics and
parameters as one process, which they may take over from each other."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from pix2seq_jax import train
from pix2seq_jax.data import feed
from pix2seq_jax.training import checkpoint
from pix2seq_jax.training import processes as limits
from tests.helpers import recorded, small
from tests.trials import processes

ROOT = Path(__file__).parent.parent
SECONDS = 480  # a job that takes longer hangs
STEPS = 3  # the last one is evaluated
SAME = ("train/loss", "train/tokens", "eval/detection/AP")


class Run(NamedTuple):
    """What is compared.

    Attributes:
        rows: of metrics.jsonl.
        image_ids: by step and task.
        objects: of results/detection.json.
        parameters: of the last step, by name.
    """

    rows: list[dict]
    image_ids: dict[int, dict[str, list[int]]]
    objects: list[dict]
    parameters: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


def ids_of(workdir: Path) -> Path:
    return workdir.with_name(f"{workdir.name}-ids")


def read(workdir: Path) -> Run:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    objects = json.loads((workdir / "results" / "detection.json").read_text())
    parameters = processes.parameters(workdir, STEPS)
    return Run(rows, recorded.image_ids(ids_of(workdir)), objects, parameters)


def train_here(folder: Path, workdir: Path, *, fails: str = "none") -> None:
    """Trains in this process, on its eight devices."""
    config = small.config("detection.py:shapes", folder, train__steps=STEPS)
    with recorded.recorded(ids_of(workdir), fails):
        train.run(config, workdir)


def train_there(
    count: int, devices: int, folder: Path, workdir: Path, *, fails: str = "none", **overrides
) -> int:
    """Trains in `count` processes of so many devices each; the exit code."""
    flags = small.flags(folder, train__steps=STEPS, **overrides)
    command = ["bash", "launch/local_pod.sh", str(count), str(ids_of(workdir)), fails, *flags]
    logs = workdir.with_name(f"{workdir.name}-logs-{count}")
    logs.mkdir()
    environment = os.environ | {"LOGS": str(logs), "CPU_DEVICES": f"{devices}"}
    environment |= {"JAX_PLATFORMS": "cpu", "VIRTUAL_ENV": sys.prefix}
    environment |= {"MODULE": "tests.helpers.recorded"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command += [f"--workdir={workdir}"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True) as job:
        try:
            code = job.wait(timeout=SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
    said = "\n".join(log.read_text() for log in logs.iterdir())
    if fails == "none":
        assert code == 0, said
    else:
        assert said.count("an error ends the run: step") == count, said
    return code


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory) -> Run:
    """One process, which nothing disturbs."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    train_here(folder, workdir)
    return read(workdir)


def check_same(run: Run, alone: Run) -> None:
    """Every step once, on the same images; every image evaluated once, with the same result."""
    assert len(run.rows) == len(alone.rows)
    for one, other in zip(alone.rows, run.rows, strict=True):
        assert one["step"] == other["step"] and one.keys() == other.keys()
        for name in SAME:
            if name in one:
                same = math.isclose(one[name], other[name], rel_tol=1e-6, abs_tol=1e-6)
                assert same, (name, one[name], other[name])
    assert run.image_ids == alone.image_ids
    assert len({row["image_id"] for row in run.objects}) == small.VAL_IMAGES
    for one, other in zip(alone.objects, run.objects, strict=True):
        assert one["image_id"] == other["image_id"] and one["bbox"] == other["bbox"]
        assert math.isclose(one["score"], other["score"], abs_tol=1e-5)
    assert run.parameters.keys() == alone.parameters.keys()
    for name, values in alone.parameters.items():
        # Their gradient is rounding, see `processes.KEY_BIASES`.
        if not name.endswith(processes.KEY_BIASES):
            np.testing.assert_allclose(run.parameters[name], values, atol=1e-5, err_msg=name)


def test_a_model_axis_across_processes(folder, tmp_path):
    """Both read the same rows. One process of two devices makes every sum of the same halves; other
    meshes add in another order (tests/training/test_meshes.py)."""
    mesh = {"mesh__data": 1, "mesh__model": 2, "mesh__allow_whole": True}
    train_there(1, 2, folder, tmp_path / "alone", **mesh)
    alone, workdir = read(tmp_path / "alone"), tmp_path / "run"
    train_there(2, 1, folder, workdir, **mesh)
    # Each process looked at half of the files.
    with np.load(workdir / "columns" / "images.npz") as checked:
        assert len(checked["keys"]) == len(list(folder.glob("*/*.jpg")))
    twice = {
        step: {name: ids + ids for name, ids in own.items()}
        for step, own in alone.image_ids.items()
    }
    check_same(read(workdir), alone._replace(image_ids=twice))


def test_one_two_and_four_processes_take_over_from_each_other(alone, folder, tmp_path):
    """Each does a step. What ends the first two saves the last good state, and nothing is to be
    seen of it at the end."""
    workdir = tmp_path / "run"
    with pytest.raises(OSError, match="process 0 was told to fail at step 1"):
        train_here(folder, workdir, fails="error-all:1")
    assert saved(workdir) == [1]
    # The images of one process make the loss of all no number: step 3 is not applied.
    assert train_there(2, 4, folder, workdir, fails="nan-1:3") == 2
    assert saved(workdir) == [2, 1]
    train_there(4, 2, folder, workdir)
    check_same(read(workdir), alone)


def saved(workdir: Path) -> list[int]:
    return checkpoint.steps(workdir / "checkpoints")


def test_a_process_reads_the_rows_of_its_devices():
    """On one process with eight devices that is the whole batch, whatever the mesh."""
    for axes in (
        {"data": 8},
        {"data": 2, "model": 4},
        {"data": 2, "fsdp": 2, "model": 2},
        {"model": 8},
    ):
        mesh = jax.make_mesh(
            tuple(axes.values()), tuple(axes), axis_types=(jax.sharding.AxisType.Auto,) * len(axes)
        )
        cut = tuple(axis for axis in ("data", "fsdp") if axis in axes)
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(cut))
        assert feed.row_block(rows) == (0, 1)
        batch = np.arange(16)
        np.testing.assert_array_equal(feed.to_global(batch, rows), batch)


ABSENT = """
import sys, time
from pix2seq_jax.training import processes
number, port = int(sys.argv[1]), sys.argv[2]
processes.join(f"127.0.0.1:{port}", 3, number)
processes.meet("the start", seconds=60)
processes.meet("the start", seconds=60)
if number == 2:
    time.sleep(6)
else:
    try:
        processes.meet("the start", seconds=2)
    except ValueError as error:
        print(error, flush=True)
    time.sleep(3)
import os
os._exit(0)  # without the end of a job, for which all would have to come
"""


@pytest.mark.parametrize(
    "before, after",
    [
        ("", "--{flag}=600"),
        ("--xla_other=1", "--{flag}=600 --xla_other=1"),
        ("--{flag}=5", "--{flag}=5"),
    ],
)
def test_collectives_have_a_time_limit_that_users_may_choose(before, after, monkeypatch):
    flag = limits.COLLECTIVE_FLAG
    monkeypatch.setenv("XLA_FLAGS", before.format(flag=flag))
    limits.set_time_limit()
    assert os.environ["XLA_FLAGS"] == after.format(flag=flag)


def test_a_process_that_does_not_come_is_named():
    """Process 2 of three, at the third meeting under one name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", ABSENT]
    jobs = [
        subprocess.Popen([*command, str(number), port], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    said = [job.communicate(timeout=SECONDS)[0] for job in jobs]
    for number, text in enumerate(said[:2]):
        assert text.startswith(f"the start: process {number} waited up to 2 s, and process 2 on "
                               f"{socket.gethostname()} did not come; look")  # fmt: skip
    assert not said[2]


FAILED = """
import sys, time
from pix2seq_jax.training import processes
number, port = int(sys.argv[1]), sys.argv[2]
processes.SHUTDOWN_SECONDS = 2
processes.join(f"127.0.0.1:{port}", 2, number)
if number == 1:
    raise OSError("the disk of process 1 is full")
time.sleep(480)
"""


def test_an_error_of_one_process_ends_the_others():
    """Process 0 waits, as in a collective, for one that does not come any more."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True}
    jobs = [
        subprocess.Popen([sys.executable, "-c", FAILED, str(number), port], **options)
        for number in range(2)
    ]
    said = [job.communicate(timeout=SECONDS // 2)[1] for job in jobs]
    assert all(job.returncode for job in jobs)
    assert "OSError: the disk of process 1 is full" in said[1]
    assert "Terminating process because the JAX distributed service detected fatal" in said[0]
