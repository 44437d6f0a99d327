"""Decodes a dataset once, every image exactly once on any number of hosts, and scores it, task by
task.

`--mode=eval` and the training loop use the same Evaluator. It writes `metrics.json`,
`results/<task>.json` as the COCO servers take them, and `pictures/`, prediction beside ground
truth. Detection goes first: its boxes prompt masks and keypoints. Where `config.eval.boxes` asks
for the boxes of the annotations instead, the names of the metrics say so, and those of a model that
has boxes of its own go into `metrics_ground_truth_boxes.json`.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from PIL import Image

from pix2seq_jax.data.text import Text
from pix2seq_jax.evaluation import inference
from pix2seq_jax.evaluation.boxes import boxes_of_annotations, boxes_of_results, same_images
from pix2seq_jax.evaluation.chunks import Pictures
from pix2seq_jax.evaluation.inference import Ask
from pix2seq_jax.evaluation.metrics import captions, coco
from pix2seq_jax.evaluation.pictures import draw
from pix2seq_jax.evaluation.pictures.objects import drawable
from pix2seq_jax.experiment import inputs, resolve
from pix2seq_jax.experiment.logs import MetricWriter, log, phase
from pix2seq_jax.experiment.resolve import GROUND_TRUTH, PROMPTED, label

EMPTY = 77  # of 255, about the 0.3 that images are padded with

# What a task is judged by; the best checkpoint is chosen by that of the first task.
MAIN_METRICS = {"detection": "AP", "segmentation": "AP", "keypoints": "AP", "captioning": "CIDEr-D"}

_BOX_METRICS = (
    "AP",
    "AP50",
    "AP75",
    "APs",
    "APm",
    "APl",
    "AR1",
    "AR10",
    "AR100",
    "ARs",
    "ARm",
    "ARl",
)

METRICS = {  # the numbers of each task
    "detection": _BOX_METRICS,
    "segmentation": _BOX_METRICS,
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
    "captioning": ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr-D", "ROUGE-L"),
}


def best_metric(config: ml_collections.ConfigDict) -> str:
    """The metric that the best checkpoint is chosen by: config.train.best_metric, or that of the
    first task.

    Raises:
        ValueError: config.train.best_metric is nothing that an evaluation of this config measures.
    """
    chosen, names = config.train.best_metric, resolve.task_names(config)
    known = [f"{label(config, name)}/{metric}" for name in names for metric in METRICS[name]]
    if chosen and chosen not in known:
        raise ValueError(
            f"config.train.best_metric={chosen!r} is not measured; give one of {known}"
        )
    return chosen or f"{label(config, names[0])}/{MAIN_METRICS[names[0]]}"


class Evaluator:
    """Scores a model on the validation data of a config; compiles once, can be called at many
    steps."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        model,
        tasks: dict,
        mesh: jax.sharding.Mesh,
        text: Text | None = None,
        *,
        cache: inputs.InputCache | None = None,
    ) -> None:
        """Opens the validation data; `cache` as in inputs.open_sources."""
        inputs.check_paths(config, "val")
        self.sources = inputs.open_sources(config, "val", text, cache=cache)
        if (
            "segmentation" in tasks
            and not 0 < (share := config.tasks.segmentation.mask_threshold) <= 1
        ):
            raise ValueError(
                f"config.tasks.segmentation.mask_threshold={share}: give a share above 0 and "
                "at most 1"
            )
        self._config, self._tasks, self._text = config, tuple(tasks), text
        self._broken: set[str] = set()  # files that cannot be decoded
        self._given = {}  # boxes of a file
        if config.eval.boxes not in ("predicted", GROUND_TRUTH):
            for name in (name for name in PROMPTED if name in tasks):
                source = self.sources[name]
                given = config.eval.boxes, source.image_ids.tolist(), list(source.category_ids)
                self._given[name] = boxes_of_results(*given)
        elif config.eval.boxes == "predicted" and "detection" in tasks and "keypoints" in tasks:
            same_images(self.sources["detection"], self.sources["keypoints"])
        self._runner = inference.Runner(config, model, tasks, mesh)
        if (
            config.eval.boxes == "predicted"
            and "detection" not in tasks
            and any(t in tasks for t in PROMPTED)
        ):
            raise ValueError(
                f"config.eval.boxes='predicted' but the tasks are {sorted(tasks)}: without "
                f"detection there are no predicted boxes; give {GROUND_TRUTH!r} or the path of a "
                "results/detection.json"
            )

    def describe(self) -> str:
        """What was repaired or dropped in the validation data; "" for nothing."""
        return inputs.describe(self.sources)

    @functools.cached_property
    def annotations(self) -> dict[str, dict]:
        """COCO dictionaries of the tasks that have boxes."""
        return {
            name: source.coco_dict()
            for name, source in self.sources.items()
            if name != "captioning"
        }

    def label(self, name: str) -> str:
        """See `label`."""
        return label(self._config, name)

    def _plan(self, limit: int, *, final: bool) -> tuple[Pictures, dict[str, Ask]]:
        """The pictures that the tasks look at, each once, and which of them each task is asked
        about."""
        places: dict[
            tuple, int
        ] = {}  # a picture of one name and size is one picture, whatever file lists it
        asks: dict[str, Ask] = {}
        for name in self._tasks:
            source, chosen = self.sources[name], self._config.eval.boxes
            keys = list(
                zip(
                    source.image_ids.tolist(),
                    source.files,
                    map(tuple, source.sizes.tolist()),
                    strict=True,
                )
            )
            if name in PROMPTED and chosen == "predicted":
                mine, of_detection = set(keys), set(asks["detection"].places.tolist())
                own = [
                    place for key, place in places.items() if place in of_detection and key in mine
                ]
                if missing := min(limit or len(keys), len(keys)) - len(own):
                    log.warning(
                        "%s: %d images are not among those that detection looked at, left out",
                        name,
                        missing,
                    )
            else:
                own = [places.setdefault(key, len(places)) for key in keys[: limit or None]]
            asks[name] = Ask(
                np.array(sorted(own), np.int64), **self._details(name, limit, final=final)
            )
        ids, files, sizes = zip(*places, strict=True)
        return Pictures(
            np.array(ids, np.int64), files, np.array(sizes, np.int32), self._in_place_of_broken
        ), asks

    def _details(self, name: str, limit: int, *, final: bool) -> dict:
        """The fields of a task's Ask but for its places."""
        source, section = self.sources[name], self._config.tasks[name]
        if name == "captioning":
            return {}
        category_ids = list(source.category_ids)
        if name == "detection":
            # The annotations may have fewer classes than an imported model; the others cannot be
            # scored.
            listed = {category["id"] for category in self.annotations[name]["categories"]}
            scored = [label for label, i in enumerate(category_ids, 1) if i in listed]
            return {"category_ids": category_ids, "labels": scored}
        labels = (
            [category_ids.index(i) + 1 for i in source.keypoint_categories]
            if name == "keypoints"
            else None
        )
        if self._config.eval.boxes == GROUND_TRUTH:
            image_ids = source.image_ids.tolist()[: limit or None]
            options = {"with_keypoints": name == "keypoints"}
            boxes = boxes_of_annotations(self.annotations[name], image_ids, category_ids, **options)
            return {"category_ids": category_ids, "boxes": boxes}
        objects = section.objects_final if final and name == "segmentation" else section.objects
        return {
            "category_ids": category_ids,
            "labels": labels,
            "boxes": self._given.get(name),
            "objects": objects,
        }

    def _in_place_of_broken(
        self, file: str, size: tuple[int, int], error: ValueError
    ) -> np.ndarray:
        """A picture of one colour and of the size in the JSON: the image counts, and there is
        nothing to be found."""
        if self._config.data.bad_images == "error":
            raise error
        if file not in self._broken:
            self._broken.add(file)
            log.warning(
                "%s; it is scored as an empty picture (%d so far)", error, len(self._broken)
            )
        return np.full((*size, 3), EMPTY, np.uint8)

    def results(
        self,
        variables,
        *,
        limit: int = 0,
        final: bool = True,
        leave: Callable[[], None] = lambda: None,
    ) -> tuple[dict[str, list[dict]], dict[str, list[int]], dict[int, Image.Image]]:
        """Decodes the first `limit` images (0: all).

        Args:
            variables: of the model.
            limit: of each source.
            final: whether as many objects get a mask as COCO counts.
            leave: called now and then; may raise.

        Returns:
            COCO results by task, on process 0; ids of the images they are of; pictures of the first
            images by id, prediction beside ground truth, on process 0.
        """
        pictures, asks = self._plan(limit, final=final)
        ids = {name: pictures.image_ids[ask.places].tolist() for name, ask in asks.items()}
        found: dict[str, list[dict]] = {name: [] for name in asks}
        drawn: dict[int, Image.Image] = {}
        shown = next(iter(asks.values())).places[: self._config.eval.pictures].tolist()
        truth = self._truth([int(pictures.image_ids[place]) for place in shown])
        with phase(f"decode {len(pictures)} images"):
            for part in self._runner.run(variables, pictures, asks, text=self._text, leave=leave):
                for name, rows in part.results.items():
                    found[name] += rows
                for place in set(part.places) & set(shown) if jax.process_index() == 0 else ():
                    image_id = int(pictures.image_ids[place])
                    own = {
                        n: [r for r in rows if r["image_id"] == image_id]
                        for n, rows in part.results.items()
                    }
                    name = Path(pictures.files[place]).name
                    size = pictures.sizes[place].tolist()
                    drawn[image_id] = self._draw(
                        part.pixels(place), size, own, truth[image_id], name
                    )
        return (
            found,
            ids,
            dict(sorted(drawn.items(), key=lambda item: ids[next(iter(ids))].index(item[0]))),
        )

    def _score(self, name: str, results: list[dict], images: list[int]) -> dict:
        source = self.sources[name]
        if name == "captioning":
            references = {image_id: source.references[image_id] for image_id in images}
            return captions.score(
                references, {result["image_id"]: result["caption"] for result in results}
            )
        if name == "detection":
            return coco.evaluate_boxes(self.annotations[name], results, image_ids=images)
        if name == "segmentation":
            return coco.evaluate(self.annotations[name], results, "segm", image_ids=images)
        sigmas = resolve.keypoint_sigmas(
            source.keypoint_names, tuple(self._config.tasks.keypoints.sigmas)
        )
        return coco.evaluate(
            self.annotations[name], results, "keypoints", image_ids=images, sigmas=sigmas
        )

    def _score_all(self, results: dict, images: dict, leave: Callable[[], None]) -> dict[str, dict]:
        """Metrics by the label of the task: all of them on process 0, the numbers on the others."""
        scored = [name for name in self._tasks if images[name]]
        if jax.process_index():
            return _shared_numbers({name: {} for name in scored}, self.label)
        metrics = {}
        try:
            for name in scored:
                if jax.process_count() == 1:  # else the others wait for the numbers
                    leave()
                metrics[name] = self._score(name, results[name], images[name])
        finally:  # of an error, too: the other processes wait
            _shared_numbers(metrics, self.label, names=scored)
        return {self.label(name): numbers for name, numbers in metrics.items()}

    def report(
        self,
        variables,
        *,
        step: int,
        workdir: str | Path,
        writer: MetricWriter,
        limit: int = 0,
        final: bool = True,
        leave: Callable[[], None] = lambda: None,
    ) -> dict:
        """Evaluates, logs, and writes metrics.json, results/ and pictures/; returns the metrics by
        task.

        Arguments as in `results`; `step`, `workdir` and `writer` say where it belongs.
        """
        log.info("evaluate step %d", step)
        results, images, drawn = self.results(variables, limit=limit, final=final, leave=leave)
        with phase("score"):
            metrics = self._score_all(results, images, leave)
        writer.scalars(step, {f"eval/{name}": value for name, value in flat(metrics).items()})
        if jax.process_index() == 0:
            for name in (name for name in self._tasks if images[name]):
                label = self.label(name)
                log.info(
                    "step %d, %s of %d images:\n%s",
                    step,
                    label,
                    len(images[name]),
                    table(metrics[label]),
                )
            self._write(Path(workdir), step, results, metrics, drawn)
            if drawn:
                writer.images(
                    step, {"eval/predictions": np.asarray(draw.contact_sheet(list(drawn.values())))}
                )
        return metrics

    def _write(
        self, folder: Path, step: int, results: dict, metrics: dict, drawn: dict[int, Image.Image]
    ) -> None:
        """Results, metrics and pictures into the workdir."""
        for name in self._tasks:
            # pycocotools takes results that have a box for box results.
            hidden = () if name == "detection" else ("bbox",)
            rows = [
                {key: value for key, value in row.items() if key not in hidden}
                for row in results[name]
            ]
            write_json(folder / "results" / f"{self.label(name)}.json", rows)
        sections = {name: self._config.tasks[name] for name in self._tasks}
        summary = {"step": step, "seed": self._config.seed}
        summary |= {"samplers": {name: section.sampler for name, section in sections.items()}}
        summary |= {
            "num_samples": {name: section.num_samples for name, section in sections.items()}
        }
        summary |= (
            {"boxes": self._config.eval.boxes}
            if any(name in PROMPTED for name in self._tasks)
            else {}
        )
        # Figures of annotated boxes do not replace those of the model's own.
        apart = "detection" in self._tasks and self._config.eval.boxes == GROUND_TRUTH
        suffix = f"_{GROUND_TRUTH}_boxes" if apart else ""
        write_json(folder / f"metrics{suffix}.json", coco.json_safe(summary | metrics))
        (folder / f"pictures{suffix}").mkdir(parents=True, exist_ok=True)
        for image_id, picture in drawn.items():
            picture.save(folder / f"pictures{suffix}" / f"{image_id}.png")

    def _truth(self, image_ids: list[int]) -> dict[int, dict[str, list[dict]]]:
        """The annotations of images by task."""
        found = {image_id: {name: [] for name in self.sources} for image_id in image_ids}
        for name, annotations in self.annotations.items():
            for row in annotations["annotations"]:
                if row["image_id"] in found:
                    found[row["image_id"]][name].append(row)
        for image_id in image_ids if "captioning" in self.sources else ():
            texts = self.sources["captioning"].references.get(image_id, ())
            found[image_id]["captioning"] = [{"caption": text} for text in texts]
        return found

    def _draw(
        self, image: np.ndarray, size: list[int], found: dict, truth: dict, title: str
    ) -> Image.Image:
        """What was found in a picture u8[h,w,3] beside the truth, both in pixels of `size`, that of
        the JSON."""
        boxed = [own for name, own in self.sources.items() if name != "captioning"]
        label_of = {
            category_id: label
            for label, category_id in enumerate(boxed[0].category_ids if boxed else (), 1)
        }
        if list(image.shape[:2]) != size:
            image = np.asarray(Image.fromarray(image).resize(size[::-1]))
        both = (drawable(rows, label_of, image.shape[:2]) for rows in (found, truth))
        return draw.side_by_side(
            *(image, *both, self._config.data.category_names),
            skeleton=tuple(map(tuple, self._config.data.skeleton)),
            threshold=self._config.eval.score_threshold,
            title=title,
        )


def _shared_numbers(
    metrics: dict[str, dict], label: Callable[[str], str], *, names=None
) -> dict[str, dict]:
    """The numbers of METRICS of process 0 on all processes, by label; nothing to do for one
    process.

    Raises:
        ValueError: on the others, where process 0 could not score.
    """
    names = list(metrics) if names is None else names
    if jax.process_count() == 1:
        return metrics
    keys = [(name, key) for name in names for key in METRICS[name]]
    whole = all(name in metrics for name in names)
    numbers = [float(whole), *(metrics.get(name, {}).get(key, np.nan) for name, key in keys)]
    shared = multihost_utils.broadcast_one_to_all(np.array(numbers, np.float32))
    if not shared[0] and jax.process_index():
        raise ValueError("process 0 could not score the results; its log says why")
    values = dict(zip(keys, shared[1:].tolist(), strict=True))
    return {label(name): {key: values[name, key] for key in METRICS[name]} for name in names}


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


def write_json(path: Path, content) -> None:
    """Replaces the file as a whole, so that a stop in between leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(
        json.dumps(content, indent=1 if isinstance(content, dict) else None), encoding="utf-8"
    )
    partial.replace(path)
