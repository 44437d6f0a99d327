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
from pix2seq_jax.evaluation.asks import Ask
from pix2seq_jax.evaluation.boxes import Boxes
from pix2seq_jax.evaluation.chunks import Pictures
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
        masks: bool[N,H,W], all False for an object without one; None if the model finds no masks.
        keypoints: f32[N,J,2], yx; None if the model finds no keypoints.
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
    ) -> None:
        """Builds the graphs of the preprocessing.

        Args:
            config: resolved; what it says of evaluation is used.
            variables: of the model, on the mesh.
            mesh: of the devices.
            text: makes words of the pieces of captions (data.text.Text).
            step: that the weights are of.

        Raises:
            ValueError: preprocessing or samplers that cannot be; or no task of the model can look
                at an image without boxes.
        """
        self.config, self.step = config, step
        self._variables, self._mesh, self._text = variables, mesh, text
        self._host_tasks = make_host_tasks(config)
        self._names = tuple(config.data.category_names)
        if all(host_task.needs_boxes for host_task in self._host_tasks.values()):
            raise ValueError(
                f"{' and '.join(self._host_tasks)} alone cannot predict: boxes are needed, so "
                "detection is"
            )
        tasks, model = resolve.make_tasks(config), resolve.make_model(config)
        self._runner = Runner(config, model, tasks, mesh)

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
    ) -> Iterator[tuple[int, np.ndarray, dict]]:
        """(number of the image, pixels u8[H,W,3], what `marks` gives), one image after the other.

        Memory does not grow with the number of images. `broken` is told of files that cannot be
        decoded; it may raise. `alone` as in `__call__`.
        """
        pictures = _pictures(files, broken, alone=alone)
        asks = self._asks(len(files), tasks, threshold)
        label_of = {label: label for label in range(1, len(self._names) + 1)}
        with jax.set_mesh(self._mesh):
            parts = self._runner.run(self._variables, pictures, asks, text=self._text)
            for part in parts:
                for number in part.places:
                    pixels, rows = part.pixels(number), rows_of(part.results, number)
                    yield number, pixels, marks(rows, self._host_tasks, label_of, pixels.shape[:2])

    def compile(self, count: int) -> None:
        """Compiles all that predicting for `count` images at a time needs, whatever is found."""
        blank = [np.full((64, 64, 3), 128, np.uint8)] * count
        pictures, asks = _pictures(blank, _refuse), self._asks(count, None, 0.0)
        box = np.tile(np.float32([[[8, 8, 56, 56]]]), (count, 1, 1))
        for name, ask in asks.items():
            if self._host_tasks[name].needs_boxes:
                label = next(iter(ask.labels or [1]))
                labels, scores = np.full((count, 1), label, np.int32), np.ones((count, 1))
                prompts = Boxes(np.arange(count), box, labels, scores.astype(np.float32))
                asks[name] = dataclasses.replace(ask, boxes=prompts)
        with jax.set_mesh(self._mesh):
            for _ in self._runner.run(self._variables, pictures, asks, text=self._text):
                pass

    def prediction(self, objects: dict, threshold: float) -> Prediction:
        """What `stream` gives of an image as a Prediction, without objects that score less than the
        threshold."""
        scores = np.asarray(objects["scores"], np.float32)
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= threshold]
        labels = np.asarray(objects["labels"], np.int32)[order]
        fields = {
            name: np.asarray(objects[name])[order]
            for name in ("masks", "keypoints", "visible")
            if name in objects
        }
        return Prediction(
            boxes=np.asarray(objects["boxes"], np.float32)[order],
            labels=labels,
            names=tuple(self._names[label - 1] for label in labels.tolist()),
            scores=scores[order],
            texts=tuple(objects.get("captions", ())),
            **fields,
        )

    def picture(self, pixels: np.ndarray, objects: dict, threshold: float) -> Image.Image:
        """What `stream` gives of an image, drawn on it."""
        picture = draw.draw_objects(
            pixels,
            {name: value for name, value in objects.items() if name != "captions"},
            self._names,
            skeleton=tuple(map(tuple, self.config.data.skeleton)),
            threshold=threshold,
        )
        return draw.captioned(picture, objects.get("captions", ()))

    def _asks(self, count: int, tasks: Sequence[str] | None, threshold: float) -> dict[str, Ask]:
        """What the tasks are asked about `count` images; category ids are labels."""
        every, labels = np.arange(count), range(1, len(self._names) + 1)
        wanted = list(self._host_tasks) if tasks is None else list(tasks)
        if others := sorted(set(wanted) - set(self._host_tasks)):
            raise ValueError(f"tasks={tasks}: the model has {list(self._host_tasks)}, no {others}")
        prompted = any(self._host_tasks[name].needs_boxes for name in wanted)
        finds_boxes = any(one.finds_boxes for one in self._host_tasks.values())
        asks = {}
        for name, host_task in self._host_tasks.items():
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


def _pictures(files: Sequence, broken: Callable, *, alone: bool = False) -> Pictures:
    """The images numbered from 0; `alone` as in `Predictor.__call__`."""
    count = len(files)
    draw_ids = np.zeros(count, np.int64) if alone else None
    sizes = np.zeros((count, 2), np.int32)
    return Pictures(np.arange(count), files, sizes, broken, draw_ids=draw_ids)


def _refuse(file: str, size: tuple[int, int], error: ValueError) -> None:
    del file, size
    raise error


def load(
    workdir: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    step: int = 0,
    batch_size: int = BATCH_SIZE,
    text_model_path: str = "",
) -> Predictor:
    """The model of a workdir, trained or imported, ready to predict.

    Args:
        workdir: of a run.
        tasks: only these of its tasks; None for all.
        step: of the checkpoint; 0: the newest whole one.
        batch_size: images at a time.
        text_model_path: SentencePiece model, for an imported model with captions.

    Raises:
        ValueError: no run or no whole checkpoint there, a task that the model does not have, or no
            text model where one is needed.
    """
    config = ml_collections.ConfigDict(saved_run.load_config(workdir).to_dict())
    if tasks is not None:
        config = resolve.select_tasks(config, tasks)
    config.eval.batch_size = batch_size
    config.data.text_model = text_model_path or config.data.text_model
    text, mesh = text_model.load_text(config, workdir), sharding.make_mesh()
    model = resolve.make_model(config)
    with jax.set_mesh(mesh):
        step, variables = saved_run.load_variables(workdir, config, model, mesh, step=step)
    return Predictor(config, variables, mesh, text=text, step=step)
