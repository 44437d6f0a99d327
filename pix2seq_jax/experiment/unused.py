"""Settings that were given and change nothing, because another setting leaves them out, and tasks
whose settings work against one another."""

import re
from collections.abc import Iterator, Mapping

import ml_collections

from pix2seq_jax.config import build, recipes, shapes
from pix2seq_jax.experiment import resolve
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.tasks import Task
from pix2seq_jax.training import optim
from pix2seq_jax.training import state as train_state


def settings(config: ml_collections.ConfigDict) -> Iterator[str]:
    """For each of them a line with its value and the reason. One that has its default counts as not
    given."""
    shipped = build.training(next(iter(recipes.RECIPES.values())))
    yield from _of_the_optimizer(config, shipped)
    ends = config.schedule.name in ("linear", "cosine")
    if not ends and config.schedule.end_factor != shipped["schedule"]["end_factor"]:
        reason = f"config.schedule.name={config.schedule.name!r} has no lowest rate"
        yield _line(config, "schedule.end_factor", reason)
    if not config.model.remat and config.model.remat_policy != Pix2Seq.remat_policy:
        yield _line(config, "model.remat_policy", "config.model.remat is False")
    if config.init_encoder_pixels and not config.init_encoder:
        yield _line(config, "init_encoder_pixels", "config.init_encoder is ''")
    yield from _of_beam_search(config)
    pieces = config.data.text_pieces
    if config.data.text_model and pieces not in (0, shapes.TEXT_PIECES):
        reason = f"config.data.text_model={config.data.text_model!r} has its own number"
        yield _line(config, "data.text_pieces", reason)


def opposed(config: ml_collections.ConfigDict, tasks: Mapping[str, Task]) -> Iterator[str]:
    """For each task whose decoding is held to a grammar that its training does not suit, a line
    with the reason and the remedy."""
    for name, task in tasks.items():
        if config.tasks[name].grammar and task.against_grammar:
            yield (
                f"config.tasks.{name}.grammar=True does not suit how the task is trained: "
                f"{task.against_grammar}; give --config.tasks.{name}.grammar=False"
            )


def _of_beam_search(config: ml_collections.ConfigDict) -> Iterator[str]:
    for name in resolve.task_names(config):
        section = config.tasks[name]
        for field, default in {"eos_bias": 0.0, "num_samples": 1}.items():
            if section.sampler.startswith("beam") and section[field] != default:
                yield _line(config, f"tasks.{name}.{field}", f"{section.sampler} has none")


def _of_the_optimizer(config: ml_collections.ConfigDict, shipped: dict) -> Iterator[str]:
    optimizer, defaults = config.optim, shipped["optim"]
    of_others = {name for names in optim.SETTINGS.values() for name in names}
    for name in sorted(of_others - {*optim.SETTINGS[optimizer.name]}):
        if optimizer[name] != defaults[name]:
            reason = f"config.optim.name={optimizer.name!r} has none"
            yield _line(config, f"optim.{name}", reason)
    decays = "decay" in optim.SETTINGS[optimizer.name]
    if decays and not optimizer.weight_decay and optimizer.decay != defaults["decay"]:
        yield _line(config, "optim.decay", "config.optim.weight_decay is 0")
    rates = [name for name in ("layer_decay", "encoder_rate") if optimizer[name] != defaults[name]]
    if rates and optimizer.frozen:
        model = resolve.make_model(config)
        trained = [
            name
            for name in train_state.parameter_names(model)
            if re.search(optim.ENCODER, name) and not re.search(optimizer.frozen, name)
        ]
        own = {"layer_decay": "", "encoder_rate": model.backbone.pretrained}
        for rate in rates:
            if not any(re.search(own[rate], name) for name in trained):
                reason = f"config.optim.frozen={optimizer.frozen!r} holds all that it slows down"
                yield _line(config, f"optim.{rate}", reason)


def _line(config: ml_collections.ConfigDict, name: str, reason: str) -> str:
    value = config
    for part in name.split("."):
        value = value[part]
    return f"config.{name}={value!r} is not used: {reason}"
