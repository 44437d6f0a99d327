"""Imports a checkpoint of the official TF2 release: `python -m pix2seq_jax.import_tf --from=DIR
--workdir=DIR`.

DIR holds config.json and ckpt-*, as the release writes them, and may be gs://BUCKET/FOLDER; or it
is the model.safetensors that `python -m pix2seq_jax.export` wrote. The
workdir then holds the model at step 0: `main --mode=eval`, `predict` and training take it like one
that was trained here, and `--config=configs/workdir.py:WORKDIR` is its config. Labels of a
published model are category ids: label 90 is COCO's category 90.
"""

import os
from collections.abc import Sequence

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag

FLAGS = (
    Flag(
        "from",
        REQUIRED,
        "Official checkpoint folder, local or gs://, or a .safetensors file.",
        argument="source",
    ),
    Flag("workdir", REQUIRED, "New folder for the imported model."),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(run, FLAGS, __doc__, arguments)


def run(source: str | os.PathLike, workdir: str | os.PathLike):
    """Imports a checkpoint directory into a workdir, see `official.importing.run`."""
    from pix2seq_jax.official import importing

    return importing.run(source, workdir)


def load(directory: str | os.PathLike):
    """(model, variables, config) of a checkpoint directory, see `official.reader.read`."""
    from pix2seq_jax.official import reader

    return reader.load(directory)


if __name__ == "__main__":
    main()
