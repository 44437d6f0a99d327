"""Checkpoint directories of the official release: recorded ones, and others that are written."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from pix2seq_jax.official.reader import GRAPH

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
VIT_B = {"num_encoder_layers": 12, "dim_att": 768, "dim_mlp": 3072, "num_heads": 12}
VIT_B |= {"num_decoder_layers": 6, "dim_att_dec": 512, "dim_mlp_dec": 2048, "num_heads_dec": 16}


def recorded(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """config.json and all numeric entries of a recorded checkpoint, "model/" and the suffix
    kept."""
    checkpoint = tf.train.load_checkpoint(str(folder))
    names = [name for name in checkpoint.get_variable_to_shape_map() if name != GRAPH]
    config = json.loads((folder / "config.json").read_text())
    return config, {name: checkpoint.get_tensor(name) for name in names}


def write(folder: Path, config: dict, arrays: dict[str, np.ndarray]) -> Path:
    """A checkpoint directory; without the file `checkpoint`, as after copying by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(arrays)
    tf.raw_ops.SaveV2(
        prefix=str(folder / "ckpt-7"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(arrays[name]) for name in names],
    )
    return folder


def key(name: str) -> str:
    return f"model/{name}{SUFFIX}"


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)
