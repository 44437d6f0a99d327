"""Runs a trained model on images: `python -m pix2seq_jax.predict --workdir=DIR --images='photos/*.jpg' --out=DIR`.

Writes each image with what was found drawn on it, and `predictions.json`: file, boxes, categories, scores, and masks,
keypoints and captions if the model was trained on them; in pixels of the image as a viewer shows it (EXIF orientation
applied).
"""

import argparse
import dataclasses
import glob
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from pix2seq_jax import evaluate, experiment, inference, inputs, sharding
from pix2seq_jax.data import sources
from pix2seq_jax.data.images import decode_image
from pix2seq_jax.data.text import Text
from pix2seq_jax.evaluators import coco, draw, masks
from pix2seq_jax.pictures import drawable
from pix2seq_jax.telemetry import log, phase, setup_logging


@dataclasses.dataclass(frozen=True)
class Files:
    """A source of image files without annotations.

    Attributes:
        paths: of the files.
        sizes: i32[len,2], height and width in pixels as a viewer shows them.
        fields: what is given of them, see data.sources.
    """

    paths: tuple[str, ...]
    sizes: np.ndarray
    fields: Mapping[str, tuple] = dataclasses.field(default_factory=lambda: sources.FIELDS)

    @property
    def image_ids(self) -> np.ndarray:
        """i64[len], the places in the list."""
        return np.arange(len(self.paths))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        return self.take(index)

    def take(self, index: int, numbers=()) -> dict:
        """Raw features of one image; there are no objects to choose from."""
        del numbers
        none = {
            name: np.zeros((0, *shape[1:]), dtype)
            for name, (dtype, shape) in sources.FIELDS.items()
            if name not in sources.IMAGE_FIELDS
        }
        return none | {
            "image": sources.read_file(self.paths[index]),
            "file": self.paths[index],
            "image_id": np.int64(index),
            "orig_size": np.zeros(2, np.int32),  # that of the file, orientation applied
        }


def readable(paths: Sequence[str]) -> tuple[list[str], list[tuple[int, int]], list[str]]:
    """(files that decode, their heights and widths, one line of error for each file that does not)."""
    good, sizes, errors = [], [], []
    for path in paths:
        try:
            sizes.append(decode_image(Path(path).read_bytes(), path).shape[:2])
            good.append(path)
        except (ValueError, OSError) as error:
            errors.append(f"skipped: {error}")
    return good, sizes, errors


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


def decode_tasks(
    *, runner: inference.Runner, variables, source: Files, config: ml_collections.ConfigDict, text: Text | None
) -> dict[str, list[dict]]:
    """Results of all tasks as in COCO, with labels for category ids and places in the list for image ids."""
    found, labels, tasks = {}, range(1, len(config.data.category_names) + 1), experiment.task_names(config)
    boxes = runner.detect(variables, source) if "detection" in tasks else None
    if boxes is not None:
        found["detection"] = coco.results(*boxes, labels)
        if "segmentation" in tasks:
            found["segmentation"] = runner.segment(variables, source, runner.choose("segmentation", boxes), labels)
        if "keypoints" in tasks:
            ids = config.data.category_ids
            joined = [ids.index(category_id) + 1 for category_id in config.data.keypoint_categories]
            found["keypoints"] = runner.pose(variables, source, runner.choose("keypoints", boxes, joined), labels)
    if "captioning" in tasks:
        pictures = dataclasses.replace(source, fields=sources.IMAGE_FIELDS)
        found["captioning"] = runner.caption(variables, pictures, text)
    return found


