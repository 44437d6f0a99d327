"""Draws the embedded data, trains all four tasks on them, evaluates and predicts:
`python -m pix2seq_jax.demo --workdir=runs/shapes`.

It takes 18 minutes on two CPU cores, with --full an hour. The data go into data/shapes.
The same command goes on where it was stopped.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import Flag
from pix2seq_jax.experiment.guard import TERMINATED
from pix2seq_jax.experiment.workdir import check_local, check_writable

DATA = "data/shapes"  # that of the variant `shapes` of the configs
FULL_STEPS = 8_000
FLAGS = (
    Flag("workdir", "runs/shapes", "Folder of the run; rerun to go on."),
    Flag("full", False, f"Train for {FULL_STEPS:,} steps."),
    Flag("steps", 0, "Training steps (0: those of the config, or of --full).", least=0),
)
# glibc's large pages: a step allocates the same large arrays again and again.
TUNABLES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_AT_THE_END = """
metrics      {workdir}/metrics.json
pictures     {workdir}/pictures (prediction beside ground truth)
predictions  {workdir}/predictions (boxes, masks, keypoints, captions; predictions.json)
curves       tensorboard --logdir={workdir}"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; its exit code is that of the first step that fails."""
    command.run(call, FLAGS, __doc__, arguments)


def call(workdir: str, full: bool, steps: int) -> None:
    """Runs the steps, each in a process of its own."""
    check_local(workdir, what="the demo")
    check_writable(workdir)
    if full and not steps:
        steps = FULL_STEPS
    for module, flags in commands(workdir, steps):
        line = [sys.executable, "-m", f"pix2seq_jax.{module}", *flags]
        process = subprocess.Popen(line, env=TUNABLES | os.environ)
        # The step saves what it has; Ctrl-C reaches it from the terminal.
        signal.signal(signal.SIGTERM, lambda *_, step=process: step.terminate())
        code = process.wait()
        if code == TERMINATED:
            print(
                f"interrupted by SIGTERM: {module} ends; the same command goes on, training from "
                f"what is saved in {workdir}",
                file=sys.stderr,
            )
        if code:
            sys.exit(code if code > 0 else 128 - code)  # a signal, as shells count it
    print(_AT_THE_END.format(workdir=workdir))


def commands(workdir: str, steps: int = 0) -> list[tuple[str, list[str]]]:
    """(module, flags) of the steps, in their order."""
    train = ["--config=multitask:shapes", f"--workdir={workdir}"]
    if steps:
        train.append(f"--config.train.steps={steps}")
    pictures = [f"--images={DATA}/val/*0.jpg", "--limit=12", f"--out={workdir}/predictions"]
    return [
        ("data.shapes", [f"--out={DATA}"]),
        ("main", train),
        ("predict", [f"--workdir={workdir}", *pictures]),
    ]


if __name__ == "__main__":
    main()
