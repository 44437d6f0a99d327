"""What an evaluation writes: metrics.json, results/, and pictures beside the ground truth."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import ml_collections
import numpy as np
from PIL import Image

from pix2seq_jax.evaluation import make_host_tasks
from pix2seq_jax.evaluation.asks import Part
from pix2seq_jax.evaluation.chunks import Pictures
from pix2seq_jax.evaluation.marks import marks, rows_of
from pix2seq_jax.evaluation.metrics import coco
from pix2seq_jax.evaluation.pictures import draw
from pix2seq_jax.experiment.resolve import GROUND_TRUTH, label
from pix2seq_jax.files.whole import open_whole, write_whole


@dataclass(frozen=True)
class Evaluation:
    """What was decoded of a data set.

    Attributes:
        results: COCO results by task, on process 0.
        image_ids: of the images they are of, by task.
        pictures: of the first images by id, prediction beside ground truth, on process 0.
    """

    results: dict[str, list[dict]]
    image_ids: dict[str, list[int]]
    pictures: dict[int, Image.Image]

    def contact_sheet(self) -> np.ndarray:
        """All pictures in one, u8[h,w,3]."""
        return np.asarray(draw.contact_sheet(list(self.pictures.values())))


def write(
    folder: PurePath,
    step: int,
    config: ml_collections.ConfigDict,
    evaluation: Evaluation,
    metrics: Mapping[str, dict],
) -> dict:
    """Results, metrics and pictures into the workdir; returns the content of metrics.json."""
    host_tasks = make_host_tasks(config)
    for name, host_task in host_tasks.items():
        rows = evaluation.results[name]
        if host_task.needs_boxes:  # pycocotools takes results that have a box for box results
            rows = [{key: row[key] for key in row if key != "bbox"} for row in rows]
        write_json(folder / results_file(config, name), rows)
    sections = {name: config.tasks[name] for name in host_tasks}
    summary = {"step": step, "seed": config.seed}
    summary |= {"samplers": {name: section.sampler for name, section in sections.items()}}
    summary |= {"num_samples": {name: section.num_samples for name, section in sections.items()}}
    if any(host_task.needs_boxes for host_task in host_tasks.values()):
        summary |= {"boxes": config.eval.boxes}
    suffix, content = suffix_of(config), coco.json_safe(summary | dict(metrics))
    write_json(folder / f"metrics{suffix}.json", content)
    (folder / f"pictures{suffix}").mkdir(parents=True, exist_ok=True)
    for image_id, picture in evaluation.pictures.items():
        with open_whole(folder / f"pictures{suffix}" / f"{image_id}.png") as stream:
            picture.save(stream, "PNG")
    return content


def results_file(config: ml_collections.ConfigDict, name: str) -> str:
    """Path in the workdir of the results of a task."""
    stem, suffix = label(config, name), suffix_of(config)
    return f"results/{stem if stem.endswith(suffix) else stem + suffix}.json"


def suffix_of(config: ml_collections.ConfigDict) -> str:
    """Of the names of results, metrics, pictures and report: those of annotated boxes do not
    replace those of the model's own."""
    finds_boxes = any(one.finds_boxes for one in make_host_tasks(config).values())
    apart = finds_boxes and config.eval.boxes == GROUND_TRUTH
    return f"_{GROUND_TRUTH}_boxes" if apart else ""


class Album:
    """Pictures of some images, prediction beside ground truth, made while the images are there."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        sources: Mapping,
        annotations: Mapping[str, dict],
        pictures: Pictures,
        shown: Sequence[int],
    ) -> None:
        """Looks up the truth of the images at the places `shown`, in the order of the album."""
        self._config, self._images, self._shown = config, pictures, shown
        self._host_tasks = make_host_tasks(config)
        self._drawn: dict[int, Image.Image] = {}
        boxed = [name for name in annotations if name in sources]
        ids = sources[boxed[0]].category_ids if boxed else ()
        self._label_of = {category_id: label for label, category_id in enumerate(ids, 1)}
        image_ids = [int(pictures.image_ids[place]) for place in shown]
        self._truth = {
            name: host_task.truth(sources[name], annotations.get(name, {}), image_ids)
            for name, host_task in self._host_tasks.items()
        }

    def add(self, part: Part) -> None:
        """Draws those of its images that are shown."""
        for place in set(part.places) & set(self._shown):
            image_id = int(self._images.image_ids[place])
            size = self._images.sizes[place].tolist()
            image = part.pixels(place)
            if list(image.shape[:2]) != size:
                image = np.asarray(Image.fromarray(image).resize(size[::-1]))
            self._drawn[place] = draw.side_by_side(
                image,
                self._marks(part.results, image_id, image.shape[:2]),
                self._marks(self._truth, image_id, image.shape[:2]),
                self._config.data.category_names,
                skeleton=tuple(map(tuple, self._config.data.skeleton)),
                threshold=self._config.eval.score_threshold,
                title=Path(self._images.files[place]).name,
            )

    def pictures(self) -> dict[int, Image.Image]:
        """The pictures by image id."""
        return {
            int(self._images.image_ids[place]): self._drawn[place]
            for place in self._shown
            if place in self._drawn
        }

    def _marks(self, results: Mapping[str, list[dict]], image_id: int, size) -> dict:
        """What is drawn of the results or the truth of an image."""
        return marks(rows_of(results, image_id), self._host_tasks, self._label_of, size)


def table(metrics: dict) -> str:
    """The metrics of a task as text: a row per class where there are classes."""
    return (
        coco.table(metrics)
        if "per_class" in metrics
        else "  ".join(f"{k} {v:.3f}" for k, v in metrics.items())
    )


def flat(metrics: dict) -> dict[str, float]:
    """The numbers of metrics by task as "task/number", without the tables of classes."""
    return {
        f"{task}/{name}": value
        for task, numbers in metrics.items()
        for name, value in numbers.items()
        if isinstance(value, float)
    }


def write_json(path: PurePath, content) -> None:
    """Replaces the file as a whole, so that a stop in between leaves the old one."""
    write_whole(path, json.dumps(content, indent=1 if isinstance(content, dict) else None))
