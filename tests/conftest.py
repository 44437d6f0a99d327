"""Eight CPU devices, a persistent compilation cache and the recorded arrays for every test."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

COMPILED = str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
GOLDEN = Path(__file__).parent / "golden"

# Compiling is most of the time of the tests. Small programs are kept, too: a training has a hundred
# of them, the same ones in every file and command.
SETTINGS = {
    "jax_compilation_cache_dir": COMPILED,
    "jax_persistent_cache_min_compile_time_secs": 0.02,
    "jax_disable_most_optimizations": True,
}
for name, value in SETTINGS.items():
    os.environ.setdefault(name.upper(), str(value))  # of commands in other processes
    jax.config.update(name, value)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Files of minutes come first: one that is started last is waited for by all other workers.
LONG = (
    "test_train.py",
    "test_multitask_run.py",
    "test_recipes.py",
    "test_step.py",
    "test_commands.py",
    "test_console.py",
    "test_processes.py",
    "test_in_training.py",
    "test_transfer.py",
    "test_colabs.py",
    "test_import_tf.py",
    "test_multitask.py",
    "test_plan.py",
    "test_meshes.py",
    "test_weight_search.py",
    "test_server.py",
    "test_pictures_decoded_once.py",
    "test_prepare.py",
    "test_emergency.py",
)


def pytest_collection_modifyitems(items) -> None:
    """Puts the long files first; `launch/test.sh` keeps this order."""
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONG)))


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
