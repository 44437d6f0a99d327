"""Quantisation against the recorded arrays, token ranges, and the layouts that are refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.vocab import FAKE, NOISE_LABEL, PADDING, Vocab


@pytest.mark.parametrize("bins", [2, 100, 1000, 2000])
def test_quantisation_is_the_recorded_one(ops_golden, bins):
    vocab = Vocab(size=4000, num_bins=bins)
    quantized = vocab.quantize(jnp.asarray(ops_golden["quant/in"]))
    np.testing.assert_array_equal(quantized, ops_golden[f"quant/q{bins}"])
    np.testing.assert_allclose(
        vocab.dequantize(quantized), ops_golden[f"quant/dq{bins}"], rtol=0, atol=1e-7
    )


def test_coordinates_survive_to_half_a_bin():
    vocab = Vocab(size=35000, num_bins=500)
    x = jnp.linspace(0.0, 1.0, 4001)
    error = jnp.abs(vocab.coords(vocab.coord_tokens(x)) - x)
    assert float(error.max()) <= 0.5 / 499 + 1e-6
    assert float(error.max()) > 0.4 / 499  # no finer than the bins


def test_every_bin_is_its_own_coordinate():
    vocab = Vocab(size=3000)
    tokens = jnp.arange(*vocab.coord_range)
    np.testing.assert_array_equal(vocab.coord_tokens(vocab.coords(tokens)), tokens)


def test_tokens_outside_the_coordinates_are_clipped():
    vocab = Vocab(size=3000, num_bins=1000, coord_shift=1000)
    np.testing.assert_array_equal(
        vocab.coords(jnp.array([0, 999, 1000, 1999, 2500])), [0.0, 0.0, 0.0, 1.0, 1.0]
    )


def test_labels_and_class_tokens():
    vocab = Vocab(size=3000, num_classes=3)
    assert vocab.class_range == (101, 104)
    np.testing.assert_array_equal(
        vocab.class_tokens(jnp.array([1, 3, NOISE_LABEL])), [101, 103, FAKE]
    )
    np.testing.assert_array_equal(
        vocab.labels(jnp.array([PADDING, FAKE, 100, 101, 103, 104, 1500])), [0] * 3 + [1, 3, 0, 0]
    )


def test_the_layouts_of_the_released_models_fit():
    Vocab(size=3000, num_classes=90)
    Vocab(size=35000, num_classes=90, text_size=32000)
    Vocab(size=2000, num_bins=1000, num_classes=899)  # every range touches the next


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            dict(size=3000, num_classes=900),
            r"class tokens \(101, 1001\) run into the coordinate tokens \(1000, 2000\)",
        ),
        (
            dict(size=9000, num_bins=2001, text_size=10),
            r"coordinate tokens \(1000, 3001\) run into the text tokens",
        ),
        (
            dict(size=9000, coord_shift=150),
            r"coordinate tokens .* or use fewer classes or bins|class tokens .*",
        ),
        (
            dict(
                size=9000,
                coord_shift=2500,
                num_bins=100,
                text_size=10,
                text_shift=1000,
                num_classes=950,
            ),
            "text tokens",
        ),
        (dict(size=9000, coord_shift=50, num_bins=20), r"run into the special tokens 0\.\.99"),
        (
            dict(size=9000, text_shift=41, text_size=10),
            r"text tokens \(41, 51\) run into the special tokens",
        ),
        (dict(size=1999), r"vocab\.size=1999 but coordinate tokens end at 2000"),
        (dict(size=35000, text_size=32001), r"vocab\.size=35000 but text tokens end at 35001"),
        (dict(size=3000, num_bins=1), r"num_bins=1: at least 2"),
        (dict(size=3000, num_classes=0), r"num_classes=0: at least one"),
    ],
)
def test_layouts_that_collide_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Vocab(**fields)
