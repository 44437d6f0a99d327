"""A trained model as a function of images: what prediction, and whoever serves a model, calls."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image

from pix2seq_jax.data.images import pixels_of
from pix2seq_jax.evaluation import make_host_tasks
from pix2seq_jax.evaluation.asks import Ask, Part
from pix2seq_jax.evaluation.boxes import Boxes
from pix2seq_jax.evaluation.chunks import Pictures
from pix2seq_jax.evaluation.classes import labels_of
from pix2seq_jax.evaluation.inference import Runner
from pix2seq_jax.evaluation.marks import marks, rows_of
from pix2seq_jax.evaluation.metrics import masks
from pix2seq_jax.evaluation.pictures import draw
from pix2seq_jax.experiment import resolve, saved_run, text_model
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.training import sharding

BATCH_SIZE = 8  # images at a time


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one image, the best-scored object first; N objects.

    All coordinates are in pixels of the image as viewers show it (EXIF orientation applied).

    Attributes:
        boxes: f32[N,4], yxyx.
        labels: i32[N], 1-based.
        names: N class names.
        scores: f32[N].
        masks: bool[N,H,W], all False for an object without one; None if no masks were asked for.
        keypoints: f64[N,J,2], yx; None if no keypoints were asked for.
        visible: bool[N,J], whether a keypoint counts; None as `keypoints`.
        texts: captions, and what other tasks have to say in words.
    """

    boxes: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    scores: np.ndarray
    masks: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    visible: np.ndarray | None = None
    texts: tuple[str, ...] = field(default=())

    @property
    def caption(self) -> str | None:
        """The first text; None if the model writes none."""
        return self.texts[0] if self.texts else None

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold: `objects`, and `caption` where there is one.

        An object has `box` [ymin, xmin, ymax, xmax] in pixels, `category`, `score`, and where the
        model finds them `mask` (compressed RLE) and `keypoints` [[y, x], ...] in pixels.
        """
        objects = []
        for i, name in enumerate(self.names):
            row = {
                "box": [round(float(edge), 2) for edge in self.boxes[i]],
                "category": name,
                "score": round(float(self.scores[i]), 6),
            }
            if self.masks is not None and self.masks[i].any():
                row["mask"] = masks.to_rle(self.masks[i])
            if self.keypoints is not None and self.visible[i].any():
                row["keypoints"] = np.round(self.keypoints[i], 2).tolist()
            objects.append(row)
        return {"objects": objects} | ({"caption": self.caption} if self.texts else {})

    def to_supervision(self):
        """As `supervision.Detections`, of the package supervision, which draws, tracks and counts.

        `xyxy` f32[N,4] in pixels, `confidence`, `class_id` (labels from 0), `mask` bool[N,H,W]
        where the model finds masks, and in `data` the `class_name` of each object. Keypoints and
        captions are not part of it.

        Raises:
            ValueError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ValueError(
                f"Prediction.to_supervision() needs the package supervision ({error}): pip install "
                "'pix2seq_jax[supervision]'"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes[:, [1, 0, 3, 2]].reshape(-1, 4),
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels.astype(np.int64) - 1,
            data={"class_name": np.array(self.names, str)},
        )


