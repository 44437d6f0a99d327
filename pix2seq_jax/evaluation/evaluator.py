"""Decodes a dataset once, every image exactly once on any number of hosts, and scores it, task by
task.

`--mode=eval` and the training loop use the same Evaluator. It writes `metrics.json`,
`results/<task>.json` as the COCO servers take them, `pictures/`, prediction beside ground truth,
and `report.html`. Detection goes first: its boxes prompt masks and keypoints. Where
`config.eval.boxes` asks for the boxes of the annotations instead, the names of the metrics say so,
and those of a model that has boxes of its own go into `metrics_ground_truth_boxes.json`.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from pix2seq_jax.data.text import Text
from pix2seq_jax.evaluation import HOST_TASKS, inference, make_host_tasks
from pix2seq_jax.evaluation.asks import Ask
from pix2seq_jax.evaluation.boxes import boxes_of_annotations, boxes_of_results, same_images
from pix2seq_jax.evaluation.chunks import Pictures
from pix2seq_jax.evaluation.pages import build as pages
from pix2seq_jax.evaluation.report import Album, Evaluation, flat, table, write
from pix2seq_jax.experiment import inputs
from pix2seq_jax.experiment.logs import MetricWriter, log, phase
from pix2seq_jax.experiment.resolve import GROUND_TRUTH, PREDICTED, label
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.tasks import Task

EMPTY = 77  # of 255, about the 0.3 that images are padded with


class Evaluator:
    """Scores a model on the validation data of a config; compiles once, can be called at many
    steps."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        model,
        tasks: Mapping[str, Task],
        mesh: jax.sharding.Mesh,
        text: Text | None = None,
        *,
        cache: inputs.InputCache | None = None,
    ) -> None:
        """Opens the validation data; `cache` as in inputs.open_sources.

        Raises:
            ValueError: data, preprocessing, samplers or boxes that cannot be used.
        """
        inputs.check_paths(config, "val")
        self.sources = inputs.open_sources(config, "val", text, cache=cache)
        self._config, self._text = config, text
        self._host_tasks = make_host_tasks(config)
        self._broken: set[str] = set()  # files that cannot be decoded
        self._boxes_of_file = self._read_boxes()
        self._runner = inference.Runner(config, model, tasks, mesh)
        self._check_boxes()

    def describe(self) -> str:
        """What was repaired or dropped in the validation data; "" for nothing."""
        return inputs.describe(self.sources)

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
        """Evaluates, logs, and writes metrics.json, results/, pictures/ and what a report is made
        of, and report.html where it is final; returns the metrics by task.

        Arguments as in `results`; `step`, `workdir` and `writer` say where it belongs.
        """
        log.info("evaluate step %d", step)
        evaluation = self.results(variables, limit=limit, final=final, leave=leave)
        with phase("score"):
            metrics = self._score_all(evaluation, leave)
        writer.scalars(step, {f"eval/{name}": value for name, value in flat(metrics).items()})
        if jax.process_index() == 0:
            for name, images in evaluation.image_ids.items():
                title = self.label(name)
                if images:
                    text = "step %d, %s of %d images:\n%s"
                    log.info(text, step, title, len(images), table(metrics[title]))
            content = write(path_of(workdir), step, self._config, evaluation, metrics)
            pages.write_inputs(path_of(workdir), self._config, evaluation.image_ids)
            if evaluation.pictures:
                writer.images(step, {"eval/predictions": evaluation.contact_sheet()})
            if final:
                self._write_page(path_of(workdir), evaluation, content, leave)
        return metrics

    def results(
        self,
        variables,
        *,
        limit: int = 0,
        final: bool = True,
        leave: Callable[[], None] = lambda: None,
    ) -> Evaluation:
        """Decodes the first `limit` images (0: all).

        Args:
            variables: of the model.
            limit: of each source.
            final: whether as many objects get a mask as COCO counts.
            leave: called now and then; may raise.
        """
        pictures, asks = self._plan(limit, final=final)
        ids = {name: pictures.image_ids[ask.places].tolist() for name, ask in asks.items()}
        results: dict[str, list[dict]] = {name: [] for name in asks}
        shown = next(iter(asks.values())).places[: self._config.eval.pictures].tolist()
        album = Album(self._config, self.sources, self.annotations, pictures, shown)
        with phase(f"decode {len(pictures)} images"):
            for part in self._runner.run(variables, pictures, asks, text=self._text, leave=leave):
                for name, rows in part.results.items():
                    results[name] += rows
                if jax.process_index() == 0:
                    album.add(part)
        return Evaluation(results, ids, album.pictures())

    def _write_page(
        self,
        workdir: PurePath,
        evaluation: Evaluation,
        metrics: Mapping[str, dict],
        leave: Callable[[], None],
    ) -> None:
        """report.html; the evaluation is written without it, and counts where it fails."""
        results, image_ids = evaluation.results, evaluation.image_ids
        alone = jax.process_count() == 1  # else `leave` waits for the others
        try:
            evaluated = pages.Evaluated(
                self._config, self.sources, self.annotations, results, image_ids, metrics
            )
            with phase("report"):
                path = pages.write(workdir, evaluated, leave if alone else lambda: None)
        except (OSError, ValueError) as error:
            text = "there is no report (%s); `python -m pix2seq_jax.report --workdir=%s` makes it"
            log.error(text, error, workdir)
        else:
            log.info("the report is %s", path)

    def label(self, name: str) -> str:
        """See `resolve.label`."""
        return label(self._config, name)

    @functools.cached_property
    def annotations(self) -> dict[str, dict]:
        """COCO dictionaries of the tasks that have boxes."""
        return {
            name: self.sources[name].coco_dict()
            for name, host_task in self._host_tasks.items()
            if host_task.has_classes
        }

    @property
    def _finder(self) -> str:
        """The task whose boxes prompt others; "" if there is none."""
        finders = [name for name, host_task in self._host_tasks.items() if host_task.finds_boxes]
        return finders[0] if finders else ""

    @property
    def _prompted(self) -> list[str]:
        """The tasks that need boxes."""
        return [name for name, host_task in self._host_tasks.items() if host_task.needs_boxes]

    def _read_boxes(self) -> dict:
        """The boxes of a results file for each task that needs some; {} without a file."""
        chosen = self._config.eval.boxes
        if chosen in (PREDICTED, GROUND_TRUTH):
            return {}
        boxes = {}
        for name in self._prompted:
            source = self.sources[name]
            image_ids, category_ids = source.image_ids.tolist(), list(source.category_ids)
            boxes[name] = boxes_of_results(chosen, image_ids, category_ids)
        return boxes

    def _check_boxes(self) -> None:
        """Raises ValueError where predicted boxes are asked for and cannot be had."""
        if self._config.eval.boxes != PREDICTED or not self._prompted:
            return
        if not self._finder:
            raise ValueError(
                f"config.eval.boxes='predicted' but the tasks are {sorted(self._host_tasks)}: "
                f"without detection there are no predicted boxes; give {GROUND_TRUTH!r} or the "
                "path of a results/detection.json"
            )
        for name in self._prompted:
            same_images(self.sources[self._finder], self.sources[name])

    def _plan(self, limit: int, *, final: bool) -> tuple[Pictures, dict[str, Ask]]:
        """The pictures that the tasks look at, each once, and which of them each task is asked
        about."""
        # A picture of one name and size is one picture, whatever file lists it.
        places: dict[tuple, int] = {}
        asks: dict[str, Ask] = {}
        for name, host_task in self._host_tasks.items():
            source = self.sources[name]
            sizes = map(tuple, source.sizes.tolist())
            keys = list(zip(source.image_ids.tolist(), source.files, sizes, strict=True))
            if host_task.needs_boxes and self._config.eval.boxes == PREDICTED:
                mine, with_boxes = set(keys), set(asks[self._finder].places.tolist())
                own = [row for key, row in places.items() if row in with_boxes and key in mine]
                if missing := min(limit or len(keys), len(keys)) - len(own):
                    text = "%s: %d images are not among those that detection looked at, left out"
                    log.warning(text, name, missing)
            else:
                own = [places.setdefault(key, len(places)) for key in keys[: limit or None]]
            asks[name] = self._ask(name, np.array(sorted(own), np.int64), limit, final=final)
        ids, files, sizes = zip(*places, strict=True)
        ids, sizes = np.array(ids, np.int64), np.array(sizes, np.int32)
        load = next(iter(self.sources.values())).load  # the images of all of them lie together
        pictures = Pictures(ids, files, sizes, self._in_place_of_broken, load)
        return pictures, asks

    def _ask(self, name: str, places: np.ndarray, limit: int, *, final: bool) -> Ask:
        """What a task is asked about the pictures at these places."""
        source, host_task = self.sources[name], self._host_tasks[name]
        if not host_task.has_classes:
            return Ask(places)
        category_ids = list(source.category_ids)
        if not host_task.needs_boxes:
            # The annotations may have fewer classes than an imported model; the others cannot be
            # scored.
            listed = {category["id"] for category in self.annotations[name]["categories"]}
            scored = [label for label, i in enumerate(category_ids, 1) if i in listed]
            return Ask(places, category_ids, labels=scored)
        if self._config.eval.boxes == GROUND_TRUTH:
            image_ids = source.image_ids.tolist()[: limit or None]
            annotations = self.annotations[name]
            boxes = boxes_of_annotations(annotations, image_ids, category_ids, host_task.prompts)
            return Ask(places, category_ids, boxes=boxes)
        labels = host_task.prompting(source, category_ids)
        objects, boxes = host_task.most_objects(final=final), self._boxes_of_file.get(name)
        return Ask(places, category_ids, labels=labels, boxes=boxes, objects=objects)

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

    def _score_all(self, evaluation: Evaluation, leave: Callable[[], None]) -> dict[str, dict]:
        """Metrics by the label of the task: all of them on process 0, the numbers on the others."""
        scored = [name for name, images in evaluation.image_ids.items() if images]
        if jax.process_index():
            return _shared_numbers({name: {} for name in scored}, self.label)
        metrics = {}
        try:
            for name in scored:
                if jax.process_count() == 1:  # else the others wait for the numbers
                    leave()
                metrics[name] = self._host_tasks[name].score(
                    self.sources[name],
                    self.annotations.get(name, {}),
                    evaluation.results[name],
                    evaluation.image_ids[name],
                )
        finally:  # of an error, too: the other processes wait
            _shared_numbers(metrics, self.label, names=scored)
        return {self.label(name): numbers for name, numbers in metrics.items()}


def _shared_numbers(
    metrics: dict[str, dict], label: Callable[[str], str], *, names=None
) -> dict[str, dict]:
    """The numbers of process 0 on all processes, by label; nothing to do for one
    process.

    Raises:
        ValueError: on the others, where process 0 could not score.
    """
    names = list(metrics) if names is None else names
    if jax.process_count() == 1:
        return metrics
    keys = [(name, key) for name in names for key in HOST_TASKS[name].metrics]
    whole = all(name in metrics for name in names)
    numbers = [float(whole), *(metrics.get(name, {}).get(key, np.nan) for name, key in keys)]
    shared = multihost_utils.broadcast_one_to_all(np.array(numbers, np.float32))
    if not shared[0] and jax.process_index():
        raise ValueError("process 0 could not score the results; its log says why")
    values = dict(zip(keys, shared[1:].tolist(), strict=True))
    return {
        label(name): {key: values[name, key] for key in HOST_TASKS[name].metrics} for name in names
    }
