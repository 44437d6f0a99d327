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


def abstract_variables(model: Pix2Seq):
    inputs = jnp.zeros((1, *model.image_size, 3)), jnp.zeros((1, 1), jnp.int32)
    return nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), *inputs))


@functools.cache
def decoding_bytes(images: int, objects: int, samples: int) -> int:
    """Temporary memory of compiled decoding, caches included; the memory of the images is an
    argument."""
    variables = abstract_variables(MODEL)
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


def test_many_images_and_words_need_little_besides_weights_and_image():
    """40 images of 640 pixels, 500 tokens of 35,000: the official code has 2.8 GB of logits. The
    loop has its own copies of the decoder's weights and of the image's keys and values."""
    model = Pix2Seq((640, 640), 35_000, VitBackbone(16), cache_dtype="int8")
    # A decoder is the same whatever the encoder; a small one makes abstract variables sooner.
    variables = abstract_variables(model.clone(image_size=(16, 16), enc_layers=1))

    @jax.jit
    def decode(variables, memory, prompt, rng):
        options = {"max_len": 501, "sampler": Nucleus(0.4), "rng": rng}
        return generate(model, variables, memory, prompt, **options).tokens

    memory = jax.ShapeDtypeStruct((40, IMAGE_TOKENS, model.dec_dim), jnp.float32)
    prompt = jax.ShapeDtypeStruct((40, 1, 1), jnp.int32)
    rng = jax.eval_shape(lambda: jax.random.key(0))
    program = decode.lower(variables, memory, prompt, rng).compile()
    weights = sum(4 * leaf.size for leaf in jax.tree.leaves(variables["params"]["decoder"]))
    keys = 2 * model.dec_layers * 40 * IMAGE_TOKENS * model.dec_dim
    assert program.memory_analysis().temp_size_in_bytes < 0.4e9 + weights + keys
