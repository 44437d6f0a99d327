"""Eight CPU devices, a persistent compilation cache and the recorded arrays for every test."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

COMPILED = str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
GOLDEN = Path(__file__).parent / "golden"

# Compiling is most of the time of the tests. Small programs are kept too: a run has a hundred of them,
# and every run, worker and command makes them anew. XLA's older emitters compile in two thirds of the time.
SETTINGS = {
    "jax_compilation_cache_dir": COMPILED,
    "jax_persistent_cache_min_compile_time_secs": 0.02,
    "jax_disable_most_optimizations": True,
}
XLA_FLAGS = "--xla_cpu_use_fusion_emitters=false"
for name, value in SETTINGS.items():
    os.environ.setdefault(name.upper(), str(value))  # of commands in other processes
    jax.config.update(name, value)
os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {os.environ.get('XLA_FLAGS', '')}"
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


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
