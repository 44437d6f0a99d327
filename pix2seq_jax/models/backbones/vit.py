"""Image to patch tokens, the stem of a vision transformer (Dosovitskiy et al., 2021)."""

from dataclasses import dataclass
from math import ceil

from flax import linen as nn
from jax import numpy as jnp

from pix2seq_jax.models.backbones.base import Backbone, at_least
from pix2seq_jax.models.layers import KERNEL_INIT, ZEROS, Stack, matmul


@dataclass(frozen=True)
class VitBackbone(Backbone):
    """A token for every patch; images are whole patches.

    Attributes:
        patch_size: side of a patch in pixels.
    """

    patch_size: int = at_least(1, default=16)

    def stem(self, stack: Stack) -> nn.Module:
        return PatchEmbed(self.patch_size, stack.dim, stack.dtype)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        return image_size[0] // self.patch_size, image_size[1] // self.patch_size

    def padded(self, side: int) -> int:
        return ceil(side / self.patch_size) * self.patch_size

    def check_size(self, image_size: tuple[int, int]) -> None:
        if any(side % self.patch_size for side in image_size):
            raise ValueError(
                f"model.image_size={image_size} is not divisible by "
                f"model.backbone.patch_size={self.patch_size}; pad images to "
                f"{tuple(map(self.padded, image_size))} or change the patch size"
            )

    def largest_kernel(self, dim: int) -> tuple[int, str]:
        return 3 * self.patch_size**2 * dim, "patch_size"


@dataclass(frozen=True)
class VitCropBackbone(VitBackbone):
    """The same for images of any size: what is left at the bottom and at the right of the last
    whole patch is not looked at, as in the published models of 1333 x 1333 pixels."""

    def padded(self, side: int) -> int:
        return side

    def check_size(self, image_size: tuple[int, int]) -> None:
        if min(image_size) < self.patch_size:
            raise ValueError(
                f"model.image_size={image_size} holds no patch of "
                f"model.backbone.patch_size={self.patch_size}"
            )


class PatchEmbed(nn.Module):
    """A convolution over patches that do not overlap: images [B,H,W,3] -> tokens
    [B,⌊H/p⌋·⌊W/p⌋,D]."""

    patch: int
    dim: int
    dtype: str

    @nn.compact
    def __call__(self, images: jnp.ndarray, train: bool) -> jnp.ndarray:
        batch, height, width, channels = images.shape
        p, dtype = self.patch, jnp.dtype(self.dtype)
        init = nn.with_logical_partitioning(KERNEL_INIT, (None, None, None, "embed"))
        kernel = self.param("kernel", init, (p, p, channels, self.dim))
        bias = self.param("bias", nn.with_logical_partitioning(ZEROS, ("embed",)), (self.dim,))
        rows, columns = height // p, width // p
        whole = images[:, : rows * p, : columns * p].astype(dtype)
        patches = whole.reshape(batch, rows, p, columns, p, channels).swapaxes(2, 3)
        patches = patches.reshape(batch, -1, p * p * channels)  # [B,⌊H/p⌋·⌊W/p⌋,p·p·3]
        tokens = matmul(patches, kernel.astype(dtype).reshape(-1, self.dim))
        return tokens + bias.astype(dtype)[None, None]
