"""Meshes that cut more than the batch: the same numbers as one device, and no more bytes than the
rules ask for. With five layers, so that the loop over layers is what is tested."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.models.axes import constrain, partition_spec
from pix2seq_jax.training import compiled, sharding
from tests.helpers import four_tasks
from tests.helpers.meshes import Run, name_of

ROWS, LAYERS = 16, 5
# Wide enough that an array with the rows of all devices is larger than any parameter.
SIZES = {"enc_dim": 64, "enc_mlp": 128, "enc_heads": 8, "dec_dim": 64, "dec_mlp": 128}
SIZES |= {"dec_heads": 8, "enc_layers": LAYERS, "dec_layers": LAYERS}
MESHES = ({"data": 8}, {"fsdp": 8}, {"model": 8}, {"data": 2, "fsdp": 2, "model": 2})


def run_on(axes: dict, **options) -> Run:
    return Run(four_tasks.tiny(**SIZES), axes, rows=ROWS, **options)


@pytest.fixture(scope="module")
def alone() -> Run:
    return run_on({"data": 1}, devices=jax.devices()[:1], decodes=True)


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    return {name_of(axes): run_on(axes, decodes=axes == MESHES[-1]) for axes in MESHES}


@pytest.mark.parametrize("name", [name_of(axes) for axes in MESHES])
def test_it_equals_one_device(name, runs, alone):
    run = runs[name]
    assert run.loss == pytest.approx(alone.loss, rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * max(np.abs(b).max(), 1e-3)),
        run.gradients,
        alone.gradients,
    )


def test_decoding_equals_one_device(runs, alone):
    logits = runs[name_of(MESHES[-1])].logits
    np.testing.assert_allclose(logits, alone.logits, atol=1e-5)
    assert logits.std(axis=0).max() > 1e-4  # images differ


def test_decoding_in_int8_equals_one_device(runs, alone):
    """Where a number is half a step away from two, the last bit says which one it becomes."""
    logits = runs[name_of(MESHES[-1])].int8_logits
    off = np.abs(logits - alone.int8_logits)
    assert off.max() < 0.05 and off.mean() < 1e-3
    assert 0.005 < np.abs(alone.int8_logits - alone.logits)[:, :, 0].max() < 0.1
    assert logits.std(axis=0).max() > 0.1  # images differ


def test_fsdp_holds_the_rows_of_its_device(runs):
    """Parameters cut over the devices of the batch: less memory than with whole ones, and each
    gathered for the forward and for the backward pass, its gradient added once."""
    data, fsdp = runs["data8"], runs["fsdp8"]
    assert fsdp.temporaries < 1.1 * data.temporaries
    assert fsdp.sent["all-gather"] < 2.2 * 7 / 8 * fsdp.parameters
    assert fsdp.sent["all-reduce"] < 1.1 * 2 * 7 / 8 * fsdp.parameters
    assert max(row.size for row in compiled.collectives(fsdp.text)) < 1.1 * fsdp.largest


def test_the_model_axis_gathers_no_keys_and_values(runs):
    """Only sums of activations, and what depends on the whole vocabulary."""
    sent = runs["model8"].sent
    assert sent.get("all-gather", 0.0) < 0.1 * sent["all-reduce"]


def test_arrays_are_cut_as_their_dimensions_are_named():
    sizes = {"data": 2, "model": 4}
    assert partition_spec(sizes, ("batch", None, "mlp"), (8, 3, 16)) == jax.P(
        ("data",), None, ("model",)
    )
    assert partition_spec(sizes, ("batch", "heads"), (8, 6, 5, 4)) == jax.P(("data",), None)


def test_nothing_is_constrained_on_one_device():
    x = jnp.zeros((4, 3))
    assert constrain(x, "batch") is x
    with jax.set_mesh(sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])):
        assert constrain(x, "batch") is x
