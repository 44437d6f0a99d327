"""Image to patch tokens, the stem of a vision transformer (Dosovitskiy et al., 2021)."""

from flax import linen as nn
from jax import numpy as jnp

from pix2seq_jax.models.layers import KERNEL_INIT, ZEROS, matmul


class PatchEmbed(nn.Module):
    """A convolution over patches that do not overlap: images [B, H, W, 3] -> tokens [B,
    ⌊H/p⌋·⌊W/p⌋, D].

    What is left at the bottom and at the right of the last whole patch is not looked at.
    """

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
        patches = whole.reshape(batch, rows, p, columns, p, channels)
        patches = patches.swapaxes(2, 3).reshape(
            batch, -1, p * p * channels
        )  # [B, ⌊H/p⌋·⌊W/p⌋, p·p·3]
        return (
            matmul(patches, kernel.astype(dtype).reshape(-1, self.dim))
            + bias.astype(dtype)[None, None]
        )