class Predictor:
    """A model with its weights, on the devices of this process; compiles once.

    `predictor(images)` gives one Prediction for each image.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        variables: Mapping,
        mesh: jax.sharding.Mesh,
        *,
        text=None,
        step: int = 0,
        classes: Sequence[str] | str = (),
    ) -> None:
        """Builds the graphs of the preprocessing.

        Args:
            config: resolved; what it says of evaluation is used.
            variables: of the model, on the mesh.
            mesh: of the devices.
            text: makes words of the pieces of captions (data.text.Text).
            step: that the weights are of.
            classes: names of those that may be found, see `classes.labels_of`; () for all.

        Raises:
            ValueError: preprocessing or samplers that cannot be; no task of the model can look at
                an image without boxes; or it has no such class.
        """
        self.config, self.step = config, step
        self.variables, self.mesh, self.text = variables, mesh, text
        self.host_tasks = make_host_tasks(config)
        self.names = tuple(config.data.category_names)
        if all(host_task.needs_boxes for host_task in self.host_tasks.values()):
            raise ValueError(
                f"{' and '.join(self.host_tasks)} alone cannot predict: boxes are needed, so "
                "detection is"
            )
        tasks, model = resolve.make_tasks(config), resolve.make_model(config)
        self._runner = Runner(config, model, tasks, mesh, labels=labels_of(classes, self.names))

    def __call__(
        self,
        images: Any,
        tasks: Sequence[str] | None = None,
        *,
        threshold: float = 0.3,
        alone: bool = False,
    ) -> list[Prediction]:
        """Predicts for images. What is drawn for an image depends on its position among them, and
        on nothing else of the others.

        Args:
            images: a list of images, or a single one: the path of a file, pixels u8[H,W,3] or
                u8[H,W], or a PIL image.
            tasks: only these of the model's tasks; None for all.
            threshold: objects that score less are left out.
            alone: draw for each image as if it were the only one.

        Raises:
            ValueError: an image cannot be decoded, pixels are of another type or shape, or the
                model has no such task.
        """
        if isinstance(images, str | Path | Image.Image | np.ndarray):
            images = [images]
        files = [str(one) if isinstance(one, str | Path) else pixels_of(one) for one in images]
        streamed = self.stream(files, tasks, threshold=threshold, broken=_refuse, alone=alone)
        return [self.prediction(objects, threshold) for _, _, objects in streamed]

    def stream(
        self,
        files: Sequence[str | np.ndarray],
        tasks: Sequence[str] | None = None,
        *,
        threshold: float,
        broken: Callable[[str, tuple[int, int], ValueError], None],
        alone: bool = False,
        first: int = 0,
    ) -> Iterator[tuple[int, np.ndarray, dict]]:
        """(number of the image, pixels u8[H,W,3], what `marks` gives), one image after the other.

        Memory does not grow with the number of images. `broken` is told of files that cannot be
        decoded; it may raise. `alone` as in `__call__`. `first` is the number that random draws
        count from: that of the first image among those of several calls.
        """
        count = len(files)
        pictures = _pictures(files, broken, alone=alone, first=first)
        asks = self._asks(count, tasks, threshold)
        label_of = {label: label for label in range(1, len(self.names) + 1)}
        parts = self._runner.run(self.variables, pictures, asks, text=self.text)
        for part in self._on_mesh(parts):
            for number in part.places:
                pixels, rows = part.pixels(number), rows_of(part.results, first + number)
                objects = marks(rows, self.host_tasks, label_of, pixels.shape[:2])
                yield number, pixels, self._blank(asks, objects, pixels.shape[:2]) | objects

    def _on_mesh(self, parts: Iterator[Part]) -> Iterator[Part]:
        """The parts, computed on the mesh; the caller's code between two of them is not on it."""
        while True:
            with jax.set_mesh(self.mesh):
                part = next(parts, None)
            if part is None:
                return
            yield part

    def compile(self, count: int) -> None:
        """Compiles all that predicting for `count` images at a time needs, whatever is found."""
        blank = [np.full((64, 64, 3), 128, np.uint8)] * count
        pictures, asks = _pictures(blank, _refuse), self._asks(count, None, 0.0)
        for boxes in self._runner.box_counts(asks):
            for name, ask in asks.items():
                if self.host_tasks[name].needs_boxes:
                    asks[name] = dataclasses.replace(ask, boxes=_same_boxes(count, boxes, ask))
            with jax.set_mesh(self.mesh):
                for _ in self._runner.run(self.variables, pictures, asks, text=self.text):
                    pass

    def prediction(self, objects: dict, threshold: float) -> Prediction:
        """What `stream` gives of an image as a Prediction, without objects that score less than the
        threshold."""
        scores = np.asarray(objects["scores"], np.float32)
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= threshold]
        labels = np.asarray(objects["labels"], np.int32)[order]
        fields = {
            name: _at(objects[name], order)
            for name in ("masks", "keypoints", "visible")
            if name in objects
        }
        return Prediction(
            boxes=np.asarray(objects["boxes"], np.float32)[order],
            labels=labels,
            names=tuple(self.names[label - 1] for label in labels.tolist()),
            scores=scores[order],
            texts=tuple(objects.get("captions", ())),
            **fields,
        )

    def picture(
        self,
        pixels: np.ndarray,
        objects: dict,
        threshold: float,
        sides: tuple[int, int] = draw.SIDES,
    ) -> Image.Image:
        """What `stream` gives of an image, drawn on it; `sides` are the smallest and the largest
        longer side of the picture, in pixels."""
        picture = draw.draw_objects(
            pixels,
            {name: value for name, value in objects.items() if name != "captions"},
            self.names,
            skeleton=tuple(map(tuple, self.config.data.skeleton)),
            threshold=threshold,
            sides=sides,
        )
        return draw.captioned(picture, objects.get("captions", ()))

    def _blank(self, asks: Mapping[str, Ask], objects: dict, size: tuple[int, int]) -> dict:
        """The fields of the tasks that are asked, for objects about which they say nothing."""
        fields, count = {}, len(objects["labels"])
        for name in asks:
            fields |= self.host_tasks[name].blank(self.config.tasks[name], count, size)
        return fields

    def _asks(self, count: int, tasks: Sequence[str] | None, threshold: float) -> dict[str, Ask]:
        """What the tasks are asked about `count` images; category ids are labels."""
        every, labels = np.arange(count), range(1, len(self.names) + 1)
        wanted = list(self.host_tasks) if tasks is None else list(tasks)
        if others := sorted(set(wanted) - set(self.host_tasks)):
            raise ValueError(f"tasks={tasks}: the model has {list(self.host_tasks)}, no {others}")
        prompted = any(self.host_tasks[name].needs_boxes for name in wanted)
        finds_boxes = any(one.finds_boxes for one in self.host_tasks.values())
        asks = {}
        for name, host_task in self.host_tasks.items():
            if not host_task.needs_boxes:
                if name in wanted or (prompted and host_task.finds_boxes):
                    asks[name] = Ask(every, labels)
            elif not finds_boxes:
                log.warning("no %s: it needs boxes, and this model is not asked for any", name)
            elif name in wanted:
                prompting = host_task.prompting(
                    self.config.data, list(self.config.data.category_ids)
                )
                most = host_task.most_objects(final=True)
                asks[name] = Ask(every, labels, labels=prompting, objects=most, threshold=threshold)
        return asks


