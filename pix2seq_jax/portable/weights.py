"""The weights of a model as one safetensors file, which holds its config and text model too, and
back.

Tensors have the names of `trees.flatten_names`, "params/decoder/embedding" (docs/export.md lists
them); all are as the model has them, float32.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pix2seq_jax.experiment import saved_run
from pix2seq_jax.experiment.resolve import check_classes, make_model
from pix2seq_jax.files.whole import write_whole
from pix2seq_jax.training import sharding, trees
from pix2seq_jax.training import state as train_state

WEIGHTS_FILE = "model.safetensors"
SUFFIX = ".safetensors"
FORMAT = "pix2seq_jax"  # in the header, with `config` and `meta`


class Weights(NamedTuple):
    """What a file holds.

    Attributes:
        config: resolved, of the model.
        meta: of a checkpoint: `category_names`, and `text_model` with captions.
        arrays: f32 by name.
    """

    config: ml_collections.ConfigDict
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes, of NumPy arrays."""
        return nested(self.arrays)


def write(
    path: str | Path, variables: Mapping[str, Any], config: ml_collections.ConfigDict, meta: dict
) -> None:
    """Writes a file as a whole; `meta` as of a checkpoint (`saved_run.meta`)."""
    named = trees.flatten_names(variables)
    arrays = {name: np.ascontiguousarray(array) for name, array in named.items()}
    header = {"format": FORMAT, "config": config.to_json(), "meta": json.dumps(meta)}
    write_whole(path, save(arrays, metadata=header))


def read(path: str | Path) -> Weights:
    """Reads a file.

    Raises:
        ValueError: it is missing, no safetensors file, not written by `write`, or its tensors are
            not those of the model that its config describes.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}); copy the file again, or write it "
            "by `python -m pix2seq_jax.export --weights_only`"
        ) from error
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} has tensors but no config of a Pix2Seq model in its header; give a file that "
            "`python -m pix2seq_jax.export` wrote"
        )
    config = saved_run.complete(json.loads(header["config"]), where=str(path))
    meta = json.loads(header["meta"])
    check_classes(meta["category_names"], config, where=str(path))
    _check(path, arrays, config)
    return Weights(config, meta, arrays)


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by name "a/b/c" as the tree a, b, c."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, leaf = name.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[leaf] = array
    return tree


def _check(path: str | Path, arrays: Mapping[str, Any], config: ml_collections.ConfigDict) -> None:
    """Raises ValueError naming the first tensor that file and model do not share."""
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    abstract = train_state.abstract_variables(make_model(config), mesh=mesh)
    here = {name: list(leaf.shape) for name, leaf in trees.flatten_names(abstract).items()}
    there = {name: list(array.shape) for name, array in arrays.items()}
    for name in dict.fromkeys([*here, *there]):
        if here.get(name) != there.get(name):
            raise ValueError(
                f"{path}: {name} is {there.get(name, 'missing')} in the file and "
                f"{here.get(name, 'missing')} in the model of its config; export the model again"
            )
