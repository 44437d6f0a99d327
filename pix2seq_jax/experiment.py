"""From a config to its parts: vocabulary, tasks, model, workdir. Shared by train, evaluate and predict.

A run's workdir holds `config.json`, the resolved config: what the data decides (classes, vocabulary, sequence length)
is filled in there, so that every later command builds the same model without the training data.
"""

import base64
import dataclasses
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import ml_collections

from pix2seq_jax import checkpoint, presets, ranges, tasks, train_step
from pix2seq_jax.data import sources
from pix2seq_jax.data.text import Text
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.telemetry import log
from pix2seq_jax.vocab import CLASS_SHIFT, Vocab
from pix2seq_jax.workdir import CHECKPOINTS, CONFIG_FILE, check_local, read_json

# What a workdir's checkpoints depend on; the rest of a config (steps, intervals, evaluation) may change on a resume.
FIXED_BY_MODEL = ("model", "vocab")
FIXED = (
    *(*FIXED_BY_MODEL, "seed", "tasks", "train.batch_size", "train.repeats", "train.mixing", "train.loss"),
    *("optim.name", "more_data", "data.flip_pairs"),
)
# Of the model: how it is computed and regularised, not what its weights are. These may change on a resume.
FREE_OF_MODEL = ("frozen_bn", "dtype", "remat", "attention_init", "drop_path", "drop_units", "drop_att")
DERIVED = ("model.max_seq_len", "model.vocab_size", "vocab.coord_shift", "vocab.size", "vocab.text_shift")
FREE = (  # of a task: how it is evaluated
    *("eval_ops", "eval_batch_size", "sampler", "num_samples", "eos_bias", "grammar"),
    *("mask_threshold", "objects", "objects_final", "sigmas", "points_score_weight"),
)
OBJECTS_FINAL = 100  # masks of an image in a final evaluation, of early runs that did not record it; COCO counts 100
# What early runs did not record, by section.
EARLIER = {
    "data": {
        **{name: () for name in ("keypoint_names", "keypoint_categories", "skeleton", "flip_pairs")},
        **{"bad_images": "replace", "bad_annotations": "error", "missing_images": "error"},
    },
    "mesh": {"data": -1, "fsdp": 1, "model": 1},
}
TEXT_FILE = "text.model"  # of a workdir with captions
GROUND_TRUTH = "ground_truth"  # value of config.eval.boxes, and part of the names of what was measured with it
PROMPTED = ("segmentation", "keypoints")  # tasks that need boxes
UNKNOWN_SIGMA = 0.05  # of a keypoint that COCO does not have; between its eyes (0.025) and hips (0.107)


def meta(config: ml_collections.ConfigDict, text: Text | None) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    model = {"text_model": base64.b64encode(text.to_bytes()).decode()} if text else {}
    return {"category_names": list(config.data.category_names)} | model


def keypoint_sigmas(names: tuple[str, ...], given: tuple[float, ...]) -> tuple[float, ...]:
    """Deviations of keypoints: the given ones, or COCO's by name."""
    if given and len(given) != len(names):
        raise ValueError(
            f"config.tasks.keypoints.sigmas has {len(given)} values for the {len(names)} keypoints {list(names)}"
        )
    known = dict(zip(presets.COCO_KEYPOINTS["names"], presets.COCO_KEYPOINTS["sigmas"], strict=True))
    unknown = [name for name in names if name not in known]
    if unknown and not given:
        log.warning("sigmas of the keypoints %s are not known: %s each", unknown, UNKNOWN_SIGMA)
    return given or tuple(known.get(name, UNKNOWN_SIGMA) for name in names)


