"""The npz files of google-research/vision_transformer: ViT and AugReg."""

from pix2seq_jax.pretrained.mapping import VitSource

LAYER = "Transformer/encoderblock_{layer}"
ATTENTION = f"{LAYER}/MultiHeadDotProductAttention_1"
GELU = (
    "GELU: theirs is the approximation by tanh, ours the exact one; a hidden unit differs by at "
    "most 5e-4"
)

SOURCE = VitSource(
    title="a ViT of google-research/vision_transformer (AugReg)",
    mark=r"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel",
    layout="flax",
    pixels="half",
    table={
        "patch.kernel": "embedding/kernel",
        "patch.bias": "embedding/bias",
        "cls": "cls",
        "positions": "Transformer/posembed_input/pos_embedding",
        "norm1.scale": f"{LAYER}/LayerNorm_0/scale",
        "norm1.bias": f"{LAYER}/LayerNorm_0/bias",
        **{
            f"{part}.{what}": f"{ATTENTION}/{part}/{what}"
            for part in ("query", "key", "value", "out")
            for what in ("kernel", "bias")
        },
        "norm2.scale": f"{LAYER}/LayerNorm_2/scale",
        "norm2.bias": f"{LAYER}/LayerNorm_2/bias",
        "dense1.kernel": f"{LAYER}/MlpBlock_3/Dense_0/kernel",
        "dense1.bias": f"{LAYER}/MlpBlock_3/Dense_0/bias",
        "dense2.kernel": f"{LAYER}/MlpBlock_3/Dense_1/kernel",
        "dense2.bias": f"{LAYER}/MlpBlock_3/Dense_1/bias",
        "norm.scale": "Transformer/encoder_norm/scale",
        "norm.bias": "Transformer/encoder_norm/bias",
    },
    dropped={r"^(head|pre_logits)/": "the head for classes"},
    refused={r"^(conv_root|gn_root|block\d+/)": "a ResNet before the transformer (hybrid)"},
    facts=("norms before attention and MLP, as ours", GELU),
)
