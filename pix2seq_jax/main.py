"""Trains and evaluates: `python -m pix2seq_jax.main --config=configs/detection.py:shapes
--workdir=DIR`.

Exit codes: 0 finished; 143 interrupted by SIGTERM, all that was trained is saved and the same
command goes on; 130 stopped by Ctrl-C; 2 something is wrong, in one line on stderr.
"""

from collections.abc import Sequence

import ml_collections

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag

MODES = ("train", "eval", "train_and_eval")
FLAGS = (
    command.CONFIG,
    Flag("workdir", REQUIRED, "Folder for checkpoints, metrics and pictures; rerun to resume."),
    Flag("mode", "train_and_eval", "What to do.", choices=MODES),
    *command.DISTRIBUTED,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments)


def call(config: ml_collections.ConfigDict, workdir: str, mode: str) -> None:
    """Trains, evaluates, or both."""
    from pix2seq_jax import evaluate, train

    if mode == "eval":
        evaluate.run(config, workdir)
    else:
        train.run(config, workdir, evaluate_too=mode == "train_and_eval")


if __name__ == "__main__":
    main()
