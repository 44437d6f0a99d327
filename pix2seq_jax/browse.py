"""Shows training samples as the model sees them, from the pipeline that training reads:

    python -m pix2seq_jax.browse --config=configs/multitask.py:shapes --out=samples --count=16

DIR/index.html has each augmented image with its target sequence drawn on it, decoded by the task's
own decode, beside the list of tokens: what is to be written, its weight in the loss, and what the
decoder reads in its place where the task corrupts its input. Noise boxes are drawn and named as
such. --step starts at a later batch of the run; the samples are those that training sees there.
"""

from collections.abc import Sequence

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import CONFIG, REQUIRED, Flag

FLAGS = (
    CONFIG,
    Flag("out", REQUIRED, "Folder for the page and the pictures."),
    Flag("count", 16, "Sequences of each task.", least=1),
    Flag("step", 0, "Of the batch to begin with.", least=0, most=2**31 - 1),
    Flag("workdir", "", "Of a run, for its classes and text model (empty: as a new run has)."),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments, trace_in_workdir=False)


def call(**options) -> None:
    """Writes the samples; see the module."""
    from pix2seq_jax.experiment import browsing

    browsing.browse(**options)


if __name__ == "__main__":
    main()
