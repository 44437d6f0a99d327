"""Position tables of another grid and patches of another size."""

import jax
import numpy as np


def resize_positions(
    table: np.ndarray, there: tuple[int, int], here: tuple[int, int]
) -> np.ndarray:
    """Learned positions f32[rows·columns,D] of the grid `there` -> those of the grid `here`, by
    bicubic interpolation (antialiased where the grid gets smaller)."""
    grid = table.reshape(*there, -1)  # [rows,columns,D]
    resized = jax.image.resize(grid, (*here, grid.shape[-1]), "bicubic")
    return np.asarray(resized).reshape(here[0] * here[1], -1)  # [rows·columns,D]


def resize_patches(kernel: np.ndarray, side: int) -> np.ndarray:
    """A patch kernel f32[p,p,3,D] for patches of `side` pixels, so that an image which is enlarged
    by as much gives the same tokens (FlexiViT, Beyer et al., 2023, section 3.3)."""
    old = kernel.shape[0]
    basis = np.eye(old * old, dtype=np.float32).reshape(-1, old, old)
    images = np.asarray(jax.image.resize(basis, (old * old, side, side), "bicubic"))
    enlarge = images.reshape(old * old, -1).astype(np.float64)  # row vectors: patch -> larger patch
    inverse = np.linalg.pinv(enlarge)  # [side·side,p·p]
    flat = kernel.reshape(old * old, -1)  # [p·p,3·D]
    return (inverse @ flat).reshape(side, side, *kernel.shape[2:]).astype(np.float32)
