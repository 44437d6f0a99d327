"""transformers' ViT, DeiT, ViT-MAE, DINO and DINOv2 (Hugging Face; models/vit/modeling_vit.py)."""

from pix2seq_jax.pretrained.mapping import VitSource

LAYER = "encoder.layer.{layer}"
HEAD = "the head for classes or for pretraining"


def _as_vit(arrays):
    """DINOv2's names of what ViT has as well."""
    renamed = {}
    for name, array in arrays.items():
        for theirs, vit in (
            (".norm1.", ".layernorm_before."),
            (".norm2.", ".layernorm_after."),
            (".mlp.fc1.", ".intermediate.dense."),
            (".mlp.fc2.", ".output.dense."),
        ):
            name = name.replace(theirs, vit)
        renamed[name] = array
    return renamed


SOURCE = VitSource(
    title="a ViT of Hugging Face's transformers",
    mark=r"((vit|deit|dinov2|beit)\.)?encoder\.layer\.0\.attention\.attention\.query\.weight",
    prefix=r"^(vit|deit|dinov2|beit)\.",
    layout="torch",
    prepare=_as_vit,
    eps=1e-12,
    table={
        "patch.kernel": "embeddings.patch_embeddings.projection.weight",
        "patch.bias": "embeddings.patch_embeddings.projection.bias",
        "cls": "embeddings.cls_token",
        "positions": "embeddings.position_embeddings",
        "norm1.scale": f"{LAYER}.layernorm_before.weight",
        "norm1.bias": f"{LAYER}.layernorm_before.bias",
        **{
            f"{part}.{ours}": f"{LAYER}.attention.attention.{part}.{theirs}"
            for part in ("query", "key", "value")
            for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
        },
        "out.kernel": f"{LAYER}.attention.output.dense.weight",
        "out.bias": f"{LAYER}.attention.output.dense.bias",
        "scale1": f"{LAYER}.layer_scale1.lambda1",
        "norm2.scale": f"{LAYER}.layernorm_after.weight",
        "norm2.bias": f"{LAYER}.layernorm_after.bias",
        "dense1.kernel": f"{LAYER}.intermediate.dense.weight",
        "dense1.bias": f"{LAYER}.intermediate.dense.bias",
        "dense2.kernel": f"{LAYER}.output.dense.weight",
        "dense2.bias": f"{LAYER}.output.dense.bias",
        "scale2": f"{LAYER}.layer_scale2.lambda1",
        "norm.scale": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    },
    dropped={
        r"^(classifier|cls_classifier|distillation_classifier|lm_head)\.|^pooler\.": HEAD,
        r"^decoder\.": HEAD,
        r"^embeddings\.mask_token$": "stands for masked patches in pretraining",
    },
    refused={
        r"^embeddings\.(distillation_token|register_tokens)$": (
            "further tokens beside the class token"
        ),
        r"relative_position": "relative positions",
        r"\.mlp\.weights_(in|out)\.": "a gated MLP",
        r"\.lambda_[12]$": "a block of another form",
    },
    facts=("norms before attention and MLP, as ours",),
)
