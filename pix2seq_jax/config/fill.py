"""Fills in what follows from other fields of a config.

A size is written once: `config.data.size` and `config.data.slots` by the user, and preprocessing
strings hold placeholders. A run fills them in when it begins, so that every flag works alone.
"""

import ml_collections

from pix2seq_jax.models import backbones


def fill(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of a config without placeholders; one that has none stays as it is.

    `model.image_size` () becomes data.size in whole patches, `max_instances` 0 becomes data.slots,
    and a `schedule.warmup` below 1, a share of the steps, the number of them.

    Raises:
        ValueError: a preprocessing string with a placeholder that does not exist, or whose number
            the config does not have.
    """
    content = config.to_dict()
    content["schedule"]["warmup"] = _steps(config.schedule.warmup, config.train.steps)
    config = ml_collections.ConfigDict(content)
    model, data = config.model, config.data
    if not model.image_size:
        side = backbones.from_config(model.backbone).padded(data.size)
        model.image_size = (side, side)
    height, width = model.image_size
    sizes = {"size": data.size, "side": height if height == width else (height, width)}
    for name, section in config.tasks.items():
        if section.get("max_instances") == 0:
            section.max_instances = data.slots
        numbers = {"slots": data.slots}
        numbers |= {key: section[key] for key in ("max_instances", "objects") if key in section}
        for field in ("train_ops", "eval_ops"):
            section[field] = _filled(section[field], sizes | numbers, f"tasks.{name}.{field}")
    return config


def _steps(warmup: float, total: int) -> int:
    return round(warmup * total) if warmup < 1 else int(warmup)


def _filled(text: str, values: dict, field: str) -> str:
    if not isinstance(text, str) or "{" not in text:
        return text
    try:
        filled = text.format_map(values)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(
            f"config.{field}={text!r}: {error} cannot be filled in; the placeholders are "
            f"{sorted(values)}, in braces"
        ) from error
    for name, value in values.items():
        if value == 0 and f"{{{name}}}" in text:
            raise ValueError(
                f"config.{field}={text!r} needs {name}, which is 0; set config.data.size and "
                "config.data.slots, or write the number"
            )
    return filled
