"""What a workdir holds of a run: its resolved config and its weights."""

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import ml_collections

from pix2seq_jax.config import ranges
from pix2seq_jax.data.text import Text
from pix2seq_jax.evaluation import HOST_TASKS
from pix2seq_jax.experiment import earlier
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.experiment.resolve import check_classes, laid_out
from pix2seq_jax.experiment.workdir import CHECKPOINTS, CONFIG_FILE, check_named, read_json
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.files.whole import write_whole
from pix2seq_jax.models.backbones.resnet import ResNetBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.tasks import TASKS
from pix2seq_jax.training import checkpoint
from pix2seq_jax.training import state as train_state

TEXT_FILE = "text.model"  # of a workdir with captions

# Of the model: how it is computed and regularised, not what its weights are. These may change on a
# resume.
FREE_OF_MODEL = (
    "backbone.frozen_bn",
    "dtype",
    "cache_dtype",
    "kernel_dtype",
    "remat",
    "remat_policy",
    "attention",
    "attention_init",
    "drop_path",
    "drop_units",
    "drop_att",
)

# What early runs did not record, by section; "" is the config itself.
EARLIER = {
    "": {"init_from": "", "init_encoder": "", "init_encoder_pixels": ""},
    "model": {
        "attention": Pix2Seq.attention,
        "cache_dtype": Pix2Seq.cache_dtype,
        "kernel_dtype": Pix2Seq.kernel_dtype,
        "remat_policy": Pix2Seq.remat_policy,
        "stem_norm": Pix2Seq.stem_norm,
    },
    "data": {
        "worker_processes": 0,
        "cache": 0.0,
        "keypoint_names": (),
        "keypoint_categories": (),
        "skeleton": (),
        "flip_pairs": (),
        "label_ids": (),
        "size": 0,
        "slots": 0,
        "bad_images": "replace",
        "bad_annotations": "error",
        "missing_images": "error",
        "layout": "",
        "val_share": 0.0,
        "split_seed": 0,
    },
    "mesh": {"data": -1, "fsdp": 1, "model": 1, "allow_whole": False},
    "optim": {"frozen": "", "layer_decay": 1.0, "encoder_rate": 1.0},
    "train": {"by_data": False, "ema": 0.0, "trackers": ""},
}
EARLIER_RESNET = {"convention": ResNetBackbone.convention}  # of the section model.backbone


def load_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """The resolved config of a workdir, which may be in an object store; a field that an
    earlier version did not record has its default.

    Raises:
        ValueError: there is none or it cannot be read.
    """
    check_named(workdir)
    path = path_of(workdir) / CONFIG_FILE
    try:
        there = path.is_file()
    except Exception as error:  # object stores raise errors of their own
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}); check the address and your "
            "permissions"
        ) from error
    if not there:
        raise ValueError(
            f"{path} does not exist: {workdir} is not the workdir of a run; train first, or "
            "fix --workdir"
        )
    return complete(read_json(path), where=str(path))


def complete(content: dict[str, Any], *, where: str) -> ml_collections.ConfigDict:
    """The config of what a config.json holds; `where` is its name, for errors.

    Raises:
        ValueError: a field has a value that it may not have.
    """
    if isinstance(content.get("model"), dict):
        content["model"] = earlier.upgrade_model(content["model"])
    for section, values in EARLIER.items():
        _set_defaults(content.get(section) if section else content, values, section)
    if isinstance(content.get("model"), dict):
        backbone = content["model"].get("backbone")
        if isinstance(backbone, dict) and backbone.get("name") == "resnet":
            _set_defaults(backbone, EARLIER_RESNET, "model.backbone")
    sections = content.get("tasks")
    if isinstance(sections, dict):
        for name in sections.keys() & TASKS.keys():
            _set_defaults(sections[name], _defaults(name), f"tasks.{name}")
    ranges.check_fields(content, where=where)
    return ml_collections.ConfigDict(content).lock()


def _set_defaults(section: Any, values: dict[str, Any], name: str) -> None:
    """Fills in the fields that a section lacks; what is no section is told later."""
    if not isinstance(section, dict):
        return
    for field, value in values.items():
        if field not in section:
            log.info("config.%s was not recorded: %r", f"{name}.{field}".lstrip("."), value)
            section[field] = value


def _defaults(task: str) -> dict[str, Any]:
    """The defaults of a task's fields."""
    fields = [*dataclasses.fields(TASKS[task]), *dataclasses.fields(HOST_TASKS[task])]
    return {
        field.name: field.default for field in fields if field.default is not dataclasses.MISSING
    }


