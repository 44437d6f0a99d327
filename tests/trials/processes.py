"""What happens to a job of several processes when some of them are disturbed, or have an error.

    python -m tests.trials.processes --seed=0

Prints, for a tiny detection run of 40 steps, whether image ids are the same and how far losses are
from those of one process that nobody disturbs, by parts (--only PART …):

    two     two processes, undisturbed
    term    SIGTERM to one of two at a random step, then one process alone
    within  the same while the two compile, restore, save or evaluate
    kill    SIGKILL of one of two at a random step: how long the other lives, and that the run then
            goes on
    shared  what is said where the workdir is not shared
    errors  an error in one process or in all, or a loss that is not finite: what is saved, and
            when the processes end
    sizes   parameters after 20 steps of 8 devices in 1, 2 and 4 processes
    bucket  two processes whose workdir is in a made-up bucket
    resume  other numbers of processes and devices, also in the middle of a run

Not part of the test suite, because it takes minutes.
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
from pathlib import Path, PurePath

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pix2seq_jax.files.locations import path_of
from pix2seq_jax.training import checkpoint, trees
from tests.helpers import bucket, recorded, small

ROOT = Path(__file__).parents[2]
STEPS = 40
KEY_BIASES = ("key/bias", "key_bias")  # ends of their names


class Job:
    """Processes of one run; with one there is no job to join."""

    def __init__(
        self,
        data: Path,
        workdirs: list[PurePath],
        *,
        fails: str = "none",
        mode: str = "train",
        **overrides,
    ) -> None:
        """Starts it.

        Args:
            data: folder of `small.make_shapes`.
            workdirs: one for each process.
            fails: see `recorded`.
            mode: of the main command.
            **overrides: of the config.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        values = {"train__steps": STEPS, "train__checkpoint_steps": 10} | overrides
        flags = [*small.flags(data, **values), f"--mode={mode}"]
        self.processes, self.logs = [], []
        for number, workdir in enumerate(workdirs):
            own = [f"--workdir={workdir}"]
            if len(workdirs) > 1:
                own += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={len(workdirs)}"]
                own += [f"--process_id={number}"]
            self.logs.append(data.parent / f"log-{time.monotonic_ns()}")
            ids = str(ids_of(data.parent, workdir))
            command = [sys.executable, "-m", "tests.helpers.recorded", ids, fails, *flags, *own]
            with self.logs[-1].open("w") as log:
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


def ids_of(folder: Path, workdir: PurePath) -> Path:
    """Begin of the files that hold the image ids of a run."""
    return folder / f"{workdir.name}-ids"


