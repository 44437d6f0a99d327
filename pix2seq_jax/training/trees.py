"""Names and masks of pytrees: "encoder/block/kernel" stands for
tree["encoder"]["block"]["kernel"]."""

import math
import re
from typing import Any

import jax

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


def count(tree: Tree) -> int:
    """Number of elements of all arrays (or abstract arrays) of the tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
