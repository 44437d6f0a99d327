"""Reading what a row of a batch shows: an image of a source, decoded, or what stands for it if it
cannot be read."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pix2seq_jax.data.coco.json import Report
from pix2seq_jax.data.ops import image as ops_image
from pix2seq_jax.data.order import other_index
from pix2seq_jax.data.source import FileSource, Source

ATTEMPTS = 20  # images that are tried for one row before the run ends
REPLACED = "images that cannot be read, others are read in their place"
ROW_BYTES = 2_000  # of a dozen small arrays, besides their content


class ImageCache:
    """Decoded images that stay in memory, those that are read first, until it is full.

    Nothing is thrown out: an epoch reads every image once, so that the newest is wanted last. The
    pixels of a file are there once, for all rows and tasks that show it. Several threads may read.
    Pickling keeps the size alone: every process fills its own.

    Attributes:
        size: bytes that images and annotations may take.
        taken: bytes that they do.
    """

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0
        self._decoded: dict[tuple, dict] = {}
        self._lock = threading.Lock()

    def __reduce__(self):
        return ImageCache, (self.size,)

    def features(
        self, source: Source, index: int, decode: Callable[[dict], dict], rows: dict[int, dict]
    ) -> dict:
        """Raw features of an image of a source, decoded.

        Args:
            source: is not asked for what stays in memory, and a FileSource is asked for the
                annotations alone where the pixels stay.
            index: of the image.
            decode: raw features -> the same with the image decoded.
            rows: features that stay, by index: of this source alone.

        Raises:
            ValueError: the image cannot be read.
        """
        if index in rows:
            return rows[index]
        file, raw = _file_of(source, index)
        decoded = self._decoded.get(file)
        if not decoded and "image" not in raw:
            raw["image"] = source.load(raw["file"])
        features = {**raw, **decoded} if decoded else decode(raw)
        features = {name: features[name] for name in source.fields}
        with self._lock:
            size = ROW_BYTES + sum(value.nbytes for value in features.values())
            if file in self._decoded:
                size -= features["image"].nbytes
            if index not in rows and self.taken + size <= self.size:
                self.taken += size
                fresh = {name: features[name] for name in ("image", "orig_size")}
                rows[index] = features | self._decoded.setdefault(file, fresh)
        return features


@dataclass(frozen=True, eq=False)  # TensorFlow has a weak reference (data.pipeline)
class Reader:
    """Reads and decodes the images of a source.

    Attributes:
        source: of the images.
        decode: first op of the preprocessing.
        seed: of what is read in place of images that cannot be.
        bad_images: counts and names these; None: they are errors.
        cache: of decoded images; None: each is read whenever it is drawn.
        rows: what the cache holds of this source, by index.
    """

    source: Source
    decode: ops_image.Decode
    seed: int
    bad_images: Report | None
    cache: ImageCache | None = None
    rows: dict[int, dict] = field(default_factory=dict)

    def __call__(self, index: int, epoch: int, draw: int) -> tuple[np.ndarray, ...]:
        """The fields of an image, or of another one where that cannot be read.

        Raises:
            ValueError: the image cannot be read and `bad_images` is None; or ATTEMPTS in a row.
        """
        first = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _fields_of(self.source, self._features(index), epoch)
            except ValueError as error:
                if self.bad_images is None:
                    raise
                first = first or error
                self.bad_images.add_once(REPLACED, error)
                index = other_index(self.seed, draw, attempt, len(self.source))
        raise ValueError(f"{ATTEMPTS} images in a row cannot be read, first: {first}")

    def _features(self, index: int) -> dict:
        """Raw features of an image, decoded."""
        if self.cache is None:
            return self.decode.read(self.source[index])
        return self.cache.features(self.source, index, self.decode.read, self.rows)


def _file_of(source: Source, index: int) -> tuple[tuple, dict]:
    """(all that decoding depends on, raw features of an image: of a FileSource without `image`)."""
    if isinstance(source, FileSource):
        raw = source.without_image(index)
        return (raw["file"], *raw["orig_size"].tolist()), raw
    raw = source[index]
    # Content, too, since files of two sources may share a name.
    return (raw["file"], hash(raw["image"]), *raw["orig_size"].tolist()), raw


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
