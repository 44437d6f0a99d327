"""Muon (Jordan et al. 2024): matrices move by their momentum with all its singular values brought
near 1, other parameters by another optimizer."""

import math
import re

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from pix2seq_jax.training import trees

# The matrices of Dense and attention layers. Those of the stem see pixels or are convolutions, and
# embeddings and positions are rows that are looked up.
MATRICES = r"^(?!stem/).*kernel$"
# The root mean square of an update of Adam, so that both take the same learning rate (Liu et al.
# 2025, "Muon is scalable for LLM training", section 2.2).
RMS = 0.2
MOMENTUM = 0.95  # decay of the average of the gradients, as published


def scale_by_muon(rest: optax.GradientTransformation, stacked: str) -> optax.GradientTransformation:
    """Nesterov momentum of the matrices made orthogonal, with a root mean square of RMS.

    Args:
        rest: moves all other parameters. Its state is an optax.ScaleByAdamState, and so is that of
            the result: `mu` of a matrix is the momentum, `nu` is 0.
        stacked: regex over names; such a parameter holds the matrices of all layers.
    """

    def update(updates, state, params=None):
        moves, new = rest.update(updates, state, params)
        names = [name for name in trees.flatten_names(updates) if re.search(MATRICES, name)]
        gradients, before = trees.flatten_names(updates), trees.flatten_names(state.mu)
        average = {name: _mean(before[name], gradients[name]) for name in names}
        ahead = {name: _mean(average[name], gradients[name]) for name in names}  # Nesterov
        still = {name: jnp.zeros_like(gradients[name]) for name in names}
        mu, nu = _replaced(new.mu, average), _replaced(new.nu, still)
        return _replaced(moves, _orthogonal(ahead, stacked)), new._replace(mu=mu, nu=nu)

    return optax.GradientTransformation(rest.init, update)


def _mean(average: jax.Array, gradient: jax.Array) -> jax.Array:
    return MOMENTUM * average + (1.0 - MOMENTUM) * gradient


def dimensions(name: str, ndim: int, stacked: bool) -> contrib.MuonDimensionNumbers:
    """Which axes of a kernel are the rows and which the columns of its matrix.

    Heads go with the features that they are made of: [D,H,D/H] before attention, [H,D/H,D] behind.
    """
    axes = tuple(range(int(stacked), ndim))
    inputs = len(axes) - 1 if name.endswith("out/kernel") else 1
    return contrib.MuonDimensionNumbers(axes[:inputs], axes[inputs:])


def _orthogonal(matrices: dict[str, jax.Array], stacked: str) -> dict[str, jax.Array]:
    axes = {
        name: dimensions(name, x.ndim, re.search(stacked, name) is not None)
        for name, x in matrices.items()
    }
    # Without a memory of its own it only makes orthogonal.
    muon = contrib.scale_by_muon(beta=0.0, weight_dimension_numbers=axes)
    moved, _ = muon.update(matrices, muon.init(matrices))
    return {name: x * (RMS * max(_sides(x, axes[name])) ** 0.5) for name, x in moved.items()}


def _sides(x: jax.Array, axes: contrib.MuonDimensionNumbers) -> tuple[int, int]:
    """Numbers of rows and columns."""
    rows, columns = ([x.shape[axis] for axis in side] for side in axes)
    return math.prod(rows), math.prod(columns)


def _replaced(tree: trees.Tree, leaves: dict[str, jax.Array]) -> trees.Tree:
    """The tree with some leaves changed, by their names."""
    changed = trees.flatten_names(tree) | leaves
    return jax.tree.unflatten(jax.tree.structure(tree), changed.values())
