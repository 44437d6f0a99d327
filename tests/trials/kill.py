"""Kills a tiny training run at random moments with SIGKILL, starts it again, and compares.

    python -m tests.trials.kill --trials=50

Each trial has a workdir of its own and kills the run until it has been killed `--kills` times or is
finished. Then it must have: every step once in metrics.jsonl, no gap, and the parameters of a run
that nobody disturbed, bit for bit. Not part of the test suite, because it takes minutes.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
STEPS, SAVED_EVERY = 12, 2
RUN = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 1)
jax.config.update("jax_disable_most_optimizations", True)
from pathlib import Path
from pix2seq_jax import train
from tests.helpers import small
config = small.config(
    "detection.py:shapes", Path(sys.argv[1]),
    train__steps={steps}, train__checkpoint_steps={saved_every}, train__log_steps=1,
)
train.run(config, sys.argv[2], evaluate_too=False)
"""


def main() -> None:
    """Runs the trials and prints a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--kills", type=int, default=2, help="of each trial, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from tests.helpers import small

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = small.make_shapes(folder / "data")
        start(data, folder / "warm").wait()  # compiles
        begin = time.monotonic()
        assert start(data, folder / "whole").wait() == 0, "the undisturbed run failed"
        seconds, expected = time.monotonic() - begin, parameters(folder / "whole")
        print(f"an undisturbed run takes {seconds:.1f} s")
        bad = 0
        for trial in range(options.trials):
            random_state = random.Random(f"{options.seed}/{trial}")
            workdir = folder / f"trial{trial}"
            row = one(data, workdir, random_state, seconds, options.kills)
            row["same"] = parameters(workdir) == expected
            bad += not (row["same"] and row["steps"] == list(range(1, STEPS + 1)))
            killed = ", ".join(row["killed"]) or "never"
            print(f"trial {trial:3}  killed {killed:44}  steps {row['steps'] and 'whole'}"
                  f"  parameters {'equal' if row['same'] else 'DIFFER'}", flush=True)  # fmt: skip
        print(f"{options.trials - bad} of {options.trials} trials as they should be")
        sys.exit(bad > 0)


def one(data: Path, workdir: Path, chance: random.Random, seconds: float, kills: int) -> dict:
    """Runs one trial to its end."""
    killed = []
    for _ in range(kills):
        job = start(data, workdir)
        try:
            job.wait(timeout=chance.uniform(0.3, 1.0) * seconds)
            break
        except subprocess.TimeoutExpired:
            os.kill(job.pid, signal.SIGKILL)
            job.wait()
            killed.append(f"at step {len(steps(workdir))}{' in a save' if saving(workdir) else ''}")
    else:
        job = start(data, workdir)
    assert job.wait() == 0, f"{workdir} did not resume: {(workdir / 'log.txt').read_text()[-2000:]}"
    return {"killed": killed, "steps": steps(workdir)}


def start(data: Path, workdir: Path) -> subprocess.Popen:
    """The run, as a process."""
    workdir.mkdir(exist_ok=True)
    program = RUN.format(steps=STEPS, saved_every=SAVED_EVERY)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(data.parent / "compiled")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PLATFORMS": "cpu"}
    with (workdir / "log.txt").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-c", program, str(data), str(workdir)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def steps(workdir: Path) -> list[int]:
    """The steps in metrics.jsonl, in its order."""
    file = workdir / "metrics.jsonl"
    if not file.exists():
        return []
    rows = []
    for line in file.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # the line that was being written
            continue
    return [row["step"] for row in rows if "train/loss" in row]


def saving(workdir: Path) -> bool:
    """Whether a checkpoint was being written when the run was killed."""
    return any((workdir / "checkpoints").glob("*tmp*"))


def parameters(workdir: Path) -> str:
    """A hash of all arrays of the last checkpoint, those of the optimizer too."""
    import jax
    import orbax.checkpoint as ocp

    from pix2seq_jax.training import checkpoint

    folder = workdir / "checkpoints"
    with ocp.PyTreeCheckpointer() as checkpointer:
        state = checkpointer.restore(folder / str(checkpoint.newest_whole_step(folder)) / "state")
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(str(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
