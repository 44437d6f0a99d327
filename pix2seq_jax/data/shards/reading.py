"""Images that are read from shards, one by one in any order, on a disk or gs://."""

import os
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from pix2seq_jax.data.coco.checked_images import Headers
from pix2seq_jax.data.coco.files import locate_names
from pix2seq_jax.data.shards.index import AGAIN, INDEX, Shard, read_index
from pix2seq_jax.data.shards.records import image_of, known_of
from pix2seq_jax.files.locations import path_of, state_of


class ImageShards:
    """The images of a folder of shards, a coco.files.Storage.

    A file is named by its shard and its name in there. Several threads may read.

    Attributes:
        remedy: see coco.files.Storage.
    """

    remedy = "give the annotations that the shards were made with, or prepare the data again"

    def __init__(self, folder: str | os.PathLike) -> None:
        """Reads the index, and compares the sizes of the shards with it.

        Args:
            folder: that `prepare` wrote, as in data/train or gs://BUCKET/data/train.

        Raises:
            ValueError: there is no index, it is damaged, or a shard is missing or has another
                size; names the file.
        """
        self._folder = path_of(folder)
        self._index = read_index(self._folder)
        paths = [self._folder / shard.file for shard in self._index.shards]
        with ThreadPoolExecutor() as pool:  # an object store answers slowly
            list(pool.map(_check_size, paths, self._index.shards))
        ranges = [f"[0:{shard.records}]" for shard in self._index.shards]
        parts = [f"{path}{part}" for path, part in zip(paths, ranges, strict=True)]
        self._records = ArrayRecordDataSource(parts)
        self._paths = [str(path) for path in paths]
        counts = [shard.records for shard in self._index.shards]
        self._shards = np.repeat(np.arange(len(counts)), counts).tolist()  # of each image
        names = self._index.names
        self._rows = {unicodedata.normalize("NFC", name): row for row, name in enumerate(names)}
        self._files = {self._file(row): row for row in range(len(names))}

    def __str__(self) -> str:
        return f"the shards of {self._folder}"

    def __len__(self) -> int:
        return len(self._index.names)

    def _path(self, row: int) -> str:
        """Of the shard that holds an image."""
        return self._paths[self._shards[row]]

    def _file(self, row: int) -> str:
        return f"{self._path(row)}/{self._index.names[row]}"

    def locate(self, annotations: PurePath, names: Sequence[str]) -> list[str | None]:
        """The file of every file name; None where there is none, see coco.files.locate_names."""

        def entry(parts: list[str]) -> str | None:
            row = self._rows.get(unicodedata.normalize("NFC", "/".join(parts)))
            return None if row is None else self._file(row)

        return locate_names(names, entry)

    def headers(self, files: Sequence[str]) -> Headers:
        """What the index says about files; raises nothing for broken ones."""
        rows = [self._files[file] for file in files]
        every = self._index.errors
        errors = {number: every[row] for number, row in enumerate(rows) if row in every}
        return Headers(self._index.sizes[rows], self._index.turned[rows], errors)

    def load(self, file: str) -> bytes:
        """Content of an image file; ValueError where its record is damaged, names the shard."""
        return image_of(self._record(self._files[file]))

    def __getitem__(self, row: int) -> dict[str, Any]:
        """What is known of an image, its annotations among it, see records; and `image`, the bytes
        of the file. Raises ValueError where the record is damaged."""
        record = self._record(row)
        return known_of(record) | {"image": image_of(record)}

    def _record(self, row: int) -> bytes:
        try:
            return self._records[row]
        except Exception as error:  # array_record raises RuntimeError for all that is wrong
            raise ValueError(
                f"shard {self._path(row)} cannot be read at the image {self._index.names[row]} "
                f"({' '.join(str(error).split())}); if it is damaged, {AGAIN}"
            ) from error


def _check_size(path: PurePath, shard: Shard) -> None:
    """Raises ValueError where a shard is missing or has another size than in the index."""
    try:
        size, _ = state_of(path)
    except Exception as error:  # object stores raise errors of their own
        raise ValueError(f"shard {path} cannot be read: {error}; {AGAIN}") from error
    if size != shard.bytes:
        raise ValueError(
            f"shard {path} is damaged: it has {size:,} bytes, and {shard.bytes:,} in {INDEX}; "
            f"{AGAIN}"
        )
