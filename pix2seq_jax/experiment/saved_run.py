"""What a workdir holds of a run: its resolved config and its weights, and which fields may change
on a resume."""

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import ml_collections

from pix2seq_jax import tasks
from pix2seq_jax.config import ranges
from pix2seq_jax.data.text import Text
from pix2seq_jax.experiment import earlier
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.experiment.resolve import check_classes, check_keypoints, label_ids
from pix2seq_jax.experiment.workdir import CHECKPOINTS, CONFIG_FILE, check_local, read_json
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.training import checkpoint
from pix2seq_jax.training import state as train_state

# What a workdir's checkpoints depend on; the rest of a config (steps, intervals, evaluation) may
# change on a resume.
FIXED_BY_MODEL = ("model", "vocab")

FIXED = (
    *(
        *FIXED_BY_MODEL,
        "seed",
        "tasks",
        "train.batch_size",
        "train.repeats",
        "train.mixing",
        "train.loss",
    ),
    *("optim.name", "more_data", "data.flip_pairs"),
)

# Of the model: how it is computed and regularised, not what its weights are. These may change on a
# resume.
FREE_OF_MODEL = (
    "backbone.frozen_bn",
    "dtype",
    "remat",
    "attention_init",
    "drop_path",
    "drop_units",
    "drop_att",
)

DERIVED = (
    "model.max_seq_len",
    "model.vocab_size",
    "vocab.coord_shift",
    "vocab.size",
    "vocab.text_shift",
)

FREE = (  # of a task: how it is evaluated
    *("eval_ops", "eval_batch_size", "sampler", "num_samples", "eos_bias", "grammar"),
    *("mask_threshold", "objects", "objects_final", "sigmas", "points_score_weight"),
)

# masks of an image in a final evaluation, of early runs that did not record it; COCO counts 100
OBJECTS_FINAL = 100

# What early runs did not record, by section.
EARLIER = {
    "data": {
        **{
            name: () for name in ("keypoint_names", "keypoint_categories", "skeleton", "flip_pairs")
        },
        **{"bad_images": "replace", "bad_annotations": "error", "missing_images": "error"},
    },
    "mesh": {"data": -1, "fsdp": 1, "model": 1},
}

TEXT_FILE = "text.model"  # of a workdir with captions


def meta(config: ml_collections.ConfigDict, text: Text | None) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    model = {"text_model": base64.b64encode(text.to_bytes()).decode()} if text else {}
    return {"category_names": list(config.data.category_names)} | model


def load_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """The resolved config of a workdir. Raises ValueError where there is none or it cannot be
    read."""
    check_local(workdir)
    path = Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist: {workdir} is not the workdir of a run; train first, or "
            "fix --workdir"
        )
    content = read_json(path)
    if isinstance(content.get("model"), dict):
        content["model"] = earlier.upgrade_model(content["model"])
    content.setdefault("init_from", "")  # early runs did not record it
    for section, values in EARLIER.items():  # nor these
        there = content.get(section)
        for name, value in values.items():
            if isinstance(there, dict) and name not in there:
                there[name] = value
    sections = content.get("tasks")
    for name, section in sections.items() if isinstance(sections, dict) else ():
        if isinstance(section, dict):
            for field, value in _later_fields(name).items():
                section.setdefault(field, value)
    ranges.check_fields(content, where=str(path))
    return ml_collections.ConfigDict(content).lock()


def _later_fields(task: str) -> dict[str, Any]:
    """What the section of a task has besides the values that every run has recorded."""
    if task not in tasks.TASKS:
        return {}
    fields = dataclasses.fields(tasks.TASKS[task])
    own = {
        field.name: field.default for field in fields if field.default is not dataclasses.MISSING
    }
    return own | {"objects_final": OBJECTS_FINAL} if task == "segmentation" else own


def keep_labels(
    config: ml_collections.ConfigDict, workdir: str | Path
) -> ml_collections.ConfigDict:
    """A copy of the config with as many labels, for the same category ids, as the run in the
    workdir has, if any."""
    config = ml_collections.ConfigDict(config.to_dict())
    if (Path(workdir) / CONFIG_FILE).is_file() and checkpoint.steps(Path(workdir) / CHECKPOINTS):
        saved = load_config(workdir)
        config.vocab.num_classes = saved.vocab.num_classes
        config.data.label_ids = label_ids(saved)
    return config


def is_imported(workdir: str | Path) -> bool:
    """Whether the workdir holds variables that were imported, and not trained since."""
    return checkpoint.steps(Path(workdir) / CHECKPOINTS) == [0]


