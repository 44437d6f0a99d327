"""Residual networks: blocks of version 1, normalised after the convolution (He et al.,
1512.03385)."""

from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, ClassVar

import jax
from flax import linen as nn
from jax import numpy as jnp

from pix2seq_jax.models.backbones.base import Backbone, at_least, one_of
from pix2seq_jax.models.backbones.convolution import convolve
from pix2seq_jax.models.layers import ZEROS, Dense, Stack

BLOCKS = {  # per group, by depth
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
BASIC_DEPTHS = (18, 34)  # the others are built of bottlenecks
GROUPS = {"standard": 4, "dc5": 4, "c4": 3, "c3": 2}
PIXELS_PER_TOKEN = {"standard": 32, "dc5": 16, "c4": 16, "c3": 8}  # side, by variant
# What libraries do differently, by who does so: the mean of RGB in [0,1] that is subtracted from
# images before they are padded with zeros. Keras' is that of Caffe.
CONVENTIONS = {
    "official": None,
    "torch": (0.485, 0.456, 0.406),
    "keras": (123.68 / 255, 116.779 / 255, 103.939 / 255),
}
NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.9
CONV_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
NARROWEST = 128  # channels of the 3×3 convolutions of the last group of 'c3', for width 1


@dataclass(frozen=True)
class ResNetBackbone(Backbone):
    """A token for every point of the last feature map of a residual network.

    Attributes:
        depth: 18, 34, 50, 101, 152 or 200 layers.
        variant: 'standard' (a token for 32 x 32 pixels), 'dc5' or 'c4' (16 x 16), 'c3' (8 x 8).
        width: multiplies all channels; below 1/32 none would be left.
        frozen_bn: whether training uses the recorded batch statistics and leaves them alone.
        convention: 'official' as the published models; 'torch' and 'keras' as the ResNets of those
            libraries: a mean is subtracted from the pixels, the pool is padded by the same on both
            sides, and 'keras' has the stride of a bottleneck in its first convolution (version 1;
            the others have it in the 3×3 convolution, which is called version 1.5).
    """

    depth: int = one_of(tuple(BLOCKS), default=50)
    variant: str = one_of(tuple(GROUPS), default="standard")
    width: float = at_least(1 / 32, default=1.0)
    frozen_bn: bool = False
    convention: str = one_of(tuple(CONVENTIONS), default="official")

    pretrained: ClassVar[str] = r"^stem/resnet/"

    def stem(self, stack: Stack) -> nn.Module:
        return ResNetStem(
            stack, self.depth, self.variant, self.width, self.frozen_bn, self.convention
        )

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        side = PIXELS_PER_TOKEN[self.variant]
        return ceil(image_size[0] / side), ceil(image_size[1] / side)

    def largest_kernel(self, dim: int) -> tuple[int, str]:
        return 9 * round(NARROWEST * self.width) ** 2, "width"


class Conv(nn.Module):
    """Convolution without bias, padded by the same on both sides."""

    features: int
    kernel: int
    stride: int
    dilation: int
    dtype: str

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        init = nn.with_logical_partitioning(CONV_INIT, (None, None, None, "embed"))
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel, dtype = self.param("kernel", init, shape), jnp.dtype(self.dtype)
        return convolve(x.astype(dtype), kernel.astype(dtype), self.stride, self.dilation)


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm: [B,H,W,C] -> [B, ⌈H/stride⌉, ⌈W/stride⌉,
    features].

    Padding is the same on both sides. The statistics of the batch are those of all devices where
    the batch is spread over them; `train` uses and records them, else the recorded ones are used.
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
        x = Conv(self.features, self.kernel, self.stride, self.dilation, self.dtype, name="conv")(x)
        scale_init = ZEROS if self.zero_scale else nn.initializers.ones
        return nn.BatchNorm(
            use_running_average=not self.train,
            momentum=NORM_MOMENTUM,
            epsilon=NORM_EPSILON,
            dtype=jnp.dtype(self.dtype),
            # In a shard_map the caller sees the images of one device. Elsewhere there are none.
            axis_name=jax.sharding.get_abstract_mesh().manual_axes or None,
            scale_init=nn.with_logical_partitioning(scale_init, ("embed",)),
            bias_init=nn.with_logical_partitioning(ZEROS, ("embed",)),
            name="norm",
        )(x)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions to `outputs` channels, the first with the stride, added to the input or
    its projection.

    `dilation` counts from the stride that it stands for: where the block projects, its first 3×3 is
    not dilated.
    """

    features: int
    outputs: int
    train: bool
    dtype: str
    stride: int = 1
    dilation: int = 1
    project: bool = False

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        mode = {"train": self.train, "dtype": self.dtype}
        dilation = 1 if self.project else self.dilation
        shortcut = x
        if self.project:
            shortcut = ConvNorm(self.outputs, 1, stride=self.stride, name="shortcut", **mode)(x)
        strided = {"stride": self.stride, "dilation": dilation}
        h = nn.relu(ConvNorm(self.features, 3, name="conv1", **strided, **mode)(x))
        # Starting at zero, the last scale makes every block the identity at first.
        last = {"dilation": self.dilation, "zero_scale": True}
        h = ConvNorm(self.outputs, 3, name="conv2", **last, **mode)(h)
        return nn.relu(shortcut + h)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions to `outputs` channels, added to the input or its projection.

    `dilation` as in BasicBlock. The 3×3 convolution has the stride, or with `stride_first` the
    first one.
    """

    features: int
    outputs: int
    train: bool
    dtype: str
    stride: int = 1
    dilation: int = 1
    project: bool = False
    stride_first: bool = False

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        mode = {"train": self.train, "dtype": self.dtype}
        dilation = 1 if self.project else self.dilation
        shortcut = x
        if self.project:
            shortcut = ConvNorm(self.outputs, 1, stride=self.stride, name="shortcut", **mode)(x)
        first, second = (self.stride, 1) if self.stride_first else (1, self.stride)
        h = nn.relu(ConvNorm(self.features, 1, stride=first, name="conv1", **mode)(x))
        strided = {"stride": second, "dilation": dilation}
        h = nn.relu(ConvNorm(self.features, 3, name="conv2", **strided, **mode)(h))
        # Starting at zero, the last scale makes every block the identity at first.
        h = ConvNorm(self.outputs, 1, zero_scale=True, name="conv3", **mode)(h)
        return nn.relu(shortcut + h)


class ResNet(nn.Module):
    """Images [B,H,W,3] -> features [B,⌈H/s⌉,⌈W/s⌉,C], s = PIXELS_PER_TOKEN of the variant.

    Variants: 'dc5' keeps the resolution in its last group and dilates what follows instead; 'c4'
    has no last group; 'c3' has only two, of which the first halves the resolution too, behind a
    stem of three convolutions that do not. The official release has no 'dc5' of depths 18 and 34.
    As there, every group starts with a projection; in the paper the first group of depths 18 and 34
    has none, which is 4,224 parameters less.
    """

    depth: int
    variant: str
    width: float
    train: bool
    dtype: str
    remat: bool
    convention: str = "official"

    @nn.compact
    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        mode = {"train": self.train, "dtype": self.dtype}
        base = 64 * self.width  # channels are cut to whole numbers last, as in the official release
        x = self._stem(x, base, mode)
        kind, block, expansion = "block", Bottleneck, 4
        if self.depth in BASIC_DEPTHS:
            kind, block, expansion = "basic", BasicBlock, 1
        block = nn.remat(block) if self.remat else block
        if kind == "block":
            block = partial(block, stride_first=self.convention == "keras")
        for group in range(GROUPS[self.variant]):
            stride = 2 if group > 0 or self.variant == "c3" else 1
            dilated = self.variant == "dc5" and group == 3
            for i in range(BLOCKS[self.depth][group]):
                x = block(
                    int(base * 2**group),
                    int(expansion * base * 2**group),
                    stride=stride if i == 0 and not dilated else 1,
                    dilation=2 if dilated else 1,
                    project=i == 0,
                    name=f"group{group + 1}_{kind}{i + 1}",
                    **mode,
                )(x)
        return x

    def _stem(self, x: jnp.ndarray, base: float, mode: dict[str, Any]) -> jnp.ndarray:
        """Images -> what the first group takes: convolutions and a pool."""
        if CONVENTIONS[self.convention]:
            x = x - jnp.asarray(CONVENTIONS[self.convention], x.dtype)[None, None, None]
        x = x.astype(jnp.dtype(self.dtype))
        if self.variant == "c3":
            for i, features in enumerate((base // 2, base // 2, base), 1):
                x = nn.relu(ConvNorm(int(features), 3, name=f"stem{i}", **mode)(x))
        else:
            x = nn.relu(ConvNorm(int(base), 7, stride=2, name="stem1", **mode)(x))
        padding = "SAME" if self.convention == "official" else ((1, 1), (1, 1))
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding)


class ResNetStem(nn.Module):
    """Images [B,H,W,3] -> tokens [B,⌈H/s⌉·⌈W/s⌉,D] of the encoder's width: ResNet, dropout,
    dense layer."""

    stack: Stack
    depth: int
    variant: str
    width: float
    frozen_bn: bool
    convention: str

    @nn.compact
    def __call__(self, images: jnp.ndarray, train: bool) -> jnp.ndarray:
        stack, train_bn = self.stack, train and not self.frozen_bn
        sizes = (self.depth, self.variant, self.width)
        mode = (train_bn, stack.dtype, stack.remat, self.convention)
        x = ResNet(*sizes, *mode, name="resnet")(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])  # [B,⌈H/s⌉·⌈W/s⌉,C]
        x = nn.Dropout(stack.drop_units, deterministic=not train)(x)
        return Dense(stack.dim, (None, "embed"), stack.dtype, name="dense")(x)
