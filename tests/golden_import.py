"""Name map from the recorded checkpoints of the official implementation to this package's parameters (tests only)."""

import json
import os
from pathlib import Path

import numpy as np
from flax import linen as nn
from flax import traverse_util

from pix2seq_jax.models.pix2seq import Pix2Seq

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
BLOCK = {  # ours -> theirs, within a layer
    "norm": "mha_ln",
    "self_norm": "self_ln",
    "cross_norm": "cross_ln",
    "mlp/norm": "mlp/layernorms/0",
    "mlp/dense1": "mlp/mlp_layers/0/dense1",
    "mlp/dense2": "mlp/mlp_layers/0/dense2",
    **{
        f"{ours}/{part}": f"{theirs}/_{part.replace('out', 'output')}_dense"
        for ours, theirs in [("attention", "mha"), ("self_attention", "self_mha"), ("cross_attention", "cross_mha")]
        for part in ("query", "key", "value", "out")
    },
}
WHOLE = {
    "stem/kernel": "encoder/stem_conv/kernel",
    "stem/bias": "encoder/stem_conv/bias",
    "stem/dense": "encoder/stem_projection",
    "image_encoder/stem_norm": "encoder/stem_ln",
    "image_encoder/norm": "encoder/output_ln",
    "projection/dense": "proj",
    "projection/norm": "proj_ln",
    "projection/mlp/norm": "proj_mlp/layernorms/0",
    "projection/mlp/dense1": "proj_mlp/mlp_layers/0/dense1",
    "projection/mlp/dense2": "proj_mlp/mlp_layers/0/dense2",
    "decoder/body/norm": "decoder/output_ln",
    "decoder/embedding": "decoder/ar_decoder.Stoken_embedding",
    "decoder/positions": "decoder/ar_decoder.Sseq_pos_embedding",
    "decoder/output_bias": "decoder/ar_decoder.Soutp_bias",
}
LEAVES = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"}


def split(name: str) -> tuple[str, str]:
    """("a/norm/scale") -> ("a/norm", "gamma")."""
    module, _, leaf = name.rpartition("/")
    if module.endswith("norm") and leaf == "bias":
        return module, "beta"
    return module, LEAVES.get(leaf, leaf)


def official_names(name: str, layers: int) -> list[str]:
    """Checkpoint names of one of our parameters: one, or one per layer where ours is stacked."""
    for prefix, stack in (
        ("image_encoder/layers/", "encoder/transformer_encoder/enc_layers"),
        ("decoder/body/layers/", "decoder/decoder/dec_layers"),
    ):
        if name.startswith(prefix):
            module, leaf = split(name.removeprefix(prefix))
            return [f"model/{stack}/{i}/{BLOCK[module]}/{leaf}" for i in range(layers)]
    if name.startswith("decoder/cross/"):
        part, leaf = name.removeprefix("decoder/cross/").split("_")
        return [f"model/decoder/decoder/dec_layers/{i}/cross_mha/_{part}_dense/{leaf}" for i in range(layers)]
    if name in WHOLE:
        return [f"model/{WHOLE[name]}"]
    module, leaf = split(name)
    return [f"model/{WHOLE[module]}/{leaf}"]


def model_of(directory: Path, **changes) -> Pix2Seq:
    """The model that the checkpoint's config.json describes."""
    config = json.loads((directory / "config.json").read_text())["model"]
    fields = {
        "image_size": tuple(config["image_size"]),
        "vocab_size": config["vocab_size"],
        "patch_size": config["patch_size"],
        "enc_layers": config["num_encoder_layers"],
        "enc_dim": config["dim_att"],
        "enc_mlp": config["dim_mlp"],
        "enc_heads": config["num_heads"],
        "dec_layers": config["num_decoder_layers"],
        "dec_dim": config["dim_att_dec"],
        "dec_mlp": config["dim_mlp_dec"],
        "dec_heads": config["num_heads_dec"],
        "max_seq_len": config["max_seq_len"],
    }
    if config["resnet_variant"] != "c1":
        fields |= {
            "encoder": "resnet",
            "resnet_variant": config["resnet_variant"],
            "resnet_depth": config["resnet_depth"],
            "resnet_width": config["resnet_width_multiplier"],
        }
    return Pix2Seq(**fields | changes)


def load(directory: Path, variables: dict) -> dict:
    """`variables` (shapes are enough) of the model with the values of the checkpoint in `directory`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(directory))

    def value(collection: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        names = official_names(name, shape[0])
        arrays = [reader.get_tensor(official + SUFFIX) for official in names]
        array = np.stack(arrays) if is_stacked(name) else arrays[0]
        assert array.shape == shape, f"{collection}/{name}: {array.shape} is not {shape}"
        return array

    return {
        collection: traverse_util.unflatten_dict(
            {
                name: value(collection, name, leaf.shape)
                for name, leaf in traverse_util.flatten_dict(nn.meta.unbox(tree), sep="/").items()
            },
            sep="/",
        )
        for collection, tree in variables.items()
    }


def is_stacked(name: str) -> bool:
    """Whether our parameter holds one array per layer."""
    return name.startswith(("image_encoder/layers/", "decoder/body/layers/", "decoder/cross/"))
