"""From a checkpoint of the official release, or the safetensors file of an export, to a workdir
that evaluates, predicts and trains."""

import os

import jax
import jax.numpy as jnp

from pix2seq_jax.experiment import resolve, saved_run
from pix2seq_jax.experiment.logs import log, setup_logging
from pix2seq_jax.experiment.workdir import CHECKPOINTS, CONFIG_FILE
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.official.reader import Imported, read
from pix2seq_jax.portable import weights
from pix2seq_jax.training import checkpoint, trees


def run(source: str | os.PathLike, workdir: str | os.PathLike) -> Imported:
    """Imports an official checkpoint directory, or a safetensors file of an export, into a workdir
    that holds no run yet.

    Raises:
        ValueError: see `reader.read` and `weights.read`; or there is a run in the workdir.
    """
    setup_logging()
    folder = path_of(workdir)
    if (folder / CONFIG_FILE).exists() or checkpoint.steps(folder / CHECKPOINTS):
        raise ValueError(
            f"--workdir={workdir} holds a run already; give a new folder, or delete this one"
        )
    imported, meta = _read(source)
    print(table(imported))
    saver = checkpoint.Checkpointer(folder / CHECKPOINTS)
    saver.save(0, imported.variables, meta)
    saver.wait()
    saver.close()
    saved_run.save_config(folder, imported.config)  # last: a workdir with a config is complete
    config = f"--config=configs/workdir.py:{workdir}"
    log.info("imported %s into %s; its config is %s", source, workdir, config)
    return imported


def _read(source: str | os.PathLike) -> tuple[Imported, dict]:
    """(the model, what a checkpoint says of itself) of a directory or a safetensors file."""
    if not str(source).endswith(weights.SUFFIX):
        imported = read(source)
        return imported, {"category_names": list(imported.config.data.category_names)}
    stored = weights.read(source)
    mapping = [(name, array.shape, name) for name, array in stored.arrays.items()]
    variables = jax.tree.map(jnp.asarray, stored.variables())
    model = resolve.make_model(stored.config)
    return Imported(model, variables, stored.config, mapping, 0), stored.meta


def table(imported: Imported) -> str:
    """One line per variable: name, shape, mapped to; then the sums."""
    rows = [("variable", "shape", "mapped to")]
    rows += [(theirs, str(list(shape)), ours) for theirs, shape, ours in imported.mapping]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
    count = trees.count(imported.variables["params"])
    lines.append(
        f"{len(imported.mapping)} variables, {count:,} parameters; {imported.ignored} other "
        "entries ignored"
    )
    return "\n".join(lines)
