"""Runs a trained model on images: `python -m pix2seq_jax.predict --workdir=DIR
--images='photos/*.jpg' --out=DIR`.

Writes each image with what was found drawn on it, and `predictions.json`: file, boxes, categories,
scores, and masks, keypoints and captions if the model was trained on them; in pixels of the image
as a viewer shows it (EXIF orientation applied). Files are read, predicted for and written some at a
time, so there may be any number of them; those that cannot be decoded are named in the log and
skipped.
"""

import argparse
import contextlib
import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from pix2seq_jax.evaluation import inference
from pix2seq_jax.evaluation.chunks import Pictures
from pix2seq_jax.evaluation.inference import Ask
from pix2seq_jax.evaluation.metrics import masks
from pix2seq_jax.evaluation.pictures import draw
from pix2seq_jax.evaluation.pictures.objects import drawable
from pix2seq_jax.experiment import resolve, saved_run
from pix2seq_jax.experiment.guard import guarded
from pix2seq_jax.experiment.logs import log, phase, setup_logging
from pix2seq_jax.training import sharding


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


def prediction(path: str, found: dict, names: Sequence[str], threshold: float) -> dict:
    """A row of predictions.json: `file`; `objects`, best first; `caption` where the model writes
    one.

    An object has `box` [ymin, xmin, ymax, xmax] in pixels, `category`, `score`, and where the model
    finds them `mask` (compressed RLE) and `keypoints` [[y, x], ...] in pixels.
    """
    objects, order = [], np.argsort(-np.asarray(found["scores"], np.float64), kind="stable")
    for i in order.tolist():
        if found["scores"][i] < threshold:
            break
        row = {
            "box": [round(float(edge), 2) for edge in found["boxes"][i]],
            "category": names[found["labels"][i] - 1],
            "score": round(float(found["scores"][i]), 6),
        }
        if "masks" in found and found["masks"][i].any():
            row["mask"] = masks.to_rle(found["masks"][i])
        if "keypoints" in found and found["visible"][i].any():
            row["keypoints"] = np.round(found["keypoints"][i], 2).tolist()
        objects.append(row)
    captions = found.get("captions", ())
    return {"file": path, "objects": objects} | ({"caption": captions[0]} if captions else {})


@contextlib.contextmanager
def json_list(path: Path) -> Iterator[Callable[[dict], None]]:
    """A function that appends to a JSON list, which gets its name when the block ends well."""
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        before = "["

        def append(row: dict) -> None:
            nonlocal before
            file.write(before + json.dumps(row))
            before = ", "

        yield append
        file.write("]" if before == ", " else "[]")
    partial.replace(path)


def asks_of(config: ml_collections.ConfigDict, count: int, threshold: float) -> dict[str, Ask]:
    """What the tasks of a model are asked about `count` pictures; category ids are labels.

    Raises:
        ValueError: without detection and captions nothing can be predicted.
    """
    tasks, labels = resolve.task_names(config), range(1, len(config.data.category_names) + 1)
    if not {"detection", "captioning"} & set(tasks):
        raise ValueError(
            f"{' and '.join(tasks)} alone cannot predict: boxes are needed, so detection is"
        )
    every, asks = np.arange(count), {}
    for name in tasks:
        if name in ("detection", "captioning"):
            asks[name] = Ask(every, labels)
        elif "detection" not in tasks:
            log.warning("no %s: it needs boxes, and this model is not asked for detection", name)
        elif name == "segmentation":
            asks[name] = Ask(
                every, labels, objects=config.tasks[name].objects_final, threshold=threshold
            )
        else:
            ids = config.data.category_ids
            joined = [ids.index(category_id) + 1 for category_id in config.data.keypoint_categories]
            objects = config.tasks[name].objects
            asks[name] = Ask(every, labels, labels=joined, objects=objects, threshold=threshold)
    return asks


