"""Several processes of one job, on this machine's loopback: the same images, losses and metrics as
one process."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from pix2seq_jax.data import feed
from tests.helpers import small

ROOT = Path(__file__).parent.parent
SECONDS = 240  # a job that takes longer hangs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


def train(count: int, mesh: dict, folder: Path, workdir: Path) -> list[dict]:
    """Trains in `count` processes; the rows of metrics.jsonl."""
    axes = {f"mesh__{axis}": size for axis, size in mesh.items()}
    flags = small.flags(folder, train__eval_steps=2, **axes)
    command = ["bash", "launch/local_pod.sh", str(count), *flags, f"--workdir={workdir}"]
    logs = workdir.parent / f"{workdir.name}-logs"
    logs.mkdir()
    environment = os.environ | {"LOGS": str(logs), "CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    environment |= {"VIRTUAL_ENV": sys.prefix}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True) as job:
        try:
            code = job.wait(timeout=SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
    assert code == 0, "\n".join(log.read_text() for log in logs.iterdir())
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    return train(1, {"data": 1}, folder, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("mesh", [{"data": 1, "model": 2, "allow_whole": True}, {"data": 2}])
def test_two_processes_equal_one(mesh, alone, folder, tmp_path):
    """Where the model axis crosses processes, both read the same rows; they read different ones
    under one name."""
    rows = train(2, mesh, folder, tmp_path)
    assert len(rows) == len(alone)
    # Each process looked at half of the files.
    with np.load(tmp_path / "columns" / "images.npz") as checked:
        assert len(checked["keys"]) == len(list(folder.glob("*/*.jpg")))
    for one, other in zip(alone, rows, strict=True):
        assert one["step"] == other["step"] and one.keys() == other.keys()
        for name in ("train/loss", "train/tokens", "eval/detection/AP"):
            if name in one:
                assert math.isclose(one[name], other[name], rel_tol=1e-6, abs_tol=1e-6), (
                    name,
                    one[name],
                    other[name],
                )


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
