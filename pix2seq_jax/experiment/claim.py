"""A workdir belongs to one run: which fields of a config may change when the run goes on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import ml_collections

from pix2seq_jax.config import ranges
from pix2seq_jax.evaluation import HOST_TASKS
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.experiment.resolve import check_classes
from pix2seq_jax.experiment.saved_run import (
    FREE_OF_MODEL,
    is_imported,
    is_saved,
    load_config,
    save_config,
)
from pix2seq_jax.tasks import TASKS

# What a workdir's checkpoints depend on; the rest of a config (steps, intervals, evaluation) may
# change.
FIXED_BY_MODEL = ("model", "vocab")
FIXED = (
    *FIXED_BY_MODEL,
    "seed",
    "tasks",
    "train.batch_size",
    "train.repeats",
    "train.mixing",
    "train.loss",
    "optim.name",
    "optim.frozen",  # the optimizer keeps nothing of what is frozen
    "more_data",
    "data.flip_pairs",
    "data.split_seed",
    "data.val_share",
)
# What a run started from; in a workdir that has weights of its own they are passed over.
STARTED_FROM = ("init_from", "init_encoder", "init_encoder_pixels")
# Of a task, besides the fields of its host half: how it is evaluated.
FREE_OF_TASK = ("eval_ops", "eval_batch_size", "sampler", "num_samples", "eos_bias", "grammar")
# What follows from other fields; these are named last, so that the one that was changed is named.
DERIVED = (
    "model.max_seq_len",
    "model.vocab_size",
    "vocab.coord_shift",
    "vocab.size",
    "vocab.text_shift",
)


def claim_workdir(workdir: str | Path, config: ml_collections.ConfigDict) -> None:
    """Writes config.json into the workdir, or checks that the one there is of the same model, data
    and tasks. A run that saved no checkpoint does not count.

    Raises:
        ValueError: the workdir belongs to a run with other classes or another value of something in
            FIXED; for an imported model that was not trained yet, in FIXED_BY_MODEL.
    """
    if is_saved(workdir):
        saved = load_config(workdir)
        config = ml_collections.ConfigDict(config)
        config.update({name: saved[name] for name in STARTED_FROM})
        _compare(saved, config, workdir, FIXED_BY_MODEL if is_imported(workdir) else FIXED)
        where = f"workdir {workdir} holds another run: the training data"
        check_classes(config.data.category_names, saved, where=where)
        for name in config.tasks:
            if name in saved.tasks:
                HOST_TASKS[name].check(config.data, saved, where=where)
    save_config(workdir, config)


def _compare(
    saved: ml_collections.ConfigDict,
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    fixed: tuple[str, ...],
) -> None:
    """Logs what has changed; raises ValueError for what may not change."""
    old, new = _leaves(saved), _leaves(config)
    for name in sorted(old.keys() | new.keys(), key=lambda name: (name in DERIVED, name)):
        before, now = old.get(name), new.get(name)
        if before == now:
            continue
        belongs = any(name == part or name.startswith(f"{part}.") for part in fixed)
        if belongs and not _is_free(name):
            raise ValueError(
                f"workdir {workdir} holds another run: config.{name} is {before!r} there and "
                f"{now!r} here; use another --workdir, or the config that it was started with"
            )
        log.info("config.%s changed since the last run: %r -> %r", name, before, now)


def _leaves(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The values of a config by dotted name, as JSON has them."""
    return dict(ranges.leaves(json.loads(config.to_json())))


def _is_free(name: str) -> bool:
    """Whether a field of the model or of a task may change."""
    section, _, field = name.partition(".")
    if section == "model":
        return field in FREE_OF_MODEL
    if section != "tasks":
        return False
    task, _, field = field.partition(".")
    if task not in TASKS:
        return False
    of_host = [one.name for one in dataclasses.fields(HOST_TASKS[task])]
    return field in (*FREE_OF_TASK, *TASKS[task].decoding_fields, *of_host)
