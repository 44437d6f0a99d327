"""Eight CPU devices, a persistent compilation cache and the recorded arrays for every test."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

COMPILED = str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
GOLDEN = Path(__file__).parent / "golden"

# Of commands in other processes. Compiling is most of the time of the tests.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", COMPILED)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="module")
def optimised():
    """For modules that compare models with recorded numbers: compiled as users have it."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the arrays recorded from the official implementation."""
    return GOLDEN


@pytest.fixture(scope="session")
def ops_golden() -> dict[str, np.ndarray]:
    """The recorded arrays of the single operations, by name."""
    with np.load(GOLDEN / "ops.npz") as archive:
        return dict(archive)
