"""The recorded models of the official implementation, and the names that its gradients were
recorded by."""

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.official import names as official_names
from pix2seq_jax.official import reader

# regular expressions from names in the checkpoint to names of variables, applied in this order
VARIABLE_NAMES = (
    (
        r"^encoder/transformer_encoder/enc_layers/(\d+)",
        r"BACKBONE/transformer_encoder/transformer_encoder_\1",
    ),
    (
        r"^decoder/decoder/dec_layers/(\d+)",
        r"ar_decoder/transformer_decoder/transformer_decoder_layer_\1",
    ),
    (r"^decoder/(\w+_embedding|outp_bias)$", r"ar_decoder/\1"),
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
    (
        r"block_groups/(\d+)/layers/(\d+)",
        lambda m: f"block_group{int(m[1]) + 1}/block{int(m[2]) + 1}",
    ),
)


class Golden(NamedTuple):
    """A recorded model: ours of the same sizes, its variables, and the recorded arrays by name."""

    model: Pix2Seq
    variables: dict[str, Any]
    io: dict[str, np.ndarray]


def variable_name(name: str, backbone: str) -> str:
    """Name of a variable in the recorded gradients; `backbone` is 'vit' or 'rest'."""
    for pattern, replacement in VARIABLE_NAMES:
        name = re.sub(pattern, replacement, name)
    return name.replace("BACKBONE", backbone) + ":0"


def gradient_norms(grads: dict[str, Any], backbone: str) -> dict[str, float]:
    """L2 norm of the gradient of each of their variables."""
    norms = {}
    for name, grad in traverse_util.flatten_dict(grads, sep="/").items():
        names = [
            variable_name(n, backbone) for n in official_names.variables(name, layers=grad.shape[0])
        ]
        arrays = np.asarray(grad) if official_names.is_stacked(name) else [np.asarray(grad)]
        norms |= {n: float(np.linalg.norm(array)) for n, array in zip(names, arrays, strict=True)}
    return norms


@functools.cache
def load(directory: Path) -> Golden:
    """Model, variables and recorded arrays of one golden directory."""
    model, variables, _ = reader.load(directory)
    with np.load(directory / "io.npz") as archive:
        io = {
            name: array.astype(np.int32) if array.dtype == np.int64 else array
            for name, array in archive.items()
        }
    return Golden(model, variables, io)
