"""The config of a workdir, trained or imported: `--config=configs/workdir.py:WORKDIR --workdir=WORKDIR`."""

import ml_collections

from pix2seq_jax import experiment


def get_config(arg: str):
    """A copy of config.json of the workdir `arg`; flags may change it, as in `--config.train.batch_size=8`."""
    return ml_collections.ConfigDict(experiment.load_config(arg).to_dict())
