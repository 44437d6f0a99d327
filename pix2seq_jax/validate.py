"""Looks through a data set in COCO's format before anybody trains on it.

`python -m pix2seq_jax.validate --data=my_data --out=report` prints what the data hold (images,
objects, classes, sizes) and what is wrong with them: annotations that cannot be read, boxes outside
their images, files that are missing, broken or there twice, images of val that train has, and so
on. All defects are listed, not only the first. DIR/report.json has everything, and DIR/NAME.png
shows the first images of each kind of finding.

The exit code is 0 if there is no error, 1 if there is one, and 2 if the command cannot run. An
error is what training refuses, or would learn or measure wrongly; warnings and notes do not count.
"""

import sys
from collections.abc import Sequence

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag

FLAGS = (
    Flag("data", REQUIRED, "COCO-format folder (docs/data.md); or coco, objects365, shapes."),
    Flag("out", "", "Folder for report.json and the pictures; empty: none are written."),
    Flag("images", True, "Open and decode the images; --noimages looks at the annotations alone."),
    Flag("slots", 100, "Objects of an image that training sees."),
    Flag("points", 128, "Points of an outline, config.tasks.segmentation.max_points."),
    Flag("bins", 1000, "Coordinate bins, config.vocab.num_bins."),
    Flag("max_tokens", 128, "Pieces of a caption, config.tasks.captioning.max_tokens."),
    Flag(
        "text_model", "", "SentencePiece model; empty: one is trained from the captions of train."
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments)


def call(**options) -> None:
    """Validates; ends the process with 1 where there are errors."""
    from pix2seq_jax.experiment import validation

    if not validation.validate(**options):
        sys.exit(1)


if __name__ == "__main__":
    main()
