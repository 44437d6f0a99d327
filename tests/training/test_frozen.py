"""Frozen parameters and learning rates by layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pix2seq_jax.config.fill import fill
from pix2seq_jax.experiment import resolve
from pix2seq_jax.training import optim, sharding, trees
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step
from tests.helpers import four_tasks, small

MODEL, KEY = four_tasks.tiny(enc_layers=2), jax.random.key(0)
NAMES = train_state.parameter_names(MODEL)
TASKS = {"detection": four_tasks.TASKS["detection"]}
ENCODER = "^(stem|image_encoder)/"
RATE = optim.schedule("none", base=1e-2, batch_size=4, total=10)


def mesh():
    return sharding.make_mesh(devices=jax.devices()[:1])


def batches():
    return {"detection": four_tasks.example(4, four_tasks.slots_of("detection"))}


@functools.cache
def after_steps(frozen: str):
    """(first state, state after two steps, metrics of the first, operations of the step)."""
    tx = optim.make("adamw", RATE, clip=1e-3)
    step = train_step.make_step(MODEL, TASKS, tx, RATE, frozen=frozen)
    with jax.set_mesh(mesh()):
        first = train_state.init_state(MODEL, tx, KEY, mesh=mesh(), frozen=frozen)
        compiled = jax.jit(step).lower(first, batches(), KEY).compile()
        state, metrics = compiled(first, batches(), KEY)
        state, _ = compiled(state, batches(), KEY)
    return first, state, metrics, compiled.cost_analysis()["flops"]


def test_frozen_parameters_stay_and_the_rest_learns():
    first, state, _, _ = after_steps(ENCODER)
    before, after = (trees.flatten_names(one.params) for one in (first, state))
    for name, value in after.items():
        same = np.array_equal(value, before[name])
        assert same == name.startswith(("stem/", "image_encoder/")), name


def test_the_optimizer_keeps_nothing_of_frozen_parameters():
    first, state, _, _ = after_steps(ENCODER)
    kept = trees.flatten_names(state.opt_state)
    assert not [name for name in kept if "stem" in name or "image_encoder" in name]
    assert any(name.endswith("mu/decoder/embedding") for name in kept)
    tx = optim.make("adamw", RATE, clip=1e-3)
    abstract = train_state.abstract_state(MODEL, tx, mesh=mesh(), frozen=ENCODER)
    assert jax.tree.structure(abstract) == jax.tree.structure(first)


def test_no_gradients_are_computed_for_frozen_parameters():
    """The step has fewer operations, and the gradients of the rest are those of a whole model."""
    assert after_steps(ENCODER)[3] < 0.8 * after_steps("")[3]
    state = after_steps("")[0]
    rng = jax.random.fold_in(KEY, 0)  # as the first step does
    whole, part = (
        jax.jit(train_step.make_gradients(MODEL, TASKS, frozen=frozen))(state, batches(), rng)[0]
        for frozen in ("", ENCODER)
    )
    whole, part = trees.flatten_names(whole), trees.flatten_names(part)
    assert set(whole) - set(part) == {
        name for name in NAMES if name.startswith(("stem/", "image_encoder/"))
    }
    for name, value in part.items():
        np.testing.assert_allclose(value, whole[name], atol=1e-6, err_msg=name)
    # The norm that clipping looks at is that of the rest, too.
    norm = after_steps(ENCODER)[2]["grad_norm"]
    np.testing.assert_allclose(norm, optax.tree.norm(list(part.values())), rtol=1e-5)


def test_split_and_merge_are_inverse():
    params = after_steps("")[0].params
    rest, matching = trees.split(params, "kernel$|bias$")
    assert not set(trees.flatten_names(rest)) & set(trees.flatten_names(matching))
    merged = trees.merge(rest, matching)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(np.array_equal, merged, params))
    assert trees.split(params, "")[0] is params and trees.merge(params, {}) is params


@pytest.mark.parametrize(
    "pattern,words",
    [
        ("^encoder/", r"matches no parameter; near it are \['.*image_encoder"),
        ("stm/", "near it are .*stem"),
        ("qqqqqqqq", "begin with .*image_encoder"),
        (".", "matches all parameters; their names begin with"),
    ],
)
def test_a_pattern_that_matches_nothing_or_all_is_refused(pattern, words):
    with pytest.raises(ValueError, match=words):
        optim.check_frozen(NAMES, pattern)


def test_rates_fall_with_the_depth_of_the_encoder():
    params = after_steps("")[0].params
    factors = trees.flatten_names(optim.rate_factors(params, 0.5, 0.1, 2))
    for name, leaf in trees.flatten_names(params).items():
        if name.startswith("image_encoder/layers/"):
            expected = [0.1 * 0.5**2, 0.1 * 0.5]
            assert factors[name].shape == (2, *(1,) * (leaf.ndim - 1))
        elif name.startswith("image_encoder/norm/"):
            expected = [0.1]
        elif name.startswith(("stem/", "image_encoder/")):
            expected = [0.1 * 0.5**3]
        else:
            expected = [1.0]
        np.testing.assert_allclose(np.ravel(factors[name]), expected, rtol=1e-6, err_msg=name)


def test_the_rate_of_the_encoder_is_for_what_another_library_has():
    """Of a ResNet not for the transformer above it, which starts fresh."""
    config = small.load("detection.py:arch=resnet50,size=64")
    config.update_from_flattened_dict(small.shrunk(config))
    config = fill(config)
    config.model.update({"vocab_size": 64, "max_seq_len": 16})
    config.schedule.update({"name": "none", "warmup": 0})
    model = resolve.make_model(config)
    shapes = train_state.abstract_variables(model, mesh=mesh())["params"]
    params, changes = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes), []
    for rate in (1.0, 0.25):
        config.optim.encoder_rate = rate
        tx, _ = resolve.make_update(config, model, {})
        updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
        changes.append(trees.flatten_names(updates))
    slow = {name for name in changes[0] if name.startswith("stem/resnet/")}
    assert slow and {"stem/dense/kernel", "image_encoder/norm/scale"} <= changes[0].keys() - slow
    for name, plain in changes[0].items():
        factor = 0.25 if name in slow else 1.0
        np.testing.assert_allclose(changes[1][name], plain * factor, rtol=1e-6, err_msg=name)
        assert np.all(plain)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_updates_are_multiplied_by_the_factors(name):
    params = {
        "stem": {"kernel": jnp.ones((2, 3))},
        "image_encoder": {"layers": {"kernel": jnp.ones((2, 3))}},
        "decoder": {"embedding": jnp.ones((2, 3))},
    }
    grads = jax.tree.map(lambda x: jnp.arange(1.0, 7).reshape(x.shape), params)
    rates = {"layer_decay": 0.5, "encoder_rate": 0.1, "encoder_layers": 2}
    plain, changed = optim.make(name, 1e-2), optim.make(name, 1e-2, **rates)
    assert jax.tree.structure(plain.init(params)) == jax.tree.structure(changed.init(params))
    expected, _ = plain.update(grads, plain.init(params), params)
    updates, _ = changed.update(grads, changed.init(params), params)
    factors = optim.rate_factors(params, 0.5, 0.1, 2)
    for leaf, one, factor in zip(*map(jax.tree.leaves, (updates, expected, factors)), strict=True):
        np.testing.assert_allclose(leaf, one * factor, rtol=1e-5)
