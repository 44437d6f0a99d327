"""What is said where memory does not suffice."""

import jax
import jax.numpy as jnp
import pytest

from pix2seq_jax.config.fill import fill
from pix2seq_jax.experiment import memory
from pix2seq_jax.training import losses, sharding
from tests.helpers import small


@pytest.fixture
def config(tmp_path):
    return fill(small.config("multitask.py:shapes", tmp_path))


def test_running_out_of_memory_names_the_estimate_and_three_settings(config):
    with pytest.raises(ValueError) as caught, memory.explained(config, sharding.make_mesh()):
        jnp.zeros(2**48).block_until_ready()  # a petabyte
    message = str(caught.value)
    assert "out of memory" in message and "what can be counted beforehand is" in message
    flags = ("model.remat=True", "train.accumulate=2", "model.dtype=bfloat16")
    assert all(f"--config.{flag}" in message for flag in flags)


def test_settings_that_are_on_are_not_proposed(config):
    config.model.remat, config.model.dtype = True, "bfloat16"
    with pytest.raises(ValueError) as caught, memory.explained(config, sharding.make_mesh()):
        jnp.zeros(2**48).block_until_ready()
    message = str(caught.value)
    assert "remat" not in message and "bfloat16" not in message
    assert "--config.train.batch_size=4" in message  # of 8


def test_other_errors_of_the_device_stay_as_they_are(config):
    def fail():
        raise RuntimeError("not of this machine")

    mesh = sharding.make_mesh()
    with pytest.raises(jax.errors.JaxRuntimeError), memory.explained(config, mesh):
        jax.block_until_ready(jax.pure_callback(fail, jax.ShapeDtypeStruct((), jnp.float32)))


def test_logits_are_counted_as_a_chunk(config):
    """Whatever the batch; the inputs of the layers grow with it."""
    config.vocab.size = 35_000
    sizes = {}
    for batch in (8, 800):
        config.train.batch_size = batch
        for section in config.tasks.values():
            section.batch_size = batch
        parts = memory.needed(config, sharding.make_mesh(), training=True)
        sizes[batch] = {part.what.partition(" (")[0]: part.size for part in parts}
    chunks = [size["a chunk of logits"] for size in sizes.values()]
    assert chunks[0] <= chunks[1] <= 2 * losses.CHUNK_BYTES


def test_samples_are_counted_in_the_numbers_that_hold_them(config):
    """What is refused cannot fit: a float32 cache is four times one in int8."""
    sizes = {}
    for dtype, cache_dtype in (("float32", ""), ("bfloat16", ""), ("float32", "int8")):
        config.model.dtype, config.model.cache_dtype = dtype, cache_dtype
        parts = memory.needed(config, sharding.make_mesh(), training=False)
        (sizes[dtype, cache_dtype],) = (
            part.size for part in parts if part.what.endswith("samples of segmentation")
        )
    widths = {key: size / sizes["float32", "int8"] for key, size in sizes.items()}
    assert list(widths.values()) == [4, 2, 1]
