"""Paths of files on a disk, or in an object store as in gs://BUCKET/FOLDER."""

import os
from pathlib import Path, PurePath

from etils import epath


def path_of(location: str | os.PathLike) -> PurePath:
    """A path with the methods of `pathlib.Path`; that of etils where the location has a scheme."""
    return epath.Path(location) if "://" in os.fspath(location) else Path(location)


def state_of(path: PurePath) -> tuple[int, int]:
    """(size in bytes, time of the last change) of a file, as exactly as its system knows the time.

    Raises:
        OSError: there is no such file.
    """
    status = path.stat()
    if isinstance(path, Path):
        return status.st_size, status.st_mtime_ns
    return status.length, status.mtime
