"""Trains and evaluates: `python -m pix2seq_jax.main --config=configs/detection.py:shapes --workdir=DIR`."""

import os
import sys

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file; text after a colon selects a variant.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and pictures; rerun to resume.")
_MODE = flags.DEFINE_enum("mode", "train_and_eval", ["train", "eval", "train_and_eval"], "What to do.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other hosts of a TPU pod, SLURM or Kubernetes job (jax.distributed.initialize)."
)


def main(argv: list[str]) -> None:
    """Flags to config, config to train.run or evaluate.run; an error of the user's input is one line, not a trace."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}: flags look like --workdir=DIR")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if _DISTRIBUTED.value:
        import jax

        jax.distributed.initialize()
    from pix2seq_jax import evaluate, train

    try:
        if _MODE.value == "eval":
            evaluate.run(_CONFIG.value, _WORKDIR.value)
        else:
            train.run(_CONFIG.value, _WORKDIR.value, evaluate_too=_MODE.value == "train_and_eval")
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get("PIX2SEQ_TRACE"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
