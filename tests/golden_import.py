"""Reads the recorded checkpoints of the official implementation into this package's parameters (tests only)."""

import functools
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from pix2seq_jax.models.pix2seq import Pix2Seq

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
ATTENTIONS = {"attention": "mha", "self_attention": "self_mha", "cross_attention": "cross_mha"}
TRANSFORMER_LAYER = {  # ours -> theirs
    "norm": "mha_ln",
    "self_norm": "self_ln",
    "cross_norm": "cross_ln",
    "mlp/norm": "mlp/layernorms/0",
    "mlp/dense1": "mlp/mlp_layers/0/dense1",
    "mlp/dense2": "mlp/mlp_layers/0/dense2",
    **{
        f"{ours}/{part}": f"{theirs}/_{part.replace('out', 'output')}_dense"
        for ours, theirs in ATTENTIONS.items()
        for part in ("query", "key", "value", "out")
    },
}
RESNET_BLOCK = {
    "shortcut/conv": "projection_layers/0/conv2d",
    "shortcut/norm": "projection_layers/1/bn",
    **{f"conv{i + 1}/conv": f"conv_relu_dropblock_layers/{3 * i}/conv2d" for i in range(3)},
    **{f"conv{i + 1}/norm": f"conv_relu_dropblock_layers/{3 * i + 1}/bn" for i in range(3)},
}
MODULES = {
    "stem": "encoder/stem_conv",
    "stem/dense": "encoder/stem_projection",
    "stem/resnet/stem1/conv": "encoder/resnet/initial_conv_relu_max_pool/0/conv2d",
    "stem/resnet/stem1/norm": "encoder/resnet/initial_conv_relu_max_pool/2/bn",
    "image_encoder/stem_norm": "encoder/stem_ln",
    "image_encoder/norm": "encoder/output_ln",
    "projection/dense": "proj",
    "projection/norm": "proj_ln",
    "projection/mlp/norm": "proj_mlp/layernorms/0",
    "projection/mlp/dense1": "proj_mlp/mlp_layers/0/dense1",
    "projection/mlp/dense2": "proj_mlp/mlp_layers/0/dense2",
    "decoder/body/norm": "decoder/output_ln",
}
ARRAYS = {
    "decoder/embedding": "decoder/ar_decoder.Stoken_embedding",
    "decoder/positions": "decoder/ar_decoder.Sseq_pos_embedding",
    "decoder/output_bias": "decoder/ar_decoder.Soutp_bias",
}
LEAVES = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"}
STACKS = {
    "image_encoder/layers/": "encoder/transformer_encoder/enc_layers",
    "decoder/body/layers/": "decoder/decoder/dec_layers",
}
VARIABLE_NAMES = (  # regular expressions from names in the checkpoint to names of variables, applied in this order
    (r"^encoder/transformer_encoder/enc_layers/(\d+)", r"BACKBONE/transformer_encoder/transformer_encoder_\1"),
    (r"^decoder/decoder/dec_layers/(\d+)", r"ar_decoder/transformer_decoder/transformer_decoder_layer_\1"),
    (r"^decoder/ar_decoder\.S", "ar_decoder/"),
    (r"^decoder/output_ln", "ar_decoder/ouput_ln"),
    (r"^encoder/output_ln", "BACKBONE/ouput_ln"),
    (r"^encoder/", "BACKBONE/"),
    (r"^proj_(ln|mlp)", r"proj/\1"),
    (r"^proj/(kernel|bias)", r"proj/linear/\1"),
    (r"(transformer_\w+)_0/", r"\1/"),
    (r"/(|self_|cross_)mha_ln", r"/\1mha/ln"),
    (r"/(self|cross)_ln", r"/\1_mha/ln"),
    (r"mha/_output_dense", "mha/attention_output"),
    (r"mha/_(\w+)_dense", r"mha/\1"),
    (r"mlp/layernorms/0", "mlp/ffn/ln"),
    (r"mlp/mlp_layers/0", "mlp/ffn"),
    (r"initial_conv_relu_max_pool/0", "stem_conv2d_fixed_padding"),
    (r"initial_conv_relu_max_pool/2", "stem_bn_relu"),
    (r"projection_layers/0", "proj_conv2d_fixed_padding"),
    (r"projection_layers/1", "proj_bn_relu"),
    (r"conv_relu_dropblock_layers/0", "conv2d_fixed_padding"),
    (r"conv_relu_dropblock_layers/1", "bn_relu"),
    (r"conv_relu_dropblock_layers/3", "conv2d_fixed_padding1"),
    (r"conv_relu_dropblock_layers/4", "bn_relu1"),
    (r"conv_relu_dropblock_layers/6", "conv2d_fixed_padding2"),
    (r"conv_relu_dropblock_layers/7", "bn_relu2"),
    (r"/bn/", "/global_bn/"),
    (r"block_groups/(\d+)/layers/(\d+)", lambda m: f"block_group{int(m[1]) + 1}/block{int(m[2]) + 1}"),
)