def predictions(drawn: Sequence[dict], paths: Sequence[str], names: Sequence[str], threshold: float) -> list[dict]:
    """Rows of predictions.json: `file`; `objects`, best first; `caption` where the model writes one.

    An object has `box` [ymin, xmin, ymax, xmax] in pixels, `category`, `score`, and where the model finds them `mask`
    (compressed RLE) and `keypoints` [[y, x], ...] in pixels.
    """
    rows = []
    for path, found in zip(paths, drawn, strict=True):
        objects = []
        for i in np.argsort(-np.asarray(found["scores"]), kind="stable") if found["scores"] else ():
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
        rows.append(
            {"file": path, "objects": objects} | dict(zip(("caption",), found.get("captions", ()), strict=False))
        )
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
    text_model: str = "",
    tasks: str = "",
) -> list:
    """Predicts for the files that the glob `images` matches, and returns the rows of predictions.json.

    Args:
        workdir: of a trained run.
        images: glob, `**` for subfolders.
        out: folder to write to.
        limit: only the first so many files; 0: all.
        threshold: objects with lower scores are left out of pictures and JSON.
        step: of the checkpoint; 0: the newest.
        text_model: of an imported model with captions.
        tasks: some of the model's tasks, joined by +; "" for all.

    Raises:
        ValueError: no trained run, no file matches, none of them is an image, or `out` would overwrite one.
    """
    setup_logging()
    config = ml_collections.ConfigDict(experiment.load_config(workdir).to_dict())
    if tasks:
        config = experiment.select_tasks(config, tasks.split("+"))
    config.eval.batch_size, config.data.text_model = batch_size, text_model or config.data.text_model
    matched = sorted(path for path in glob.glob(images, recursive=True) if os.path.isfile(path))
    with phase(f"read {len(matched)} files"):
        paths, sizes, errors = readable(matched[: max(limit, 0) or None])
    for error in errors:
        log.warning(error)
    if not paths:
        raise ValueError(f"--images={images!r}: {len(matched)} files match and none is an image; give a glob of images")
    folder, pictures = Path(out), names_for(paths)
    check_names(paths, pictures, folder)
    mesh = sharding.make_mesh()
    made, model = experiment.make_tasks(config), experiment.make_model(config)
    if not {"detection", "captioning"} & set(made):
        raise ValueError(f"{workdir}: {' and '.join(made)} alone cannot predict: boxes are needed, so detection is")
    for name in made if "detection" not in made else ():
        if name in experiment.PROMPTED:
            log.warning("no %s: it needs boxes, and this model is not asked for detection", name)
    text = inputs.load_text(config, workdir)
    runner, names = inference.Runner(config, model, made, mesh), config.data.category_names
    source = Files(tuple(paths), np.array(sizes, np.int32).reshape(-1, 2))
    with jax.set_mesh(mesh):
        with phase("restore"):
            step, variables = experiment.load_variables(workdir, config, model, mesh, step=step)
        with phase(f"predict {len(paths)} images with the weights of step {step}"):
            found = decode_tasks(runner=runner, variables=variables, source=source, config=config, text=text)
    label_of = {label: label for label in range(1, len(names) + 1)}
    by_image = [{name: [] for name in found} for _ in paths]
    for name, results in found.items():
        for result in results:
            by_image[result["image_id"]][name].append(result)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for path, size, name, rows in zip(paths, sizes, pictures, by_image, strict=True):
        drawn.append(drawable(rows, label_of, size))
        picture = draw.draw_objects(
            decode_image(Path(path).read_bytes(), path),
            {key: value for key, value in drawn[-1].items() if key != "captions"},
            names,
            skeleton=tuple(map(tuple, config.data.skeleton)),
            threshold=threshold,
        )
        draw.captioned(picture, drawn[-1].get("captions", ())).save(folder / name)
    rows = predictions(drawn, paths, names, threshold)
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
    parser.add_argument("--text_model", default="", help="SentencePiece model of an imported model with captions")
    parser.add_argument("--tasks", default="", help="only these tasks, joined by +, as in detection+segmentation")
    parser.add_argument("--step", type=int, default=0, help="of the checkpoint to use (0: the newest)")
    try:
        run(**vars(parser.parse_args()))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
