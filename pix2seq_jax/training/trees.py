"""Names and masks of pytrees: "encoder/block/kernel" stands for
tree["encoder"]["block"]["kernel"]."""

import math
import re
from typing import Any

import jax
from flax import traverse_util

Tree = Any


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten_names(tree: Tree) -> dict[str, Any]:
    """Leaves by their name "a/b/c", in the order of the tree; None is no leaf."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def mask_by_regex(tree: Tree, pattern: str) -> Tree:
    """Tree of bool of the same structure: True where `re.search(pattern, name)` finds something."""
    compiled = re.compile(pattern)
    return jax.tree_util.tree_map_with_path(
        lambda path, _: compiled.search(_name(path)) is not None, tree
    )


def split(tree: Tree, pattern: str) -> tuple[Tree, Tree]:
    """(the leaves of nested dictionaries whose names `pattern` does not match, those that it does),
    each as nested dictionaries without blank ones; (tree, {}) for the pattern ""."""
    if not pattern:
        return tree, {}
    compiled, parts = re.compile(pattern), ({}, {})
    for name, leaf in flatten_names(tree).items():
        parts[compiled.search(name) is not None][name] = leaf
    rest, matching = (traverse_util.unflatten_dict(part, sep="/") for part in parts)
    return rest, matching


def merge(rest: Tree, matching: Tree) -> Tree:
    """The tree that `split` has cut."""
    if not matching:
        return rest
    return traverse_util.unflatten_dict(flatten_names(rest) | flatten_names(matching), sep="/")


def count(tree: Tree) -> int:
    """Number of elements of all arrays (or abstract arrays) of the tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
