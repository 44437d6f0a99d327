import jax
import jax.numpy as jnp

from pix2seq_jax.training import trees

TREE = {"a": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}, "b": [jnp.zeros(()), None]}


def test_names_follow_the_tree():
    assert list(trees.flatten_names(TREE)) == ["a/bias", "a/kernel", "b/0"]
    assert trees.flatten_names(TREE)["a/kernel"].shape == (2, 3)


def test_mask_has_the_structure_of_the_tree():
    assert trees.mask_by_regex(TREE, "kernel$") == {
        "a": {"kernel": True, "bias": False},
        "b": [False, None],
    }


def test_count_takes_abstract_arrays_too():
    assert trees.count(TREE) == 10
    assert trees.count(jax.eval_shape(lambda: TREE)) == 10
