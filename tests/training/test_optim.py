import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pix2seq_jax.training import optim

PARAMS = {
    "dense": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.ones(2)},
    "embedding": jnp.ones((3, 2)),
}


def zero_gradient_change(tx: optax.GradientTransformation) -> dict:
    """Change of PARAMS in one step whose gradients are zero: what weight decay alone does."""
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), PARAMS)
    return updates


@pytest.mark.parametrize("scaling", optim.SCALINGS)
@pytest.mark.parametrize("name", ["linear", "cosine", "cosine@0.8", "exp@0.1", "none"])
def test_schedule_equals_the_recorded_one(ops_golden, name, scaling):
    tail = 0 if name.startswith("exp") else 50
    rate = optim.schedule(
        name,
        base=1e-3,
        batch_size=64,
        scaling=scaling,
        warmup=100,
        total=1000,
        tail=tail,
        end_factor=0.01,
    )
    np.testing.assert_allclose(
        rate(ops_golden["lr/steps"]), ops_golden[f"lr/{name}/{scaling}"], rtol=1e-5, atol=1e-9
    )


def test_schedule_without_warmup_starts_at_the_peak():
    assert optim.schedule("cosine", base=0.5, batch_size=8, total=10)(0) == 0.5


@pytest.mark.parametrize("name,clip", [("adamw", 0.0), ("adamw_clip", 1.0)])
def test_adamw_equals_the_recorded_trajectory(ops_golden, name, clip):
    tx = optim.make("adamw", 3e-3, weight_decay=0.05, decay="all", clip=clip)
    params = jnp.asarray(ops_golden[f"opt/{name}/traj"][0])
    state = tx.init(params)
    for gradient, expected in zip(
        ops_golden[f"opt/{name}/grads"], ops_golden[f"opt/{name}/traj"][1:], strict=True
    ):
        updates, state = tx.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize(
    "decay,decays", [("kernels", (1, 0, 0)), ("weights", (1, 0, 1)), ("all", (1, 1, 1))]
)
def test_decay_takes_the_named_parameters(name, decay, decays):
    change = zero_gradient_change(optim.make(name, 0.1, weight_decay=0.5, decay=decay))
    moved = change["dense"]["kernel"], change["dense"]["bias"], change["embedding"]
    assert [bool(jnp.all(leaf < 0)) for leaf in moved] == [bool(d) for d in decays]
    assert all(bool(jnp.all(leaf == 0)) for leaf, d in zip(moved, decays, strict=True) if not d)


def test_lamb_step_has_the_norm_of_the_weights():
    tx = optim.make("lamb", 0.1, weight_decay=0.0)
    gradients = jax.tree.map(lambda p: jnp.arange(1.0, p.size + 1).reshape(p.shape), PARAMS)
    updates, _ = tx.update(gradients, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(jnp.linalg.norm(updates["dense"]["kernel"]), 0.1 * 4.0, rtol=1e-5)
    np.testing.assert_allclose(updates["dense"]["bias"], -0.1, rtol=1e-5)  # plain Adam


def test_lamb_takes_every_layer_of_a_stack_by_itself():
    """As the official release, which has a variable for every layer."""
    layers = [jnp.full((2, 3), 1.0 + i) for i in range(3)]
    stacked = {
        "layers": {"kernel": jnp.stack(layers)},
        "cross": {"key_kernel": 5 * jnp.stack(layers)},
    }
    single = {f"{i}": {"kernel": layer, "key_kernel": 5 * layer} for i, layer in enumerate(layers)}
    changes = []
    for params in (stacked, single):
        tx = optim.make("lamb", 0.1, weight_decay=0.05)
        changes.append(tx.update(jax.tree.map(jnp.cos, params), tx.init(params), params)[0])
    for i in range(3):
        np.testing.assert_allclose(
            changes[0]["layers"]["kernel"][i], changes[1][f"{i}"]["kernel"], rtol=1e-5
        )
        np.testing.assert_allclose(
            changes[0]["cross"]["key_kernel"][i], changes[1][f"{i}"]["key_kernel"], rtol=1e-5
        )


def test_lamb_moves_what_is_zero():
    tx, params = (
        optim.make("lamb", 0.1, weight_decay=0.0),
        {"kernel": jnp.zeros((2, 2)), "still": {"kernel": jnp.ones(2)}},
    )
    gradients = {"kernel": jnp.ones((2, 2)), "still": {"kernel": jnp.zeros(2)}}
    updates, _ = tx.update(gradients, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1, rtol=1e-5)
    assert bool(jnp.all(updates["still"]["kernel"] == 0))


def test_momentum_keeps_the_rate_of_a_step_with_its_gradient():
    """As Keras: v = 0.9 v - rate * gradient; parameter += 0.9 v - rate * gradient."""
    tx = optim.make("momentum", lambda step: jnp.where(step == 0, 1.0, 0.1), momentum=0.9)
    state, velocity = tx.init(PARAMS), 0.0
    for rate in (1.0, 0.1):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
        velocity = 0.9 * velocity - rate
        np.testing.assert_allclose(updates["dense"]["bias"], 0.9 * velocity - rate, rtol=1e-6)


def test_momentum_is_nesterov_without_decay():
    tx = optim.make("momentum", 1.0, momentum=0.9)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, PARAMS), tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["dense"]["bias"], -1.9, rtol=1e-6)
    assert bool(jnp.all(zero_gradient_change(tx)["dense"]["kernel"] == 0))


def test_clip_bounds_the_norm_of_the_whole_gradient():
    tx = optim.make("momentum", 1.0, momentum=0.0, clip=0.5)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, PARAMS), tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(optax.tree.norm(updates), 0.5, rtol=1e-5)


@pytest.mark.parametrize("change,message", [
    ({"name": "step"}, "schedule.name='step'"),
    ({"name": "linear@0.5"}, "schedule.name='linear@0.5'"),
    ({"name": "exp"}, "schedule.name='exp'"),
    ({"name": "cosine@half"}, "RATE a number"),
    ({"scaling": "log"}, "schedule.scaling='log'"),
    ({"warmup": 10}, "leave no step of 10"),
])  # fmt: skip
def test_bad_schedule_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        optim.schedule(**{"name": "linear", "base": 1.0, "batch_size": 8, "total": 10, **change})


def test_bad_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"optim.name='sgdw'"):
        optim.make("sgdw", 0.1)
    with pytest.raises(ValueError, match=r"optim.decay='none'"):
        optim.make("adamw", 0.1, decay="none")
