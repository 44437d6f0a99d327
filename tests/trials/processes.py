"""What happens to a job of two processes when one of them is disturbed.

    python -m tests.trials.processes --seed=0

Prints, for a tiny detection run of 40 steps: how far the losses after SIGTERM to one process and a
restart with one process alone are from those of an undisturbed run; how long the other process
lives after a SIGKILL, and that the run then goes on; what is said where the workdir is not
shared; and how far losses and parameters are from those of one process where others do the work,
or take it over. Not part of the test suite, because it takes minutes.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from pix2seq_jax.training import checkpoint, trees

ROOT = Path(__file__).parents[2]
STEPS = 40


class Job:
    """Processes of one run; with one there is no job to join."""

    def __init__(self, data: Path, workdirs: list[Path], **overrides) -> None:
        from tests.helpers import small

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        values = {"train__steps": STEPS, "train__checkpoint_steps": 10} | overrides
        flags = [*small.flags(data, **values), "--mode=train"]
        self.processes, self.logs = [], []
        for number, workdir in enumerate(workdirs):
            own = [f"--workdir={workdir}"]
            if len(workdirs) > 1:
                own += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={len(workdirs)}"]
                own += [f"--process_id={number}"]
            self.logs.append(data.parent / f"log-{time.monotonic_ns()}")
            with self.logs[-1].open("w") as log:
                command = [sys.executable, "-m", "pix2seq_jax.main", *flags, *own]
                self.processes.append(
                    subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
                )

    def wait(self) -> list[int]:
        """The exit codes."""
        return [process.wait() for process in self.processes]

    def said(self, number: int, word: str) -> str:
        """The last line of a process with a word in it."""
        lines = [line for line in self.logs[number].read_text().splitlines() if word in line]
        return lines[-1][:300] if lines else ""


def losses(workdir: Path) -> dict[int, float]:
    """By step."""
    file = workdir / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


def wait_for(step: int, workdir: Path, job: Job) -> None:
    """Until a step is in metrics.jsonl."""
    while max(losses(workdir), default=0) < step:
        assert None in [process.poll() for process in job.processes], job.said(0, "")
        time.sleep(0.02)


def main() -> None:
    """Runs the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", choices=["", "resume"])
    options = parser.parse_args()
    chance = random.Random(options.seed)
    from tests.helpers import small

    os.environ |= {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling is most of the time
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
        data = small.make_shapes(folder / "data")
        print("one process, undisturbed:", Job(data, [folder / "whole"]).wait())
        if options.only == "resume":
            return _resume(data, folder)
        print("two processes, undisturbed:", Job(data, [folder / "two"] * 2).wait())
        _compare(folder / "whole", folder / "two")
        _terminate(data, folder, chance.randrange(3, 20))
        _kill(data, folder, chance.randrange(12, 20))
        _unshared(data, folder)
        _resume(data, folder)


def _resume(data: Path, folder: Path) -> None:
    """Eight devices in one process and in four; and a job that goes on with another number of
    processes and devices."""
    for begins, ends in (
        ((4, 2), None),
        ((2, 1), (1, 1)),
        ((2, 1), (4, 1)),
        ((1, 8), (4, 2)),
        ((4, 2), (1, 1)),
    ):
        workdir = folder / f"resume-{begins}-{ends}".translate(str.maketrans("(), ", "----"))
        job = _sized(data, workdir, *begins)
        if ends:
            wait_for(4, workdir, job)
            job.processes[-1].send_signal(signal.SIGTERM)
        print(f"{begins[0]} processes of {begins[1]} devices: {job.wait()}")
        if ends:
            print(f"  {job.said(0, 'SIGTERM')}")
            codes = _sized(data, workdir, *ends).wait()
            print(f"  {ends[0]} processes of {ends[1]} devices go on: {codes}")
        _compare(folder / "whole", workdir)
        one, other = parameters(folder / "whole"), parameters(workdir)
        difference = max(np.abs(one[name] - other[name]).max() for name in one)
        print(f"  parameters differ by {difference:.1e} at most", flush=True)


def _sized(data: Path, workdir: Path, processes: int, devices: int) -> Job:
    os.environ["JAX_NUM_CPU_DEVICES"] = str(devices)
    return Job(data, [workdir] * processes)


def parameters(workdir: Path) -> dict[str, np.ndarray]:
    """The last ones of a run, by name."""
    folder = workdir / "checkpoints"
    saved = ocp.PyTreeCheckpointHandler().metadata(folder / str(STEPS) / "state").tree["params"]
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved)
    _, variables, _ = checkpoint.load_variables(folder, {"params": like}, step=STEPS)
    return trees.flatten_names(variables["params"])


def _compare(one: Path, other: Path) -> None:
    left, right = losses(one), losses(other)
    assert list(left) == list(right) == list(range(1, STEPS + 1)), (list(left), list(right))
    difference = max(abs(left[step] - right[step]) / left[step] for step in left)
    print(f"  every step once; losses differ by {difference:.1e} at most")


def _terminate(data: Path, folder: Path, step: int) -> None:
    job = Job(data, [folder / "term"] * 2)
    wait_for(step, folder / "term", job)
    start = time.monotonic()
    job.processes[1].send_signal(signal.SIGTERM)
    print(f"SIGTERM to process 1 at step {step}: {job.wait()}, {time.monotonic() - start:.1f} s")
    print(f"  process 0: {job.said(0, 'SIGTERM')}")
    print("  one process goes on:", Job(data, [folder / "term"]).wait())
    _compare(folder / "whole", folder / "term")


def _kill(data: Path, folder: Path, step: int) -> None:
    job = Job(data, [folder / "kill"] * 2, train__steps=100_000)
    wait_for(step, folder / "kill", job)
    start = time.monotonic()
    job.processes[1].kill()
    print(f"SIGKILL of process 1 at step {step}: {job.wait()}, {time.monotonic() - start:.1f} s")
    print(f"  process 0: {job.said(0, 'Terminating process')}")
    print("  two processes go on:", Job(data, [folder / "kill"] * 2, train__steps=60).wait())


def _unshared(data: Path, folder: Path) -> None:
    start = time.monotonic()
    job = Job(data, [folder / "here", folder / "there"])
    print(f"workdirs that are not shared: {job.wait()}, {time.monotonic() - start:.1f} s")
    print(f"  process 0: {job.said(0, 'error:')}")


if __name__ == "__main__":
    main()
