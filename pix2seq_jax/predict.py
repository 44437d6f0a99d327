"""Runs a trained model on images: `python -m pix2seq_jax.predict --workdir=DIR --images='photos/*.jpg' --out=DIR`.

Writes each image with its boxes drawn, and `predictions.json`: file, boxes, category names and scores, in pixels of the
image as a viewer shows it (EXIF orientation applied).
"""

import argparse
import dataclasses
import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from pix2seq_jax import evaluate, experiment, sharding
from pix2seq_jax.data import pipeline, sources
from pix2seq_jax.data.images import decode_image
from pix2seq_jax.decoding import sampling
from pix2seq_jax.evaluators import draw
from pix2seq_jax.telemetry import log, phase, setup_logging


@dataclasses.dataclass(frozen=True)
class Files:
    """A source of image files without annotations; the size 0 leaves it to the file."""

    paths: tuple[str, ...]
    fields = sources.FIELDS

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        return {
            "image": Path(self.paths[index]).read_bytes(),
            "file": self.paths[index],
            "image_id": np.int64(index),
            "orig_size": np.zeros(2, np.int32),
            "boxes": np.zeros((0, 4), np.float32),
            "labels": np.zeros(0, np.int32),
            "area": np.zeros(0, np.float32),
            "is_crowd": np.zeros(0, bool),
            "scores": np.zeros(0, np.float32),
        }


def readable(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """(files that decode, one line of error for each that does not)."""
    good, errors = [], []
    for path in paths:
        try:
            decode_image(Path(path).read_bytes(), path)
            good.append(path)
        except (ValueError, OSError) as error:
            errors.append(f"skipped: {error}")
    return good, errors


def names_for(paths: Sequence[str]) -> list[str]:
    """A PNG's name for each file; files of the same name in several folders get the folders into their names."""
    stems = [Path(path).stem for path in paths]
    if len(set(stems)) == len(stems):
        return [f"{stem}.png" for stem in stems]
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [os.path.relpath(os.path.abspath(path), root).replace(os.sep, "_") + ".png" for path in paths]


def check_names(paths: Sequence[str], names: Sequence[str], folder: Path) -> None:
    """Raises ValueError where a picture would overwrite one of the images, or two would have one name."""
    taken = {Path(path).resolve() for path in paths}
    for path, name in zip(paths, names, strict=True):
        target = (folder / name).resolve()
        if target in taken:
            raise ValueError(f"--out={folder}: the picture of {path} would overwrite {target}; choose another folder")
        taken.add(target)


def predictions(found: dict[str, np.ndarray], paths: Sequence[str], names: Sequence[str], threshold: float) -> list:
    """Rows of predictions.json: `file`, and `objects` with `box` [ymin, xmin, ymax, xmax] in pixels, best first."""
    rows = []
    for path, boxes, labels, scores in zip(paths, found["boxes"], found["labels"], found["scores"], strict=True):
        order = [i for i in np.argsort(-scores, kind="stable") if scores[i] >= threshold and labels[i] > 0]
        objects = [
            {
                "box": [round(float(x), 2) for x in boxes[i]],
                "category": names[labels[i] - 1],
                "score": round(float(scores[i]), 6),
            }
            for i in order
        ]
        rows.append({"file": path, "objects": objects})
    return rows


def run(
    workdir: str,
    images: str,
    out: str,
    *,
    batch_size: int = 16,
    limit: int = 0,
    threshold: float = 0.3,
    step: int = 0,
) -> list:
    """Predicts for the files that the glob `images` matches, and returns the rows of predictions.json.

    Args:
        workdir: of a trained run.
        images: glob, `**` for subfolders.
        out: folder to write to.
        limit: only the first so many files; 0: all.
        threshold: boxes with lower scores are left out of pictures and JSON.
        step: of the checkpoint; 0: the newest.

    Raises:
        ValueError: no trained run, no file matches, none of them is an image, or `out` would overwrite one.
    """
    setup_logging()
    config = experiment.load_config(workdir)
    matched = sorted(path for path in glob.glob(images, recursive=True) if os.path.isfile(path))
    with phase(f"read {len(matched)} files"):
        paths, errors = readable(matched[: max(limit, 0) or None])
    for error in errors:
        log.warning(error)
    if not paths:
        raise ValueError(f"--images={images!r}: {len(matched)} files match and none is an image; give a glob of images")
    folder, pictures = Path(out), names_for(paths)
    check_names(paths, pictures, folder)
    mesh = sharding.make_mesh()
    task, section = experiment.make_tasks(config)["detection"], config.tasks.detection
    model = experiment.make_model(config)
    decode = evaluate.make_decoder(
        *(model, task),
        sampler=sampling.from_string(section.sampler),
        eos_bias=section.eos_bias,
        grammar=section.grammar,
    )
    batch_size = sharding.round_batch(mesh, min(batch_size, len(paths)))
    with jax.set_mesh(mesh):
        with phase("restore"):
            step, variables = experiment.load_variables(workdir, config, model, mesh, step=step)
        with phase(f"predict {len(paths)} images with the weights of step {step}"):
            batches = pipeline.eval_dataset(Files(tuple(paths)), section.eval_ops, batch_size=batch_size)
            found = evaluate.decode_all(decode, variables, batches, mesh, seed=config.seed)
    names = config.data.category_names
    rows = predictions(found, paths, names, threshold)
    folder.mkdir(parents=True, exist_ok=True)
    columns = ("boxes", "labels", "scores")
    for index, (path, name) in enumerate(zip(paths, pictures, strict=True)):
        image = decode_image(Path(path).read_bytes(), path)
        boxes, labels, scores = (found[column][index] for column in columns)
        draw.draw_boxes(image, boxes, labels, names, scores, threshold=threshold).save(folder / name)
    evaluate.write_json(folder / "predictions.json", rows)
    log.info("%d images, %d skipped; pictures and predictions.json are in %s", len(rows), len(errors), out)
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m pix2seq_jax.predict", description=__doc__)
    parser.add_argument("--workdir", required=True, help="folder of a trained run")
    parser.add_argument("--images", required=True, help="glob of image files, in quotes")
    parser.add_argument("--out", required=True, help="folder for pictures and predictions.json")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--limit", type=int, default=0, help="only the first so many files (0: all)")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score that is shown")
    parser.add_argument("--step", type=int, default=0, help="of the checkpoint to use (0: the newest)")
    try:
        run(**vars(parser.parse_args()))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