def save_config(workdir: str | Path, config: ml_collections.ConfigDict) -> None:
    """Process 0 writes config.json as a whole, so that a stop in between leaves the old one."""
    if jax.process_index():
        return
    write_whole(path_of(workdir) / CONFIG_FILE, config.to_json(indent=2) + "\n")


def meta(config: ml_collections.ConfigDict, text: Text | None) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    model = {"text_model": base64.b64encode(text.to_bytes()).decode()} if text else {}
    return {"category_names": list(config.data.category_names)} | model


def is_saved(workdir: str | Path) -> bool:
    """Whether the workdir holds a config and checkpoints of it."""
    folder = path_of(workdir)
    return (folder / CONFIG_FILE).is_file() and bool(checkpoint.steps(folder / CHECKPOINTS))


def is_imported(workdir: str | Path) -> bool:
    """Whether the workdir holds variables that were imported, and not trained since."""
    return checkpoint.steps(path_of(workdir) / CHECKPOINTS) == [0]


def keep_labels(
    config: ml_collections.ConfigDict, workdir: str | Path
) -> ml_collections.ConfigDict:
    """A copy of the config with as many labels, for the same category ids, as the run in the
    workdir has, if any.

    Its vocabulary, too, where that has more tokens than the config asks for: earlier versions gave
    every folder a vocabulary of one size.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    if is_saved(workdir):
        saved = load_config(workdir)
        config.vocab.num_classes = saved.vocab.num_classes
        config.data.label_ids = tuple(saved.data.label_ids)
        sizes = ("size", "coord_shift", "text_shift")
        smallest = laid_out(saved.vocab.to_dict() | dict.fromkeys(sizes, 0))
        for name in sizes:
            if not config.vocab[name] and smallest[name] < saved.vocab[name]:
                config.vocab[name] = saved.vocab[name]
    return config


def adopt(
    saved: ml_collections.ConfigDict, given: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """The given config with the model, vocabulary and classes of a saved, resolved one.

    Raises:
        ValueError: the given config asks for another architecture, or for tasks that the model was
            not trained on.
    """
    config = ml_collections.ConfigDict(given.to_dict())
    _check_same_model(saved, given)
    for name in given.tasks:
        if name not in saved.tasks:
            raise ValueError(
                f"the checkpoint was trained on the tasks {sorted(saved.tasks)}, not on {name!r}"
            )
        for field in HOST_TASKS[name].from_data:
            config.tasks[name][field] = given.tasks[name][field] or saved.tasks[name][field]
    config.vocab = saved.vocab
    config.model = saved.model.to_dict()
    free = {name: value for name, value in _leaves(given).items() if name in FREE_OF_MODEL}
    config.model.update_from_flattened_dict(free)
    names = ("keypoint_names", "keypoint_categories", "skeleton", "category_names", "category_ids")
    for name in (*names, "label_ids"):
        config.data[name] = tuple(saved.data[name])
    if not any(HOST_TASKS[name].lists_all_classes for name in given.tasks):
        config.data.label_ids = config.data.label_ids or config.data.category_ids
    return config.lock()


def _check_same_model(saved: ml_collections.ConfigDict, given: ml_collections.ConfigDict) -> None:
    """Raises ValueError where a given config asks for another architecture."""
    free = ("vocab_size", "max_seq_len", *FREE_OF_MODEL)  # the first two follow from the data
    theirs = _leaves(saved)
    for name, value in _leaves(given).items():
        if name not in free and theirs.get(name) != value:
            raise ValueError(
                f"the checkpoint was trained with config.model.{name}={theirs.get(name)!r}, "
                f"not {value!r}; evaluate it with the config that it was trained with "
                "(--config=configs/workdir.py:WORKDIR)"
            )


def _leaves(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The fields of the model by dotted name, as JSON has them."""
    return dict(ranges.leaves(json.loads(config.model.to_json())))


def load_variables(
    workdir: str | Path, config: ml_collections.ConfigDict, model: Pix2Seq, mesh, *, step: int = 0
) -> tuple[int, dict]:
    """(step, variables) of a checkpoint of a workdir, the newest whole one for step 0, placed on
    the mesh.

    Raises:
        ValueError: there is none, or it is of another model or of other classes.
    """
    folder = path_of(workdir) / CHECKPOINTS
    step, loaded, meta = checkpoint.load_variables(
        folder, train_state.abstract_variables(model, mesh=mesh), step=step or None
    )
    check_classes(meta["category_names"], config, where=f"checkpoint {folder / str(step)}")
    return step, loaded
