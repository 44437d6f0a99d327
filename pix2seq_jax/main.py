"""Trains and evaluates: `python -m pix2seq_jax.main --config=configs/detection.py:shapes --workdir=DIR`."""

import os
import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_flags

# TensorFlow, which is imported later, announces what it will do to the floating point of its matrix products.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file; text after a colon selects a variant.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and pictures; rerun to resume.")
_MODE = flags.DEFINE_enum("mode", "train_and_eval", ["train", "eval", "train_and_eval"], "What to do.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other hosts of a TPU pod, SLURM or Kubernetes job (jax.distributed.initialize)."
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show the whole trace of an error.")


def join_other_hosts() -> None:
    """Connects the processes of a job; ValueError where there is no job to be recognised."""
    import jax

    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--distributed: {error}; start one process per host under SLURM, Kubernetes or on a TPU pod, or leave "
            "--distributed out"
        ) from error


def guarded(command: Callable[[], None]) -> None:
    """Runs a command with the flags above; an error of the user's input is one line, not a trace."""
    logging.set_verbosity(logging.WARNING)  # of jax and orbax; telemetry has a logger of its own
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        if _DISTRIBUTED.value:
            join_other_hosts()
        command()
    except (ValueError, FloatingPointError, OSError) as error:
        if _TRACEBACK.value:
            raise
        print(f"error: {error}\n(--traceback shows where it was raised)", file=sys.stderr)
        sys.exit(2)


def main(argv: list[str]) -> None:
    """Flags to config, config to train.run or evaluate.run."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}: flags look like --workdir=DIR")

    def run() -> None:
        from pix2seq_jax import evaluate, train

        if _MODE.value == "eval":
            evaluate.run(_CONFIG.value, _WORKDIR.value)
        else:
            train.run(_CONFIG.value, _WORKDIR.value, evaluate_too=_MODE.value == "train_and_eval")

    guarded(run)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
