"""Runs a trained model over a source: boxes first, then outlines and joints of these boxes, and captions.

Evaluation and prediction share it. What comes out are results as COCO writes them, in pixels of the original image.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from pix2seq_jax import inputs, sharding
from pix2seq_jax.data import feed, pipeline, selections
from pix2seq_jax.data.text import Text
from pix2seq_jax.decoding import sampling
from pix2seq_jax.decoding.beam import beam_search
from pix2seq_jax.decoding.generate import Slots, generate
from pix2seq_jax.evaluators import coco, masks
from pix2seq_jax.tasks.base import images
from pix2seq_jax.telemetry import log


class Boxes(NamedTuple):
    """Boxes of I images that prompt outlines and joints.

    Attributes:
        image_ids: i64[I].
        boxes: f32[I,N,4] yxyx in pixels of the original image.
        labels: i32[I,N], 1-based; 0 is an empty slot.
        scores: f32[I,N].
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def best(self, count: int, labels=None) -> "Boxes":
        """The `count` best-scored boxes of each image, of the given labels only (None: of all)."""
        kept = self.labels > 0 if labels is None else np.isin(self.labels, list(labels))
        order = np.argsort(np.where(kept, -self.scores, np.inf), axis=1, kind="stable")[:, :count]
        taken = (np.take_along_axis(array, order, axis=1) for array in (self.labels * kept, self.scores))
        return Boxes(self.image_ids, np.take_along_axis(self.boxes, order[..., None], axis=1), *taken)

    def rows(self, slots: int) -> "Boxes":
        """The same boxes with at most `slots` in a row: further rows of the same image hold the rest; no empty rows."""
        full = self.best(self.labels.shape[1])  # empty slots last
        number = -(-full.labels.shape[1] // slots)

        def cut(array):  # [I,N,...] -> [I*number,slots,...]
            missing = number * slots - array.shape[1]
            padded = np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2))
            return padded.reshape(-1, slots, *array.shape[2:])

        parts = Boxes(np.repeat(self.image_ids, number), *map(cut, full[1:]))
        return Boxes(*(array[parts.labels.any(axis=1)] for array in parts))

    def of_images(self, image_ids) -> "Boxes":
        """Those of the images that are among `image_ids`."""
        rows = np.isin(self.image_ids, image_ids)
        return Boxes(*(array[rows] for array in self))


def make_decoder(model, task, section: ml_collections.ConfigDict) -> Callable:
    """Jitted `decode(variables, batch, keys) -> dict`: task.decode of freshly generated tokens.

    `batch` is the Example dict, `keys` key[B] one per row, so that what is drawn for an image or object does not
    depend on its neighbours in the batch. How tokens are drawn is in the task's section of the config.

    Raises:
        ValueError: a sampler that cannot be read, or beam search for anything but captions.
    """
    sampler = sampling.from_string(section.sampler)
    options = {"max_len": task.max_len, "allowed": task.allowed if section.grammar else None}
    beam = isinstance(sampler, sampling.Beam)
    if beam and task.name != "captioning":
        raise ValueError(f"config.tasks.{task.name}.sampler={section.sampler!r}: beam search is for captions")

    def draw(variables, memory, prompt, keys):
        if beam:
            best = {"beams": sampler.size, "length_penalty": sampler.length_penalty}
            return beam_search(model, variables, memory, prompt, eos_token=task.eos_token, **options, **best)
        return generate(
            *(model, variables, memory, prompt),
            sampler=sampler,
            num_samples=section.num_samples,
            rng=keys,
            eos_bias=section.eos_bias,
            slots=task.slots and Slots(*task.slots),
            stop_at_eos=task.eos_token is not None,
            eos_token=task.eos_token or 0,
            **options,
        )

    @jax.jit
    def decode(variables, batch, keys):
        memory = model.apply(variables, images(batch), method="encode")
        drawn = draw(variables, memory, task.prompt(batch), keys)
        if task.slots:  # of the first sample: class probabilities stand for the samples of the class
            return task.decode(drawn.tokens[:, 0], drawn.class_probs[:, 0], batch)
        return task.decode(drawn.tokens, drawn.scores, batch)

    return decode