def losses(workdir: PurePath) -> dict[int, float]:
    """By step."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


def wait_for(step: int, workdir: PurePath, job: Job) -> None:
    """Until a step is in metrics.jsonl."""
    while max(losses(workdir), default=0) < step:
        assert None in [process.poll() for process in job.processes], job.said(0, "")
        time.sleep(0.02)


def main() -> None:
    """Runs the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parts = {"two": _two, "term": _terminate, "within": _terminate_within, "kill": _kill}
    parts |= {"shared": _unshared}
    parts |= {"errors": _fail, "sizes": _sizes, "bucket": _bucket, "resume": _resume}
    parser.add_argument("--only", nargs="*", default=[*parts], choices=[*parts])
    options = parser.parse_args()

    os.environ |= {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling is most of the time
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
        data = small.make_shapes(folder / "data")
        print("one process, undisturbed:", Job(data, [folder / "whole"]).wait(), flush=True)
        for part in options.only:
            os.environ["JAX_NUM_CPU_DEVICES"] = "1"
            parts[part](data, folder, random.Random(f"{options.seed}/{part}"))


def _two(data: Path, folder: Path, chance: random.Random) -> None:
    del chance
    print("two processes, undisturbed:", Job(data, [folder / "two"] * 2).wait())
    _compare(folder, folder / "two")


def _terminate(data: Path, folder: Path, chance: random.Random) -> None:
    workdir, step = folder / "term", chance.randrange(3, 20)
    _stop_and_go_on(data, folder, workdir, Job(data, [workdir] * 2), step)


def _terminate_within(data: Path, folder: Path, chance: random.Random) -> None:
    """SIGTERM in phases of a job that are no steps."""
    del chance
    for name, begins, options in (
        ("compilation", lambda job, _: job.said(1, "compilation ..."), {}),
        ("restore", lambda job, _: job.said(1, "restore ..."), {}),
        ("save", lambda _, workdir: any((workdir / "checkpoints").glob("*tmp*")), {}),
        (
            "evaluation",
            lambda job, _: job.said(1, " images ..."),
            {"mode": "train_and_eval", "train__eval_steps": 20},
        ),
    ):
        workdir = folder / f"within-{name}"
        if name == "restore":
            _stop(workdir, Job(data, [workdir] * 2), 5)
        job = Job(data, [workdir] * 2, **options)
        while not begins(job, workdir):
            assert job.processes[1].poll() is None, job.said(1, "")
            time.sleep(0.01)
        print(f"{name}: ", end="")
        _stop_and_go_on(data, folder, workdir, job, max(losses(workdir), default=0))


def _stop_and_go_on(data: Path, folder: Path, workdir: PurePath, job: Job, step: int) -> None:
    """SIGTERM to process 1 of a job that has done a step, then one process alone to the end."""
    _stop(workdir, job, step)
    print("  one process goes on:", Job(data, [workdir]).wait())
    _compare(folder, workdir)


def _stop(workdir: PurePath, job: Job, step: int) -> None:
    """SIGTERM to process 1 of a job that has done a step."""
    wait_for(step, workdir, job)
    start = time.monotonic()
    job.processes[1].send_signal(signal.SIGTERM)
    print(f"SIGTERM to process 1 at step {step}: {job.wait()}, {time.monotonic() - start:.1f} s")
    print(f"  process 0: {job.said(0, 'SIGTERM')}", flush=True)


def _kill(data: Path, folder: Path, chance: random.Random) -> None:
    workdir, step = folder / "kill", chance.randrange(12, 20)
    job = Job(data, [workdir] * 2, train__steps=100_000)
    wait_for(step, workdir, job)
    start = time.monotonic()
    job.processes[1].kill()
    print(f"SIGKILL of process 1 at step {step}: {job.wait()}, {time.monotonic() - start:.1f} s")
    print(f"  process 0: {job.said(0, 'Terminating process')}")
    print("  two processes go on:", Job(data, [workdir] * 2, train__steps=60).wait(), flush=True)


def _unshared(data: Path, folder: Path, chance: random.Random) -> None:
    del chance
    start = time.monotonic()
    job = Job(data, [folder / "here", folder / "there"])
    print(f"workdirs that are not shared: {job.wait()}, {time.monotonic() - start:.1f} s")
    print(f"  process 0: {job.said(0, 'error:')}", flush=True)


def _fail(data: Path, folder: Path, chance: random.Random) -> None:
    """A job that has saved step 10 and fails at step 15."""
    del chance
    for fails, expected in (("error-1:15", 10), ("nan-1:15", 14), ("error-all:15", 15)):
        workdir = folder / fails.replace(":", "-")
        job = Job(data, [workdir] * 2, fails=fails)
        wait_for(14, workdir, job)
        ends = _ends(job)
        print(f"{fails}: {job.wait()}, ended {ends[0]:.1f} and {ends[1]:.1f} s after step 14")
        for number in range(2):
            print(f"  process {number}: {job.said(number, 'an error ends the run')}")
            print(f"  process {number}: {job.said(number, 'error:')}")
        newest = checkpoint.newest_whole_step(workdir / "checkpoints")
        print(f"  step {newest} is the newest whole one, expected {expected}")
        print("  two processes go on:", Job(data, [workdir] * 2).wait())
        _compare(folder, workdir)


def _ends(job: Job) -> list[float]:
    """Seconds from now until each process ends."""
    start, ends = time.monotonic(), {}
    while len(ends) < len(job.processes):
        for number, process in enumerate(job.processes):
            if process.poll() is not None:
                ends.setdefault(number, time.monotonic() - start)
        time.sleep(0.02)
    return [ends[number] for number in sorted(ends)]


def _sizes(data: Path, folder: Path, chance: random.Random, *, steps: int = 20) -> None:
    """Eight devices in 1, 2 and 4 processes, with two optimizers."""
    del chance
    for optimizer, rate, counts in (("adamw", 1e-3, (1, 2, 4)), ("momentum", 0.1, (1, 2))):
        options = {"train__steps": steps, "optim__name": optimizer, "schedule__base": rate}
        for processes in counts:
            workdir, devices = folder / f"sizes-{optimizer}-{processes}", 8 // processes
            codes = _sized(data, workdir, processes, devices, **options).wait()
            print(f"{optimizer}, {processes} processes of {devices} devices: {codes}")
            if processes > 1:
                _compare_parameters(folder / f"sizes-{optimizer}-1", workdir, steps)
            elif optimizer == "adamw":
                _print_moments(workdir, steps)


def _sized(data: Path, workdir: Path, processes: int, devices: int, **overrides) -> Job:
    os.environ["JAX_NUM_CPU_DEVICES"] = str(devices)
    return Job(data, [workdir] * processes, **overrides)


def _print_moments(workdir: Path, step: int) -> None:
    """Roots of Adam's second moments: how large gradients are."""
    moments = arrays(workdir, step, "opt_state")
    roots = {name: np.sqrt(leaf.max()) for name, leaf in moments.items() if "/nu/" in name}
    keys = [root for name, root in roots.items() if name.endswith(KEY_BIASES)]
    others = [root for name, root in roots.items() if not name.endswith(KEY_BIASES)]
    print(f"  root of the largest second moment: of {len(keys)} biases of keys up to "
          f"{max(keys):.1e}, of {len(others)} other arrays from {min(others):.1e} on")  # fmt: skip


def _bucket(data: Path, folder: Path, chance: random.Random) -> None:
    """An error in all processes, SIGTERM to one, and the end by one process."""
    fails = f"error-all:{chance.randrange(3, 6)}"
    (folder / "bucket").mkdir()
    with bucket.served(folder / "bucket") as variables:
        os.environ |= variables
        workdir = epath.Path(f"gs://{bucket.BUCKET}/folder/there")
        job = Job(data, [workdir] * 2, fails=fails)
        print(f"gs://, {fails}: {job.wait()}")
        print(f"  process 0: {job.said(0, 'an error ends the run')}", flush=True)
        job = Job(data, [workdir] * 2, train__checkpoint_steps=2)
        _stop_and_go_on(data, folder, workdir, job, 8)  # rows come with a checkpoint
        left = [path.name for path in workdir.iterdir() if path.name.startswith(".")]
        print(f"  hidden files left there: {left}", flush=True)


def _resume(data: Path, folder: Path, chance: random.Random) -> None:
    """Eight devices in one process and in four; and a job that goes on with another number of
    processes and devices."""
    del chance
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
        _compare(folder, workdir)
        _compare_parameters(folder / "whole", workdir, STEPS)


def _compare(folder: Path, workdir: PurePath) -> None:
    """Prints what differs from the run of one process that nobody disturbed."""
    whole = folder / "whole"
    left, right = losses(whole), losses(workdir)
    assert list(left) == list(right) == list(range(1, STEPS + 1)), (list(left), list(right))
    difference = max(abs(left[step] - right[step]) / left[step] for step in left)
    ids = [recorded.image_ids(ids_of(folder, run)) for run in (whole, workdir)]
    assert list(ids[0]) == list(left)
    same = sum(ids[0][step] == ids[1].get(step) for step in left)
    print(f"  every step once; the image ids of {same} of {STEPS} steps are the same; losses "
          f"differ by {difference:.1e} at most", flush=True)  # fmt: skip


def _compare_parameters(one: Path, other: Path, step: int) -> None:
    """Prints how far parameters are from each other. Biases of attention's keys are apart: the
    softmax takes away what is added to all scores of a query, so their gradient is 0 but for
    rounding, of which Adam makes whole steps."""
    left, right = parameters(one, step), parameters(other, step)
    differences = {name: np.abs(left[name] - right[name]).max() for name in left}
    keys = [name for name in differences if name.endswith(KEY_BIASES)]
    rest = sorted(set(differences) - {*keys}, key=differences.get)
    worst = ", ".join(f"{differences[name]:.1e} {name}" for name in rest[:-4:-1])
    print(f"  parameters differ by up to {worst}; the {len(keys)} biases of keys by up to "
          f"{max(differences[name] for name in keys):.1e}", flush=True)  # fmt: skip


def parameters(workdir: PurePath, step: int) -> dict[str, np.ndarray]:
    """Those of a step, by name."""
    return arrays(workdir, step, "params")


def arrays(workdir: PurePath, step: int, part: str) -> dict[str, np.ndarray]:
    """Those of a part of a saved state, by name."""
    folder = path_of(workdir) / "checkpoints"
    saved = ocp.PyTreeCheckpointHandler().metadata(folder / str(step) / "state").tree[part]
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved)
    _, variables, _ = checkpoint.load_variables(folder, {part: like}, step=step)
    return trees.flatten_names(variables[part])


if __name__ == "__main__":
    main()
