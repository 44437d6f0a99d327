"""Paths of files on a disk, or in an object store as in gs://BUCKET/FOLDER."""

import io
import os
from pathlib import Path, PurePath
from typing import BinaryIO

from etils import epath


def is_address(location: str | os.PathLike) -> bool:
    """Whether a location has a scheme, as in gs://BUCKET/FOLDER, and is not in the file system."""
    return "://" in os.fspath(location)


def path_of(location: str | os.PathLike) -> PurePath:
    """A path with the methods of `pathlib.Path`; that of etils where the location has a scheme."""
    return epath.Path(location) if is_address(location) else Path(location)


def absolute(location: str | os.PathLike) -> epath.Path:
    """The path of etils, from the root on; an address is one already."""
    return epath.Path(location if is_address(location) else Path(location).resolve())


def open_to_read(path: PurePath) -> BinaryIO:
    """A stream of the bytes of a file in which every reader can move about.

    Raises:
        OSError: the file cannot be read.
    """
    return io.BytesIO(path.read_bytes()) if is_address(path) else path.open("rb")


def state_of(path: PurePath) -> tuple[int, int]:
    """(size in bytes, time of the last change) of a file, as exactly as its system knows the time.

    Raises:
        OSError: there is no such file.
    """
    status = path.stat()
    if isinstance(path, Path):
        return status.st_size, status.st_mtime_ns
    return status.length, status.mtime


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether the file, or one of the folders between it and `folder`, has a name with a dot in
    front."""
    return any(name.startswith(".") for name in path.relative_to(folder).parts)


def readable(path: str) -> str:
    """A path as text: U+FFFD stands for bytes of its names that are not UTF-8. Python holds these
    as halves of surrogate pairs, which no UTF-8 file can hold."""
    return os.fsencode(path).decode("utf-8", "replace")