def to_host(tree):
    """Arrays of all processes as numpy on every process, rows in global order."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


@jax.jit
def row_keys(seed: jax.Array, ids: jax.Array, corner: jax.Array, size: jax.Array) -> jax.Array:
    """One random key per row, key[B]: a function of the seed, the image's id and the window cut from it alone.

    Args:
        seed: i32[].
        ids: u32[B,2], low and high half of each id.
        corner: i32[B,2], of the window, in pixels.
        size: i32[B,2], of the window, in pixels.
    """
    parts = jnp.concatenate([ids, corner.astype(jnp.uint32), size.astype(jnp.uint32)], axis=1)

    def fold(row):
        return functools.reduce(jax.random.fold_in, row, jax.random.key(seed))

    return jax.vmap(fold)(parts)


def decode_batches(
    decode: Callable, variables, batches, mesh: jax.sharding.Mesh, *, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """What `decode` gives for the valid rows of each batch, with `image_id i64[B]`; on every process."""
    rows = sharding.batch_sharding(mesh)
    with feed.Feed(batches, rows) as pairs:
        for batch, host in pairs:
            # 64-bit ids travel as two halves; through the devices, so that their order is that of the boxes.
            halves = np.stack([host["image_id"] & 0xFFFFFFFF, host["image_id"] >> 32 & 0xFFFFFFFF], axis=1)
            halves = feed.to_global(halves.astype(np.uint32), rows)
            keys = row_keys(seed, halves, batch["crop_offset"], batch["orig_size"])
            decoded = decode(variables, batch, keys)
            part = to_host({**decoded, "valid": batch["valid"], "ids": halves})
            low, high = part.pop("ids").astype(np.int64).T
            part["image_id"] = low | high << 32
            valid = part.pop("valid")
            yield {name: value[valid] for name, value in part.items()}


class Runner:
    """The decoders of a model's tasks, each compiled once; every method runs over a source of images."""

    def __init__(self, config: ml_collections.ConfigDict, model, tasks: dict, mesh: jax.sharding.Mesh) -> None:
        self._config, self._mesh = config, mesh
        self.bad_images = inputs.bad_images(config)
        self._decoders = {name: make_decoder(model, task, config.tasks[name]) for name, task in tasks.items()}

    def _parts(self, name: str, variables, source, *, limit: int = 0) -> Iterator[dict[str, np.ndarray]]:
        section = self._config.tasks[name]
        index, count = feed.row_block(sharding.batch_sharding(self._mesh))
        batches = pipeline.eval_dataset(
            *(source, section.eval_ops),
            batch_size=sharding.round_batch(
                self._mesh, min(section.eval_batch_size or self._config.eval.batch_size, len(source))
            ),
            limit=limit or None,
            workers=self._config.data.workers or None,
            process_index=index,
            process_count=count,
            bad_images=self.bad_images,
        )
        return decode_batches(self._decoders[name], variables, batches, self._mesh, seed=self._config.seed)

    def detect(self, variables, source, *, limit: int = 0) -> Boxes:
        """Boxes of the first `limit` images of the source (0: all)."""
        parts = list(self._parts("detection", variables, source, limit=limit))
        names = ("image_id", "boxes", "labels", "scores")
        return Boxes(*(np.concatenate([part[name] for part in parts]) for name in names))

    def _prompted(self, name: str, variables, source, boxes: Boxes) -> Iterator[dict[str, np.ndarray]]:
        """Parts of a task that boxes prompt; each object by itself where the preprocessing crops to it."""
        if not boxes.labels.any():
            return iter(())
        ops = self._config.tasks[name].eval_ops
        if "crop_to_box" in ops:
            return self._parts(name, variables, selections.PerObject(selections.WithObjects(source, *boxes)))
        return self._parts(name, variables, selections.WithObjects(source, *boxes.rows(pipeline.slots(ops))))

    def choose(self, name: str, boxes: Boxes, labels=None) -> Boxes:
        """The boxes of the given labels (None: of all) that a task looks at: the `objects` best ones of each image."""
        count, every = self._config.tasks[name].objects, boxes.best(boxes.labels.shape[1], labels)
        chosen = every.best(count)
        if cut := np.count_nonzero(every.labels) - np.count_nonzero(chosen.labels):
            total = np.count_nonzero(every.labels)
            log.info("%s: %d of %d boxes left out, config.tasks.%s.objects=%d", name, cut, total, name, count)
        return chosen

    def segment(self, variables, source, boxes: Boxes, category_ids) -> list[dict]:
        """COCO results with masks, and `bbox`, of all these boxes."""
        section, results = self._config.tasks.segmentation, []
        sizes = dict(zip(source.image_ids.tolist(), source.sizes.tolist(), strict=True))
        for part in self._prompted("segmentation", variables, source, boxes):
            for row, slot in np.argwhere(part["labels"] > 0):
                image_id, label = int(part["image_id"][row]), part["labels"][row, slot]
                mask = masks.average_masks(part["points"][row, slot], *sizes[image_id], section.mask_threshold)
                result = masks.result(image_id, category_ids[label - 1], mask, part["scores"][row, slot])
                results.append(result | {"bbox": coco.xywh(part["boxes"][row, slot])})
        return results

    def pose(self, variables, source, boxes: Boxes, category_ids) -> list[dict]:
        """COCO results with keypoints, and `bbox`, of all these boxes."""
        results = []
        for part in self._prompted("keypoints", variables, source, boxes):
            for row, slot in np.argwhere(part["labels"] > 0):
                joints = np.asarray(part["keypoints"][row, slot], np.float64)[:, ::-1]  # x, y
                found = np.concatenate([joints.round(4), np.ones((len(joints), 1))], axis=1)
                results.append(
                    {
                        "image_id": int(part["image_id"][row]),
                        "category_id": int(category_ids[part["labels"][row, slot] - 1]),
                        "keypoints": found.ravel().tolist(),
                        "score": float(f"{part['scores'][row, slot]:.9g}"),
                        "bbox": coco.xywh(part["boxes"][row, slot]),
                    }
                )
        return results

    def caption(self, variables, source, text: Text, *, limit: int = 0) -> list[dict]:
        """[{image_id, caption}] of the first `limit` images of the source (0: all)."""
        return [
            {"image_id": int(image_id), "caption": text.decode(pieces.tolist())}
            for part in self._parts("captioning", variables, source, limit=limit)
            for image_id, pieces in zip(part["image_id"], part["pieces"], strict=True)
        ]
