"""vit_tiny, the smallest recorded checkpoint, and changes of it."""

import copy
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.official_checkpoints import key, recorded, write


@pytest.fixture(scope="module")
def vit(golden_dir):
    """vit_tiny: config, entries, and what the official implementation computed."""
    with np.load(golden_dir / "vit_tiny" / "io.npz") as io:
        return *recorded(golden_dir / "vit_tiny"), dict(io)


@pytest.fixture
def changed(vit, tmp_path):
    """A function that writes vit_tiny with other config fields, and entries added or (None) left
    out."""

    def change(fields: dict, arrays: dict[str, np.ndarray | None]) -> Path:
        config, entries = copy.deepcopy(vit[0]), dict(vit[1])
        config["model"] |= fields
        entries |= {key(name): array for name, array in arrays.items()}
        return write(
            tmp_path / "official", config, {n: a for n, a in entries.items() if a is not None}
        )

    return change
