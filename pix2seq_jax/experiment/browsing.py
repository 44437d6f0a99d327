"""Training samples as the model sees them: augmented images with the target sequences, decoded."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pix2seq_jax.config import ranges
from pix2seq_jax.config.fill import fill
from pix2seq_jax.data import pipeline
from pix2seq_jax.evaluation import make_host_tasks
from pix2seq_jax.evaluation.base import HostTask, Rows
from pix2seq_jax.evaluation.marks import marks
from pix2seq_jax.evaluation.pictures import draw, token_pages, token_sheets
from pix2seq_jax.evaluation.token_words import Frame, Words, axis_of, prompt_words
from pix2seq_jax.experiment import feeds, inputs, resolve, saved_run, sizing, text_model
from pix2seq_jax.experiment.logs import log, phase, setup_logging
from pix2seq_jax.files.whole import write_whole
from pix2seq_jax.tasks import Task
from pix2seq_jax.tasks.base import Sequences, images
from pix2seq_jax.tasks.mixed import PER_OBJECT, Mixed
from pix2seq_jax.vocab import FAKE, PADDING

NOISE = "noise"  # name of the class that noise boxes are drawn as
SIDES = (480, 640)  # of the pictures, in pixels


def browse(
    config: ml_collections.ConfigDict, out: str, *, count: int, step: int = 0, workdir: str = ""
) -> Path:
    """Writes index.html and a picture for each of `count` sequences of every task; returns the path
    of the page.

    Args:
        config: of a run.
        out: folder to write to.
        count: sequences of each task; those that are padding are passed over.
        step: of the first batch.
        workdir: of a run whose classes and text model count; "" for none.

    Raises:
        ValueError: config or data that do not fit, or a workdir without a run.
    """
    setup_logging()
    if count < 1:
        raise ValueError(f"--count={count}: give at least 1")
    ranges.check(config)
    if workdir:
        saved_run.load_config(workdir)
    config, folder = fill(sizing.sized(config, workdir)), Path(out)
    with phase("open the data"), tempfile.TemporaryDirectory() as nothing:
        config, text, streams = _opened(config, workdir or nothing)
    tasks, host_tasks = resolve.make_tasks(config), make_host_tasks(config)
    parts: list[token_pages.Part] = []
    for name in _weighing(config):
        drawer = _Drawer(tasks[name], host_tasks[name], config, text)
        own = drawer.sequences(_batches(config, streams, tasks, name, step), step)
        for number, (part, picture) in zip(range(count), own, strict=False):
            file = f"{name}_{number:03d}.png"
            folder.mkdir(parents=True, exist_ok=True)
            token_sheets.listed(picture, part.tokens).save(folder / file)
            plain = f"{name}_{number:03d}.jpg"
            picture.save(folder / plain, quality=90)
            parts.append(part._replace(picture=plain))
    page = folder / "index.html"
    text = config.about
    if any(token["kind"] == NOISE for part in parts for token in part.tokens):
        text = f"{text}. Grey boxes are noise."
    write_whole(page, token_pages.page("Training samples", parts, text=text))
    log.info("%d sequences: open %s", len(parts), page)
    return page


def _opened(config: ml_collections.ConfigDict, workdir: str) -> tuple[Any, Any, dict[str, list]]:
    """(resolved config, text model, streams of training data by task), as `train` opens them."""
    config = saved_run.keep_labels(config, workdir)
    inputs.check_paths(config, "train")
    inputs.log_layout(config)
    text = text_model.open_text(config, workdir)
    sources = inputs.open_sources(config, "train", text)
    config = resolve.resolve(config, sources, text)
    return config, text, inputs.open_streams(config, sources, text)


def _weighing(config: ml_collections.ConfigDict) -> list[str]:
    """The tasks that are trained, in the order in which a step takes them."""
    return [name for name in resolve.task_names(config) if name in feeds.weighing(config)]


def _batches(
    config: ml_collections.ConfigDict,
    streams: dict[str, list],
    tasks: Mapping[str, Task],
    name: str,
    step: int,
) -> Iterator[dict[str, np.ndarray]]:
    """The rows of a task in the batches of a run, from a step on."""
    data, weighing = config.train.mixing == "data", _weighing(config)
    batches = pipeline.train_dataset(
        feeds.together(config, streams) if data else streams[name],
        batch_size=feeds.batch_sizes(config)[Mixed.name if data else name],
        seed=feeds.task_seed(config.seed, Mixed.name if data else name),
        start_step=step,
        repeats=config.train.repeats,
        bad_images=inputs.bad_images(config),
        workers=config.data.workers or None,
    )
    for batch in batches:
        if data:
            rows = batch.pop("task") == weighing.index(name)
            slots = tasks[name].max_instances
            batch = {
                field: value[rows][:, :slots] if field in PER_OBJECT else value[rows]
                for field, value in batch.items()
            }
        yield batch


class _Drawer:
    """Sequences of a task as parts of a page, and pictures of them."""

    def __init__(
        self, task: Task, host_task: HostTask, config: ml_collections.ConfigDict, text: Any
    ) -> None:
        self._task, self._host_task, self._config, self._text = task, host_task, config, text
        spare = range(len(config.data.category_names) + 1, task.vocab.num_classes + 1)
        names = (*config.data.category_names, *(f"class {label}" for label in spare))
        self._words = Words(task.vocab, names, text)
        self._names = (*names, NOISE)

    def sequences(
        self, batches: Iterator[dict[str, np.ndarray]], step: int
    ) -> Iterator[tuple[token_pages.Part, Any]]:
        """(part of a page, picture) of each sequence that is not padding, endlessly."""
        index = _weighing(self._config).index(self._task.name)
        run = jax.random.fold_in(jax.random.key(self._config.seed), 1)
        encode = jax.jit(self._task.encode)
        for number, batch in enumerate(batches, step):
            # As a step of training draws what it corrupts.
            rng = jax.random.fold_in(jax.random.fold_in(run, number), index)
            arrays = {k: jnp.asarray(v) for k, v in batch.items() if v.dtype != np.int64}
            sequences = encode(arrays, jax.random.split(rng)[0])
            count = len(batch["image_id"])
            for row in range(count):
                yield from self._row(arrays, sequences, row, f"{number}.{row}", batch["image_id"])

    def _row(
        self, arrays: dict, sequences: Sequences, row: int, where: str, ids: np.ndarray
    ) -> Iterator[tuple[token_pages.Part, Any]]:
        """Those of one image."""
        one = {name: value[row : row + 1] for name, value in arrays.items()}
        own = Sequences(*(np.asarray(part[row]) for part in sequences))
        if own.targets.ndim == 1:
            own = Sequences(*(part[None] for part in own))  # [N,T]
        for n in range(len(own.targets)):
            if not (own.targets[n] != PADDING).any():
                continue
            pixels = self._pixels(one)
            objects = self._objects(one, own.targets[n], n, pixels.shape[:2])
            title = f"{self._task.name}: image {int(ids[row])}, batch.row {where}"
            prompt = prompt_words(self._words, own.prompt[n], _frame(one))
            plain = {name: value for name, value in objects.items() if name != "captions"}
            if "labels" in plain:
                plain["faint"] = np.array(plain["labels"]) == len(self._names)
            skeleton = tuple(map(tuple, self._config.data.skeleton))
            options = {"skeleton": skeleton, "sides": SIDES}
            picture = draw.draw_objects(pixels, plain, self._names, **options)
            positions = self._task.class_positions
            part = token_pages.Part(
                title,
                "",
                prompt,
                self._tokens(own, n, one),
                line=positions[3] if positions else 0,
                text=" ".join(objects.get("captions", ())),
            )
            yield part, draw.captioned(picture, objects.get("captions", ()))

    def _pixels(self, one: dict) -> np.ndarray:
        """u8[H,W,3], the padded image."""
        pixels = np.asarray(images(one)[0])
        return np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)

    def _objects(self, one: dict, targets: np.ndarray, n: int, size: tuple[int, int]) -> dict:
        """What is drawn of a target sequence i32[T], in pixels of the padded image."""
        task, whole = self._task, jnp.array([size], jnp.int32)
        framed = one | {"orig_size": whole, "unpadded_size": whole}
        framed["crop_offset"] = jnp.zeros_like(whole)
        if task.prompted:
            framed |= {name: one[name][:, n : n + 1] for name in ("boxes", "labels")}
            framed["scores"] = jnp.ones_like(framed["boxes"][..., 0])
        tokens = jnp.asarray(targets)[None, None, None]  # [B,N,K,T]
        part = task.decode(tokens, jnp.ones(tokens.shape), framed)
        part = {name: np.array(value) for name, value in part.items()}
        if task.class_positions is not None:  # a noise box is no object for the decoder
            _, _, first, every = task.class_positions
            noise = targets[first::every] == FAKE
            part["labels"][0] = np.where(noise, len(self._names), part["labels"][0])
        labels = range(1, len(self._names) + 1)
        rows = self._host_task.results(part, Rows([0], [size], labels, self._text))
        for own in rows:
            own.pop("score", None)  # it is the truth
        host_tasks = {task.name: self._host_task}
        return marks({task.name: rows}, host_tasks, {label: label for label in labels}, size)

    def _tokens(self, own: Sequences, n: int, one: dict) -> list[dict[str, Any]]:
        """The words of a target sequence up to its last token that is no padding, and one beyond;
        with `weight`, and `read`, what the decoder reads there."""
        targets, read = own.targets[n], own.inputs[n]
        length = int(np.flatnonzero(targets != PADDING)[-1]) + 2
        rows, frame = [], _frame(one)
        for position, token in enumerate(targets[:length].tolist()):
            axis = axis_of(self._task, position)
            row = {"position": position} | self._words.of(token, axis, frame)
            row["weight"] = round(float(own.weights[n, position]), 4)
            row["read"] = self._words.of(int(read[position]), axis, frame)["text"]
            rows.append(row)
        return rows


def _frame(one: dict) -> Frame:
    """Pixels of the padded image."""
    return Frame(one["image"].shape[1:3], (0, 0))
