"""What a model writes for an image, token by token, and where it looks meanwhile."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pix2seq_jax.data.coco.files import read_file
from pix2seq_jax.decoding.looking import Look, look
from pix2seq_jax.evaluation.base import Rows
from pix2seq_jax.evaluation.boxes import Boxes
from pix2seq_jax.evaluation.chunks import Chunk, Pictures
from pix2seq_jax.evaluation.decoders import id_halves, make_encoder, make_generate, row_keys
from pix2seq_jax.evaluation.marks import marks
from pix2seq_jax.evaluation.predictor import Predictor
from pix2seq_jax.evaluation.token_words import Frame, Words, prompt_words, response_words
from pix2seq_jax.evaluation.views import make_view, whole_row, window_row
from pix2seq_jax.experiment import resolve
from pix2seq_jax.tasks import Task
from pix2seq_jax.tasks.base import from_original, images

Example = dict[str, jax.Array]


@dataclass(frozen=True)
class Explained:
    """One sequence of an image.

    Attributes:
        task: its name.
        title: the task, and what prompted it.
        prompt, tokens: see `token_words.prompt_words` and `response_words`.
        attention: f32[T,H,W], of each of the tokens: share of each pixel of `pixels` in what was
            looked at, mean over heads and layers, smooth; the largest is 1.
        pixels: u8[H,W,3], what the model sees, without its padding.
        objects: in pixels of these, what `draw.draw_objects` takes, and `captions`.
        scores: f64[M] of the objects that the tokens are of, where the task has a class for each;
            else ().
    """

    task: str
    title: str
    prompt: list[dict[str, Any]]
    tokens: list[dict[str, Any]]
    attention: np.ndarray
    pixels: np.ndarray
    objects: dict
    scores: np.ndarray


class Seen(NamedTuple):
    """What a task looks at: the batch of one image or window, and the boxes that prompt."""

    title: str
    example: Example


class Explainer:
    """Explains images by a predictor's model, with its samplers; of several samples the first."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor, self._config = predictor, predictor.config
        self._tasks = resolve.make_tasks(predictor.config)
        self._model = resolve.make_model(predictor.config)
        self._encode = make_encoder(self._model)
        self._look = jax.jit(lambda *arrays: look(self._model, *arrays))
        sections, size = predictor.config.tasks, tuple(self._model.image_size)
        self._draws = {
            name: jax.jit(make_generate(self._model, task, sections[name]))
            for name, task in self._tasks.items()
        }
        self._views = {
            name: make_view(task, sections[name], size) for name, task in self._tasks.items()
        }

    def __call__(self, file: str, *, threshold: float, objects: int) -> list[Explained]:
        """The sequences of an image, those of the tasks in their order.

        Args:
            file: of the image.
            threshold: lowest score of a box that prompts.
            objects: so many of the best boxes prompt.

        Raises:
            ValueError: the image cannot be decoded.
        """
        broken = {"image_ids": np.zeros(1, np.int64), "sizes": np.zeros((1, 2), np.int32)}
        chunk = Chunk(
            Pictures(files=[file], broken=_refuse, load=read_file, **broken), np.arange(1)
        )
        chunk.load(0)
        explained, boxes = [], None
        with jax.set_mesh(self._predictor.mesh):
            for name, task in self._tasks.items():
                for seen in self._seen(name, task, chunk, boxes):
                    own, found = self._explain(name, task, seen)
                    explained += own
                    if self._predictor.host_tasks[name].finds_boxes:
                        counts = np.where(found["scores"] >= threshold, found["labels"], 0)
                        boxes = Boxes(np.zeros(1), found["boxes"], counts, found["scores"])
                        boxes = boxes.best(objects)
        return explained

    def _seen(self, name: str, task: Task, chunk: Chunk, boxes: Boxes | None) -> Iterator[Seen]:
        """What a task looks at in the image, one after the other."""
        make, config = self._views[name].rows, self._config
        if not task.prompted:
            yield Seen(name, _example(make.batch({0: whole_row(chunk, make, 0)}, 1)))
            return
        if boxes is None:
            return
        ids = list(config.data.category_ids)
        prompting = self._predictor.host_tasks[name].prompting(config.data, ids)
        chosen = boxes.best(boxes.labels.shape[1], prompting)
        for number in np.flatnonzero(chosen.labels[0]).tolist():
            one = Boxes(chosen.image_ids, *(array[:, [number]] for array in chosen[1:]))
            title = f"{name} of {self._predictor.names[int(one.labels[0, 0]) - 1]}"
            title = f"{title} {float(one.scores[0, 0]):.2f}"
            if self._views[name].shared is None:
                row = window_row(chunk, make, one.rows(self._views[name].slots), 0, 0)
                yield Seen(title, _example(make.batch({0: row}, 1)))
                continue
            example = _example(make.batch({0: whole_row(chunk, make, 0)}, 1))
            example["boxes"] = from_original(jnp.asarray(one.boxes, jnp.float32), example)
            example |= {"labels": jnp.asarray(one.labels), "scores": jnp.asarray(one.scores)}
            yield Seen(title, example)

    def _explain(
        self, name: str, task: Task, seen: Seen
    ) -> tuple[list[Explained], Mapping[str, np.ndarray]]:
        """The sequences of a batch of one image, and what they decode to."""
        variables, example = self._predictor.variables, seen.example
        memory = self._encode(variables, example)
        fields = (example[field] for field in ("ids", "crop_offset", "orig_size"))
        prompt = task.prompt(example)
        drawn = self._draws[name](variables, memory, prompt, row_keys(self._config.seed, *fields))
        samples, scores = drawn.tokens, drawn.class_probs if task.class_positions else drawn.scores
        if not task.prompted:
            samples, scores, prompt = samples[:, None], scores[:, None], prompt[:, None]
        # Of the first sample, [1,N,T].
        whole = jnp.concatenate([prompt, samples[:, :, 0]], axis=-1)
        looked = self._look(variables, memory, whole[..., :-1])
        found = _host(task.decode(samples, scores, example))
        objects = self._objects(name, task, samples[:, :, :1], scores[:, :, :1], example)
        own = found["scores"][0] if task.class_positions else np.zeros(0)
        rows = range(whole.shape[1])
        if task.prompted:
            rows = np.flatnonzero(example["labels"][0]).tolist()
        words = [self._in_words(task, example, whole[0, row], looked, row) for row in rows]
        where = (_pixels(example), objects, own)
        return [Explained(name, seen.title, *texts, *where) for texts in words], found

    def _objects(
        self, name: str, task: Task, samples: jax.Array, scores: jax.Array, example: Example
    ) -> dict:
        """What is drawn of samples [1,N,1,T], in pixels of what the model sees."""
        framed = example | {"orig_size": example["unpadded_size"]}
        framed["crop_offset"] = jnp.zeros_like(example["crop_offset"])
        part = _host(task.decode(samples, scores, framed))
        size = tuple(np.asarray(framed["unpadded_size"][0]).tolist())
        labels = range(1, len(self._predictor.names) + 1)
        host_task = self._predictor.host_tasks[name]
        rows = host_task.results(part, Rows([0], [size], labels, self._predictor.text))
        return marks({name: rows}, {name: host_task}, {one: one for one in labels}, size)

    def _in_words(
        self, task: Task, example: Example, sequence: jax.Array, looked: Look, number: int
    ) -> tuple[list[dict], list[dict], np.ndarray]:
        """(words of the prompt, words of the response, its maps) of a sequence i32[P+T], row
        `number` of what was looked at."""
        words = Words(task.vocab, self._predictor.names, self._predictor.text)
        frame, tokens = _frame(example), np.asarray(sequence)
        length = task.prompt(example).shape[-1]
        start = length - 1  # the last token of the prompt predicts the first one
        logits = np.asarray(looked.logits[0, number, start:])
        response = response_words(words, task, tokens[length:], logits, frame)
        maps = np.asarray(looked.attention[0, number, start : start + len(response)])
        maps = self._maps(maps, np.asarray(example["unpadded_size"][0]))
        return prompt_words(words, tokens[:length], frame), response, maps

    def _maps(self, attention: np.ndarray, unpadded: np.ndarray) -> np.ndarray:
        """f32[T,S] -> f32[T,h,w] of the unpadded image, smooth, the largest of each 1."""
        grid = self._model.backbone.grid(self._model.image_size)
        maps = attention[:, -grid[0] * grid[1] :].reshape(-1, *grid)  # a class token stands first
        height, width = self._model.image_size
        large = jax.image.resize(maps, (len(maps), height, width), "linear")
        large = np.asarray(large)[:, : int(unpadded[0]), : int(unpadded[1])]
        return large / np.maximum(large.max(axis=(1, 2), keepdims=True), 1e-12)


def _example(batch: Mapping[str, np.ndarray]) -> Example:
    """A batch of one image on the devices."""
    arrays = {name: jnp.asarray(x) for name, x in batch.items() if x.dtype != np.int64}
    return arrays | {"ids": jnp.asarray(id_halves(np.zeros(1, np.int64)))}


def _frame(example: Example) -> Frame:
    """See `tasks.base.to_original`."""
    padded = np.array(example["image"].shape[1:3])
    sizes = (np.asarray(example[name][0], float) for name in ("unpadded_size", "orig_size"))
    unpadded, original = sizes
    offset = np.asarray(example["crop_offset"][0], float)
    return Frame((padded / unpadded * original).tolist(), offset.tolist())


def _pixels(example: Example) -> np.ndarray:
    """u8[H,W,3], what the model sees without padding."""
    height, width = np.asarray(example["unpadded_size"][0]).tolist()
    picture = np.asarray(images(example)[0, :height, :width])
    return np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)


def _host(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in arrays.items()}


def _refuse(file: str, size: tuple[int, int], error: ValueError) -> None:
    del file, size
    raise error
