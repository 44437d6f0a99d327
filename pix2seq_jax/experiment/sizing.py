"""The fields of a config that follow from the size of the data and the devices (config.by_data):
where their numbers come from, and the reasons in the log."""

import math
from pathlib import Path
from typing import Any

import jax
import ml_collections

from pix2seq_jax.config import by_data, recipes
from pix2seq_jax.data.coco.json import count_images
from pix2seq_jax.evaluation import HOST_TASKS
from pix2seq_jax.experiment import feeds, inputs, resolve, saved_run
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.training import sharding


def sized(config: ml_collections.ConfigDict, workdir: str | Path) -> ml_collections.ConfigDict:
    """A copy of a config with numbers for the fields of by_data.FIELDS that are 0, and with
    by_data.REMAT as it goes with the batch, if it has train.by_data; the log says why.

    A run that goes on keeps those of its config.json, so nothing changes in its middle, whatever
    the data and the devices are by then. Otherwise the images of train and val are counted,
    without reading the annotations.

    Args:
        config: whose values are in their ranges.
        workdir: of the run; "" for none.

    Raises:
        ValueError: the training data are missing, or see `_check_optimizer`.
    """
    if not _open(config):
        return config
    imported = bool(workdir) and saved_run.is_imported(workdir)
    if workdir and saved_run.is_saved(workdir) and not imported:
        return as_saved(config, saved_run.load_config(workdir), workdir)
    mesh = resolve.make_mesh(config)
    accelerators = mesh.devices.flat[0].platform != "cpu"
    chosen = _choices(config, _images(config, "train"), mesh, accelerators, pretrained=imported)
    for choice in chosen:
        log.info("%s", _in_words(choice))
    return _with_values(config, {choice.field: choice.value for choice in chosen})


def planned(
    config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, *, accelerators: bool
) -> tuple[ml_collections.ConfigDict, list[str]]:
    """The same for a run elsewhere, whose data may be elsewhere, too: (config, reasons)."""
    if not _open(config):
        return config, []
    lines = []
    try:
        images = _images(config, "train")
    except ValueError:
        images = recipes.COCO_IMAGES
        lines.append(f"the training data are not here: {images:,} images are assumed, as COCO has")
    chosen = _choices(config, images, mesh, accelerators)
    values = {choice.field: choice.value for choice in chosen}
    return _with_values(config, values), [*lines, *map(_in_words, chosen)]


def as_saved(
    config: ml_collections.ConfigDict, saved: ml_collections.ConfigDict, where: str | Path
) -> ml_collections.ConfigDict:
    """A copy of a config with the numbers of a saved one for the fields that are 0, by_data.REMAT
    with the batch among them; `where` is the name of that, for the log."""
    numbers = saved.to_dict()
    values = {field: _value(numbers, field) for field in _open(config)}
    if not values:
        return config
    if "train.batch_size" in values and _value(numbers, by_data.REMAT):
        values[by_data.REMAT] = True
    words = ", ".join(f"config.{field}={_shown(value)}" for field, value in values.items())
    log.info("%s: as %s was begun", words, where)
    return _with_values(config, values)


def _open(config: ml_collections.ConfigDict) -> list[str]:
    """The fields that are to be chosen."""
    content = config.to_dict()
    if not config.train.by_data:
        return []
    return [field for field in by_data.FIELDS if not _value(content, field)]


def _value(content: dict[str, Any], field: str) -> Any:
    section, name = field.split(".")
    return content[section][name]


def _with_values(
    config: ml_collections.ConfigDict, values: dict[str, Any]
) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(config.to_dict())
    config.update_from_flattened_dict(values)
    return config


def _images(config: ml_collections.ConfigDict, split: str) -> int:
    """Images of `train` or `val` of the first task that is trained, as its file lists them; those
    of config.more_data do not count.

    Raises:
        ValueError: there is no such file.
    """
    trained = [name for name in resolve.task_names(config) if name in feeds.weighing(config)]
    if not trained:
        resolve.check_weights(config)  # says that they sum to 0
    name = trained[0]
    _, file = inputs.data_paths(config.data, split, HOST_TASKS[name].annotations)
    images = count_images(path_of(file))
    if part := inputs.part_of(config, split):
        share = part.val_share if split == "val" else 1 - part.val_share
        images = round(images * share)
    return max(images, 1)  # a file without any is refused where it is read


def _evaluated(config: ml_collections.ConfigDict) -> by_data.Evaluated:
    """Images of an evaluation on the way and at the end. Where val is missing nobody knows; what
    evaluates says so."""
    try:
        images = _images(config, "val")
    except ValueError:
        return by_data.Evaluated(0, 0)
    limits = (config.eval.images_in_training, config.eval.images)
    return by_data.Evaluated(*[min(limit, images) if limit else images for limit in limits])


def _choices(
    config: ml_collections.ConfigDict,
    images: int,
    mesh: jax.sharding.Mesh,
    accelerators: bool,
    *,
    pretrained: bool = False,
) -> list[by_data.Choice]:
    """What the rules give; see `sized`."""
    _check_optimizer(config)
    content, train = config.to_dict(), config.train
    parts = math.prod(mesh.shape.get(axis, 1) for axis in sharding.RULES["batch"])
    multiple = math.lcm(parts * train.accumulate, train.repeats)
    devices = by_data.Devices(mesh.size, accelerators, multiple)
    given = {field: _value(content, field) for field in (*by_data.FIELDS, by_data.REMAT)}
    chosen = by_data.choose(
        given,
        images,
        devices,
        repeats=train.repeats,
        pretrained=pretrained or bool(config.init_from),
        evaluated=_evaluated(config),
    )
    return [*chosen, *by_data.recomputed(given, devices)]


def _check_optimizer(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError where the rate is to be chosen, but not for the published optimizer."""
    optimizer, scaling = config.optim.name, config.schedule.scaling
    if not config.schedule.base and (optimizer != "adamw" or scaling != "none"):
        raise ValueError(
            f"config.schedule.base={config.schedule.base:g} stands for the rate of adamw without "
            f"scaling; with config.optim.name={optimizer!r} and config.schedule.scaling="
            f"{scaling!r} give a rate, as in --config.schedule.base=1e-3"
        )


def _in_words(choice: by_data.Choice) -> str:
    return f"config.{choice.field}={_shown(choice.value)}: {choice.reason}"


def _shown(value: float) -> str:
    if isinstance(value, bool):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
