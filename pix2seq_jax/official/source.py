"""Where a warm start takes weights from: a run, an import, an official checkpoint directory, or the
safetensors file of an export."""

from pathlib import PurePath
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from pix2seq_jax.experiment import resolve, saved_run
from pix2seq_jax.experiment.workdir import CHECKPOINTS, CONFIG_FILE, split_step
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.official import reader
from pix2seq_jax.portable import weights
from pix2seq_jax.training import checkpoint, trees
from pix2seq_jax.training import state as train_state


class Source(NamedTuple):
    """The model that weights come from.

    Attributes:
        where: for messages.
        config: complete, of that model.
        arrays: its variables by name, "params/…" and "batch_stats/…", on the host.
        text: its text model, as the meta data of a checkpoint hold it; None where none is recorded.
    """

    where: str
    config: ml_collections.ConfigDict
    arrays: dict[str, np.ndarray]
    text: str | None = None


def read(init_from: str, mesh: jax.sharding.Mesh) -> Source:
    """Loads a source to the host.

    Args:
        init_from: WORKDIR, WORKDIR@STEP, an official checkpoint directory (local or gs://), or the
            model.safetensors of an export.
        mesh: of the run.

    Raises:
        ValueError: there is no such folder or file, it is none of these, it holds no (whole)
            checkpoint or not that step.
    """
    path, step = split_step(init_from)
    remote, folder = "://" in path, path_of(path)
    try:
        if not remote and folder.suffix == weights.SUFFIX and folder.is_file():
            return _read_weights(path)
        official = _is_official(folder, remote=remote)
        if not remote and not folder.is_dir():
            raise ValueError(
                f"{path} is not a folder; give a workdir, an official checkpoint directory or the "
                "model.safetensors of an export, or ''"
            )
        if official and step is not None:
            raise ValueError(
                "@STEP is for a workdir; of an official directory the file 'checkpoint' says which"
            )
        if official:
            return _read_official(path)
        _check_workdir(folder)
        return _read_workdir(path, step, mesh)
    except ValueError as error:
        raise ValueError(f"config.init_from={init_from!r}: {error}") from error


def _is_official(folder: PurePath, *, remote: bool) -> bool:
    """Whether a folder is a checkpoint directory of the official release, and not a workdir."""
    if not remote:
        return any(folder.glob("*.index")) and not (folder / CHECKPOINTS).is_dir()
    try:
        return not (folder / CHECKPOINTS).is_dir()
    except Exception:  # object stores raise errors of their own
        return True  # its reader tells what is wrong with the address


def _read_official(directory: str) -> Source:
    """The model of a checkpoint directory of the official release."""
    imported = reader.read(directory)
    named = trees.flatten_names(imported.variables)
    arrays = {name: np.asarray(array) for name, array in named.items()}
    return Source(f"{directory} (official checkpoint)", imported.config, arrays)


def _read_weights(path: str) -> Source:
    """The model of a safetensors file."""
    read = weights.read(path)
    return Source(path, read.config, read.arrays, read.meta.get("text_model"))


def _check_workdir(folder: PurePath) -> None:
    """Raises ValueError for a folder that is no workdir or holds no checkpoint."""
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(
            f"{folder} is neither the workdir of a run (config.json and checkpoints/) nor an "
            "official checkpoint directory (config.json and ckpt-*.index); of a workdir give "
            "the folder itself, or WORKDIR@STEP"
        )
    if not checkpoint.steps(folder / CHECKPOINTS):
        raise ValueError(
            f"there is no checkpoint in {folder}; train or import there first, or give "
            "another folder"
        )


def _read_workdir(workdir: str, step: int | None, mesh: jax.sharding.Mesh) -> Source:
    """The model of a workdir that holds checkpoints."""
    config = saved_run.load_config(workdir)
    abstract = train_state.abstract_variables(resolve.make_model(config), mesh=mesh)
    on_host = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), abstract)
    step, variables, meta = checkpoint.load_variables(
        path_of(workdir) / CHECKPOINTS, on_host, step=step
    )
    resolve.check_classes(meta["category_names"], config, where=f"its checkpoint of step {step}")
    arrays = trees.flatten_names(variables)
    return Source(f"{workdir} step {step}", config, arrays, meta.get("text_model"))
