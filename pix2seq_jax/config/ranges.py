"""What every field of a config may hold: one table, checked before anything is opened or written.

A field that the table does not list does not exist, so a new field of a config needs a line here.
What several fields must agree on (widths and heads, sizes in preprocessing strings) is in `checks`.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from pix2seq_jax.config import by_data
from pix2seq_jax.config.allowed import (
    ANY_LIST,
    ANYTHING,
    COUNT,
    EVEN,
    FLAG,
    LARGEST,
    NOT_NEGATIVE,
    RATE,
    REGEX,
    SHARE,
    Allowed,
    each,
    kinds,
    number,
    one_of,
    text,
    whole,
)
from pix2seq_jax.evaluation import HOST_TASKS
from pix2seq_jax.models import pix2seq
from pix2seq_jax.models.backbones import BACKBONES, base
from pix2seq_jax.models.backbones.base import Backbone
from pix2seq_jax.pretrained.pixels import NORMALISATIONS
from pix2seq_jax.tasks import TASKS
from pix2seq_jax.tasks.detection import CLASS_CORRUPTIONS
from pix2seq_jax.training import losses, optim

IDS = each(
    whole(0),
    "a tuple of different whole numbers, as in (1, 2, 5), or () for the order of the file",
    different=True,
    optional=True,
)
NAME_PAIRS = each(
    each(text(empty=False), "", count=2),
    'pairs of names, as in (("wing_l", "wing_r"),), or () where left and right are in the names',
    optional=True,
)


def _model() -> dict[str, Allowed]:
    """Fields of config.model."""
    fields = {name: one_of(values) for name, values in pix2seq.ALLOWED.items()}
    for part in ("enc", "dec"):
        fields |= {f"{part}_dim": EVEN} | {
            f"{part}_{name}": COUNT for name in ("layers", "mlp", "heads")
        }
    fields |= {name: RATE for name in ("drop_path", "drop_units", "drop_att")}
    flags = ("use_cls_token", "stem_norm", "shared_embedding", "output_bias", "remat")
    fields |= {name: FLAG for name in flags}
    fields |= {
        name: whole(0, also=" (0: what data and tasks need)")
        for name in ("vocab_size", "max_seq_len")
    }
    size = "two whole numbers of at least 1, height and width in pixels as in (640, 640)"
    pair = each(COUNT, size, count=2)
    return fields | {
        "image_size": Allowed(
            f"{size}, or () for data.size", lambda value: value == () or pair.holds(value)
        )
    }


BACKBONE = "model.backbone"  # the section whose fields depend on its name
BACKBONE_NAME = one_of(BACKBONES)


def _backbone(kind: type[Backbone]) -> dict[str, Allowed]:
    """Fields of config.model.backbone for one backbone, as its dataclass says."""
    allowed = {"name": BACKBONE_NAME}
    for field in dataclasses.fields(kind):
        limits = field.metadata
        if base.CHOICES in limits:
            allowed[field.name] = one_of(limits[base.CHOICES])
        elif base.LOWEST in limits:
            kind_of_number = whole if isinstance(field.default, int) else number
            allowed[field.name] = kind_of_number(limits[base.LOWEST])
        else:
            allowed[field.name] = FLAG
    return allowed


SIDES = Allowed(
    "a number of pixels, or two of them, height and width as in (480, 640)",
    lambda value: whole(0).holds(value) or each(COUNT, "", count=2).holds(value),
)


def _data() -> dict[str, Allowed]:
    """Fields of config.data and, each of them optional, of the sections of config.more_data."""
    files = ("images", "annotations", "keypoints", "captions")
    filled_in = (
        "category_names",
        "category_ids",
        "keypoint_names",
        "keypoint_categories",
        "skeleton",
    )
    return {
        "source": one_of(["coco_dir", "array_record"]),
        "layout": text(),
        "hint": text(),
        "val_share": number(0, 1, below=True),
        "split_seed": whole(0),
        "size": SIDES,
        "slots": whole(0),
        "label_ids": IDS,
        "flip_pairs": NAME_PAIRS,
        "text_model": text(),
        "text_pieces": whole(0, 1_000_000, also=" (0: as many as the captions suit)"),
        "check_images": FLAG,
        "bad_images": one_of(["replace", "error"]),
        "bad_annotations": one_of(["error", "drop"]),
        "missing_images": one_of(["error", "drop"]),
        "workers": whole(0, 1024, also=" (0: as many as the cores suit)"),
        "worker_processes": whole(0, 1024, also=" (0: by cores and devices, 1: none but this)"),
        "cache": number(0),
        **{f"{split}_{kind}": text() for split in ("train", "val") for kind in files},
        **{name: ANY_LIST for name in filled_in},
    }


EVERY_TASK = {  # what the sections of all tasks have
    "weight": SHARE,
    "batch_size": whole(0, also=" (0: train.batch_size)"),
    "train_ops": text(empty=False),
    "eval_ops": text(empty=False),
    "eval_batch_size": whole(0, also=" (0: eval.batch_size)"),
    "sampler": text(empty=False),
    "num_samples": COUNT,
    "eos_bias": number(),
    "grammar": FLAG,
}
PADDING_WEIGHT = number(0, optional=True)  # earlier versions had none
TASK_FIELDS = {
    "detection": {
        "max_instances": whole(0, also=" (0: data.slots)"),
        "class_corruption": one_of(CLASS_CORRUPTIONS),
        "noise_weight": NOT_NEGATIVE,
        "eos_weight": NOT_NEGATIVE,
    },
    "segmentation": {
        "max_instances": COUNT,
        "max_points": whole(3),
        "random_start": FLAG,
        "eos_weight": NOT_NEGATIVE,
        "padding_weight": PADDING_WEIGHT,
        "mask_threshold": number(0, 1, above=True),
        "objects": COUNT,
        "objects_final": COUNT,
    },
    "keypoints": {
        "max_instances": COUNT,
        "num_keypoints": whole(0, also=" (0: as many as the data have)"),
        "invisible_weight": NOT_NEGATIVE,
        "mask_inputs": FLAG,
        "points_score_weight": SHARE,
        "objects": COUNT,
        "sigmas": each(
            number(0, above=True), "a tuple of numbers above 0, one for each keypoint, or ()"
        ),
    },
    "captioning": {
        "captions_per_image": COUNT,
        "max_tokens": COUNT,
        "input_drop": SHARE,
        "eos_weight": NOT_NEGATIVE,
        "padding_weight": PADDING_WEIGHT,
    },
}
EVERY_STEP = whole(
    1, also="; to do something never give more than config.train.steps (evaluation: --mode=train)"
)
STEPS_OR_SHARE = Allowed(
    "a whole number of steps of at least 0, or a share of train.steps below 1, as in 0.1",
    lambda value: number(0, LARGEST).holds(value) and (value < 1 or value == int(value)),
)
TABLE = {  # by section; "" is the config itself
    "": {
        "about": text(),
        "seed": whole(0),
        **{name: text() for name in ("init_from", "init_encoder")},
        "init_encoder_pixels": one_of(("", *NORMALISATIONS)),
    },
    "data": _data(),
    "model": _model(),
    **{f"{BACKBONE}={name}": _backbone(kind) for name, kind in BACKBONES.items()},
    "vocab": {"num_bins": whole(2)}
    | {
        name: whole(0) for name in ("size", "num_classes", "coord_shift", "text_shift", "text_size")
    },
    "schedule": {
        "name": kinds(
            ("linear", "cosine", "none"),
            {"cosine": number(0, above=True), "exp": number(0, above=True)},
            optim.SCHEDULES,
        ),
        "base": NOT_NEGATIVE,
        "scaling": one_of(optim.SCALINGS),
        "warmup": STEPS_OR_SHARE,
        "tail": whole(0),
        "end_factor": SHARE,
    },
    "optim": {
        "name": one_of(optim.OPTIMIZERS),
        "beta1": RATE,
        "beta2": RATE,
        "eps": number(0, above=True),
        "weight_decay": NOT_NEGATIVE,
        "decay": one_of(optim.DECAY),
        "momentum": RATE,
        "clip": NOT_NEGATIVE,
        "frozen": REGEX,
        "layer_decay": number(0, 1, above=True),
        "encoder_rate": number(0, above=True),
    },
    "train": {
        "by_data": FLAG,
        **{name: COUNT for name in ("batch_size", "steps", "accumulate", "repeats", "keep_latest")},
        **{name: EVERY_STEP for name in ("log_steps", "eval_steps", "checkpoint_steps")},
        "mixing": one_of(["batch", "data"]),
        "loss": kinds(
            ("xent", "logistic"),
            {"xent": RATE, "logistic": RATE, "focal": NOT_NEGATIVE},
            losses.LOSSES,
        ),
        "ema": RATE,
        "best_metric": text(),
        "trackers": text(),
        "profile_at": whole(0, also=" (0: no trace)"),
    },
    "eval": {
        "batch_size": COUNT,
        **{name: whole(0) for name in ("step", "images", "images_in_training", "pictures")},
        "score_threshold": SHARE,
        "boxes": text(empty=False),
    },
    "mesh": {
        "data": Allowed(
            "a number of devices, or -1 for the rest",
            lambda value: value == -1 or COUNT.holds(value),
        ),
        "fsdp": COUNT,
        "model": COUNT,
        "allow_whole": FLAG,
    },
    **{f"tasks.{name}": EVERY_TASK | fields for name, fields in TASK_FIELDS.items()},
}
MIX_SHARE = NOT_NEGATIVE  # of config.tasks.NAME.mix.DATA


def check(config: ml_collections.ConfigDict, *, where: str = "config") -> None:
    """Refuses a config with a field that does not exist, that is missing, or whose value is out of
    its range.

    Args:
        config: resolved or not.
        where: what to call it in the message, as the path of a file.

    Raises:
        ValueError: names the first such field, its value, and what it may be.
    """
    content = config.to_dict()
    check_fields(content, where=where)
    for name, value in leaves(content):
        allowed = _allowed(name, content)
        by_size = name in by_data.FIELDS and not isinstance(value, bool) and value == 0
        if by_size and content["train"]["by_data"] is True:
            continue
        if by_size and not allowed.holds(value):
            raise ValueError(
                f"{where}.{name}={value!r}: give {allowed.words}; 0, a number by the size of the "
                "data, is for a folder of your own without recipe=, or with "
                "--config.train.by_data=True"
            )
        if not allowed.holds(value):
            raise ValueError(f"{where}.{name}={value!r}: give {allowed.words}")


def check_fields(content: Mapping[str, Any], *, where: str = "config") -> None:
    """Refuses a config, as a dictionary, with sections or fields too many or too few.

    Raises:
        ValueError: names the first one.
    """
    sections = [section for section in TABLE if not section.startswith(("tasks.", BACKBONE))]
    for section in [*sections[1:], "tasks", "more_data", BACKBONE]:
        if not isinstance(_section(content, section), Mapping):
            raise ValueError(
                f"{where} lacks the section {section!r}; restore the file from a copy, or make "
                "the config by one of configs/*.py"
            )
    name = content["model"]["backbone"].get("name")
    if not BACKBONE_NAME.holds(name):
        raise ValueError(f"{where}.{BACKBONE}.name={name!r}: give {BACKBONE_NAME.words}")
    sections.append(BACKBONE)
    for name, section in content["tasks"].items():
        if name not in TASKS:
            raise ValueError(f"{where}.tasks.{name}: unknown task; known tasks are {sorted(TASKS)}")
        if not isinstance(section, Mapping) or not isinstance(section.get("mix"), Mapping):
            raise ValueError(
                f"{where}.tasks.{name} lacks the section 'mix'; write mix={{'data': 1.0}}"
            )
        sections.append(f"tasks.{name}")
    for name, _ in leaves(content):
        _check_name(name, content, where)
    for section in sections:
        there = _section(content, section)
        for name, allowed in _fields(section, content).items():
            if name not in there and not allowed.optional:
                prefix = f"{section}." if section else ""
                raise ValueError(f"{where} lacks the field {prefix}{name}; give {allowed.words}")


def leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested dictionaries."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _section(content: Mapping[str, Any], section: str) -> Any:
    """What is there by the dotted name; None for nothing."""
    for part in filter(None, section.split(".")):
        content = content[part] if isinstance(content, Mapping) and part in content else None
    return content


def _fields(section: str, content: Mapping[str, Any]) -> dict[str, Allowed]:
    """The fields that a section may have, by name; none for a section that does not exist."""
    if section == BACKBONE:
        section = f"{BACKBONE}={content['model']['backbone']['name']}"
    if section.startswith("more_data.") and section.count(".") == 1:
        section = "data"
    first, _, task = section.partition(".")
    if section not in TABLE and first == "tasks" and task in TASKS:
        return _fields_of_task(task)
    return TABLE.get(section, {})


def _fields_of_task(task: str) -> dict[str, Allowed]:
    """The fields of a task that the table does not list: those of its two halves, with any value of
    their types."""
    halves = [*dataclasses.fields(TASKS[task]), *dataclasses.fields(HOST_TASKS[task])]
    types = {bool: FLAG, int: whole(0), float: number(), str: text()}
    return EVERY_TASK | {
        field.name: types.get(field.type, ANYTHING) for field in halves if field.name != "vocab"
    }


def _allowed(name: str, content: Mapping[str, Any]) -> Allowed | None:
    """What a field may hold; None for a name that is none."""
    section, _, field = name.rpartition(".")
    parts = section.split(".")
    if parts[0] == "tasks" and len(parts) == 3 and parts[2] == "mix":
        return MIX_SHARE
    return _fields(section, content).get(field)


def _check_name(name: str, content: Mapping[str, Any], where: str) -> None:
    """Raises ValueError with the nearest names for a field that does not exist."""
    if _allowed(name, content) is not None:
        return
    section, _, field = name.rpartition(".")
    fields = _fields(section, content)
    if not fields:
        sections = {part.partition("=")[0] for part in TABLE if part}
        raise ValueError(
            f"{where}.{name}: there is no section {section!r}; the sections are {sorted(sections)}"
        )
    near = difflib.get_close_matches(field, fields, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"its section has {sorted(fields)}"
    if section == BACKBONE and not near:
        hint += "; another backbone is chosen by the variant, as in --config=FILE:arch=resnet50"
    raise ValueError(f"{where}.{name}: there is no such field; {hint}")