class Golden(NamedTuple):
    """A recorded model: ours of the same sizes, its variables, and the recorded arrays by name."""

    model: Pix2Seq
    variables: dict[str, Any]
    io: dict[str, np.ndarray]


def is_stacked(name: str) -> bool:
    """Whether our parameter holds one array per layer."""
    return name.startswith((*STACKS, "decoder/cross/"))


def checkpoint_names(name: str, layers: int) -> list[str]:
    """Names in the checkpoint of one of our parameters: one per layer if it is stacked."""
    module, _, leaf = name.rpartition("/")
    leaf = "beta" if module.endswith("norm") and leaf == "bias" else LEAVES.get(leaf, leaf)
    for prefix, theirs in STACKS.items():
        if name.startswith(prefix):
            inner = TRANSFORMER_LAYER[module.removeprefix(prefix)]
            return [f"{theirs}/{i}/{inner}/{leaf}" for i in range(layers)]
    if name.startswith("decoder/cross/"):
        part, leaf = leaf.split("_")
        return [f"decoder/decoder/dec_layers/{i}/cross_mha/_{part}_dense/{leaf}" for i in range(layers)]
    if match := re.fullmatch(r"stem/resnet/group(\d+)_block(\d+)/(.+)", module):
        group, block = int(match[1]) - 1, int(match[2]) - 1
        return [f"encoder/resnet/block_groups/{group}/layers/{block}/{RESNET_BLOCK[match[3]]}/{leaf}"]
    return [ARRAYS[name] if name in ARRAYS else f"{MODULES[module]}/{leaf}"]


def variable_name(name: str, backbone: str) -> str:
    """Name of a variable in the recorded gradients; `backbone` is 'vit' or 'rest'."""
    for pattern, replacement in VARIABLE_NAMES:
        name = re.sub(pattern, replacement, name)
    return name.replace("BACKBONE", backbone) + ":0"


def gradient_norms(grads: dict[str, Any], backbone: str) -> dict[str, float]:
    """L2 norm of the gradient of each of their variables."""
    norms = {}
    for name, grad in traverse_util.flatten_dict(grads, sep="/").items():
        names = [variable_name(n, backbone) for n in checkpoint_names(name, grad.shape[0])]
        arrays = np.asarray(grad) if is_stacked(name) else [np.asarray(grad)]
        norms |= {n: float(np.linalg.norm(array)) for n, array in zip(names, arrays, strict=True)}
    return norms


def model_of(directory: Path) -> Pix2Seq:
    """The model that the checkpoint's config.json describes."""
    config = json.loads((directory / "config.json").read_text())["model"]
    sizes = {
        f"{ours}_{field}": config[theirs.format(suffix)]
        for ours, suffix in (("enc", ""), ("dec", "_dec"))
        for field, theirs in {"dim": "dim_att{}", "mlp": "dim_mlp{}", "heads": "num_heads{}"}.items()
    }
    if config["resnet_variant"] != "c1":
        sizes |= {"encoder": "resnet", "resnet_width": config["resnet_width_multiplier"]}
        sizes |= {field: config[field] for field in ("resnet_variant", "resnet_depth")}
    return Pix2Seq(
        image_size=tuple(config["image_size"]),
        patch_size=config["patch_size"],
        vocab_size=config["vocab_size"],
        max_seq_len=config["max_seq_len"],
        enc_layers=config["num_encoder_layers"],
        dec_layers=config["num_decoder_layers"],
        **sizes,
    )


@functools.cache
def load(directory: Path) -> Golden:
    """Model, variables and recorded arrays of one golden directory."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    model = model_of(directory)
    with np.load(directory / "io.npz") as archive:
        io = {name: array.astype(np.int32) if array.dtype == np.int64 else array for name, array in archive.items()}
    shapes = jax.eval_shape(model.init, jax.random.key(0), io["images"], io["seq"])
    reader = tf.train.load_checkpoint(str(directory))

    def value(name: str, shape: tuple[int, ...]) -> jax.Array:
        arrays = [reader.get_tensor(f"model/{n}{SUFFIX}") for n in checkpoint_names(name, shape[0])]
        array = np.stack(arrays) if is_stacked(name) else arrays[0]
        assert array.shape == shape, f"{name}: {array.shape} in the checkpoint, {shape} in the model"
        return jax.numpy.asarray(array)

    variables = {
        collection: traverse_util.unflatten_dict(
            {n: value(n, leaf.shape) for n, leaf in traverse_util.flatten_dict(nn.meta.unbox(tree), sep="/").items()},
            sep="/",
        )
        for collection, tree in shapes.items()
    }
    return Golden(model, variables, io)
