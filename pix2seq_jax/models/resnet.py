"""Residual networks, the other stem: v1 bottlenecks, normalised after the convolution (He et al., arXiv:1512.03385)."""

from flax import linen as nn
from jax import numpy as jnp

from pix2seq_jax.models.layers import ZEROS, Dense, Stack

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}  # per group, by depth
GROUPS = {"standard": 4, "dc5": 4, "c4": 3, "c3": 2}
PIXELS_PER_TOKEN = {"standard": 32, "dc5": 16, "c4": 16, "c3": 8}  # side, by variant
NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.9
CONV_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm: [B, H, W, C] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, features].

    Padding is the same on both sides. The statistics of the batch are those of all devices where the batch is spread
    over them; `train` uses and records them, else the recorded ones are used.
    """

    features: int
    kernel: int
    train: bool
    dtype: str
    stride: int = 1
    dilation: int = 1
    zero_scale: bool = False

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.dilation * (self.kernel - 1) // 2,
            kernel_dilation=self.dilation,
            use_bias=False,
            dtype=jnp.dtype(self.dtype),
            kernel_init=nn.with_logical_partitioning(CONV_INIT, (None, None, None, "embed")),
            name="conv",
        )(x)
        scale_init = ZEROS if self.zero_scale else nn.initializers.ones
        return nn.BatchNorm(
            use_running_average=not self.train,
            momentum=NORM_MOMENTUM,
            epsilon=NORM_EPSILON,
            dtype=jnp.dtype(self.dtype),
            scale_init=nn.with_logical_partitioning(scale_init, ("embed",)),
            bias_init=nn.with_logical_partitioning(ZEROS, ("embed",)),
            name="norm",
        )(x)


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride), 1×1 convolutions to 4·features channels, added to the input or its projection."""

    features: int
    train: bool
    dtype: str
    stride: int = 1
    dilation: int = 1
    project: bool = False

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        mode = {"train": self.train, "dtype": self.dtype}
        shortcut = x
        if self.project:
            shortcut = ConvNorm(4 * self.features, 1, stride=self.stride, name="shortcut", **mode)(x)
        h = nn.relu(ConvNorm(self.features, 1, name="conv1", **mode)(x))
        h = nn.relu(ConvNorm(self.features, 3, stride=self.stride, dilation=self.dilation, name="conv2", **mode)(h))
        # Starting at zero, the last scale makes every block the identity at first.
        return nn.relu(shortcut + ConvNorm(4 * self.features, 1, zero_scale=True, name="conv3", **mode)(h))


class ResNet(nn.Module):
    """Images [B, H, W, 3] -> features [B, ⌈H/s⌉, ⌈W/s⌉, C], s = PIXELS_PER_TOKEN of the variant.

    Variants: 'dc5' keeps the resolution in its last group and dilates it instead, from the second block on; 'c4' has no
    last group; 'c3' has only two, of which the first halves the resolution too, behind a stem of three convolutions
    that do not.
    """

    depth: int
    variant: str
    width: float
    train: bool
    dtype: str
    remat: bool

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        base, mode = int(64 * self.width), {"train": self.train, "dtype": self.dtype}
        x = x.astype(jnp.dtype(self.dtype))
        if self.variant == "c3":
            for i, features in enumerate((base // 2, base // 2, base), 1):
                x = nn.relu(ConvNorm(features, 3, name=f"stem{i}", **mode)(x))
        else:
            x = nn.relu(ConvNorm(base, 7, stride=2, name="stem1", **mode)(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        block = nn.remat(Bottleneck) if self.remat else Bottleneck
        for group in range(GROUPS[self.variant]):
            stride = 2 if group > 0 or self.variant == "c3" else 1
            dilated = self.variant == "dc5" and group == 3
            for i in range(BLOCKS[self.depth][group]):
                x = block(
                    base * 2**group,
                    stride=stride if i == 0 and not dilated else 1,
                    dilation=2 if i > 0 and dilated else 1,
                    project=i == 0,
                    name=f"group{group + 1}_block{i + 1}",
                    **mode,
                )(x)
        return x


class ResNetStem(nn.Module):
    """Images [B, H, W, 3] -> tokens [B, ⌈H/s⌉·⌈W/s⌉, D] of the encoder's width: ResNet, dropout, dense layer.

    With `frozen_bn` training uses the recorded batch statistics and leaves them alone.
    """

    stack: Stack
    depth: int
    variant: str
    width: float
    frozen_bn: bool

    @nn.compact
    def __call__(self, images: jnp.ndarray, train: bool) -> jnp.ndarray:
        stack, train_bn = self.stack, train and not self.frozen_bn
        x = ResNet(self.depth, self.variant, self.width, train_bn, stack.dtype, stack.remat, name="resnet")(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])  # [B, ⌈H/s⌉·⌈W/s⌉, C]
        x = nn.Dropout(stack.drop_units, deterministic=not train)(x)
        return Dense(stack.dim, (None, "embed"), stack.dtype, name="dense")(x)
