"""A source as one batch of training: every row once."""

import numpy as np

from pix2seq_jax.data import order, pipeline


def one_epoch(source, ops: str) -> dict[str, np.ndarray]:
    """The first epoch of a source in the order of the source, whatever order it is drawn in."""
    count, seed = len(source), 0
    batch = next(iter(pipeline.train_dataset(source, ops, batch_size=count, seed=seed)))
    drawn = order.shuffled(np.arange(count), count, order.key(seed, 0, 0))
    return {name: value[np.argsort(drawn)] for name, value in batch.items()}
