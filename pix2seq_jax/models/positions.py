"""Position codes: fixed sines and cosines, or learned tables (Pix2Seq, section 3.1)."""

import numpy as np
from flax import linen as nn
from jax import numpy as jnp

from pix2seq_jax.models.layers import EMBEDDING_INIT

KINDS = ("sin_cos", "learned")


def sin_cos_1d(length: int, width: int) -> np.ndarray:
    """Code f32[length,width] of positions 0..length-1, spread over [0, 2π]: sines first, then
    cosines.

    Position p is read at angles p / 10000^(2⌊j/2⌋/width) for j in 0..width-1; even j give sines,
    odd j cosines. As positions are normalised by the length, a longer sequence or larger image
    needs no interpolation.
    """
    position = np.arange(length) / max(length - 1, 1) * 2 * np.pi
    exponent = 2 * (np.arange(width) // 2) / width
    angle = position[:, None] / 10000.0 ** exponent[None, :]
    return np.concatenate([np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])], axis=1).astype(
        np.float32
    )


def sin_cos_2d(rows: int, columns: int, width: int) -> np.ndarray:
    """Code f32[rows·columns,width] of a grid: first half of the width codes y, second half x.

    A grid of one row or one column is coded as a sequence, as in the official release. Raises
    ValueError where another grid has an odd width.
    """
    if rows == 1 or columns == 1:
        return sin_cos_1d(rows * columns, width)
    if width % 2:
        raise ValueError(
            f"model.pos_encoding='sin_cos' codes y and x in halves of the width, and {width} is "
            "odd: change model.enc_dim or model.dec_dim, or set model.pos_encoding='learned'"
        )
    y = np.broadcast_to(sin_cos_1d(rows, width // 2)[:, None], (rows, columns, width // 2))
    x = np.broadcast_to(sin_cos_1d(columns, width // 2)[None, :], (rows, columns, width // 2))
    return np.concatenate([y, x], axis=-1).reshape(rows * columns, width)


def grid_positions(
    module: nn.Module, kind: str, rows: int, columns: int, width: int
) -> jnp.ndarray:
    """Position codes f32[rows·columns,width] of image tokens; `learned` ones are a parameter of
    `module`."""
    if kind == "learned":
        init = nn.with_logical_partitioning(EMBEDDING_INIT, ("positions", "embed"))
        return module.param("positions", init, (rows * columns, width))
    return jnp.asarray(sin_cos_2d(rows, columns, width))


def sequence_positions(module: nn.Module, kind: str, length: int, width: int) -> jnp.ndarray:
    """Position codes f32[length,width] of sequence tokens; `learned` ones are a parameter of
    `module`."""
    if kind == "learned":
        init = nn.with_logical_partitioning(EMBEDDING_INIT, ("positions", "embed"))
        return module.param("positions", init, (length, width))
    return jnp.asarray(sin_cos_1d(length, width))
