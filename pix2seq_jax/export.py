"""Exports a model for use without this package: `python -m pix2seq_jax.export --workdir=DIR
--out=DIR`.

Writes StableHLO functions (jax.export: any batch, on CPU, CUDA and TPU), model.safetensors, a
description of the preprocessing, and load_exported.py, which calls them and needs jax, numpy and
safetensors alone. --weights_only writes model.safetensors alone; `import_tf --from=FILE` and
--config.init_from=FILE read it. See docs/export.md.
"""

from collections.abc import Sequence

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag

FLAGS = (
    Flag("workdir", REQUIRED, "Folder of a trained or imported model."),
    Flag("out", REQUIRED, "Folder to write to."),
    Flag("tasks", "", "Only these tasks, as in detection+captioning (+ or commas)."),
    Flag(
        "sampler",
        "config",
        "How tokens are drawn: as the config evaluates, or the likeliest ones.",
        choices=("config", "greedy"),
    ),
    Flag("step", 0, "Of the checkpoint to use (0: the newest).", least=0),
    Flag("text_model", "", "SentencePiece model of an imported model with captions."),
    Flag("weights_only", False, "Write model.safetensors alone."),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments, trace_in_workdir=False)


def call(*, text_model: str, **options) -> None:
    """Exports, see `portable.artefacts.write`."""
    from pix2seq_jax.experiment.logs import setup_logging
    from pix2seq_jax.portable import artefacts

    setup_logging()
    artefacts.write(text_model_path=text_model, **options)


if __name__ == "__main__":
    main()
