"""Runs a trained model on images: `python -m pix2seq_jax.predict --workdir=DIR
--images='photos/*.jpg' --out=DIR`.

Writes each image with what was found drawn on it, and `predictions.json`: file, boxes, categories,
scores, and masks, keypoints and captions if the model was trained on them; in pixels of the image
as a viewer shows it (EXIF orientation applied). Files are read, predicted for and written some at a
time, so there may be any number of them; those that cannot be decoded are named in the log and
skipped.
"""

import contextlib
import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag
from pix2seq_jax.experiment.logs import log, phase, setup_logging
from pix2seq_jax.files.whole import open_whole

FLAGS = (
    Flag("workdir", REQUIRED, "Folder of a trained run."),
    Flag("images", REQUIRED, "Glob of image files, in quotes; ** for subfolders."),
    Flag("out", REQUIRED, "Folder for pictures and predictions.json."),
    Flag("batch_size", 8, "Images at a time."),
    Flag("limit", 0, "Only the first so many files (0: all)."),
    Flag("threshold", 0.3, "Lowest score that is shown."),
    Flag("text_model", "", "SentencePiece model of an imported model with captions."),
    Flag("tasks", "", "Only these tasks, joined by +, as in detection+segmentation."),
    Flag("step", 0, "Of the checkpoint to use (0: the newest)."),
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
) -> Iterator[dict]:
    """Predicts for the files that the glob `images` matches; yields the rows of predictions.json as
    they are written.

    Args:
        workdir: of a trained run.
        images: glob, `**` for subfolders.
        out: folder to write to.
        batch_size: files that are looked at together.
        limit: only the first so many files; 0: all.
        threshold: objects with lower scores are left out of pictures and JSON.
        step: of the checkpoint; 0: the newest.
        text_model: of an imported model with captions.
        tasks: some of the model's tasks, joined by +; "" for all.

    Raises:
        ValueError: no trained run, no file matches, none of them is an image, or `out` would
            overwrite one.
    """
    from pix2seq_jax.evaluation import predictor

    setup_logging()
    matched = sorted(path for path in glob.glob(images, recursive=True) if os.path.isfile(path))
    paths, folder, skipped = matched[: max(limit, 0) or None], Path(out), Skipped()
    none = f"--images={images!r}: {len(matched)} files match and none is an image"
    none = f"{none}; give a glob of images"
    if not paths:
        raise ValueError(none)
    check_names(paths, names := names_for(paths), folder)
    with phase("restore"):
        model = predictor.load(
            workdir,
            tasks=tasks.split("+") if tasks else None,
            step=step,
            batch_size=batch_size,
            text_model_path=text_model,
        )
    append = None
    with contextlib.ExitStack() as stack:
        doing = f"predict {len(paths)} images with the weights of step {model.step}"
        stack.enter_context(phase(doing))
        images_found = model.stream(paths, threshold=threshold, broken=skipped)
        for number, pixels, objects in images_found:
            if append is None:  # nothing is written before there is an image
                folder.mkdir(parents=True, exist_ok=True)
                append = stack.enter_context(json_list(folder / "predictions.json"))
            model.picture(pixels, objects, threshold).save(folder / names[number])
            row = {"file": paths[number]} | model.prediction(objects, threshold).to_dict()
            append(row)
            yield row
    if append is None:
        raise ValueError(none)
    counts = len(paths) - skipped.count, skipped.count
    log.info("%d images, %d skipped; pictures and predictions.json are in %s", *counts, out)


def names_for(paths: Sequence[str]) -> list[str]:
    """A PNG's name for each file; files of the same name in several folders get the folders into
    their names."""
    stems = [Path(path).stem for path in paths]
    if len(set(stems)) == len(stems):
        return [f"{stem}.png" for stem in stems]
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [
        os.path.relpath(os.path.abspath(path), root).replace(os.sep, "_") + ".png" for path in paths
    ]


def check_names(paths: Sequence[str], names: Sequence[str], folder: Path) -> None:
    """Raises ValueError where a picture would overwrite one of the images, or two would have one
    name."""
    taken = {Path(path).resolve() for path in paths}
    for path, name in zip(paths, names, strict=True):
        target = (folder / name).resolve()
        if target in taken:
            raise ValueError(
                f"--out={folder}: the picture of {path} would overwrite {target}; choose "
                "another folder"
            )
        taken.add(target)


@contextlib.contextmanager
def json_list(path: Path) -> Iterator[Callable[[dict], None]]:
    """A function that appends to a JSON list, which gets its name when the block ends well."""
    with open_whole(path) as file:
        before = b"["

        def append(row: dict) -> None:
            nonlocal before
            file.write(before + json.dumps(row).encode())
            before = b", "

        yield append
        file.write(b"]" if before == b", " else b"[]")


class Skipped:
    """Files that cannot be decoded: named in the log and counted."""

    count = 0

    def __call__(self, file: str, size: tuple[int, int], error: ValueError) -> None:
        """See chunks.Pictures.broken."""
        del file, size
        log.warning("skipped: %s", error)
        self.count += 1


def run(*args, **options) -> list[dict]:
    """`stream` to its end: all rows of predictions.json."""
    return list(stream(*args, **options))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments, trace_in_workdir=False)


def call(**options) -> None:
    """Predicts for all files; every row is written as it comes."""
    for _ in stream(**options):
        pass


if __name__ == "__main__":
    main()
