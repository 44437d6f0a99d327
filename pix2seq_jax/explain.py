"""Shows what a model writes for an image, token by token, and where it looks meanwhile:

    python -m pix2seq_jax.explain --workdir=runs/mine --image=photo.jpg --out=explained

DIR/index.html has the sequence of each task beside its picture. Every token says what it is
(coordinate, class, noise, separator, end, text), its probability and the three runners-up; the map
that appears while one points at it is where the decoder looked to write it (cross-attention, mean
over heads and layers). DIR/NUMBER_TASK.png and NUMBER_TASK_attention.png are the same as pictures,
DIR/tokens.json as numbers.
"""

from collections.abc import Sequence
from pathlib import Path

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag

FLAGS = (
    Flag("workdir", REQUIRED, "Folder of a trained run."),
    Flag("image", REQUIRED, "An image file."),
    Flag("out", REQUIRED, "Folder for the page, the pictures and tokens.json."),
    Flag("threshold", 0.3, "Lowest score of objects that are shown and prompt.", least=0, most=1),
    Flag("objects", 4, "So many of the best objects are shown and prompt, at most.", least=1),
    Flag("tasks", "", "Only these tasks, as in detection+segmentation (+ or commas)."),
    Flag("text_model", "", "SentencePiece model of an imported model with captions."),
    Flag("step", 0, "Of the checkpoint to use (0: the newest).", least=0),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments, trace_in_workdir=False)


def call(
    workdir: str,
    image: str,
    out: str,
    threshold: float,
    objects: int,
    tasks: str,
    text_model: str,
    step: int,
) -> None:
    """Explains one image; see the module."""
    from pix2seq_jax.evaluation import predictor
    from pix2seq_jax.evaluation.explaining import Explainer
    from pix2seq_jax.evaluation.explanations import write
    from pix2seq_jax.experiment.logs import log, phase, setup_logging
    from pix2seq_jax.files.locations import readable

    setup_logging()
    _check_image(image)
    with phase("restore"):
        model = predictor.load(
            workdir,
            tasks=tasks or None,
            step=step,
            batch_size=1,
            text_model_path=text_model,
        )
    with phase(f"explain {image} with the weights of step {model.step}"):
        explained = Explainer(model)(image, threshold=threshold, objects=objects)
    write(explained, Path(out), readable(image), model, threshold=threshold, objects=objects)
    count = sum(len(one.tokens) for one in explained)
    log.info("%d sequences, %d tokens: open %s", len(explained), count, Path(out) / "index.html")


def _check_image(image: str) -> None:
    """Raises ValueError for what is no image file, before the model is loaded."""
    from pix2seq_jax.data.coco.files import read_file
    from pix2seq_jax.data.images import decode_image

    if not Path(image).is_file():
        raise ValueError(f"--image={image}: there is no such file; give the path of an image")
    try:
        decode_image(read_file(image), image)
    except ValueError as error:
        raise ValueError(f"--image={image} is no whole image; give another file") from error


if __name__ == "__main__":
    main()
