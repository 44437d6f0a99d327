"""Reading what a row of a batch shows: an image of a source, decoded, or what stands for it if it
cannot be read."""

from dataclasses import dataclass

import numpy as np

from pix2seq_jax.data.coco.json import Report
from pix2seq_jax.data.ops import image as ops_image
from pix2seq_jax.data.order import other_index
from pix2seq_jax.data.source import Source

ATTEMPTS = 20  # images that are tried for one row before the run ends
REPLACED = "images that cannot be read, others are read in their place"


@dataclass(frozen=True, eq=False)  # TensorFlow has a weak reference (data.pipeline)
class Reader:
    """Reads and decodes the images of a source.

    Attributes:
        source: of the images.
        decode: first op of the preprocessing.
        seed: of what is read in place of images that cannot be.
        bad_images: counts and names these; None: they are errors.
    """

    source: Source
    decode: ops_image.Decode
    seed: int
    bad_images: Report | None

    def __call__(self, index: int, epoch: int, draw: int) -> tuple[np.ndarray, ...]:
        """The fields of an image, or of another one where that cannot be read.

        Raises:
            ValueError: the image cannot be read and `bad_images` is None; or ATTEMPTS in a row.
        """
        first = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _fields_of(self.source, self.decode.read(self.source[index]), epoch)
            except ValueError as error:
                if self.bad_images is None:
                    raise
                first = first or error
                self.bad_images.add_once(REPLACED, error)
                index = other_index(self.seed, draw, attempt, len(self.source))
        raise ValueError(f"{ATTEMPTS} images in a row cannot be read, first: {first}")


def _fields_of(source: Source, features: dict, epoch: int) -> tuple[np.ndarray, ...]:
    """The fields of a source, of raw features whose image is decoded."""
    if "captions" in source.fields:
        count = source.fields["captions"][1][0]
        features = {**features, "captions": _captions_in_turn(features["captions"], count, epoch)}
    return tuple(features[name] for name in source.fields)


def _captions_in_turn(captions: np.ndarray, count: int, epoch: int) -> np.ndarray:
    """i32[n,T], all captions of an image -> i32[count,T], those of an epoch: in `n / count` epochs
    each is read once.

    Rows of zeros stand for captions that the image lacks.
    """
    total = len(captions)
    if total > count:
        return captions[(epoch * count + np.arange(count)) % total]
    return np.pad(captions, [(0, count - total), (0, 0)])
