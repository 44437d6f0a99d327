"""Makes report.html of the last evaluation of a workdir again: `python -m pix2seq_jax.report
--workdir=DIR`.

An evaluation writes the page itself. This command is for a page that was deleted, or for an
evaluation within a run, which writes none. It reads what the evaluation wrote, and the annotations
and images that it read; no model is loaded.
"""

from collections.abc import Sequence

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag

BOXES = ("predicted", "ground_truth")
FLAGS = (
    Flag("workdir", REQUIRED, "Folder of a run that was evaluated."),
    Flag("boxes", "predicted", "Which one; ground_truth: of annotated boxes.", choices=BOXES),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments)


def call(workdir: str, boxes: str) -> None:
    """Writes the page and logs where it is."""
    from pix2seq_jax.experiment import reporting

    reporting.run(workdir, boxes)


if __name__ == "__main__":
    main()
