"""Draws the embedded data: `python -m pix2seq_jax.data.shapes --out=data/shapes`.

The folder is in COCO's format and the same one every time, see `data.shapes.dataset`. It is written
whole or not at all; a folder that holds this set already is left as it is.
"""

import signal
import sys
from collections.abc import Sequence

from pix2seq_jax.data.shapes.dataset import Spec, generate
from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag
from pix2seq_jax.experiment.guard import TERMINATED

FLAGS = (
    Flag("out", REQUIRED, "Folder to write."),
    Flag("train", Spec.train, "Training images."),
    Flag("val", Spec.val, "Validation images."),
    Flag("seed", Spec.seed, "Of all that is drawn."),
    Flag("size", Spec.size, "Longer side of an image in pixels."),
    Flag("classes", Spec.classes, "What is drawn; also: arrow, moon."),
    Flag("workers", 0, "Processes that draw; 0: one for each core."),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments)


def call(out: str, workers: int, classes: list[str], **numbers: int) -> None:
    """Draws the set."""
    signal.signal(signal.SIGTERM, _leave)
    if generate(out, Spec(classes=tuple(classes), **numbers), workers or None):
        print(f"shapes: written to {out}", flush=True)


def _leave(*_) -> None:
    """Ends the process as an exception does, so that what is half done is removed."""
    sys.exit(TERMINATED)


if __name__ == "__main__":
    main()
