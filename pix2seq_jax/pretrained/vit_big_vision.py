"""The npz files of google-research/big_vision: ViT with layers one by one or stacked."""

import re

from pix2seq_jax.pretrained.mapping import Arrays, VitSource
from pix2seq_jax.pretrained.vit_augreg import GELU

STACKED = re.compile(r"(^|/)Transformer/encoderblock/")
LAYER = "Transformer/encoderblock_{layer}"
ATTENTION = f"{LAYER}/MultiHeadDotProductAttention_0"


def _one_by_one(arrays: Arrays) -> Arrays:
    """Layers that are stacked on a leading axis get names of their own."""
    out = {}
    for name, array in arrays.items():
        if STACKED.search(name):
            for layer, values in enumerate(array):
                out[name.replace("encoderblock/", f"encoderblock_{layer}/")] = values
        else:
            out[name] = array
    return out


SOURCE = VitSource(
    title="a ViT of google-research/big_vision",
    mark=r"(params/|img/)*Transformer/encoderblock(_0)?/"
    r"MultiHeadDotProductAttention_0/query/kernel",
    prefix=r"^(params/|img/)*",
    layout="flax",
    pixels="half",
    prepare=_one_by_one,
    table={
        "patch.kernel": "embedding/kernel",
        "patch.bias": "embedding/bias",
        "cls": "cls",
        "positions": "pos_embedding",
        "norm1.scale": f"{LAYER}/LayerNorm_0/scale",
        "norm1.bias": f"{LAYER}/LayerNorm_0/bias",
        **{
            f"{part}.{what}": f"{ATTENTION}/{part}/{what}"
            for part in ("query", "key", "value", "out")
            for what in ("kernel", "bias")
        },
        "norm2.scale": f"{LAYER}/LayerNorm_1/scale",
        "norm2.bias": f"{LAYER}/LayerNorm_1/bias",
        "dense1.kernel": f"{LAYER}/MlpBlock_0/Dense_0/kernel",
        "dense1.bias": f"{LAYER}/MlpBlock_0/Dense_0/bias",
        "dense2.kernel": f"{LAYER}/MlpBlock_0/Dense_1/kernel",
        "dense2.bias": f"{LAYER}/MlpBlock_0/Dense_1/bias",
        "norm.scale": "Transformer/encoder_norm/scale",
        "norm.bias": "Transformer/encoder_norm/bias",
    },
    dropped={
        r"^(head|pre_logits|MAPHead_0)/": "the head for classes",
        r"^(opt|chrono|txt)/|^(t|b)$": "not of the image encoder",
    },
    refused={r"^(conv_root|gn_root|block\d+/)": "a ResNet before the transformer (hybrid)"},
    facts=("norms before attention and MLP, as ours", GELU),
)
