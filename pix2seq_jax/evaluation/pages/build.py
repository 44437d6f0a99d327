"""report.html: what an evaluation says about a model, in a browser.

It is made of what the evaluation wrote and of the annotations that it read, so that
`python -m pix2seq_jax.report` gives the same page later.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from pix2seq_jax.data import rows
from pix2seq_jax.evaluation import make_host_tasks
from pix2seq_jax.evaluation.base import HostTask
from pix2seq_jax.evaluation.marks import marks
from pix2seq_jax.evaluation.metrics import curves
from pix2seq_jax.evaluation.pages import detection, objects
from pix2seq_jax.evaluation.pages.html import Page
from pix2seq_jax.evaluation.pictures import draw
from pix2seq_jax.evaluation.report import suffix_of
from pix2seq_jax.experiment.resolve import label
from pix2seq_jax.files.whole import write_whole

INPUTS = "inputs.json"  # in the folder of the report: what the evaluation looked at
EMPTY = 77  # of 255, the picture in place of a file that cannot be decoded
CAPTIONS = 8  # samples
CAPTION_SIDES = (320, 320)  # of their pictures, the longer side in pixels


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation looked at, what came out, and what is true.

    Attributes:
        config: resolved; the data are those of the evaluation.
        sources: by task.
        annotations: COCO dictionaries of the tasks that have boxes.
        results: COCO results by task.
        image_ids: of the images that each task was asked about.
        metrics: content of metrics.json.
    """

    config: ml_collections.ConfigDict
    sources: Mapping[str, Any]
    annotations: Mapping[str, dict]
    results: Mapping[str, list[dict]]
    image_ids: Mapping[str, list[int]]
    metrics: Mapping[str, Any]


def write_inputs(
    workdir: PurePath, config: ml_collections.ConfigDict, image_ids: Mapping[str, list[int]]
) -> None:
    """Keeps what the command needs to make the report again."""
    content = {"config": json.loads(config.to_json()), "image_ids": dict(image_ids)}
    write_whole(workdir / f"report{suffix_of(config)}" / INPUTS, json.dumps(content))


def write(
    workdir: PurePath, evaluated: Evaluated, leave: Callable[[], None] = lambda: None
) -> PurePath:
    """Writes report.html, and CSV files and pictures into report/; returns the path of the page.

    `leave` is called between the parts and may raise.
    """
    config, metrics = evaluated.config, evaluated.metrics
    page = Page(workdir / f"report{suffix_of(config)}.html", f"Evaluation of {workdir.name}")
    seed, step = metrics["seed"], metrics["step"]
    page.text(
        f"Step {step}, seed {seed}. The figures are those of metrics{suffix_of(config)}.json; "
        "docs/evaluation.md of pix2seq_jax says what each part means."
    )
    for name, host_task in make_host_tasks(config).items():
        leave()
        if not evaluated.image_ids.get(name):
            continue
        title = label(config, name)
        page.section(title, title.replace("_", " "))
        numbers = {k: v for k, v in metrics[title].items() if isinstance(v, float | None)}
        page.table(f"{title}_numbers", ["", *numbers], [["all", *numbers.values()]])
        comparison = host_task.compare(*_arguments(evaluated, name))
        if comparison is None:
            _caption_samples(page, title, evaluated, name, host_task)
            continue
        found = curves.detections(comparison)
        objects.write(page, title, metrics[title], comparison, found)
        leave()
        if host_task.finds_boxes:
            threshold = config.eval.score_threshold
            detection.write(page, title, comparison, found, threshold, leave=leave)
            _best_and_worst(page, title, evaluated, name, (comparison, found))
        keypoint_names = tuple(evaluated.sources[name].keypoint_names)
        if keypoint_names and comparison.run.params.iouType == "keypoints":
            objects.write_keypoints(page, title, comparison, found, keypoint_names)
    return page.write()


def _arguments(evaluated: Evaluated, name: str) -> tuple:
    """Of HostTask.score and HostTask.compare."""
    annotations = evaluated.annotations.get(name, {})
    ids = evaluated.image_ids[name]
    return evaluated.sources[name], annotations, evaluated.results[name], ids


