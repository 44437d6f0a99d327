"""Runs a trained model over pictures, some at a time: boxes first, then outlines and keypoints of
these, and captions.

Evaluation and prediction share it. Every picture is read and decoded once, and encoded once for all
tasks that see it prepared alike; a task that looks at windows encodes its own, cut from the decoded
picture. While the devices work on one chunk of pictures, threads prepare the next one and turn what
was decoded into results as COCO writes them, in pixels of the original image. Memory does not grow
with the number of pictures.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from pix2seq_jax.data import feed, pipeline
from pix2seq_jax.evaluation import decoders, make_host_tasks
from pix2seq_jax.evaluation.asks import Ask, Part
from pix2seq_jax.evaluation.base import Rows
from pix2seq_jax.evaluation.boxes import Boxes
from pix2seq_jax.evaluation.chunks import Chunk, Pictures, Progress
from pix2seq_jax.evaluation.views import make_view, whole_row, window_row
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.tasks import Task
from pix2seq_jax.training import sharding


@dataclass
class _Job:
    """One run over pictures: what its methods share.

    Attributes:
        left_out: by task, boxes that were not looked at, and how many there were.
    """

    variables: Mapping
    pictures: Pictures
    asks: Mapping[str, Ask]
    text: object
    leave: Callable[[], None]
    chunk_size: int
    readers: ThreadPoolExecutor
    writers: ThreadPoolExecutor
    left_out: dict[str, list[int]] = field(default_factory=dict)


class _Sent(NamedTuple):
    """A chunk that the devices work on.

    Attributes:
        chunk: of the pictures.
        memory: what was encoded, and the fields of the images, by what tasks share.
        asked: which rows of the chunk each task is asked about.
        decoded: of the tasks that need no boxes, see `Runner._send_whole`.
    """

    chunk: Chunk
    memory: dict
    asked: dict[str, np.ndarray]
    decoded: dict[str, list]


class Runner:
    """The encoder and the decoders of a model's tasks, each compiled once."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        model,
        tasks: Mapping[str, Task],
        mesh: jax.sharding.Mesh,
        *,
        labels: Sequence[int] | None = None,
    ) -> None:
        """Builds all graphs of the preprocessing. Of the classes only `labels` can be found (None:
        all).

        Raises:
            ValueError: preprocessing or samplers that cannot be, by the name of their field.
        """
        self._config, self._mesh = config, mesh
        self._host_tasks = make_host_tasks(config)
        self._rows_of = sharding.batch_sharding(mesh)
        self._decoders = {
            name: decoders.make_decoder(model, task, config.tasks[name], labels=labels)
            for name, task in tasks.items()
        }
        self._encode = decoders.make_encoder(model)
        size = tuple(model.image_size)
        self._views = {
            name: make_view(task, config.tasks[name], size) for name, task in tasks.items()
        }

    def box_counts(self, asks: Mapping[str, Ask]) -> list[int]:
        """Numbers of boxes in an image with which every program that `run` may need is compiled."""
        counts = {1}
        for name, ask in asks.items():
            counts.update(self._views[name].programs(ask.objects))
        return sorted(counts)

    def run(
        self,
        variables,
        pictures: Pictures,
        asks: Mapping[str, Ask],
        *,
        text=None,
        leave: Callable[[], None] = lambda: None,
    ) -> Iterator[Part]:
        """What the tasks find in the pictures, chunk by chunk, in order.

        All processes call it alike. Close the iterator (or run it to its end) to stop its threads.

        Args:
            variables: of the model.
            pictures: to look at.
            asks: by task; those that detection prompts need its ask as well.
            text: makes words of the pieces of captions.
            leave: called before each batch of the devices; may raise.
        """
        size = sharding.round_batch(self._mesh, min(self._config.eval.batch_size, len(pictures)))
        workers = self._config.data.workers or pipeline.cpu_count()
        readers, writers, ahead = (ThreadPoolExecutor(number) for number in (workers, workers, 1))
        job = _Job(variables, pictures, asks, text, leave, size, readers, writers)
        progress = Progress(len(pictures))
        # The results of a chunk are written while the devices work on the next one.
        waiting: deque[tuple[Chunk, dict[str, list[Future]]]] = deque()
        try:
            for sent in self._sent(job, ahead):
                waiting.append((sent.chunk, self._ask_all(job, sent)))
                if len(waiting) > 1:
                    yield _finished(*waiting.popleft())
                progress.report(int(sent.chunk.places[-1]) + 1)
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            for pool in (readers, ahead, writers):  # what is ahead waits for readers
                pool.shutdown(cancel_futures=True)
        for name, (cut, total) in job.left_out.items():
            if cut:
                most = asks[name].objects
                text = "%s: %d of %d boxes left out, at most %d an image"
                log.info(text, name, cut, total, most)

    def _chunks(self, job: _Job, ahead: ThreadPoolExecutor) -> Iterator[Chunk]:
        """The chunks of the pictures, each prepared while the one before is worked on."""
        total = len(job.pictures)
        cuts = [
            np.arange(start, min(start + job.chunk_size, total))
            for start in range(0, total, job.chunk_size)
        ]
        following = [ahead.submit(self._prepare, job, places) for places in cuts[:1]]
        for places in cuts[1:]:
            chunk = following.pop().result()
            following.append(ahead.submit(self._prepare, job, places))
            yield chunk
        for last in following:
            yield last.result()

    def _prepare(self, job: _Job, places: np.ndarray) -> Chunk:
        """Decodes this process' pictures of a chunk, and sends what the tasks share to the
        devices."""
        chunk = Chunk(job.pictures, places)
        index, count = feed.row_block(self._rows_of)
        part = job.chunk_size // count
        first = index * part
        own = range(first, min(first + part, len(places)))
        views = {
            view.shared: view.rows
            for name, view in self._views.items()
            if name in job.asks and view.shared is not None
        }
        if not views:  # else each thread prepares what it has just decoded
            list(job.readers.map(chunk.load, own))
        for key, view in views.items():
            images = view.images(part)
            make = functools.partial(whole_row, chunk, view)
            made = enumerate(job.readers.map(make, own, images))
            filled = {number: one for number, one in made if one is not None}
            ids = np.zeros(part, np.int64)
            ids[: len(own)] = job.pictures.drawn_as(places[own.start : own.stop])
            chunk.batches[key] = self._to_devices(
                view.batch(filled, part, images) | {"ids": decoders.id_halves(ids)}
            )
        return chunk

    def _to_devices(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process' rows as global arrays."""
        return {
            name: feed.to_global(value, self._rows_of)
            for name, value in batch.items()
            if value.dtype != np.int64
        }

    def _sent(self, job: _Job, ahead: ThreadPoolExecutor) -> Iterator[_Sent]:
        """The chunks, each sent to the devices before the boxes of the one before are looked at."""
        before = None
        for chunk in self._chunks(job, ahead):
            sent = self._send(job, chunk)
            if before is not None:
                yield before
            before = sent
        if before is not None:
            yield before

    def _send(self, job: _Job, chunk: Chunk) -> _Sent:
        """Sends what the tasks share of a chunk to the devices, and what needs no boxes."""
        memory = {}
        for key in list(chunk.batches):
            job.leave()
            batch = chunk.batches.pop(key)
            memory[key] = (self._encode(job.variables, batch), _without_image(batch))
        asked = {name: chunk.rows_of(ask.places) for name, ask in job.asks.items()}
        decoded = {
            name: self._send_whole(job, name, memory, rows)
            for name, rows in asked.items()
            if not self._host_tasks[name].needs_boxes
        }
        return _Sent(chunk, memory, asked, decoded)

    def _ask_all(self, job: _Job, sent: _Sent) -> dict[str, list[Future]]:
        """Works on one chunk; results by task, still being written."""
        chunk, memory, asked, decoded = sent
        writing: dict[str, list[Future]] = {}
        boxes = None
        # Boxes first, then what they prompt, so that the devices go on; then what is left to read.
        finding = {name for name in decoded if self._host_tasks[name].finds_boxes}
        for name in sorted(asked, key=lambda name: (name not in finding, name in decoded)):
            if name not in decoded:
                writing[name] = self._prompted(job, name, chunk, asked[name], boxes, memory)
                continue
            parts, writing[name] = self._pull_whole(job, name, chunk, asked[name], decoded[name])
            if parts:
                boxes = Boxes(*map(np.concatenate, zip(*parts, strict=True)))
        return {name: writing[name] for name in asked}

    def _write(self, job: _Job, name: str, part: dict, chunk: Chunk, asked: np.ndarray) -> Future:
        """The results of these rows of a chunk: made in another thread, on process 0 only."""
        if jax.process_index():
            return job.writers.submit(list)
        sizes = [chunk.size(row) for row in asked.tolist()]
        rows = Rows(chunk.ids(asked), sizes, job.asks[name].category_ids, job.text)
        return job.writers.submit(self._host_tasks[name].results, part, rows)

    def _batch_size(self, job: _Job, name: str, most: int) -> int:
        """Rows that a task decodes at a time, of at most `most` of a chunk."""
        wanted = self._config.tasks[name].eval_batch_size or self._config.eval.batch_size
        return sharding.round_batch(self._mesh, min(wanted, most))

    def _decode_whole(
        self, job: _Job, name: str, memory: dict, fields: dict[str, np.ndarray], size: int
    ) -> Iterator:
        """Decodes rows of whole pictures, `size` at a time: (which of the rows, arrays on the
        devices)."""
        images, batch_fields = memory[self._views[name].shared]
        index, count = feed.row_block(self._rows_of)
        own = slice(index * size // count, (index + 1) * size // count)
        for start in range(0, len(fields["row"]), size):
            job.leave()
            cut = slice(start, min(start + size, len(fields["row"])))
            batch = {
                key: decoders.lengthened(value[cut], size)[own] for key, value in fields.items()
            }
            decode, seed = self._decoders[name], self._config.seed
            yield cut, decode(job.variables, images, batch_fields, self._to_devices(batch), seed)

    def _send_whole(self, job: _Job, name: str, memory: dict, asked: np.ndarray) -> list:
        """Decodes a task that needs no prompts for these rows of a chunk."""
        size = self._batch_size(job, name, job.chunk_size)
        return list(self._decode_whole(job, name, memory, {"row": asked.astype(np.int32)}, size))

    def _pull_whole(
        self, job: _Job, name: str, chunk: Chunk, asked: np.ndarray, decoded: list
    ) -> tuple[list[Boxes], list[Future]]:
        """The boxes of these rows of a chunk, if the task finds any, and their results."""
        ask, boxes, writing = job.asks[name], [], []
        for cut, part in decoders.pulled(decoded):
            if self._host_tasks[name].finds_boxes:
                if ask.labels is not None:
                    asked_for = np.isin(part["labels"], ask.labels)
                    part["labels"] = np.where(asked_for, part["labels"], 0)
                ids = chunk.ids(asked[cut])
                boxes.append(Boxes(ids, part["boxes"], part["labels"], part["scores"]))
            writing.append(self._write(job, name, part, chunk, asked[cut]))
        return boxes, writing

    def _chosen(
        self, job: _Job, name: str, ids: np.ndarray, detected: Boxes | None
    ) -> Boxes | None:
        """The boxes that prompt a task in these images."""
        ask = job.asks[name]
        boxes = detected if ask.boxes is None else ask.boxes
        if boxes is None:
            return None
        every = boxes.of_images(ids)
        every = every.best(every.labels.shape[1], ask.labels)
        every = every._replace(labels=np.where(every.scores >= ask.threshold, every.labels, 0))
        chosen = every.best(ask.objects or every.labels.shape[1])
        counts = job.left_out.setdefault(name, [0, 0])
        counts[0] += np.count_nonzero(every.labels) - np.count_nonzero(chosen.labels)
        counts[1] += np.count_nonzero(every.labels)
        return chosen

    def _prompted(
        self,
        job: _Job,
        name: str,
        chunk: Chunk,
        asked: np.ndarray,
        detected: Boxes | None,
        memory: dict,
    ) -> list[Future]:
        """Results of a task that boxes prompt."""
        boxes, view = self._chosen(job, name, chunk.ids(asked), detected), self._views[name]
        if boxes is None or not boxes.labels.any():
            return []
        most = job.asks[name].objects or boxes.labels.shape[1]
        objects = most if view.shared is None else boxes.most
        slots = view.slots_for(objects)
        boxes = boxes.rows(slots)
        row_of = dict(zip(chunk.ids(asked).tolist(), asked.tolist(), strict=True))
        row = np.array([row_of[image_id] for image_id in boxes.image_ids.tolist()], np.int32)
        size = self._batch_size(job, name, job.chunk_size * -(-objects // slots))
        if view.shared is None:
            decoded = self._decode_windows(job, name, chunk, boxes, row, size)
        else:
            prompts = {key: getattr(boxes, key) for key in ("boxes", "labels", "scores")}
            fields = {"row": row} | prompts
            decoded = self._decode_whole(job, name, memory, fields, size)
        return [
            self._write(job, name, part, chunk, row[cut]) for cut, part in decoders.pulled(decoded)
        ]

    def _decode_windows(
        self, job: _Job, name: str, chunk: Chunk, boxes: Boxes, row: np.ndarray, size: int
    ) -> Iterator:
        """Like `_decode_whole`, for a task that encodes rows of its own: windows cut from the
        decoded pictures."""
        decode, seed = self._decoders[name], self._config.seed
        index, count = feed.row_block(self._rows_of)
        own = np.arange(index * size // count, (index + 1) * size // count, dtype=np.int32)
        with ThreadPoolExecutor(1) as ahead:
            prepare = functools.partial(self._windows, job, name, chunk, boxes, row)
            following = ahead.submit(prepare, own)
            for start in range(0, len(row), size):
                batch = following.result()
                if start + size < len(row):
                    following = ahead.submit(prepare, own + start + size)
                job.leave()
                rows = self._to_devices({"row": own})
                memory = self._encode(job.variables, batch)
                cut = slice(start, min(start + size, len(row)))
                yield cut, decode(job.variables, memory, _without_image(batch), rows, seed)

    def _windows(
        self,
        job: _Job,
        name: str,
        chunk: Chunk,
        boxes: Boxes,
        row: np.ndarray,
        numbers: np.ndarray,
    ) -> dict[str, jax.Array]:
        """The windows of the boxes' rows of these numbers; further ones are blank."""
        view, size = self._views[name].rows, len(numbers)
        own = numbers[numbers < len(row)].tolist()
        images = view.images(size)
        make = functools.partial(window_row, chunk, view, boxes)
        made = job.readers.map(make, row[own].tolist(), own, images)
        filled = dict(enumerate(made))
        ids = np.zeros(size, np.int64)
        ids[: len(own)] = job.pictures.drawn_as(chunk.places[row[own]])
        return self._to_devices(view.batch(filled, size, images) | {"ids": decoders.id_halves(ids)})


def _without_image(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {
        name: value
        for name, value in batch.items()
        if name not in ("image", "pad_value", "is_crowd")
    }


def _finished(chunk: Chunk, found: Mapping[str, Sequence[Future]]) -> Part:
    """Waits for the results of a chunk."""
    written = {
        name: [row for one in futures for row in one.result()] for name, futures in found.items()
    }
    places = {int(place): row for row, place in enumerate(chunk.places)}
    readable = [place for place, row in places.items() if chunk.readable(row)]
    return Part(readable, written, lambda place: chunk.load(places[place]).pixels)
