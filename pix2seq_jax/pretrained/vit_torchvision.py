"""torchvision's ViT (torchvision/models/vision_transformer.py)."""

from pix2seq_jax.pretrained.mapping import VitSource

LAYER = "encoder.layers.encoder_layer_{layer}"

SOURCE = VitSource(
    title="a ViT of torchvision",
    mark=r"encoder\.layers\.encoder_layer_0\.self_attention\.in_proj_weight",
    layout="torch",
    pixels="imagenet",
    table={
        "patch.kernel": "conv_proj.weight",
        "patch.bias": "conv_proj.bias",
        "cls": "class_token",
        "positions": "encoder.pos_embedding",
        "norm1.scale": f"{LAYER}.ln_1.weight",
        "norm1.bias": f"{LAYER}.ln_1.bias",
        "qkv.kernel": f"{LAYER}.self_attention.in_proj_weight",
        "qkv.bias": f"{LAYER}.self_attention.in_proj_bias",
        "out.kernel": f"{LAYER}.self_attention.out_proj.weight",
        "out.bias": f"{LAYER}.self_attention.out_proj.bias",
        "norm2.scale": f"{LAYER}.ln_2.weight",
        "norm2.bias": f"{LAYER}.ln_2.bias",
        "dense1.kernel": f"{LAYER}.mlp.0.weight",
        "dense1.bias": f"{LAYER}.mlp.0.bias",
        "dense2.kernel": f"{LAYER}.mlp.3.weight",
        "dense2.bias": f"{LAYER}.mlp.3.bias",
        "norm.scale": "encoder.ln.weight",
        "norm.bias": "encoder.ln.bias",
    },
    # The published files are of an earlier version of its MLP.
    prepare=lambda arrays: {
        name.replace("mlp.linear_1.", "mlp.0.").replace("mlp.linear_2.", "mlp.3."): array
        for name, array in arrays.items()
    },
    dropped={r"^heads\.": "the head for classes"},
    refused={r"^conv_proj\.conv_bn_relu": "a stem of several convolutions"},
    facts=("norms before attention and MLP, as ours",),
)
