"""Decodes a dataset once, every image exactly once on any number of hosts, and scores it, task by task.

`--mode=eval` and the training loop use the same Evaluator. It writes `metrics.json`, `results/<task>.json` as the COCO
servers take them, and `pictures/`, prediction beside ground truth. Detection goes first: its boxes prompt masks and
keypoints. Where `config.eval.boxes` asks for the boxes of the annotations instead, the names of the metrics say so, and
those of a model that has boxes of its own go into `metrics_ground_truth_boxes.json`.
"""

import functools
import json
from pathlib import Path

import jax
import ml_collections
import numpy as np
from PIL import Image

from pix2seq_jax import checks, experiment, inference, inputs, ranges
from pix2seq_jax.data import pipeline
from pix2seq_jax.data.images import decode_image
from pix2seq_jax.data.text import Text
from pix2seq_jax.evaluators import captions, coco, draw
from pix2seq_jax.experiment import GROUND_TRUTH, PROMPTED, label
from pix2seq_jax.inference import Boxes
from pix2seq_jax.pictures import drawable
from pix2seq_jax.telemetry import MetricWriter, log, phase, setup_logging

# What a task is judged by; the best checkpoint is chosen by that of the first task.
MAIN_METRICS = {"detection": "AP", "segmentation": "AP", "keypoints": "AP", "captioning": "CIDEr-D"}
_BOX_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
METRICS = {  # the numbers of each task
    "detection": _BOX_METRICS,
    "segmentation": _BOX_METRICS,
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
    "captioning": ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr-D", "ROUGE-L"),
}


def boxes_of_annotations(annotations: dict, image_ids, category_ids, *, with_keypoints: bool = False) -> Boxes:
    """The boxes of a COCO dictionary for these images, crowds aside, all with score 1.

    Args:
        annotations: COCO dictionary.
        image_ids: images, in this order.
        category_ids: category id of label l at l - 1.
        with_keypoints: only objects with a keypoint that is labelled.
    """
    rows = {image_id: [] for image_id in image_ids}
    for one in annotations["annotations"]:
        if one["image_id"] in rows and not one["iscrowd"] and (one.get("num_keypoints") or not with_keypoints):
            rows[one["image_id"]].append((one["bbox"], category_ids.index(one["category_id"]) + 1, 1.0))
    return _padded(rows)


