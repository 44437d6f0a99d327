"""Pictures that are looked at some at a time: what is known of them, and their pixels while they
are worked on."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from pix2seq_jax.data import rows
from pix2seq_jax.data.coco.files import read_file
from pix2seq_jax.experiment.logs import duration, log

_TELL_EVERY = 10.0  # seconds between log lines


@dataclass(frozen=True)
class Pictures:
    """Image files.

    Attributes:
        image_ids: i64[n].
        files: n paths, or pixels u8[h,w,3] that are in memory.
        sizes: i32[n,2], height and width in pixels by the annotations; 0, 0 means that of the file
            as viewers show it.
        broken: (file, (height, width), error) -> pixels u8[h,w,3] in place of those of a file that
            cannot be decoded, or None to leave the picture out; it may raise.
        load: content of a file; ValueError where it cannot be read.
        draw_ids: i64[n], what random draws for a picture are a function of; None: its image id.
    """

    image_ids: np.ndarray
    files: Sequence[str | np.ndarray]
    sizes: np.ndarray
    broken: Callable[[str, tuple[int, int], ValueError], np.ndarray | None]
    load: Callable[[str], bytes] = read_file
    draw_ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def drawn_as(self, places: np.ndarray) -> np.ndarray:
        """`draw_ids` of these places."""
        return (self.image_ids if self.draw_ids is None else self.draw_ids)[places]


class Loaded(NamedTuple):
    """Pixels u8[h,w,3] and size i32[2] that results are in pixels of."""

    pixels: np.ndarray
    size: np.ndarray


class Chunk:
    """Some of the pictures, decoded when they are first asked for and kept as long as the chunk.

    Attributes:
        pictures: all of them.
        places: i64[n], which of the pictures are in the chunk, ascending.
        batches: what the tasks share of them, on the devices.
    """

    def __init__(self, pictures: Pictures, places: np.ndarray) -> None:
        self.pictures, self.places = pictures, places
        self.batches: dict[tuple, dict[str, jax.Array]] = {}
        self._loaded: dict[int, Loaded | None] = {}
        self._locks = [threading.Lock() for _ in places]

    def load(self, row: int) -> Loaded | None:
        """A picture of the chunk; None where it cannot be decoded and is to be left out.

        Raises:
            ValueError: it cannot be decoded and that is an error.
        """
        with self._locks[row]:
            if row not in self._loaded:
                self._loaded[row] = self._decode(int(self.places[row]))
            return self._loaded[row]

    def _decode(self, place: int) -> Loaded | None:
        file, size = self.pictures.files[place], tuple(self.pictures.sizes[place].tolist())
        if isinstance(file, np.ndarray):
            return Loaded(file, np.array(file.shape[:2], np.int32))
        try:
            return Loaded(*rows.read(file, size, self.pictures.load))
        except ValueError as error:
            pixels = self.pictures.broken(file, size, error)
        return pixels if pixels is None else Loaded(pixels, np.array(pixels.shape[:2], np.int32))

    def readable(self, row: int) -> bool:
        """Whether the picture is not left out; one that this process did not load counts as
        readable."""
        return self._loaded.get(row, ()) is not None

    def size(self, row: int) -> tuple[int, int]:
        """Height and width that results are in pixels of."""
        height, width = self.pictures.sizes[self.places[row]].tolist()
        return (height, width) if height else tuple(self.load(row).size.tolist())

    def rows_of(self, places: np.ndarray) -> np.ndarray:
        """The readable rows of the chunk that are among these places of the pictures, i64[m]."""
        asked = np.flatnonzero(np.isin(self.places, places))
        return np.array([row for row in asked.tolist() if self.readable(row)], np.int64)

    def ids(self, asked: np.ndarray) -> np.ndarray:
        """Image ids of rows."""
        return self.pictures.image_ids[self.places[asked]]


class Progress:
    """A log line now and then: how many images are decoded, and how long the rest will take."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._start = self._last = time.monotonic()

    def report(self, done: int) -> None:
        """`done` images are decoded."""
        now = time.monotonic()
        if now - self._last > _TELL_EVERY:
            self._last = now
            left = duration((now - self._start) / done * (self._total - done))
            log.info("%d of %d images decoded, ETA %s", done, self._total, left)
