"""Imported checkpoints of every published option compute what the official architecture does with
them."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from pix2seq_jax.models.backbones.resnet import ResNetBackbone
from pix2seq_jax.models.backbones.vit import VitCropBackbone
from pix2seq_jax.official import reader
from tests.helpers.official_reference import SUFFIX, Reference

NAMES = ("vit_tiny", "resnet_tiny", "resnet_c4_tiny")
TINY = {
    "name": "encoder_ar_decoder",
    **{
        "image_size": [48, 32],
        "patch_size": 16,
        "resnet_variant": "c1",
        "resnet_depth": 50,
        "resnet_sk_ratio": 0.0,
    },
    **{
        "resnet_width_multiplier": 0.0625,
        "num_encoder_layers": 1,
        "dim_att": 16,
        "dim_mlp": 48,
        "num_heads": 2,
    },
    **{"num_decoder_layers": 1, "dim_att_dec": 24, "dim_mlp_dec": 48, "num_heads_dec": 3},
    **{"vocab_size": 260, "coord_vocab_shift": 120, "text_vocab_shift": 260, "max_seq_len": 21},
    **{"use_cls_token": False, "shared_decoder_embedding": True, "decoder_output_bias": True},
    **{"dec_proj_mode": "mlp", "pos_encoding": "sin_cos", "pos_encoding_dec": "learned"},
    **{"drop_path": 0.1, "drop_units": 0.1, "drop_att": 0.0},
}
TASK = {"name": "object_detection", "quantization_bins": 100, "max_instances_per_image": 4}
TOKENS = np.random.default_rng(1).integers(0, 260, (2, 7), np.int32)


def written(folder, reference: Reference):
    """The directory of a checkpoint with the config and the entries of the reference."""
    (folder / "config.json").write_text(json.dumps({"model": reference.model, "task": TASK}))
    names = sorted(reference.entries)
    tf.raw_ops.SaveV2(
        prefix=str(folder / "ckpt-7"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(reference.entries[name]) for name in names],
    )
    return folder


def check(folder, **changes):
    """Memory and logits of a checkpoint of the tiny model with these changes, ours and the
    reference's; the model."""
    reference = Reference(TINY | changes)
    height, width = reference.model["image_size"]
    images = np.random.default_rng(2).uniform(size=(2, height, width, 3)).astype(np.float32)
    memory = reference.encode(images)
    logits = reference.logits(memory, TOKENS).numpy()
    assert logits.std() > 0.1
    model, variables, _ = reader.load(written(folder, reference))
    ours = jax.jit(lambda v, x: model.apply(v, x, method="encode"))(variables, images)
    np.testing.assert_allclose(ours, memory, rtol=0, atol=1e-4)
    ours = model.apply(variables, ours, jnp.asarray(TOKENS), method="decode")
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-4)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_equals_the_recorded_models(name, golden_dir):
    config = json.loads((golden_dir / name / "config.json").read_text())
    reader = tf.train.load_checkpoint(str(golden_dir / name))
    names = [
        n
        for n in reader.get_variable_to_shape_map()
        if n.startswith("model/") and ".OPTIMIZER_SLOT" not in n
    ]
    reference = Reference(config["model"], {n: reader.get_tensor(n) for n in names})
    with np.load(golden_dir / name / "io.npz") as io:
        memory = reference.encode(io["images"])
        np.testing.assert_allclose(memory, io["encoded"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            reference.logits(memory, io["seq"]), io["logits"], rtol=0, atol=1e-4
        )
    assert reference.used == set(names) == set(reference.entries)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_cls_token": True},
        {"pos_encoding": "learned"},
        {"use_cls_token": True, "pos_encoding": "learned"},
        {"use_cls_token": True, "pos_encoding": "learned", "dec_proj_mode": "linear_p"},
        {"use_cls_token": True, "dec_proj_mode": "linear"},
        {"pos_encoding": "learned", "dec_proj_mode": "linear"},
        {"dec_proj_mode": "linear_p"},
        {"pos_encoding_dec": "sin_cos"},
        {"shared_decoder_embedding": False},
        {"decoder_output_bias": False},
        {
            "shared_decoder_embedding": False,
            "decoder_output_bias": False,
            "pos_encoding_dec": "sin_cos",
        },
        {"dim_mlp": 40, "dim_mlp_dec": 90},  # the release takes whole ratios
        {"image_size": [16, 64]},  # one row of patches
        {
            "resnet_variant": "standard",
            "use_cls_token": True,
            "pos_encoding": "learned",
            "dec_proj_mode": "linear_p",
        },
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_options(changes, tmp_path):
    check(tmp_path, **changes)


@pytest.mark.parametrize(
    ("variant", "depth", "width", "size"),
    [
        ("standard", 18, 0.0625, [64, 96]),
        ("c4", 18, 0.1, [48, 64]),
        ("c3", 18, 0.125, [24, 32]),
        ("standard", 34, 0.0625, [64, 96]),
        ("standard", 101, 0.0625, [64, 96]),
        ("dc5", 50, 0.0625, [64, 96]),
        ("c4", 50, 0.25, [49, 65]),
        ("c3", 50, 0.1, [24, 32]),
        ("standard", 50, 0.13, [66, 97]),  # 8, 16, 33 and 66 channels
    ],
)
def test_resnets(variant, depth, width, size, tmp_path):
    changes = {
        "resnet_variant": variant,
        "resnet_depth": depth,
        "resnet_width_multiplier": width,
        "image_size": size,
    }
    model = check(tmp_path, **changes)
    assert model.backbone == ResNetBackbone(depth, variant, width)


def test_patches_that_do_not_divide_the_image(tmp_path):
    """As the published models of 1333 x 1333 pixels: what is left at the bottom and at the right is
    cut off."""
    model = check(tmp_path, image_size=[53, 47], pos_encoding="learned")
    assert isinstance(model.backbone, VitCropBackbone) and model.image_size == (53, 47)


def test_names_of_attributes(tmp_path):
    """A checkpoint may name an array that was added to a layer by the attribute that holds it,
    too."""
    changes = {"use_cls_token": True, "pos_encoding": "learned", "shared_decoder_embedding": False}
    reference = Reference(TINY | changes)
    reference.logits(reference.encode(np.zeros((2, 48, 32, 3), np.float32)), TOKENS)
    (tmp_path / "names").mkdir()
    before = reader.load(written(tmp_path / "names", reference))[1]
    renamed = {
        re.sub(
            r"(pos|cls_token)_embedding/", r"\1_emb/", re.sub(r"(^|/)\w+\.S", r"\1", name)
        ): array
        for name, array in reference.entries.items()
    }
    attributes = (
        "encoder/cls_token_emb",
        "encoder/vis_pos_emb",
        "vis_pos_emb",
        "decoder/seq_pos_emb",
    )
    assert {f"model/{name}{SUFFIX}" for name in attributes} <= set(renamed) - set(reference.entries)
    reference.entries = renamed
    (tmp_path / "attributes").mkdir()
    after = reader.load(written(tmp_path / "attributes", reference))[1]
    jax.tree.map(np.testing.assert_array_equal, before, after)
