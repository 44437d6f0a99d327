"""FLOPs by arithmetic against those that XLA counts of a program without loops."""

import jax
import jax.numpy as jnp
import pytest

from pix2seq_jax.models.backbones.resnet import ResNetBackbone
from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.training import flops

WIDE = {"enc_dim": 128, "enc_mlp": 256, "enc_heads": 2, "dec_dim": 96, "dec_mlp": 192}
LENGTH = 40


@pytest.mark.parametrize(
    "backbone,proj_mode",
    [
        (VitBackbone(patch_size=8), "mlp"),
        (VitBackbone(patch_size=8), "linear"),
        (ResNetBackbone(variant="c3", width=0.125), "mlp"),
    ],
)
def test_forward_pass(backbone, proj_mode):
    model = Pix2Seq(
        image_size=(64, 64),
        vocab_size=500,
        backbone=backbone,
        enc_layers=1,
        dec_layers=1,
        dec_heads=2,
        proj_mode=proj_mode,
        **WIDE,
    )
    images, tokens = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, LENGTH), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images, tokens)
    lowered = jax.jit(model.apply).lower(variables, images, tokens)
    logits = flops.of_logits(model, LENGTH) / flops.PASSES
    computed = flops.of_images(model) + flops.of_sequence(model, LENGTH) + logits
    # Norms, softmax and the like are not counted by arithmetic.
    assert computed <= lowered.cost_analysis()["flops"] < 1.1 * computed
