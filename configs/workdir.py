"""The config of a workdir, trained or imported: `--config=configs/workdir.py:WORKDIR --workdir=WORKDIR`."""

import ml_collections

from pix2seq_jax import base_config, experiment


def get_config(arg: str):
    """A copy of config.json of a workdir: `WORKDIR`, or `WORKDIR,data=DATA` for other data (coco, shapes, a folder).

    Flags change it further, as in `--config.train.batch_size=8`.
    """
    workdir, _, data = arg.partition(",data=")
    config = ml_collections.ConfigDict(experiment.load_config(workdir).to_dict())
    if data:
        labels = {name: config.data[name] for name in ("label_ids", "category_ids", "category_names")}
        config.data = base_config.data(data).to_dict() | labels
    return config
