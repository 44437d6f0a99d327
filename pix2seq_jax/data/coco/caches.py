"""Files that save later starts some reading."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def save_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an `.npz` as a whole, so that a stop in between, or another writer, does no harm.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            np.savez(stream, **arrays)
        partial.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
