"""What a task is asked about pictures, and what comes back of a chunk of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pix2seq_jax.evaluation.boxes import Boxes


@dataclass(frozen=True)
class Ask:
    """What a task is asked about.

    Attributes:
        places: i64[n], which of the pictures, ascending.
        category_ids: category id of label l at l - 1; not for captions.
        labels: those that are looked at; None for all.
        boxes: that prompt; None for those that detection finds.
        objects: so many of the best-scored boxes of a picture prompt; 0 for all.
        threshold: boxes that score less do not prompt.
    """

    places: np.ndarray
    category_ids: Sequence[int] = ()
    labels: Sequence[int] | None = None
    boxes: Boxes | None = None
    objects: int = 0
    threshold: float = 0.0


@dataclass(frozen=True)
class Part:
    """What was found in a chunk of pictures.

    Attributes:
        places: which of the pictures; those that cannot be read are left out.
        results: COCO results by task, on process 0; [] on the others.
        pixels: place -> u8[h,w,3].
    """

    places: list[int]
    results: dict[str, list[dict]]
    pixels: Callable[[int], np.ndarray]