def resolve(
    config: ml_collections.ConfigDict, opened: dict[str, Any], text: Text | None = None
) -> ml_collections.ConfigDict:
    """A copy of the config with classes, keypoints, vocabulary and sequence length filled in from the training data.

    A vocab.size, vocab.coord_shift or vocab.text_shift of 0 means as small as the data allow.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    vocab, boxed = config.vocab, [source for name, source in opened.items() if name != "captioning"]
    names = tuple(boxed[0].category_names) if boxed else ()
    vocab.num_classes = max(vocab.num_classes, len(names), 1)
    spare = range(len(names) + 1, vocab.num_classes + 1)  # of an imported model without names
    config.data.category_names = (*names, *(sources.UNNAMED.format(label) for label in spare))
    config.data.category_ids = tuple(boxed[0].category_ids) if boxed else tuple(config.data.label_ids)
    config.data.update({"keypoint_names": (), "keypoint_categories": (), "skeleton": ()})
    if "keypoints" in opened:
        joints, section = opened["keypoints"], config.tasks.keypoints
        config.data.keypoint_names, config.data.skeleton = joints.keypoint_names, joints.skeleton
        config.data.keypoint_categories = tuple(config.data.category_ids[label - 1] for label in joints.keypoint_labels)
        section.num_keypoints = len(joints.keypoint_names)
        section.sigmas = keypoint_sigmas(joints.keypoint_names, tuple(section.sigmas))
    if text:
        if 0 < vocab.text_size < text.size:
            raise ValueError(f"the text model has {text.size} pieces but the vocabulary room for {vocab.text_size}")
        vocab.text_size = vocab.text_size or text.size
    vocab.update(laid_out(vocab))
    config.model.vocab_size = vocab.size
    # A decoder position per token; a published checkpoint keeps the longer table it was trained with.
    longest = max(task.max_len for task in make_tasks(config).values())
    config.model.max_seq_len = max(config.model.max_seq_len, longest)
    return config.lock()


def laid_out(vocab: ml_collections.ConfigDict) -> dict[str, int]:
    """The fields of a vocabulary with those that are 0 as small as the others allow."""
    sizes = vocab.to_dict()
    sizes["num_classes"] = max(sizes["num_classes"], 1)
    sizes["coord_shift"] = sizes["coord_shift"] or CLASS_SHIFT + 1 + sizes["num_classes"]
    coordinates_end = sizes["coord_shift"] + sizes["num_bins"]
    sizes["text_shift"] = sizes["text_shift"] or coordinates_end
    text_end = sizes["text_shift"] + sizes["text_size"] if sizes["text_size"] else 0
    sizes["size"] = sizes["size"] or max(coordinates_end, text_end)
    return sizes


def task_names(config: ml_collections.ConfigDict) -> list[str]:
    """The tasks of a config, in the order of tasks.TASKS: what detects goes before what its boxes prompt.

    Raises:
        ValueError: none, or one that is not known.
    """
    for name in config.tasks:
        if name not in tasks.TASKS:
            raise ValueError(f"config.tasks.{name}: unknown task; known tasks are {sorted(tasks.TASKS)}")
    if not len(config.tasks):
        raise ValueError(f"config.tasks is empty: select at least one of {sorted(tasks.TASKS)}")
    return [name for name in tasks.TASKS if name in config.tasks]


def label(config: ml_collections.ConfigDict, name: str) -> str:
    """Name of what is measured for a task: says so where boxes come from the annotations."""
    return f"{name}_{GROUND_TRUTH}_boxes" if name in PROMPTED and config.eval.boxes == GROUND_TRUTH else name


def check_weights(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless the weights of the tasks are shares: at least 0, one in all."""
    weights = {name: config.tasks[name].weight for name in task_names(config)}
    total = sum(weights.values())
    if abs(total - 1) > 1e-6 or min(weights.values()) < 0:
        raise ValueError(
            f"the weights of the tasks are {weights} and sum to {total:.6g}; they are shares of the loss and must sum "
            "to 1: set config.tasks.NAME.weight"
        )


def select_tasks(config: ml_collections.ConfigDict, names: Iterable[str]) -> ml_collections.ConfigDict:
    """A copy of a config with only some of its tasks; their weights sum to one again.

    Without detection, boxes are those of the annotations, as in the configs of single tasks.

    Raises:
        ValueError: no name, or one that is no task of the config.
    """
    config, chosen = ml_collections.ConfigDict(config.to_dict()), list(names)
    have = task_names(config)
    for name in chosen or [""]:
        if name not in have:
            known = f"a task that this model was not trained on; it has {have}"
            raise ValueError(
                f"tasks={'+'.join(chosen)}: {name!r} is {known if name in tasks.TASKS else f'no task; it has {have}'}; "
                "join some of them by +"
            )
    config.tasks = {name: config.tasks[name] for name in have if name in chosen}
    total = sum(section.weight for section in config.tasks.values())
    for section in config.tasks.values():
        section.weight = section.weight / total if total else 1 / len(config.tasks)
    if "detection" not in chosen and config.eval.boxes == "predicted":
        config.eval.boxes = GROUND_TRUTH
    task, _, metric = config.train.best_metric.partition("/")
    task = task.removesuffix(f"_{GROUND_TRUTH}_boxes")
    config.train.best_metric = f"{label(config, task)}/{metric}" if task in chosen else ""
    return config


def make_tasks(config: ml_collections.ConfigDict) -> dict[str, object]:
    """The tasks of a resolved config by name."""
    vocab = Vocab(**config.vocab)
    made = {}
    for name in task_names(config):
        task, section = tasks.TASKS[name], config.tasks[name]
        fields = {field.name: section[field.name] for field in dataclasses.fields(task) if field.name != "vocab"}
        made[name] = task(vocab=vocab, **fields)
    return made


def make_model(config: ml_collections.ConfigDict) -> Pix2Seq:
    """The model of a resolved config."""
    return Pix2Seq.from_config(config.model)


def load_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """The resolved config of a workdir. Raises ValueError where there is none or it cannot be read."""
    check_local(workdir)
    path = Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist: {workdir} is not the workdir of a run; train first, or fix --workdir")
    content = read_json(path)
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
    own = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    return own | {"objects_final": OBJECTS_FINAL} if task == "segmentation" else own


