"""What `plan` predicts of a training step on this CPU, beside what a run takes.

    python -m tests.trials.plan --config=detection.py:shapes --batch=16

Trains on a few of the embedded images and prints, of the steps after the first: the memory that a
step needs besides state and batch (the peak of the process above what it had at the step's begin,
as the kernel counts it) and its time, each beside the prediction. Needs Linux.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax

from pix2seq_jax import train
from pix2seq_jax.experiment import hooks, plan
from pix2seq_jax.training import sharding
from tests.helpers import small

MIB = 2**20


def main() -> None:
    """Predicts, then measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="detection.py:shapes")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    config = small.load(options.config)
    with tempfile.TemporaryDirectory() as name:
        data = small.make_shapes(Path(name) / "data")
        config.update_from_flattened_dict(small.on_folder(data))
        values = {"batch_size": options.batch, "steps": options.steps, "log_steps": 1}
        config.train.update(values | {"checkpoint_steps": 10**6})
        config.schedule.update({"warmup": 1, "tail": 0})
        config.data.update({"workers": 1, "worker_processes": 1})
        made = plan.plan(plan.assumed(config), sharding.make_mesh({"data": 1}))
        chip = plan.this_cpu(1)
        memory, seconds = measured(config, Path(name) / "run")
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {options.config}, batch "
          f"{options.batch}, {made.parameters:,} parameters")  # fmt: skip
    print(f"memory besides state and batch: predicted {made.activations / MIB:.0f} MiB, measured "
          f"{memory / MIB:.0f} MiB")  # fmt: skip
    bounds = made.seconds(chip)
    words = ", ".join(f"{name} {value:.3f} s" for name, value in bounds.items())
    print(f"time: at least {max(bounds.values()):.3f} s predicted ({words}), measured "
          f"{seconds:.3f} s; load of the machine {os.getloadavg()[0]:.1f}")  # fmt: skip


def measured(config, workdir: Path) -> tuple[float, float]:
    """(bytes, seconds) of a step: the median of the steps after the second."""
    rows: list[tuple[float, float]] = []
    begin: list[tuple[int, float]] = []
    report = hooks.RunHooks.report

    def reported(self, step, metrics, waited):
        report(self, step, metrics, waited)  # which waits for the step
        if begin:
            resident, start = begin.pop()
            rows.append((_status("VmHWM") - resident, time.perf_counter() - start))
        Path("/proc/self/clear_refs").write_text("5")  # the peak is the present size now
        begin.append((_status("VmRSS"), time.perf_counter()))

    hooks.RunHooks.report = reported
    train.run(config, workdir, evaluate_too=False)
    memory, seconds = zip(*rows[1:], strict=True)
    return statistics.median(memory), statistics.median(seconds)


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    main()