def boxes_of_results(path: str | Path, image_ids, category_ids) -> Boxes:
    """The boxes of a COCO results file for these images and categories; the log says how many are of others.

    Raises:
        ValueError: the file is missing or no results file.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        rows, others = {image_id: [] for image_id in image_ids}, 0
        for result in results:
            if result["image_id"] in rows and result["category_id"] in category_ids:
                label = category_ids.index(result["category_id"]) + 1
                rows[result["image_id"]].append((result["bbox"], label, result["score"]))
            else:
                others += 1
        if results and others == len(results):
            raise ValueError(f"none of its {others} boxes is of these images and categories")
        if without := sum(not row for row in rows.values()):
            log.warning(
                "%s has no box of %d of the %d images: they count as images without objects", path, without, len(rows)
            )
        if others:
            log.info("%s: %d of %d boxes are of other images or categories, left out", path, others, len(results))
        return _padded(rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"config.eval.boxes={str(path)!r} cannot be used ({type(error).__name__}: {error}); give 'predicted', "
            f"{GROUND_TRUTH!r}, or the results/detection.json of an evaluation on the same data"
        ) from error


def _padded(rows: dict[int, list[tuple]]) -> Boxes:
    """Boxes of (x, y, width, height; label; score) by image."""
    slots = max((len(row) for row in rows.values()), default=0) or 1
    shape = (len(rows), slots)
    boxes, labels, scores = np.zeros((*shape, 4), np.float32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for i, row in enumerate(rows.values()):
        for j, ((x, y, width, height), labels[i, j], scores[i, j]) in enumerate(row):
            boxes[i, j] = y, x, y + height, x + width
    return Boxes(np.array(list(rows), np.int64), boxes, labels, scores)


def best_metric(config: ml_collections.ConfigDict) -> str:
    """The metric that the best checkpoint is chosen by: config.train.best_metric, or that of the first task.

    Raises:
        ValueError: config.train.best_metric is nothing that an evaluation of this config measures.
    """
    chosen, names = config.train.best_metric, experiment.task_names(config)
    known = [f"{label(config, name)}/{metric}" for name in names for metric in METRICS[name]]
    if chosen and chosen not in known:
        raise ValueError(f"config.train.best_metric={chosen!r} is not measured; give one of {known}")
    return chosen or f"{label(config, names[0])}/{MAIN_METRICS[names[0]]}"


def same_images(one, other) -> None:
    """Raises ValueError where an image id of one source means another file in the other source."""
    files = dict(zip(one.image_ids.tolist(), one.files, strict=True))
    for image_id, file in zip(other.image_ids.tolist(), other.files, strict=True):
        if files.get(image_id, file) != file:
            raise ValueError(
                f"image id {image_id} is {files[image_id]} in {one.annotations_path} and {file} in "
                f"{other.annotations_path}: boxes of one would prompt the other; number the images alike"
            )


class Evaluator:
    """Scores a model on the validation data of a config; compiles once, can be called at many steps."""

    def __init__(
        self, config: ml_collections.ConfigDict, model, tasks: dict, mesh: jax.sharding.Mesh, text: Text | None = None
    ) -> None:
        inputs.check_paths(config, "val")
        self.sources = inputs.open_sources(config, "val", text)
        for name, source in self.sources.items():
            pipeline.check_ops(config.tasks[name].eval_ops)
            if name != "captioning":
                experiment.check_classes(source.category_names, config, where=str(source.annotations_path))
        if "keypoints" in tasks:
            source, number = self.sources["keypoints"], tasks["keypoints"].num_keypoints
            experiment.check_keypoints(source.keypoint_names, config, number, where=str(source.annotations_path))
        if "segmentation" in tasks and not 0 < (share := config.tasks.segmentation.mask_threshold) <= 1:
            raise ValueError(f"config.tasks.segmentation.mask_threshold={share}: give a share above 0 and at most 1")
        self._config, self._tasks, self._text = config, tuple(tasks), text
        self._given = {}  # boxes of a file
        if config.eval.boxes not in ("predicted", GROUND_TRUTH):
            for name in (name for name in PROMPTED if name in tasks):
                source = self.sources[name]
                given = config.eval.boxes, source.image_ids.tolist(), list(source.category_ids)
                self._given[name] = boxes_of_results(*given)
        elif config.eval.boxes == "predicted" and "detection" in tasks and "keypoints" in tasks:
            same_images(self.sources["detection"], self.sources["keypoints"])
        self._runner = inference.Runner(config, model, tasks, mesh)
        if config.eval.boxes == "predicted" and "detection" not in tasks and any(t in tasks for t in PROMPTED):
            raise ValueError(
                f"config.eval.boxes='predicted' but the tasks are {sorted(tasks)}: without detection there are no "
                f"predicted boxes; give {GROUND_TRUTH!r} or the path of a results/detection.json"
            )

    def describe(self) -> str:
        """What was repaired or dropped in the validation data; "" for nothing."""
        return inputs.describe(self.sources)

    @functools.cached_property
    def annotations(self) -> dict[str, dict]:
        """COCO dictionaries of the tasks that have boxes."""
        return {name: source.coco_dict() for name, source in self.sources.items() if name != "captioning"}

    def label(self, name: str) -> str:
        """See `label`."""
        return label(self._config, name)

    def _prompts(self, name: str, predicted: Boxes | None, limit: int) -> Boxes:
        """The boxes that a task is asked about: all of the annotations, or the best ones of each image."""
        source, chosen = self.sources[name], self._config.eval.boxes
        category_ids = list(source.category_ids)
        labels = [category_ids.index(i) + 1 for i in source.keypoint_categories] if name == "keypoints" else None
        if chosen == "predicted":
            kept = predicted.of_images(source.image_ids)
            if missing := min(limit or len(source), len(source)) - len(kept.image_ids):
                log.warning("%s: %d images are not among those that detection looked at, left out", name, missing)
            return self._runner.choose(name, kept, labels)
        image_ids = source.image_ids.tolist()[: limit or None]
        if chosen == GROUND_TRUTH:
            with_keypoints = name == "keypoints"
            return boxes_of_annotations(self.annotations[name], image_ids, category_ids, with_keypoints=with_keypoints)
        return self._runner.choose(name, self._given[name].of_images(image_ids), labels)

    def results(self, variables, *, limit: int = 0) -> tuple[dict[str, list[dict]], dict[str, list[int]]]:
        """(COCO results by task, ids of the images they are of), of the first `limit` images (0: all)."""
        found, images, predicted = {}, {}, None
        for name in self._tasks:
            source = self.sources[name]
            with phase(f"decode {self.label(name)}"):
                if name == "detection":
                    predicted = self._runner.detect(variables, source, limit=limit)
                    # The annotations may have fewer classes than an imported model; the others cannot be scored.
                    listed = {category["id"] for category in self.annotations[name]["categories"]}
                    scored = [label for label, i in enumerate(source.category_ids, 1) if i in listed]
                    known = np.isin(predicted.labels, scored)
                    predicted = predicted._replace(labels=np.where(known, predicted.labels, 0))
                    found[name] = coco.results(*predicted, source.category_ids)
                    images[name] = predicted.image_ids.tolist()
                elif name == "captioning":
                    found[name] = self._runner.caption(variables, source, self._text, limit=limit)
                    images[name] = [result["image_id"] for result in found[name]]
                else:
                    prompts = self._prompts(name, predicted, limit)
                    images[name] = prompts.image_ids.tolist()
                    decode = self._runner.segment if name == "segmentation" else self._runner.pose
                    found[name] = decode(variables, source, prompts, source.category_ids)
        return found, images

    def _score(self, name: str, results: list[dict], images: list[int]) -> dict:
        source = self.sources[name]
        if name == "captioning":
            references = {image_id: source.references[image_id] for image_id in images}
            return captions.score(references, {result["image_id"]: result["caption"] for result in results})
        if name == "detection":
            return coco.evaluate_boxes(self.annotations[name], results, image_ids=images)
        if name == "segmentation":
            return coco.evaluate(self.annotations[name], results, "segm", image_ids=images)
        sigmas = experiment.keypoint_sigmas(source.keypoint_names, tuple(self._config.tasks.keypoints.sigmas))
        return coco.evaluate(self.annotations[name], results, "keypoints", image_ids=images, sigmas=sigmas)

    def report(self, variables, *, step: int, workdir: str | Path, writer: MetricWriter, limit: int = 0) -> dict:
        """Evaluates, logs, and writes metrics.json, results/ and pictures/; returns the metrics by task."""
        log.info("evaluate step %d", step)
        results, images = self.results(variables, limit=limit)
        with phase("score"):
            scored = [name for name in self._tasks if images[name]]
            metrics = {self.label(name): self._score(name, results[name], images[name]) for name in scored}
        writer.scalars(step, {f"eval/{name}": value for name, value in flat(metrics).items()})
        for name in scored:
            label = self.label(name)
            log.info("step %d, %s of %d images:\n%s", step, label, len(images[name]), table(metrics[label]))
        if jax.process_index() == 0:
            folder = Path(workdir)
            for name in self._tasks:
                # pycocotools takes results that have a box for box results.
                hidden = () if name == "detection" else ("bbox",)
                rows = [{key: value for key, value in row.items() if key not in hidden} for row in results[name]]
                write_json(folder / "results" / f"{self.label(name)}.json", rows)
            sections = {name: self._config.tasks[name] for name in self._tasks}
            summary = {"step": step, "seed": self._config.seed}
            summary |= {"samplers": {name: section.sampler for name, section in sections.items()}}
            summary |= {"num_samples": {name: section.num_samples for name, section in sections.items()}}
            summary |= {"boxes": self._config.eval.boxes} if any(name in PROMPTED for name in self._tasks) else {}
            # Figures of annotated boxes do not replace those of the model's own.
            apart = "detection" in self._tasks and self._config.eval.boxes == GROUND_TRUTH
            suffix = f"_{GROUND_TRUTH}_boxes" if apart else ""
            write_json(folder / f"metrics{suffix}.json", coco.json_safe(summary | metrics))
            sheet = self._draw(results, images, folder / f"pictures{suffix}")
            if sheet is not None:
                writer.images(step, {"eval/predictions": np.asarray(sheet)})
        return metrics

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

    def _draw(self, results: dict, images: dict, folder: Path) -> Image.Image | None:
        """Saves prediction beside ground truth of the first images, and gives them on one sheet."""
        folder.mkdir(parents=True, exist_ok=True)
        source = next(iter(self.sources.values()))
        index = {image_id: number for number, image_id in enumerate(source.image_ids.tolist())}
        boxed = [own for name, own in self.sources.items() if name != "captioning"]
        label_of = {category_id: label for label, category_id in enumerate(boxed[0].category_ids if boxed else (), 1)}
        chosen = next(iter(images.values()))[: self._config.eval.pictures]
        found = {image_id: {name: [] for name in results} for image_id in chosen}
        for name, rows in results.items():
            for row in rows:
                if row["image_id"] in found:
                    found[row["image_id"]][name].append(row)
        truth, pictures = self._truth(chosen), []
        for image_id in chosen:
            raw = source[index[image_id]]
            image = decode_image(raw["image"], raw["file"], tuple(raw["orig_size"]))
            if image.shape[:2] != tuple(raw["orig_size"]):  # results are in pixels of the size in the JSON
                image = np.asarray(Image.fromarray(image).resize(raw["orig_size"][::-1].tolist()))
            both = (drawable(rows, label_of, image.shape[:2]) for rows in (found[image_id], truth[image_id]))
            pictures.append(
                draw.side_by_side(
                    *(image, *both, self._config.data.category_names),
                    skeleton=tuple(map(tuple, self._config.data.skeleton)),
                    threshold=self._config.eval.score_threshold,
                    title=Path(raw["file"]).name,
                )
            )
            pictures[-1].save(folder / f"{image_id}.png")
        return draw.contact_sheet(pictures) if pictures else None


def table(metrics: dict) -> str:
    """The metrics of a task as text: a row per class where there are classes."""
    return coco.table(metrics) if "per_class" in metrics else "  ".join(f"{k} {v:.3f}" for k, v in metrics.items())


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
    partial.write_text(json.dumps(content, indent=1 if isinstance(content, dict) else None), encoding="utf-8")
    partial.replace(path)


def run(config: ml_collections.ConfigDict, workdir: str | Path) -> dict:
    """Evaluates the newest whole checkpoint of a workdir, on the data and settings of `config`; returns the metrics.

    Model, vocabulary and classes are those of the workdir's config.json; data and evaluation settings are the given
    ones.

    Raises:
        ValueError: no run or no whole checkpoint in the workdir, or a config of another model.
    """
    setup_logging()
    ranges.check(config)
    config = experiment.adopt(experiment.load_config(workdir), config)
    mesh = checks.check(config, workdir, training=False)
    tasks, model = experiment.make_tasks(config), experiment.make_model(config)
    with jax.set_mesh(mesh):
        with phase("open the data"):
            evaluator = Evaluator(config, model, tasks, mesh, inputs.load_text(config, workdir))
        if evaluator.describe():
            log.warning("data: %s", evaluator.describe())
        with phase("restore"):
            step, variables = experiment.load_variables(workdir, config, model, mesh, step=config.eval.step)
        writer = MetricWriter(workdir, active=jax.process_index() == 0)
        try:
            return evaluator.report(variables, step=step, workdir=workdir, writer=writer, limit=config.eval.images)
        finally:
            writer.close()
