"""What happens to a job of two processes when one of them is disturbed.

    python -m tests.trials.processes --seed=0

Prints, for a tiny detection run of 40 steps: whether the image ids are the same and how far the
losses after SIGTERM to one process and a restart with one process alone are from those of an
undisturbed run; how long the other process lives after a SIGKILL, and that the run then goes on;
what is said where the workdir is not shared; what is saved, and when the processes end, where one
or all of them have an error; how far losses and parameters are from those of one process where
others do the work, or take it over; and the parameters after 20 steps of 8 devices in 1, 2 and 4
processes. Not part of the test suite, because it takes minutes.
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
PARTS = ("resume", "term", "errors", "sizes")


class Job:
    """Processes of one run; with one there is no job to join."""

    def __init__(
        self, data: Path, workdirs: list[Path], *, fails: str = "none", **overrides
    ) -> None:
        """Starts it; `fails` as in `recorded`."""
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
                ids = str(workdir.with_name(f"{workdir.name}-ids-{number}"))
                command = [sys.executable, "-m", "tests.trials.recorded", ids, fails, *flags, *own]
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


def image_ids(workdir: Path) -> dict[int, list[int]]:
    """By step: the rows of process 0, then those of process 1, and so on."""
    by_step: dict[int, list[int]] = {}
    for file in sorted(workdir.parent.glob(f"{workdir.name}-ids-*")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            by_step.setdefault(row["step"], []).extend(*row["ids"].values())
    return dict(sorted(by_step.items()))


def wait_for(step: int, workdir: Path, job: Job) -> None:
    """Until a step is in metrics.jsonl."""
    while max(losses(workdir), default=0) < step:
        assert None in [process.poll() for process in job.processes], job.said(0, "")
        time.sleep(0.02)


def main() -> None:
    """Runs the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", choices=["", *PARTS])
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
        if options.only == "term":
            return _terminate(data, folder, chance.randrange(3, 20))
        if options.only == "sizes":
            return _sizes(data, folder)
        if options.only == "errors":
            return _fail(data, folder)
        print("two processes, undisturbed:", Job(data, [folder / "two"] * 2).wait())
        _compare(folder / "whole", folder / "two")
        _terminate(data, folder, chance.randrange(3, 20))
        _kill(data, folder, chance.randrange(12, 20))
        _unshared(data, folder)
        _fail(data, folder)
        _sizes(data, folder)
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
        _compare_parameters(folder / "whole", workdir, STEPS)


def _sizes(data: Path, folder: Path, steps: int = 20) -> None:
    """Eight devices in 1, 2 and 4 processes."""
    for processes in (1, 2, 4):
        workdir, devices = folder / f"sizes-{processes}", 8 // processes
        codes = _sized(data, workdir, processes, devices, train__steps=steps).wait()
        print(f"{processes} processes of {devices} devices, {steps} steps: {codes}")
        if processes > 1:
            _compare_parameters(folder / "sizes-1", workdir, steps)


def _sized(data: Path, workdir: Path, processes: int, devices: int, **overrides) -> Job:
    os.environ["JAX_NUM_CPU_DEVICES"] = str(devices)
    return Job(data, [workdir] * processes, **overrides)


def _compare_parameters(one: Path, other: Path, step: int) -> None:
    """Prints the parameters that differ most. Adam takes a step of full length in a direction of
    rounding where a gradient is 0 by mathematics, as that of the bias of attention's keys is."""
    left, right = parameters(one, step), parameters(other, step)
    differences = {name: np.abs(left[name] - right[name]).max() for name in left}
    worst = sorted(differences, key=differences.get, reverse=True)
    words = ", ".join(f"{name} {differences[name]:.1e}" for name in worst[:6])
    print(f"  parameters differ by at most: {words}", flush=True)


def parameters(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Those of a step, by name."""
    folder = workdir / "checkpoints"
    saved = ocp.PyTreeCheckpointHandler().metadata(folder / str(step) / "state").tree["params"]
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved)
    _, variables, _ = checkpoint.load_variables(folder, {"params": like}, step=step)
    return trees.flatten_names(variables["params"])


def _compare(one: Path, other: Path) -> None:
    left, right = losses(one), losses(other)
    assert list(left) == list(right) == list(range(1, STEPS + 1)), (list(left), list(right))
    difference = max(abs(left[step] - right[step]) / left[step] for step in left)
    same = "the same" if image_ids(one) == image_ids(other) else "OTHER"
    print(f"  every step once; {same} image ids; losses differ by {difference:.1e} at most")


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


def _fail(data: Path, folder: Path) -> None:
    """An error in one process alone, and one in all of them, after step 15 of a job that has saved
    step 10."""
    for fails, left in (("1:15", 10), ("all:15", 15)):
        workdir = folder / f"fails-{fails[:-3]}"
        start = time.monotonic()
        job = Job(data, [workdir] * 2, fails=fails)
        times = {}
        while len(times) < 2:
            for number, process in enumerate(job.processes):
                if number not in times and process.poll() is not None:
                    times[number] = time.monotonic() - start
            if not times and max(losses(workdir), default=0) < 14:
                start = time.monotonic()
            time.sleep(0.02)
        ends = ", ".join(f"process {i} after {times[i]:.1f} s" for i in sorted(times))
        print(f"an error at {fails}: {job.wait()}, {ends}")
        for number in range(2):
            print(f"  process {number}: {job.said(number, 'an error ends the run')}")
            print(f"  process {number}: {job.said(number, 'error:')}")
        steps = checkpoint.steps(workdir / "checkpoints")
        whole = checkpoint.newest_whole_step(workdir / "checkpoints")
        print(f"  saved: {steps}, the newest whole one {whole}, expected {left}", flush=True)
        for file in workdir.parent.glob(f"{workdir.name}-ids-*"):
            file.unlink()
        print("  two processes go on:", Job(data, [workdir] * 2).wait())
        one, other = losses(folder / "whole"), losses(workdir)
        difference = max(abs(one[step] - other[step]) / one[step] for step in one)
        print(f"  {len(other)} steps; losses differ by {difference:.1e} at most", flush=True)


def _unshared(data: Path, folder: Path) -> None:
    start = time.monotonic()
    job = Job(data, [folder / "here", folder / "there"])
    print(f"workdirs that are not shared: {job.wait()}, {time.monotonic() - start:.1f} s")
    print(f"  process 0: {job.said(0, 'error:')}")


if __name__ == "__main__":
    main()