def save_config(workdir: str | Path, config: ml_collections.ConfigDict) -> None:
    """Process 0 writes config.json as a whole, so that a stop in between leaves the old one."""
    if jax.process_index():
        return
    path = Path(workdir) / CONFIG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(config.to_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def claim_workdir(workdir: str | Path, config: ml_collections.ConfigDict) -> None:
    """Writes config.json into the workdir, or checks that the one there is of the same model, data
    and tasks.

    Raises:
        ValueError: the workdir belongs to a run with other classes or another value of something in
            FIXED; for an imported model that was not trained yet, in FIXED_BY_MODEL.
    """
    path = Path(workdir) / CONFIG_FILE
    new = dict(ranges.leaves(json.loads(config.to_json())))
    if path.is_file() and checkpoint.steps(
        Path(workdir) / CHECKPOINTS
    ):  # a run that saved nothing binds nobody
        saved, fixed_names = load_config(workdir), FIXED_BY_MODEL if is_imported(workdir) else FIXED
        old = dict(ranges.leaves(json.loads(saved.to_json())))
        # What follows from other fields comes last, so that the one that was changed is named.
        for name in sorted(old.keys() | new.keys(), key=lambda name: (name in DERIVED, name)):
            if old.get(name) == new.get(name):
                continue
            fixed = any(name == part or name.startswith(part + ".") for part in fixed_names)
            free = name.startswith("tasks.") and name.endswith(FREE)
            free |= name.removeprefix("model.") in FREE_OF_MODEL
            if fixed and not free:
                raise ValueError(
                    f"workdir {workdir} holds another run: config.{name} is {old.get(name)!r} "
                    f"there and {new.get(name)!r} here; use another --workdir, or the config that "
                    "it was started with"
                )
            log.info(
                "config.%s changed since the last run: %r -> %r", name, old.get(name), new.get(name)
            )
        where = f"workdir {workdir} holds another run: the training data"
        check_classes(config.data.category_names, saved, where=where)
        if "keypoints" in config.tasks and "keypoints" in saved.tasks:
            number = saved.tasks.keypoints.num_keypoints
            check_keypoints(config.data.keypoint_names, saved, number, where=where)
    save_config(workdir, config)


def adopt(
    saved: ml_collections.ConfigDict, given: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """The given config with the model, vocabulary and classes of a saved, resolved one.

    Raises:
        ValueError: the given config asks for another architecture, or for tasks that the model was
            not trained on.
    """
    config = ml_collections.ConfigDict(given.to_dict())
    decided = ("vocab_size", "max_seq_len", *FREE_OF_MODEL)  # by the training data, or free
    sides = (json.loads(config.model.to_json()) for config in (given, saved))
    here, there = (dict(ranges.leaves(side)) for side in sides)
    for name, value in here.items():
        if name not in decided and there.get(name) != value:
            raise ValueError(
                f"the checkpoint was trained with config.model.{name}={there.get(name)!r}, "
                f"not {value!r}; evaluate it with the config that it was trained with "
                "(--config=configs/workdir.py:WORKDIR)"
            )
    for name in given.tasks:
        if name not in saved.tasks:
            raise ValueError(
                f"the checkpoint was trained on the tasks {sorted(saved.tasks)}, not on {name!r}"
            )
    config.vocab = saved.vocab
    config.model = saved.model.to_dict()
    free = {name: value for name, value in here.items() if name in FREE_OF_MODEL}
    config.model.update_from_flattened_dict(free)
    if "keypoints" in given.tasks:
        for name in ("num_keypoints", "sigmas"):
            config.tasks.keypoints[name] = (
                given.tasks.keypoints[name] or saved.tasks.keypoints[name]
            )
    for name in ("keypoint_names", "keypoint_categories", "skeleton"):
        config.data[name] = tuple(saved.data[name])
    config.data.category_names = tuple(saved.data.category_names)
    config.data.category_ids = tuple(saved.data.category_ids)
    config.data.label_ids = label_ids(saved)
    if not {"detection", "segmentation"} & set(
        given.tasks
    ):  # files of keypoints list fewer categories
        config.data.label_ids = label_ids(saved) or tuple(saved.data.category_ids)
    return config.lock()


def load_variables(
    workdir: str | Path, config: ml_collections.ConfigDict, model: Pix2Seq, mesh, *, step: int = 0
) -> tuple[int, dict]:
    """(step, variables) of a checkpoint of a workdir, the newest whole one for step 0, placed on
    the mesh.

    Raises:
        ValueError: there is none, or it is of another model or of other classes.
    """
    folder = Path(workdir) / CHECKPOINTS
    step, loaded, meta = checkpoint.load_variables(
        folder, train_state.abstract_variables(model, mesh=mesh), step=step or None
    )
    check_classes(meta["category_names"], config, where=f"checkpoint {folder / str(step)}")
    return step, loaded
