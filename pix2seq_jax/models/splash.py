"""Attention by the kernel for TPUs that comes with JAX ("splash"), whose scores never leave the
chip, neither forward nor backward.

The kernel takes blocks of whole rows of 128, so that shorter sequences get zeros behind them.
"""

from math import ceil

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from pix2seq_jax.models.layers import ATTENDED

# Rows and columns of a block of scores: short sequences are one block, so that 1,600 image tokens
# become 1,792 and not 2,048. No other sizes were compared, for want of a TPU.
ROW, BLOCK, ONE_BLOCK = 128, 256, 512


def splash(
    query: jnp.ndarray,
    key: jnp.ndarray,
    value: jnp.ndarray,
    causal: bool,
    *,
    interpret: bool = False,
) -> jnp.ndarray:
    """Softmax attention; scores and softmax are float32.

    Args:
        query: [B,H,T,E].
        key: [B,H,S,E].
        value: [B,H,S,E].
        causal: whether query t sees the keys 0 to t only, of as many keys as queries.
        interpret: computes what the kernel does without a TPU, slowly.

    Returns:
        [B,H,T,E] in the dtype of `value`.
    """
    (rows, row_block), (columns, column_block) = (_padded(x.shape[2]) for x in (query, key))
    mask = masks.CausalMask((rows, columns)) if causal else _full(rows, columns, key.shape[2])
    queries = ("block_q", "block_q_dkv", "block_q_dq")
    keys = ("block_kv", "block_kv_compute", "block_kv_dkv", "block_kv_dkv_compute", "block_kv_dq")
    sizes = dict.fromkeys(queries, row_block) | dict.fromkeys(keys, column_block)
    # The numbers of a head are fewer than the 128 of a row of a TPU's memory, tokens are more.
    layouts = dict.fromkeys(("q_layout", "k_layout", "v_layout"), kernels.QKVLayout.SEQ_MINOR)
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * query.shape[1]),
        block_sizes=kernels.BlockSizes(**sizes, **layouts),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )
    scaled = query * query.shape[-1] ** -0.5
    lengths = (rows, columns, columns)
    arrays = [_lengthened(x, n) for x, n in zip((scaled, key, value), lengths, strict=True)]
    return jax.vmap(kernel)(*arrays)[:, :, : query.shape[2]].astype(value.dtype)


def _padded(length: int) -> tuple[int, int]:
    """The length that so many tokens are brought to, and that of a block of them."""
    short = ROW * ceil(length / ROW)
    return (short, short) if short <= ONE_BLOCK else (BLOCK * ceil(length / BLOCK), BLOCK)


def _full(rows: int, columns: int, keys: int) -> masks.Mask:
    """Every query sees all keys, but not what was put behind them."""
    if keys == columns:
        return masks.FullMask((rows, columns))
    return masks.NumpyMask(np.broadcast_to(np.arange(columns) < keys, (rows, columns)))


def _lengthened(x: jnp.ndarray, length: int) -> jnp.ndarray:
    return jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0)))
