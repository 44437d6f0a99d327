"""Files that are there as a whole or not at all."""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import BinaryIO

import numpy as np

from pix2seq_jax.files.locations import is_address, path_of


@contextlib.contextmanager
def named_at_the_end(path: str | os.PathLike) -> Iterator[PurePath]:
    """The path of a file to write, which gets the name `path` when the block ends well.

    Missing folders are made. The file is written under another name beside it, one for each
    process, and then renamed. So a stop in between, or another writer, leaves what was there
    before. After an error nothing of the new content stays.

    Raises:
        OSError: the file cannot be written.
    """
    path = path_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to be seen
            partial.unlink()
        raise


@contextlib.contextmanager
def open_whole(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A stream of bytes into a file that gets its name when the block ends well, see
    `named_at_the_end`. An object store is sent the whole at the end of the block, and keeps an
    object as a whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    if is_address(path):
        stream = io.BytesIO()
        yield stream
        path_of(path).write_bytes(stream.getvalue())
        return
    with named_at_the_end(path) as partial, partial.open("wb") as stream:
        yield stream


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file, text as UTF-8, see `open_whole`."""
    with open_whole(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an `.npz`, see `open_whole`."""
    with open_whole(path) as stream:
        np.savez(stream, **arrays)
