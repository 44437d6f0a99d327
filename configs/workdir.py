"""The config of a workdir, trained or imported: `--config=configs/workdir.py:WORKDIR
--workdir=WORKDIR`."""

import re

import ml_collections

from pix2seq_jax.config import build
from pix2seq_jax.experiment import resolve, saved_run

KEYS = ("data", "tasks")


def get_config(arg: str = ""):
    """A copy of config.json of a workdir: `WORKDIR`, or with more after commas:

    data: other data (coco, shapes, a folder), as in `WORKDIR,data=coco`.
    tasks: some of the tasks, as in `WORKDIR,tasks=detection+segmentation`; the weights of the rest
    are shared out.

    Flags change it further, as in `--config.train.batch_size=8`.
    """
    workdir, *parts = re.split(r",(?=\w+=)", arg)
    pairs = [part.split("=", 1) for part in parts]
    if not workdir.strip():
        raise ValueError(
            "config variant '': name the workdir of a run, as in "
            "--config=configs/workdir.py:WORKDIR"
        )
    changes = dict(pair for pair in pairs if len(pair) == 2)
    if len(changes) < len(pairs) or not set(changes) <= set(KEYS):
        raise ValueError(
            f"config variant {arg!r}: after the workdir, write each of {KEYS} at most once, "
            "as key=value"
        )
    config = ml_collections.ConfigDict(saved_run.load_config(workdir).to_dict())
    if "tasks" in changes:
        config = resolve.select_tasks(config, changes["tasks"])
    if data := changes.get("data"):
        labels = {
            name: config.data[name]
            for name in ("label_ids", "category_ids", "category_names", "size", "slots")
        }
        config.data = build.data(data).to_dict() | labels
    return config