def check_classes(names, config: ml_collections.ConfigDict, *, where: str) -> None:
    """Raises ValueError unless `names` are the classes that a resolved config was made for, in the same order.

    A label that either side has no name for agrees with any name.
    """
    known, found = tuple(config.data.category_names), tuple(names)
    for label, pair in enumerate(itertools.zip_longest(known, found), 1):
        if pair[0] != pair[1] and sources.UNNAMED.format(label) not in pair:
            raise ValueError(
                f"{where} has {len(found)} classes, the model has {len(known)}; the first that differ are {pair[1]!r} "
                f"there and {pair[0]!r} in the model; give the annotations it was trained for, or another --workdir"
            )


def check_keypoints(names, config: ml_collections.ConfigDict, number: int, *, where: str) -> None:
    """Raises ValueError unless `names` are the `number` keypoints that a resolved config was made for, in its order.

    Imported models have a number and no names.
    """
    known, found = list(config.data.keypoint_names), list(names)
    if len(found) != number or (known and found != known):
        raise ValueError(
            f"{where} has the keypoints {found} and the model {known or number}; give the annotations that it was "
            "trained for, in the same order, or leave keypoints out of the tasks"
        )


def label_ids(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """Category ids that the labels of a resolved config stand for, () for the order of the annotations."""
    return tuple(config.data.label_ids) if "label_ids" in config.data else ()  # early runs did not record it


def keep_labels(config: ml_collections.ConfigDict, workdir: str | Path) -> ml_collections.ConfigDict:
    """A copy of the config with as many labels, for the same category ids, as the run in the workdir has, if any."""
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
    """Writes config.json into the workdir, or checks that the one there is of the same model, data and tasks.

    Raises:
        ValueError: the workdir belongs to a run with other classes or another value of something in FIXED; for an
            imported model that was not trained yet, in FIXED_BY_MODEL.
    """
    path = Path(workdir) / CONFIG_FILE
    new = dict(ranges.leaves(json.loads(config.to_json())))
    if path.is_file() and checkpoint.steps(Path(workdir) / CHECKPOINTS):  # a run that saved nothing binds nobody
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
                    f"workdir {workdir} holds another run: config.{name} is {old.get(name)!r} there and "
                    f"{new.get(name)!r} here; use another --workdir, or the config that it was started with"
                )
            log.info("config.%s changed since the last run: %r -> %r", name, old.get(name), new.get(name))
        where = f"workdir {workdir} holds another run: the training data"
        check_classes(config.data.category_names, saved, where=where)
        if "keypoints" in config.tasks and "keypoints" in saved.tasks:
            number = saved.tasks.keypoints.num_keypoints
            check_keypoints(config.data.keypoint_names, saved, number, where=where)
    save_config(workdir, config)


def adopt(saved: ml_collections.ConfigDict, given: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The given config with the model, vocabulary and classes of a saved, resolved one.

    Raises:
        ValueError: the given config asks for another architecture, or for tasks that the model was not trained on.
    """
    config = ml_collections.ConfigDict(given.to_dict())
    decided = ("vocab_size", "max_seq_len", *FREE_OF_MODEL)  # by the training data, or free
    for name, value in json.loads(given.model.to_json()).items():
        if name not in decided and json.loads(saved.model.to_json()).get(name) != value:
            raise ValueError(
                f"the checkpoint was trained with config.model.{name}={saved.model.get(name)!r}, not {value!r}; "
                "evaluate it with the config that it was trained with (--config=configs/workdir.py:WORKDIR)"
            )
    for name in given.tasks:
        if name not in saved.tasks:
            raise ValueError(f"the checkpoint was trained on the tasks {sorted(saved.tasks)}, not on {name!r}")
    config.vocab = saved.vocab
    config.model = saved.model.to_dict() | {name: given.model[name] for name in FREE_OF_MODEL}
    if "keypoints" in given.tasks:
        for name in ("num_keypoints", "sigmas"):
            config.tasks.keypoints[name] = given.tasks.keypoints[name] or saved.tasks.keypoints[name]
    for name in ("keypoint_names", "keypoint_categories", "skeleton"):
        config.data[name] = tuple(saved.data[name])
    config.data.category_names = tuple(saved.data.category_names)
    config.data.category_ids = tuple(saved.data.category_ids)
    config.data.label_ids = label_ids(saved)
    if not {"detection", "segmentation"} & set(given.tasks):  # files of keypoints list fewer categories
        config.data.label_ids = label_ids(saved) or tuple(saved.data.category_ids)
    return config.lock()


def load_variables(
    workdir: str | Path, config: ml_collections.ConfigDict, model: Pix2Seq, mesh, *, step: int = 0
) -> tuple[int, dict]:
    """(step, variables) of a checkpoint of a workdir, the newest whole one for step 0, placed on the mesh.

    Raises:
        ValueError: there is none, or it is of another model or of other classes.
    """
    folder = Path(workdir) / CHECKPOINTS
    step, loaded, meta = checkpoint.load_variables(
        folder, train_step.abstract_variables(model, mesh=mesh), step=step or None
    )
    check_classes(meta["category_names"], config, where=f"checkpoint {folder / str(step)}")
    return step, loaded