def _best_and_worst(page: Page, title: str, evaluated: Evaluated, name: str, matched) -> None:
    """Pictures of the images with the highest and the lowest F1, prediction beside ground truth."""
    threshold = evaluated.config.eval.score_threshold
    counts = curves.by_image(*matched, threshold)
    header = ("image", "F1", "right", "wrong", "missed")
    table = [[one.image_id, one.f1, one.right, one.wrong, one.missed] for one in counts]
    page.file(f"{title}_images", header, table)
    best, worst = detection.ranked(counts)
    for kind, chosen in (("best", best), ("worst", worst)):
        page.heading(f"The {kind} images")
        if kind == "best":
            page.text(detection.RANKING.format(threshold=threshold))
            page.link(f"{title}_images")
        for number, one in enumerate(chosen, start=1):
            words = f"image {one.image_id}: F1 {one.f1:.3f}, {one.right} right, "
            words += f"{one.wrong} wrong, {one.missed} missed"
            picture = _picture(evaluated, name, one.image_id)
            page.picture(f"{title}_{kind}_{number}", picture, words)


def _picture(evaluated: Evaluated, name: str, image_id: int) -> Image.Image:
    """An image with what a task found, beside what is there."""
    config, source = evaluated.config, evaluated.sources[name]
    pixels, title = _pixels(source, image_id)
    host_tasks = make_host_tasks(config)
    label_of = {category_id: number for number, category_id in enumerate(source.category_ids, 1)}
    truth = host_tasks[name].truth(source, evaluated.annotations[name], [image_id])
    found = [row for row in evaluated.results[name] if row["image_id"] == image_id]
    drawn = [marks({name: own}, host_tasks, label_of, pixels.shape[:2]) for own in (found, truth)]
    threshold, names = config.eval.score_threshold, config.data.category_names
    return draw.side_by_side(pixels, *drawn, names, threshold=threshold, title=title)


def _pixels(source, image_id: int) -> tuple[np.ndarray, str]:
    """(u8[h,w,3] of the size in the annotations, name of the file). A file that cannot be decoded
    was scored as an empty picture and is shown as one."""
    row = int(np.flatnonzero(source.image_ids == image_id)[0])
    file, size = source.files[row], tuple(source.sizes[row].tolist())
    try:
        pixels, _ = rows.read(file, size, source.load)
    except ValueError:
        return np.full((*size, 3), EMPTY, np.uint8), f"{Path(file).name} (cannot be decoded)"
    if pixels.shape[:2] != size:
        pixels = np.asarray(Image.fromarray(pixels).resize(size[::-1]))
    return pixels, Path(file).name


def _caption_samples(
    page: Page, title: str, evaluated: Evaluated, name: str, host_task: HostTask
) -> None:
    """The texts of all images as CSV, and some of them below their images."""
    source, ids = evaluated.sources[name], evaluated.image_ids[name]
    if not host_task.texts(evaluated.results[name]):
        return
    texts = {i: {"written": [], "references": []} for i in ids}
    truth = host_task.truth(source, evaluated.annotations.get(name, {}), ids)
    for kind, own in (("written", evaluated.results[name]), ("references", truth)):
        for row in own:
            texts[row["image_id"]][kind] += host_task.texts([row])
    table = [[i, *(" | ".join(own) for own in texts[i].values())] for i in ids]
    page.heading("Samples")
    page.file(f"{title}_texts", ("image", "written", "references"), table)
    page.link(f"{title}_texts")
    for i in ids[:CAPTIONS]:
        pixels, file = _pixels(source, i)
        picture = draw.draw_objects(pixels, {}, sides=CAPTION_SIDES)
        words = f"{file}: {' | '.join(texts[i]['written']) or '(nothing)'}"
        page.picture(f"{title}_{i}", picture, words)
        page.text("In the annotations: " + " | ".join(texts[i]["references"]))
