"""What the sequences of a data set lose, without any model: annotations are written as tokens, read
again, and scored against themselves.

    python -m tests.trials.ceiling --data=my_data --split=train --size 128 192 --bins 100 200 500 \
        --points 16 32 64

A row for each setting: AP of boxes, of masks of whole images and of masks in a crop of 1.5 boxes,
of keypoints in a crop of twice the box, and the captions that come back as they were. No training
can get beyond these on the same images. Not part of the test suite.
"""

import argparse
import functools
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf

from pix2seq_jax.config import build
from pix2seq_jax.data.ops.chain import apply, read_chain
from pix2seq_jax.data.selections import PerObject
from pix2seq_jax.evaluation import make_host_tasks
from pix2seq_jax.evaluation.base import Rows
from pix2seq_jax.experiment import inputs, resolve, text_model
from pix2seq_jax.tasks import Task
from pix2seq_jax.vocab import END_PIECE

TASKS = ("detection", "segmentation", "keypoints", "captioning")
PIXELS = "resize({size}, antialias=True)|pad_image({side})"
WHOLE = f"decode|{PIXELS}|filter_objects|pad_objects({{slots}})"
CROP = f"decode|crop_to_box({{scale}})|{PIXELS}|pad_objects(1)"


def main() -> None:
    """Prints a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", required=True, help="folder in COCO's format with all annotations"
    )
    parser.add_argument("--split", default="train")
    parser.add_argument("--slots", type=int, default=100, help="objects of an image")
    parser.add_argument("--size", nargs="+", type=int, default=[128], help="pixels")
    parser.add_argument("--bins", nargs="+", type=int, default=[1000], help="of a coordinate")
    parser.add_argument("--points", nargs="+", type=int, default=[128], help="of an outline")
    options = parser.parse_args()
    print(
        "size | bins | points | boxes | masks | masks in crops | keypoints | captions", flush=True
    )
    for size, bins, points in itertools.product(options.size, options.bins, options.points):
        trial = Trial(options.data, options.split, size=size, bins=bins, points=points)
        whole = WHOLE.replace("{slots}", str(options.slots))
        cells = [
            trial.score("detection", whole),
            trial.score("segmentation", whole),
            trial.score("segmentation", CROP.replace("{scale}", "1.5")),
            trial.score("keypoints", CROP.replace("{scale}", "2.0")),
        ]
        row = [str(size), str(bins), str(points), *(f"{cell:.3f}" for cell in cells)]
        print(" | ".join([*row, trial.captions()]), flush=True)


class Trial:
    """A data set with one setting of image size, bins and points."""

    def __init__(self, data: str, split: str, *, size: int, bins: int, points: int) -> None:
        """Opens the annotations."""
        config = build.build(f"data={data},arch=tiny,size={size}", recipe="multitask", tasks=TASKS)
        config.vocab.num_bins, config.tasks.segmentation.max_points = bins, points
        config.tasks.segmentation.max_instances = config.data.slots
        self._text = text_model.open_text(config, "no workdir")
        self._sources = inputs.open_sources(config, split, self._text)
        self._config = resolve.resolve(config, self._sources, self._text)
        self._tasks = resolve.make_tasks(self._config)
        self._host_tasks = make_host_tasks(self._config)
        self._decoded: dict[str, dict[str, Any]] = {}  # images by file

    def score(self, name: str, ops: str) -> float:
        """AP of the annotations of a task that went through its tokens."""
        source, task, host_task = self._sources[name], self._tasks[name], self._host_tasks[name]
        ids = tuple(self._config.data.category_ids)
        sizes = dict(zip(source.image_ids.tolist(), source.sizes.tolist(), strict=True))
        written_and_read = jax.jit(functools.partial(_written_and_read, task))
        results: list[dict] = []
        for image_id, example in self._examples(name, ops):
            part = {key: np.asarray(value) for key, value in written_and_read(example).items()}
            results += host_task.results(part, Rows([image_id], [tuple(sizes[image_id])], ids))
        image_ids = source.image_ids.tolist()
        return host_task.score(source, source.coco_dict(), results, image_ids)["AP"]

    def captions(self) -> str:
        """How many captions are what they were after encoding, cutting and decoding."""
        source, same = self._sources["captioning"], 0
        texts = [text for row in source.image_ids.tolist() for text in source.references[row]]
        most = self._config.tasks.captioning.max_tokens
        for text, pieces in zip(texts, self._text.encode(texts), strict=True):
            same += self._text.decode([*pieces, END_PIECE][:most]) == " ".join(text.split())
        return f"{same} of {len(texts)}"

    def _examples(self, name: str, ops: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows of the source as batches of one, with the id of their image."""
        side = self._config.model.image_size[0]
        chain = read_chain(ops.format(size=self._config.data.size, side=side))
        source = self._sources[name]
        if chain.per_object:
            source = PerObject(source, min_keypoints=self._host_tasks[name].min_keypoints)
        for row in range(len(source)):
            raw = source[row]
            if raw["file"] not in self._decoded:
                self._decoded[raw["file"]] = chain.decode.read(raw)
            decoded = self._decoded[raw["file"]]
            fields = raw | {key: decoded[key] for key in ("image", "orig_size")}
            tensors = {
                key: tf.constant(value)
                for key, value in fields.items()
                if key not in ("file", "image_id")
            }
            tensors["crop_offset"] = tf.zeros([2], tf.int32)
            made = apply(chain.tensor_ops, tensors, 0, tf.constant(row, tf.int64))
            yield int(raw["image_id"]), {key: np.asarray(one)[None] for key, one in made.items()}


def _written_and_read(task: Task, example: dict[str, Any]) -> dict[str, Any]:
    """What `task.decode` gives of the tokens that training would show."""
    tokens = task.encode(example, jax.random.key(0)).targets
    if not task.prompted:
        tokens = tokens[:, None]
    tokens = tokens[:, : example["labels"].shape[1], None]  # [B,N,K,T]
    scores = jnp.ones(example["labels"].shape)
    return task.decode(tokens, jnp.ones(tokens.shape), example | {"scores": scores})


if __name__ == "__main__":
    sys.exit(main())
