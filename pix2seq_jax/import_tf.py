"""Imports a checkpoint of the official TF2 release: `python -m pix2seq_jax.import_tf --from=DIR
--workdir=DIR`.

DIR holds config.json and ckpt-*, as the release writes them, and may be gs://BUCKET/FOLDER. The
workdir then holds the model at step 0: `main --mode=eval`, `predict` and training take it like one
that was trained here, and `--config=configs/workdir.py:WORKDIR` is its config. Labels of a
published model are category ids: label 90 is COCO's category 90.
"""

import argparse
import os
from pathlib import Path

from pix2seq_jax.experiment import saved_run
from pix2seq_jax.experiment.guard import guarded
from pix2seq_jax.experiment.logs import log, setup_logging
from pix2seq_jax.experiment.workdir import CHECKPOINTS, CONFIG_FILE
from pix2seq_jax.official.reader import Imported, read
from pix2seq_jax.training import checkpoint, trees


def table(imported: Imported) -> str:
    """One line per variable: name, shape, mapped to; then the sums."""
    rows = [
        ("variable", "shape", "mapped to"),
        *((a, str(list(b)), c) for a, b, c in imported.mapping),
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
    count = trees.count(imported.variables["params"])
    lines.append(
        f"{len(imported.mapping)} variables, {count:,} parameters; {imported.ignored} other "
        "entries ignored"
    )
    return "\n".join(lines)


def run(source: str | os.PathLike, workdir: str | os.PathLike) -> Imported:
    """Imports an official checkpoint directory into a workdir that holds no run yet.

    Raises:
        ValueError: see `read`; or there is a run in the workdir.
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
    log.info(
        "imported %s into %s; its config is --config=configs/workdir.py:%s",
        source,
        workdir,
        workdir,
    )
    return imported


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m pix2seq_jax.import_tf", description=__doc__)
    parser.add_argument(
        "--from", dest="source", required=True, help="official checkpoint folder, local or gs://"
    )
    parser.add_argument("--workdir", required=True, help="new folder for the imported model")
    parser.add_argument("--traceback", action="store_true", help="show the whole trace of an error")
    args = parser.parse_args()
    guarded(
        lambda: run(args.source, args.workdir), workdir=args.workdir, whole_trace=args.traceback
    )


if __name__ == "__main__":
    main()
