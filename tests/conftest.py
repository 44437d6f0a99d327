"""Eight CPU devices, a persistent compilation cache and the recorded arrays for every test."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

COMPILED = str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
GOLDEN = Path(__file__).parent / "golden"

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", COMPILED)  # of commands in other processes
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="module")
def quick_compilation():
    """For modules where compiling is most of the time; recorded numbers are compared with optimised
    code."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the arrays recorded from the official implementation."""
    return GOLDEN


@pytest.fixture(scope="session")
def ops_golden() -> dict[str, np.ndarray]:
    """The recorded arrays of the single operations, by name."""
    with np.load(GOLDEN / "ops.npz") as archive:
        return dict(archive)
