"""timm's ViT, whose names the original DeiT, MAE, DINO and DINOv2 share.

github.com/huggingface/pytorch-image-models, timm/models/vision_transformer.py.
"""

from pix2seq_jax.pretrained.mapping import VitSource

HEAD = "the head for classes or for pretraining"

SOURCE = VitSource(
    title="a ViT in the names of timm, DeiT, MAE and DINO",
    mark=r"(model\.|module\.|backbone\.)*blocks\.0\.attn\.qkv\.weight",
    prefix=r"^(model\.|module\.|backbone\.)*",
    layout="torch",
    table={
        "patch.kernel": "patch_embed.proj.weight",
        "patch.bias": "patch_embed.proj.bias",
        "cls": "cls_token",
        "positions": "pos_embed",
        "norm1.scale": "blocks.{layer}.norm1.weight",
        "norm1.bias": "blocks.{layer}.norm1.bias",
        "qkv.kernel": "blocks.{layer}.attn.qkv.weight",
        "qkv.bias": "blocks.{layer}.attn.qkv.bias",
        "query.bias": "blocks.{layer}.attn.q_bias",
        "value.bias": "blocks.{layer}.attn.v_bias",
        "out.kernel": "blocks.{layer}.attn.proj.weight",
        "out.bias": "blocks.{layer}.attn.proj.bias",
        "scale1": "blocks.{layer}.ls1.gamma",
        "norm2.scale": "blocks.{layer}.norm2.weight",
        "norm2.bias": "blocks.{layer}.norm2.bias",
        "dense1.kernel": "blocks.{layer}.mlp.fc1.weight",
        "dense1.bias": "blocks.{layer}.mlp.fc1.bias",
        "dense2.kernel": "blocks.{layer}.mlp.fc2.weight",
        "dense2.bias": "blocks.{layer}.mlp.fc2.bias",
        "scale2": "blocks.{layer}.ls2.gamma",
        "norm.scale": "norm.weight",
        "norm.bias": "norm.bias",
    },
    dropped={
        r"^(head|head_drop|head_dist|pre_logits)\.": HEAD,
        r"^fc_norm\.": "it normalises the average of all tokens, which ours does not make",
        r"^mask_token$": "stands for masked patches in pretraining",
        r"^decoder_|^decoder\.": HEAD,
        r"^attn_pool\.": HEAD,
    },
    refused={
        r"^norm_pre\.": "a norm before the first layer, as CLIP has it",
        r"^(reg_token|register_tokens|dist_token)$": "further tokens beside the class token",
        r"\.(q_norm|k_norm)\.": "norms of queries and keys",
        r"\.mlp\.(fc1_g|fc1_x|w12|w1|w2|w3)\.": "a gated MLP",
        r"rel_pos|relative_position": "relative positions",
        r"\.(attn|mlp)\.norm\.": "a norm within a block",
        r"\.\d+\.(norm3|gamma_[12])": "a block of another form",
    },
    facts=(
        "norms before attention and MLP, as in all models of these names but timm's *_respostnorm",
    ),
)
