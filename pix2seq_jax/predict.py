"""Runs a trained model on images or a video:

    python -m pix2seq_jax.predict --workdir=runs/mine --images=photos --out=predictions

--images is an image, a folder, a glob in quotes ('photos/**/*.jpg'), - for paths on stdin, or a
video. DIR gets each image with what was found drawn on it, index.html (all pictures, by class),
predictions.json (boxes, categories, scores, masks, keypoints and captions in pixels of the image as
a viewer shows it) and predictions_coco.json (COCO's results).

Files are read, predicted for and written some at a time, so there may be any number of them. The
exit code is 0 if all were answered, 1 if some could not be read (they are named in the log and in
skipped.json; the others are answered), and 2 if the command cannot run.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag
from pix2seq_jax.experiment.logs import followed, log, phase, setup_logging
from pix2seq_jax.files.locations import readable

FLAGS = (
    Flag("workdir", REQUIRED, "Folder of a trained run."),
    Flag("images", REQUIRED, "Image, folder, glob, video; - for stdin."),
    Flag("out", REQUIRED, "Folder for what is written."),
    Flag("batch_size", 8, "Images at a time.", least=1),
    Flag("limit", 0, "Only so many files or frames (0: all).", least=0),
    Flag("threshold", 0.3, "Lowest score that is shown.", least=0, most=1),
    Flag("classes", "", "Only these, as in person,car (empty: all)."),
    Flag("tasks", "", "Only these, as in detection+captioning."),
    Flag("side", 1024, "Longer side of pictures (0: the image's).", least=0),
    Flag("image_ids", "", "COCO JSON that numbers the images."),
    Flag("text_model", "", "SentencePiece model of an imported model."),
    Flag("step", 0, "Of the checkpoint to use (0: the newest).", least=0),
    Flag("kernel_dtype", "", "int8: the decoder's kernels in int8."),
    Flag("cache_dtype", "", "int8: keys and values that tokens look at in int8."),
)


def stream(
    workdir: str,
    images: str,
    out: str,
    *,
    batch_size: int = 8,
    limit: int = 0,
    threshold: float = 0.3,
    step: int = 0,
    text_model: str = "",
    tasks: str = "",
    classes: Sequence[str] | str = "",
    side: int = 1024,
    image_ids: str = "",
    kernel_dtype: str = "",
    cache_dtype: str = "",
    skipped: "Skipped | None" = None,
) -> Iterator[dict]:
    """Predicts for files; yields the rows of predictions.json as they are written.

    Args:
        workdir: of a trained run.
        images: what to look at, see `predictions.sources.find`.
        out: folder to write to.
        batch_size: files or frames that are looked at together.
        limit: only the first so many files or frames; 0: all.
        threshold: objects with lower scores are left out of pictures and JSON.
        step: of the checkpoint; 0: the newest.
        text_model: of an imported model with captions.
        tasks: some of the model's tasks, joined by + or commas; "" for all.
        classes: names of those that may be found, or a text that joins them by commas; "" for all.
        side: longer side of the pictures at most, in pixels; 0: that of the image.
        image_ids: JSON that has the ids of COCO's results, see `predictions.coco_rows.image_ids`.
        kernel_dtype: 'int8' for the decoder's kernels in int8; '': as trained.
        cache_dtype: 'int8' for keys and values that tokens look at in int8; '': as trained.
        skipped: learns of files that cannot be decoded.

    Raises:
        ValueError: no trained run, no file matches, none of them is an image, `out` would overwrite
            one, the model has no such task or class, or a video cannot be read.
    """
    from pix2seq_jax.evaluation import predictor
    from pix2seq_jax.evaluation.predictions import coco_rows, sources
    from pix2seq_jax.evaluation.predictions.output import Output
    from pix2seq_jax.experiment import saved_run

    setup_logging()
    saved_run.load_config(workdir)  # before the files are looked for
    source, skipped = sources.find(images, limit=limit, without=out), skipped or Skipped()
    names = sources.names_for(source.paths)
    sources.check_names(source.paths, names, Path(out))
    ids = coco_rows.image_ids(source.paths, image_ids)
    with phase("restore"):
        model = predictor.load(
            workdir,
            tasks=tasks or None,
            step=step,
            batch_size=batch_size,
            text_model_path=text_model,
            classes=classes,
            kernel_dtype=kernel_dtype,
            cache_dtype=cache_dtype,
        )
    with Output(Path(out), model, threshold=threshold, side=side) as output:
        if source.video:
            yield from _video(source.video, output, batch_size, limit)
        else:
            with phase(f"predict {len(source.paths)} images with the weights of step {model.step}"):
                found = model.stream(source.paths, threshold=threshold, broken=skipped)
                for number, pixels, objects in found:
                    path, name = source.paths[number], names[number]
                    yield output.add(path, name, ids[number], pixels, objects)
        if not output.count:
            raise ValueError(
                f"--images={images!r}: {len(source.paths)} files match and none is an image; give "
                "images that a viewer can open"
            )
        what, made = ("frames", "the video") if source.video else ("images", "pictures")
        output.finish(skipped.files, what=what)
    text = "%d %s, %d skipped; %s and predictions.json are in %s"
    log.info(text, output.count, what, len(skipped.files), made, out)
    if skipped.files:
        log.warning("skipped: %s", ", ".join(readable(file) for file, _ in skipped.files))


def _video(path: str, output, batch_size: int, limit: int) -> Iterator[dict]:
    """Predicts for the frames of a video, and writes them as another one."""
    from pix2seq_jax.evaluation.predictions import frames

    with phase(f"predict {path} with the weights of step {output.model.step}"):
        rows = frames.predict(path, output, batch_size=batch_size, limit=limit)
        total = next(rows)
        if total:
            rows = followed(rows, total, name="video", unit="frame", size=lambda row: 1)
        yield from rows


class Skipped:
    """Files that cannot be decoded: named in the log and kept, with what is wrong."""

    def __init__(self) -> None:
        self.files: list[tuple[str, str]] = []

    def __call__(self, file: str, size: tuple[int, int], error: ValueError) -> None:
        """See chunks.Pictures.broken."""
        del size
        # What follows is about annotations, and there are none.
        reason = readable(f"{str(error).split('; ')[0]}; give a whole image")
        log.warning("skipped: %s", reason)
        self.files.append((file, reason))


def run(*args, **options) -> list[dict]:
    """`stream` to its end: all rows of predictions.json."""
    return list(stream(*args, **options))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments, trace_in_workdir=False)


def call(**options) -> None:
    """Predicts for all files; every row is written as it comes. Ends the process with 1 where files
    were skipped."""
    skipped = Skipped()
    for _ in stream(**options, skipped=skipped):
        pass
    if skipped.files:
        sys.exit(1)


if __name__ == "__main__":
    main()
