"""How a task sees pictures: whole, prepared like those of other tasks, or in windows."""

from dataclasses import dataclass

import ml_collections
import numpy as np

from pix2seq_jax.data import rows
from pix2seq_jax.data.ops.chain import read_chain
from pix2seq_jax.evaluation.boxes import Boxes
from pix2seq_jax.evaluation.chunks import Chunk
from pix2seq_jax.tasks import Task

FEWEST_SLOTS = 4


@dataclass
class View:
    """How a task sees pictures.

    Attributes:
        rows: makes a row of a picture, or of a window of it and the objects there.
        shared: key of what tasks share; None for a task that encodes windows of its own.
        slots: objects in a row; 0 for tasks that are not prompted.
    """

    rows: rows.Preprocess
    shared: tuple | None
    slots: int

    def slots_for(self, objects: int) -> int:
        """Objects of a row where no image has more than `objects`: those of a whole picture are
        decoded together, and empty ones cost as much as others. Few sizes, as each is compiled."""
        if self.shared is None:
            return self.slots
        return min(self.slots, max(FEWEST_SLOTS, 1 << (objects - 1).bit_length()))

    def programs(self, most: int) -> list[int]:
        """Numbers of objects in an image, up to `most`, that need a program each."""
        if self.shared is None or not self.slots:
            return [1]
        sizes = {self.slots_for(count): count for count in range(self.slots, 0, -1)}
        return [n for n in (*sizes.values(), *range(1, most + 1, self.slots)) if n <= most]


def make_view(task: Task, section: ml_collections.ConfigDict, image_size: tuple[int, int]) -> View:
    """Traces the preprocessing of a task.

    Raises:
        ValueError: it cannot be read, or does not give what the model takes.
    """
    spec, slots, field = section.eval_ops, 0, f"config.tasks.{task.name}.eval_ops"
    try:
        chain = read_chain(spec)
        if task.prompted:
            windows = rows.Preprocess(chain.tensor_ops, objects=True, spec=spec)
            slots = windows.shapes["boxes"][1][0]
        if task.prompted and not chain.keeps_whole:
            made = View(windows, None, slots)
        else:
            made = View(
                rows.Preprocess(chain.image_ops, objects=False, spec=spec), chain.image_ops, slots
            )
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
    if made.rows.shapes["image"][1] != (*image_size, 3):
        height, width = made.rows.shapes["image"][1][:2]
        raise ValueError(
            f"{field}={spec!r} ends in images of {height} x {width} pixels, but "
            f"config.model.image_size is {image_size[0]} x {image_size[1]}: end with "
            f"pad_image({tuple(image_size)})"
        )
    return made


def whole_row(
    chunk: Chunk, make: rows.Preprocess, row: int, into: np.ndarray | None = None
) -> rows.Row | None:
    """A whole picture, prepared, its image in `into`; None where it cannot be read."""
    loaded = chunk.load(row)
    if loaded is None:
        return None
    features = {"image": loaded.pixels, "orig_size": loaded.size}
    return make(features, int(chunk.places[row]), into)


def window_row(
    chunk: Chunk,
    make: rows.Preprocess,
    boxes: Boxes,
    row: int,
    number: int,
    into: np.ndarray | None = None,
) -> rows.Row:
    """A picture with the objects of row `number` of the boxes, prepared, its image in `into`."""
    loaded, real = chunk.load(row), boxes.labels[number] > 0
    limits = np.tile(loaded.size, 2).astype(np.float32)
    features = {
        "image": loaded.pixels,
        "orig_size": loaded.size,
        "boxes": np.clip(boxes.boxes[number][real], 0, limits).astype(np.float32) / limits,
        "labels": boxes.labels[number][real].astype(np.int32),
        "scores": boxes.scores[number][real].astype(np.float32),
        "is_crowd": np.zeros(np.count_nonzero(real), bool),
    }
    return make(features, int(chunk.places[row]), into)
