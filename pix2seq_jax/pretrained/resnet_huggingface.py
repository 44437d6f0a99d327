"""ResNets of Hugging Face's transformers (models/resnet/modeling_resnet.py)."""

from pix2seq_jax.pretrained.mapping import ResNetSource

LAYER = "encoder.stages.{stage}.layers.{index}"

SOURCE = ResNetSource(
    title="a ResNet of Hugging Face's transformers",
    mark=r"(resnet\.)?encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight",
    prefix=r"^resnet\.",
    layout="torch",
    pixels="imagenet",
    stem=("embedder.embedder.convolution", "embedder.embedder.normalization"),
    block=(f"{LAYER}.layer.{{conv}}.convolution", f"{LAYER}.layer.{{conv}}.normalization"),
    shortcut=(f"{LAYER}.shortcut.convolution", f"{LAYER}.shortcut.normalization"),
    dropped={
        r"^classifier\.": "the head for classes",
        r"num_batches_tracked$": "a counter, of which ours has no use",
    },
    facts=("strides of version 1.5: in the 3×3 convolution",),
)
