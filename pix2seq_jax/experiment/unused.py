"""Settings that were given and change nothing, because another setting leaves them out."""

from collections.abc import Iterator

import ml_collections

from pix2seq_jax.config import build, recipes
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.training import optim


def settings(config: ml_collections.ConfigDict) -> Iterator[str]:
    """For each of them a line with its value and the reason. One that has its default counts as not
    given."""
    shipped = build.training(next(iter(recipes.RECIPES.values())))
    optimizer, schedule = config.optim, config.schedule
    of_others = {name for names in optim.SETTINGS.values() for name in names}
    for name in sorted(of_others - {*optim.SETTINGS[optimizer.name]}):
        if optimizer[name] != shipped["optim"][name]:
            yield _line(config, "optim", name, f"config.optim.name={optimizer.name!r} has none")
    decays = "decay" in optim.SETTINGS[optimizer.name]
    if decays and not optimizer.weight_decay and optimizer.decay != shipped["optim"]["decay"]:
        yield _line(config, "optim", "decay", "config.optim.weight_decay is 0")
    ends = schedule.name in ("linear", "cosine")
    if not ends and schedule.end_factor != shipped["schedule"]["end_factor"]:
        reason = f"config.schedule.name={schedule.name!r} has no lowest rate"
        yield _line(config, "schedule", "end_factor", reason)
    if not config.model.remat and config.model.remat_policy != Pix2Seq.remat_policy:
        yield _line(config, "model", "remat_policy", "config.model.remat is False")


def _line(config: ml_collections.ConfigDict, section: str, name: str, reason: str) -> str:
    return f"config.{section}.{name}={config[section][name]!r} is not used: {reason}"
