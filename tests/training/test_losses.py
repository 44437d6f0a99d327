"""The loss in chunks is the loss of all logits at once; the losses are the recorded ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.training import losses, sharding

ROWS, LENGTH, WIDTH, VOCABULARY = 8, 21, 16, 50
KINDS = ("xent", "xent@0.1", "focal@2.0", "focal@0.5", "logistic", "logistic@0.1")
CHUNK = 4 * VOCABULARY * 13  # bytes of the logits of 13 rows: no divisor of the number of rows


def drawn(dtype: str = "float32") -> tuple[losses.Output, jax.Array, jax.Array]:
    """(output, targets, weights); half of the weights are 0, all of them in one image."""
    rng = np.random.default_rng(0)
    output = losses.Output(
        jnp.asarray(rng.normal(size=(ROWS, LENGTH, WIDTH)), dtype),
        jnp.asarray(rng.normal(size=(VOCABULARY, WIDTH)), jnp.float32),
        jnp.asarray(rng.normal(size=VOCABULARY), jnp.float32),
    )
    targets = jnp.asarray(rng.integers(0, VOCABULARY, (ROWS, LENGTH)), jnp.int32)
    weights = rng.random((ROWS, LENGTH)) * (rng.random((ROWS, LENGTH)) < 0.5)
    weights[3] = 0
    return output, targets, jnp.asarray(weights / weights.sum(), jnp.float32)


def whole(output, targets, weights, kind):
    """(loss, sums by image) from the logits of all positions."""
    hidden, table, bias = output
    logits = jnp.matmul(
        hidden, table.astype(hidden.dtype).T, preferred_element_type=jnp.float32
    ) + jnp.expand_dims(bias, (0, 1))
    values = weights * losses.token_loss(logits, targets, kind)
    counted = weights > 0
    correct = (jnp.argmax(logits, -1) == targets) & counted
    sums = (jnp.sum(x.astype(jnp.float32), axis=1) for x in (values, weights, correct, counted))
    return jnp.sum(values), losses.Sums(*sums)


def chunked(output, targets, weights, kind, chunk_bytes=CHUNK):
    return losses.weighted_loss(output, targets, weights, kind, LENGTH, chunk_bytes)


def assert_close(tree, other, tolerance):
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_bytes", [1, CHUNK, losses.CHUNK_BYTES])
def test_chunks_give_the_loss_and_gradient_of_all_logits(kind, chunk_bytes):
    output, targets, weights = drawn()
    one, two = (
        jax.jit(jax.value_and_grad(functools.partial(function, kind=kind), has_aux=True))(
            output, targets=targets, weights=weights
        )
        for function in (whole, functools.partial(chunked, chunk_bytes=chunk_bytes))
    )
    assert_close(one[0], two[0], 1e-6)
    assert_close(one[1], two[1], 1e-5)
    assert float(jnp.max(jnp.abs(two[1].hidden))) > 1e-3
    assert not jnp.any(two[1].hidden[3])  # nothing weighs there


def test_gradient_is_scaled_by_what_follows():
    output, targets, weights = drawn()
    gradient = jax.grad(lambda x: 3 * chunked(x, targets, weights, "xent")[0])(output)
    single = jax.grad(lambda x: chunked(x, targets, weights, "xent")[0])(output)
    assert_close(gradient, jax.tree.map(lambda g: 3 * g, single), 1e-6)


def test_bfloat16_is_as_near_as_its_digits():
    output, targets, weights = drawn("bfloat16")
    one, two = (
        jax.value_and_grad(lambda x, f=function: f(x, targets, weights, "xent")[0])(output)
        for function in (whole, chunked)
    )
    assert two[1].hidden.dtype == jnp.bfloat16 and two[1].table.dtype == jnp.float32
    assert_close(one[0], two[0], 1e-6)
    assert_close(one[1], two[1], 2**-8)


def test_nothing_that_weighs_gives_zero():
    output, targets, weights = drawn()
    (total, sums), gradient = jax.value_and_grad(chunked, has_aux=True)(
        output, targets, 0 * weights, "xent"
    )
    assert float(total) == 0 and not any(jnp.any(x) for x in jax.tree.leaves((sums, gradient)))


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "fsdp": 2, "model": 2}])
def test_devices_take_their_own_rows(axes):
    output, targets, weights = drawn()
    mesh = sharding.make_mesh(axes)
    cut, replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    layout = losses.Output(cut, replicated, replicated), cut, cut
    function = jax.value_and_grad(functools.partial(chunked, kind="xent"), has_aux=True)
    one = function(output, targets, weights)
    with jax.set_mesh(mesh):
        eight = jax.jit(function)(*jax.device_put((output, targets, weights), layout))
    assert_close(one, eight, 1e-6)


def test_memory_is_that_of_a_chunk():
    """Not that of the logits, of which the loss of whole ones has several copies."""
    output, targets, weights = jax.eval_shape(drawn)
    output = output._replace(
        table=jax.ShapeDtypeStruct((9_000, WIDTH), jnp.float32),
        bias=jax.ShapeDtypeStruct((9_000,), jnp.float32),
    )
    logits = 4 * ROWS * LENGTH * 9_000
    used = {}
    for function in (whole, functools.partial(chunked, chunk_bytes=logits // 20)):
        step = jax.jit(jax.grad(functools.partial(function, kind="xent"), has_aux=True))
        analysis = step.lower(output, targets=targets, weights=weights).compile().memory_analysis()
        used[function] = analysis.temp_size_in_bytes
    before, after = used.values()
    assert before > logits and after < logits / 4


@pytest.fixture(scope="module")
def io(golden_dir):
    with np.load(golden_dir / "vit_tiny" / "io.npz") as archive:
        return dict(archive)


@pytest.mark.parametrize("kind", ["xent", "xent@0.1", "focal@2.0", "logistic"])
def test_losses_equal_the_recorded_ones(io, kind):
    logits, target = jnp.asarray(io["logits"]), jnp.asarray(io["target"], jnp.int32)
    values = losses.token_loss(logits, target, kind)
    np.testing.assert_allclose(values, io[f"token_losses/{kind}"], rtol=1e-5, atol=1e-5)
    mean = jnp.sum(values * io["token_weights"]) / (jnp.sum(io["token_weights"]) + 1e-9)
    np.testing.assert_allclose(mean, io[f"loss/{kind}"], rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1.0, 2.0])
def test_focal_has_finite_gradients_where_the_target_is_certain(gamma):
    logits = jnp.array([[[200.0, 0.0, 0.0]]])  # probability 1 in float32
    loss, gradient = jax.value_and_grad(
        lambda x: losses.token_loss(x, jnp.zeros((1, 1), jnp.int32), f"focal@{gamma}").sum()
    )(logits)
    assert abs(loss) < 1e-6 and jnp.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["mse", "xent@", "focal@much"])
def test_unknown_loss_is_refused(kind):
    with pytest.raises(ValueError, match=f"train.loss='{kind}'.*focal@GAMMA"):
        losses.token_loss(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2), jnp.int32), kind)
