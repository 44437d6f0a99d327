"""The model against the recorded arrays of the official implementation, and its own promises."""

from pathlib import Path

import jax
import numpy as np
import pytest

from tests import golden_import


@pytest.fixture(scope="module")
def golden(golden_dir: Path):
    """Model, variables and recorded arrays of vit_tiny."""
    directory = golden_dir / "vit_tiny"
    model = golden_import.model_of(directory)
    with np.load(directory / "io.npz") as archive:
        io = dict(archive)
    shapes = jax.eval_shape(model.init, jax.random.key(0), io["images"], io["seq"].astype(np.int32))
    return model, golden_import.load(directory, shapes), io


def test_forward_matches_the_release(golden) -> None:
    model, variables, io = golden
    memory = model.apply(variables, io["images"], method="encode")
    np.testing.assert_allclose(memory, io["encoded"], atol=1e-4, rtol=0)
    logits = model.apply(variables, io["images"], io["seq"].astype(np.int32))
    np.testing.assert_allclose(logits, io["logits"], atol=1e-4, rtol=0)
    multi = model.apply(variables, io["images"], io["seq_multi"].astype(np.int32))
    assert multi.shape == (2, 3, 7, 420)
    np.testing.assert_allclose(multi.reshape(6, 7, 420), io["logits_multi"], atol=1e-4, rtol=0)


def test_parameters_are_those_of_the_release(golden) -> None:
    _, variables, io = golden
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == io["param_count"]
