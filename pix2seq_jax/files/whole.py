"""Files that are there as a whole or not at all."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np


@contextlib.contextmanager
def open_whole(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A stream of bytes into a file that gets its name when the block ends well.

    Missing folders are made. The content goes to a file of another name beside it first, one for
    each process, which is then renamed. So a stop in between, or another writer, leaves what was
    there before. After an error nothing of the new content stays.

    Raises:
        OSError: the file cannot be written.
    """
    path = path if isinstance(path, PurePath) else Path(path)  # etils' paths are PurePaths
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to be seen
            partial.unlink()
        raise


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file, text as UTF-8, see `open_whole`."""
    with open_whole(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an `.npz`, see `open_whole`."""
    with open_whole(path) as stream:
        np.savez(stream, **arrays)
