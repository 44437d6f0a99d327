"""One training command at a time in a workdir, for as long as it lives."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from pix2seq_jax import train
from pix2seq_jax.experiment import lock
from tests.helpers import small

HOLD = """
import sys
from pix2seq_jax.experiment import lock
with lock.only_training(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that trains in the folder `run`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_command_is_refused_until_the_first_is_gone(tmp_path, other):
    with (
        pytest.raises(ValueError, match=rf"run is being trained by process {other.pid} on"),
        lock.only_training(tmp_path / "run"),
    ):
        pass
    with lock.only_training(tmp_path / "another"):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    for _ in range(2):
        with lock.only_training(tmp_path / "run"):
            assert (tmp_path / "run" / lock.FILE).read_text().startswith(f"process {os.getpid()} ")
        assert not (tmp_path / "run" / lock.FILE).exists()


def test_every_process_is_refused_with_the_first(tmp_path, other, monkeypatch):
    """Else the others would wait for it."""
    told = []

    def broadcast(free):
        told.append(int(free))
        return np.int32(0)

    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(lock.multihost_utils, "broadcast_one_to_all", broadcast)
    with (
        pytest.raises(ValueError, match=rf"process {other.pid} .* delete {tmp_path}/run/"),
        lock.only_training(tmp_path / "run"),
    ):
        pass
    assert told == [1]  # it has tried nothing by itself


def test_training_is_refused_before_anything_is_written(tmp_path, other):
    config = small.config("detection.py:shapes", small.make_shapes(tmp_path / "shapes"))
    with pytest.raises(ValueError, match="is being trained by process"):
        train.run(config, tmp_path / "run", evaluate_too=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [lock.FILE]
