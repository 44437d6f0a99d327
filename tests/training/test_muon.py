"""Muon: matrices become orthogonal, all else moves as by AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pix2seq_jax.training import muon, optim, sharding

RATE, WIDTH, HEADS = 0.1, 8, 2


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


GRADIENTS = {
    "stem": {"kernel": random(4, 4, 3, WIDTH)},
    "layers": {
        "query": {"kernel": random(3, WIDTH, HEADS, WIDTH // HEADS), "bias": random(3, WIDTH)},
        "out": {"kernel": random(3, HEADS, WIDTH // HEADS, WIDTH)},
    },
    "cross": {"key_kernel": random(3, WIDTH, HEADS, WIDTH // HEADS)},
    "dense": {"kernel": random(WIDTH, 4 * WIDTH)},
    "embedding": random(10, WIDTH),
}


def updates(tx: optax.GradientTransformation, gradients: dict = GRADIENTS) -> dict:
    return jax.jit(tx.update)(gradients, tx.init(gradients), gradients)[0]


@pytest.mark.parametrize("name,shape", [
    (("dense", "kernel"), (1, WIDTH, 4 * WIDTH)),
    (("layers", "query", "kernel"), (3, WIDTH, WIDTH)),
    (("layers", "out", "kernel"), (3, WIDTH, WIDTH)),
    (("cross", "key_kernel"), (3, WIDTH, WIDTH)),
])  # fmt: skip
def test_matrices_of_all_layers_move_orthogonally(name, shape):
    moved = updates(optim.make("muon", RATE, weight_decay=0.0))
    for part in name:
        moved = moved[part]
    for matrix in np.asarray(moved).reshape(shape):
        values = np.linalg.svd(matrix, compute_uv=False)
        size = RATE * muon.RMS * max(matrix.shape) ** 0.5
        assert values.min() > 0.6 * size and values.max() < 1.3 * size
        # That is what Adam's first step would be, times RMS.
        assert np.sqrt(np.mean(matrix**2)) == pytest.approx(RATE * muon.RMS, rel=0.2)


@pytest.mark.parametrize("axis", range(3))
def test_a_layer_moves_as_if_it_were_alone(axis):
    alone = {"layers": {"query": {"kernel": GRADIENTS["layers"]["query"]["kernel"][axis][None]}}}
    tx = optim.make("muon", RATE, weight_decay=0.0)
    stacked = updates(tx)["layers"]["query"]["kernel"][axis]
    np.testing.assert_allclose(
        updates(tx, alone)["layers"]["query"]["kernel"][0], stacked, atol=1e-6
    )


def test_cut_matrices_move_as_whole_ones():
    """As with `fsdp` or `model` in the mesh."""
    mesh = sharding.make_mesh({"fsdp": 8})
    cut = {
        "out": PartitionSpec(None, None, None, "fsdp"),
        "query": PartitionSpec(None, "fsdp"),
    }
    gradients = {
        name: {"kernel": jax.device_put(leaf["kernel"], NamedSharding(mesh, cut[name]))}
        for name, leaf in GRADIENTS["layers"].items()
    }
    whole = jax.tree.map(np.asarray, gradients)
    tx = optim.make("muon", RATE)
    for ours, expected in zip(
        *(jax.tree.leaves(updates(tx, {"layers": given})) for given in (gradients, whole)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_all_else_moves_as_by_adamw():
    adamw, both = updates(optim.make("adamw", RATE)), updates(optim.make("muon", RATE))
    for ours, theirs in (
        (both["embedding"], adamw["embedding"]),
        (both["stem"]["kernel"], adamw["stem"]["kernel"]),
        (both["layers"]["query"]["bias"], adamw["layers"]["query"]["bias"]),
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_the_momentum_is_that_of_optax():
    """Three steps of one matrix against optax's Muon, which corrects the momentum's start: its
    direction does not depend on that."""
    ours = optim.make("muon", 1.0, weight_decay=0.0)
    theirs = optax.contrib.muon(1.0, beta=muon.MOMENTUM, consistent_rms=muon.RMS)
    params = {"kernel": jnp.zeros((4, 6))}
    states = ours.init(params), theirs.init(params)
    for step in range(3):
        gradient = {"kernel": random(4, 6 + step)[:, :6]}
        moved, first = jax.jit(ours.update)(gradient, states[0], params)
        expected, second = jax.jit(theirs.update)(gradient, states[1], params)
        states = first, second
    a, b = (np.ravel(tree["kernel"]) for tree in (moved, expected))
    assert float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) > 0.98


def test_the_state_has_the_form_of_that_of_adamw():
    states = [optim.make(name, RATE).init(GRADIENTS) for name in ("adamw", "muon")]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
