"""From a checkpoint of the official release to a workdir that evaluates, predicts and trains."""

import os
from pathlib import Path

from pix2seq_jax.experiment import saved_run
from pix2seq_jax.experiment.logs import log, setup_logging
from pix2seq_jax.experiment.workdir import CHECKPOINTS, CONFIG_FILE
from pix2seq_jax.official.reader import Imported, read
from pix2seq_jax.training import checkpoint, trees


def run(source: str | os.PathLike, workdir: str | os.PathLike) -> Imported:
    """Imports an official checkpoint directory into a workdir that holds no run yet.

    Raises:
        ValueError: see `reader.read`; or there is a run in the workdir.
    """
    setup_logging()
    folder = Path(workdir)
    if (folder / CONFIG_FILE).exists() or checkpoint.steps(folder / CHECKPOINTS):
        raise ValueError(
            f"--workdir={workdir} holds a run already; give a new folder, or delete this one"
        )
    imported = read(source)
    print(table(imported))
    saver = checkpoint.Checkpointer(folder / CHECKPOINTS)
    saver.save(0, imported.variables, {"category_names": list(imported.config.data.category_names)})
    saver.wait()
    saver.close()
    saved_run.save_config(folder, imported.config)  # last: a workdir with a config is complete
    config = f"--config=configs/workdir.py:{workdir}"
    log.info("imported %s into %s; its config is %s", source, workdir, config)
    return imported


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
