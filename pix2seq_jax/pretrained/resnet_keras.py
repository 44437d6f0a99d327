"""ResNets of keras.applications (ResNet50, 101, 152; not the V2 ones)."""

from pix2seq_jax.pretrained.mapping import ResNetSource

LAYER = "conv{stage2}_block{index1}"

SOURCE = ResNetSource(
    title="a ResNet of Keras",
    mark=r"conv2_block1_1_conv/kernel",
    layout="flax",
    pixels="caffe",
    stem=("conv1_conv", "conv1_bn"),
    block=(f"{LAYER}_{{conv1}}_conv", f"{LAYER}_{{conv1}}_bn"),
    shortcut=(f"{LAYER}_0_conv", f"{LAYER}_0_bn"),
    norm=("/gamma", "/beta", "/moving_mean", "/moving_variance"),
    kernel="/kernel",
    bias="/bias",
    convention="keras",
    eps=1.001e-5,
    dropped={
        r"^(predictions|probs|avg_pool)/": "the head for classes",
        r"^(optimizer|optimizer_weights)/": "the state of an optimizer",
    },
    refused={r"_preact_bn/|^post_bn/": "version 2, with norms before the convolutions"},
    facts=("strides of version 1: in the first 1×1 convolution",),
)