class Skipped:
    """Files that cannot be decoded: named in the log and counted."""

    count = 0

    def __call__(self, file: str, size: tuple[int, int], error: ValueError) -> None:
        """See chunks.Pictures.broken."""
        del file, size
        log.warning("skipped: %s", error)
        self.count += 1


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
    setup_logging()
    config = ml_collections.ConfigDict(saved_run.load_config(workdir).to_dict())
    if tasks:
        config = resolve.select_tasks(config, tasks.split("+"))
    config.eval.batch_size, config.data.text_model = (
        batch_size,
        text_model or config.data.text_model,
    )
    matched = sorted(path for path in glob.glob(images, recursive=True) if os.path.isfile(path))
    paths, folder, skipped = matched[: max(limit, 0) or None], Path(out), Skipped()
    none = (
        f"--images={images!r}: {len(matched)} files match and none is an image; give a glob of "
        "images"
    )
    if not paths:
        raise ValueError(none)
    check_names(paths, names := names_for(paths), folder)
    asks, mesh = asks_of(config, len(paths), threshold), sharding.make_mesh()
    model, text = resolve.make_model(config), text_model.load_text(config, workdir)
    runner = inference.Runner(config, model, resolve.make_tasks(config), mesh)
    pictures = Pictures(np.arange(len(paths)), paths, np.zeros((len(paths), 2), np.int32), skipped)
    with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
        with phase("restore"):
            step, variables = saved_run.load_variables(workdir, config, model, mesh, step=step)
        stack.enter_context(phase(f"predict {len(paths)} images with the weights of step {step}"))
        append = None
        for part in runner.run(variables, pictures, asks, text=text):
            for place in part.places:
                if append is None:  # nothing is written before there is an image
                    folder.mkdir(parents=True, exist_ok=True)
                    append = stack.enter_context(json_list(folder / "predictions.json"))
                row = write(
                    part,
                    place,
                    paths[place],
                    folder / names[place],
                    config=config,
                    threshold=threshold,
                )
                append(row)
                yield row
    if append is None:
        raise ValueError(none)
    counts = len(paths) - skipped.count, skipped.count
    log.info("%d images, %d skipped; pictures and predictions.json are in %s", *counts, out)


def write(
    part: inference.Part,
    place: int,
    path: str,
    picture: Path,
    *,
    config: ml_collections.ConfigDict,
    threshold: float,
) -> dict:
    """Saves the picture of what was found in the image `path`, and returns its row of
    predictions.json."""
    names, pixels = config.data.category_names, part.pixels(place)
    rows = {
        name: [row for row in found if row["image_id"] == place]
        for name, found in part.results.items()
    }
    found = drawable(rows, {label: label for label in range(1, len(names) + 1)}, pixels.shape[:2])
    drawing = draw.draw_objects(
        pixels,
        {key: value for key, value in found.items() if key != "captions"},
        names,
        skeleton=tuple(map(tuple, config.data.skeleton)),
        threshold=threshold,
    )
    draw.captioned(drawing, found.get("captions", ())).save(picture)
    return prediction(path, found, names, threshold)


def run(*args, **options) -> list[dict]:
    """`stream` to its end: all rows of predictions.json."""
    return list(stream(*args, **options))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m pix2seq_jax.predict", description=__doc__)
    parser.add_argument("--workdir", required=True, help="folder of a trained run")
    parser.add_argument("--images", required=True, help="glob of image files, in quotes")
    parser.add_argument("--out", required=True, help="folder for pictures and predictions.json")
    parser.add_argument("--batch_size", type=int, default=8, help="images at a time")
    parser.add_argument(
        "--limit", type=int, default=0, help="only the first so many files (0: all)"
    )
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score that is shown")
    parser.add_argument(
        "--text_model", default="", help="SentencePiece model of an imported model with captions"
    )
    parser.add_argument(
        "--tasks", default="", help="only these tasks, joined by +, as in detection+segmentation"
    )
    parser.add_argument(
        "--step", type=int, default=0, help="of the checkpoint to use (0: the newest)"
    )
    parser.add_argument("--traceback", action="store_true", help="show the whole trace of an error")
    options = vars(parser.parse_args())
    whole_trace = options.pop("traceback")

    def command() -> None:
        for _ in stream(**options):
            pass  # every row is written

    guarded(command, whole_trace=whole_trace)


if __name__ == "__main__":
    main()