def _at(values: Sequence, places: np.ndarray) -> np.ndarray:
    """The values at these places, without an array of all of them: masks are as large as the
    image."""
    if not len(places):
        return np.asarray(values[:1])[:0]
    return np.asarray([values[place] for place in places.tolist()])


def _same_boxes(count: int, boxes: int, ask: Ask) -> Boxes:
    """So many boxes in each of `count` images, of a class that is asked for."""
    places = np.tile(np.float32([8, 8, 56, 56]), (count, boxes, 1))
    labels = np.full((count, boxes), next(iter(ask.labels or [1])), np.int32)
    return Boxes(np.arange(count), places, labels, np.ones((count, boxes), np.float32))


def _pictures(
    files: Sequence, broken: Callable, *, alone: bool = False, first: int = 0
) -> Pictures:
    """The images numbered from `first`; `alone` as in `Predictor.__call__`."""
    count = len(files)
    draw_ids = np.zeros(count, np.int64) if alone else None
    sizes = np.zeros((count, 2), np.int32)
    return Pictures(first + np.arange(count), files, sizes, broken, draw_ids=draw_ids)


def _refuse(file: str, size: tuple[int, int], error: ValueError) -> None:
    del file, size
    raise error


def load(
    workdir: str | Path,
    *,
    tasks: Sequence[str] | str | None = None,
    step: int = 0,
    batch_size: int = BATCH_SIZE,
    text_model_path: str = "",
    classes: Sequence[str] | str = (),
    kernel_dtype: str = "",
    cache_dtype: str = "",
) -> Predictor:
    """The model of a workdir, trained or imported, ready to predict.

    Args:
        workdir: of a run.
        tasks: only these of its tasks, or a text that joins them by + or commas; None for all.
        step: of the checkpoint; 0: the newest whole one.
        batch_size: images at a time.
        text_model_path: SentencePiece model, for an imported model with captions.
        classes: names of those that may be found, decoding writes no other, or a text that joins
            them by commas; () for all.
        kernel_dtype, cache_dtype: 'int8' for the decoder's kernels, and for keys and values that
            tokens look at, in int8, see models.pix2seq; '': as trained.

    Raises:
        ValueError: no run or no whole checkpoint there, a task or class that the model does not
            have, or no text model where one is needed.
    """
    config = ml_collections.ConfigDict(saved_run.load_config(workdir).to_dict())
    if tasks is not None:
        config = resolve.select_tasks(config, tasks)
    config.eval.batch_size = batch_size
    text_model.take_flag(config, text_model_path, workdir)
    config.model.kernel_dtype = kernel_dtype or config.model.kernel_dtype
    config.model.cache_dtype = cache_dtype or config.model.cache_dtype
    labels_of(classes, tuple(config.data.category_names))  # before anything large is read
    text, mesh = text_model.load_text(config, workdir), sharding.make_mesh()
    model = resolve.make_model(config)
    with jax.set_mesh(mesh):
        step, variables = saved_run.load_variables(workdir, config, model, mesh, step=step)
    return Predictor(config, variables, mesh, text=text, step=step, classes=classes)
