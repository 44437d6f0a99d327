"""ResNets of torchvision and timm, which share their names."""

from pix2seq_jax.pretrained.mapping import ResNetSource

SOURCE = ResNetSource(
    title="a ResNet of torchvision or timm",
    mark=r"(model\.|module\.|backbone\.)*layer1\.0\.conv1\.weight",
    prefix=r"^(model\.|module\.|backbone\.)*",
    layout="torch",
    pixels="imagenet",
    stem=("conv1", "bn1"),
    block=("layer{stage1}.{index}.conv{conv1}", "layer{stage1}.{index}.bn{conv1}"),
    shortcut=("layer{stage1}.{index}.downsample.0", "layer{stage1}.{index}.downsample.1"),
    dropped={
        r"^fc\.": "the head for classes",
        r"num_batches_tracked$": "a counter, of which ours has no use",
    },
    refused={
        r"^conv1\.\d": "a stem of several convolutions (timm's resnet*d)",
        r"\.downsample\.2\.": "a shortcut that averages (timm's resnet*d)",
        r"\.(se|attn|ls)\.": "attention of channels within a block",
        r"\.aa\.": "blurred strides",
    },
    facts=("strides of version 1.5: in the 3×3 convolution",),
)
