"""Plans of warm starts between two configs of tiny models, with random weights."""

import numpy as np

from pix2seq_jax.experiment import resolve
from pix2seq_jax.official import reader, transfer
from pix2seq_jax.official.source import Source
from tests.helpers import small

EMBEDDING, BIAS = "params/decoder/embedding", "params/decoder/output_bias"
ANIMALS = ("Cat", "dog", "Polar_bear")


def make(names=ANIMALS, *, ids=None, bins=16, text=0, seq=32, size=64, **model):
    """A resolved config of a tiny model."""
    config = small.load("detection.py:shapes")
    config.update_from_flattened_dict(small.shrunk(config))
    config.data.category_names = tuple(names)
    config.data.category_ids = tuple(range(1, len(names) + 1) if ids is None else ids)
    fields = {
        "num_bins": bins,
        "num_classes": len(names),
        "coord_shift": 120,
        "text_shift": 200,
        "text_size": text,
    }
    config.vocab.update(fields | {"size": 200 + text})
    sizes = {"vocab_size": 200 + text, "max_seq_len": seq, "image_size": (size, size)}
    model = sizes | model
    if "backbone" in model:
        config.model.backbone = model.pop("backbone")
    config.model.update(model)
    return config


def shapes(config) -> dict[str, tuple[int, ...]]:
    model = resolve.make_model(config)
    return {name: shape for name, (shape, _) in reader.wanted_variables(model).items()}


def source(config) -> Source:
    """A model of random numbers, none of them 0."""
    rng = np.random.default_rng(3)
    arrays = {
        name: rng.uniform(1, 2, shape).astype(np.float32) for name, shape in shapes(config).items()
    }
    return Source("runs/a step 5", config, arrays)


def plan(theirs, ours):
    """(arrays of the source, what becomes of every parameter, the report)."""
    model, wanted = source(theirs), shapes(ours)
    parts = transfer.plan(model, ours, wanted)
    for name, part in parts.items():
        assert part.values is None or part.values.shape == wanted[name]
    return model.arrays, parts, transfer.report(model, ours, wanted, parts)
