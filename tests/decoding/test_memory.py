"""Decoding many sequences of an image needs no more memory than one of them, but for the caches of
their tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from pix2seq_jax.decoding.generate import generate
from pix2seq_jax.decoding.sampling import Nucleus
from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.tasks.segmentation import Segmentation
from pix2seq_jax.vocab import Vocab

TASK = Segmentation(Vocab(size=150, num_bins=32, num_classes=5, coord_shift=110), max_points=12)
MODEL = Pix2Seq(
    image_size=(8, 8),
    backbone=VitBackbone(patch_size=8),
    vocab_size=TASK.vocab.size,
    max_seq_len=TASK.max_len,
    **{"enc_layers": 1, "enc_dim": 8, "enc_mlp": 8, "enc_heads": 1},
    **{"dec_layers": 3, "dec_dim": 64, "dec_mlp": 128, "dec_heads": 2},
)
IMAGE_TOKENS = 1600  # of 640 pixels and patches of 16


def cache_bytes(sequences: int, model: Pix2Seq = MODEL) -> int:
    """Of the keys and values of the tokens."""
    cache = jax.eval_shape(lambda: model.empty_cache(sequences, TASK.max_len - 1))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))


@functools.cache
def decoding_bytes(images: int, objects: int, samples: int) -> int:
    """Temporary memory of compiled decoding, caches included; the memory of the images is an
    argument."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    variables = nn.meta.unbox(
        jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), tokens)
    )
    memory = jax.ShapeDtypeStruct((images, IMAGE_TOKENS, MODEL.dec_dim), jnp.float32)
    prompt = jax.eval_shape(
        TASK.prompt,
        {"boxes": np.zeros((images, objects, 4)), "labels": np.zeros((images, objects), np.int32)},
    )

    @jax.jit
    def decode(variables, memory, prompt, rng):
        options = {"max_len": TASK.max_len, "allowed": TASK.allowed, "stop_at_eos": True}
        return generate(
            MODEL,
            variables,
            memory,
            prompt,
            sampler=Nucleus(0.4),
            num_samples=samples,
            rng=rng,
            **options,
        )

    lowered = decode.lower(variables, memory, prompt, jax.eval_shape(lambda: jax.random.key(0)))
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_caches_hold_the_tokens_of_every_sequence():
    per_token = 2 * MODEL.dec_layers * MODEL.dec_dim * 4  # keys and values, float32
    assert cache_bytes(80) == 80 * cache_bytes(1) == 80 * (TASK.max_len - 1) * per_token
    assert cache_bytes(80) == 2 * cache_bytes(80, MODEL.clone(cache_dtype="bfloat16"))


@pytest.mark.parametrize("objects,samples", [(10, 1), (10, 8)])
def test_objects_and_samples_share_the_image(objects, samples):
    grown = decoding_bytes(1, objects, samples) - cache_bytes(objects * samples)
    assert grown <= 1.5 * decoding_bytes(1, 1, 1)


def test_an_image_per_sequence_would_show():
    """The same sequences with the image repeated for each of them."""
    grown = decoding_bytes(80, 1, 1) - cache_bytes(80)
    assert grown > 20 * decoding_bytes(1, 1, 1)
