"""From a config to its parts: vocabulary, tasks, model, workdir. Shared by train, evaluate and
predict.

A run's workdir holds `config.json`, the resolved config: what the data decides (classes,
vocabulary, sequence length) is filled in there, so that every later command builds the same model
without the training data.
"""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import ml_collections

from pix2seq_jax import tasks
from pix2seq_jax.data.coco import keypoints as coco_keypoints
from pix2seq_jax.data.coco.classes import UNNAMED
from pix2seq_jax.data.text import Text
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.vocab import CLASS_SHIFT, Vocab

GROUND_TRUTH = (
    "ground_truth"  # value of config.eval.boxes, and part of the names of what was measured with it
)
PROMPTED = ("segmentation", "keypoints")  # tasks that need boxes
UNKNOWN_SIGMA = (
    0.05  # of a keypoint that COCO does not have; between its eyes (0.025) and hips (0.107)
)


def keypoint_sigmas(names: tuple[str, ...], given: tuple[float, ...]) -> tuple[float, ...]:
    """Deviations of keypoints: the given ones, or COCO's by name."""
    if given and len(given) != len(names):
        raise ValueError(
            f"config.tasks.keypoints.sigmas has {len(given)} values for the {len(names)} "
            f"keypoints {list(names)}"
        )
    known = dict(
        zip(
            coco_keypoints.COCO_KEYPOINTS["names"],
            coco_keypoints.COCO_KEYPOINTS["sigmas"],
            strict=True,
        )
    )
    unknown = [name for name in names if name not in known]
    if unknown and not given:
        log.warning("sigmas of the keypoints %s are not known: %s each", unknown, UNKNOWN_SIGMA)
    return given or tuple(known.get(name, UNKNOWN_SIGMA) for name in names)


def resolve(
    config: ml_collections.ConfigDict, opened: dict[str, Any], text: Text | None = None
) -> ml_collections.ConfigDict:
    """A copy of the config with classes, keypoints, vocabulary and sequence length filled in from
    the training data.

    A vocab.size, vocab.coord_shift or vocab.text_shift of 0 means as small as the data allow.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    vocab, boxed = config.vocab, [source for name, source in opened.items() if name != "captioning"]
    names = tuple(boxed[0].category_names) if boxed else ()
    vocab.num_classes = max(vocab.num_classes, len(names), 1)
    spare = range(len(names) + 1, vocab.num_classes + 1)  # of an imported model without names
    config.data.category_names = (*names, *(UNNAMED.format(label) for label in spare))
    config.data.category_ids = (
        tuple(boxed[0].category_ids) if boxed else tuple(config.data.label_ids)
    )
    config.data.update({"keypoint_names": (), "keypoint_categories": (), "skeleton": ()})
    if "keypoints" in opened:
        joints, section = opened["keypoints"], config.tasks.keypoints
        config.data.keypoint_names, config.data.skeleton = joints.keypoint_names, joints.skeleton
        config.data.keypoint_categories = tuple(
            config.data.category_ids[label - 1] for label in joints.keypoint_labels
        )
        section.num_keypoints = len(joints.keypoint_names)
        section.sigmas = keypoint_sigmas(joints.keypoint_names, tuple(section.sigmas))
    if text:
        if 0 < vocab.text_size < text.size:
            raise ValueError(
                f"the text model has {text.size} pieces but the vocabulary room for "
                f"{vocab.text_size}"
            )
        vocab.text_size = vocab.text_size or text.size
    vocab.update(laid_out(vocab))
    config.model.vocab_size = vocab.size
    # A decoder position per token; a published checkpoint keeps the longer table it was trained
    # with.
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
    """The tasks of a config, in the order of tasks.TASKS: what detects goes before what its boxes
    prompt.

    Raises:
        ValueError: none, or one that is not known.
    """
    for name in config.tasks:
        if name not in tasks.TASKS:
            raise ValueError(
                f"config.tasks.{name}: unknown task; known tasks are {sorted(tasks.TASKS)}"
            )
    if not len(config.tasks):
        raise ValueError(f"config.tasks is empty: select at least one of {sorted(tasks.TASKS)}")
    return [name for name in tasks.TASKS if name in config.tasks]


def label(config: ml_collections.ConfigDict, name: str) -> str:
    """Name of what is measured for a task: says so where boxes come from the annotations."""
    return (
        f"{name}_{GROUND_TRUTH}_boxes"
        if name in PROMPTED and config.eval.boxes == GROUND_TRUTH
        else name
    )


def check_weights(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless the weights of the tasks are shares: at least 0, one in all."""
    weights = {name: config.tasks[name].weight for name in task_names(config)}
    total = sum(weights.values())
    if abs(total - 1) > 1e-6 or min(weights.values()) < 0:
        raise ValueError(
            f"the weights of the tasks are {weights} and sum to {total:.6g}; they are shares of "
            "the loss and must sum to 1: set config.tasks.NAME.weight"
        )


def select_tasks(
    config: ml_collections.ConfigDict, names: Iterable[str]
) -> ml_collections.ConfigDict:
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
                f"tasks={'+'.join(chosen)}: {name!r} is "
                f"{known if name in tasks.TASKS else f'no task; it has {have}'}; join some of "
                "them by +"
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
        fields = {
            field.name: section[field.name]
            for field in dataclasses.fields(task)
            if field.name != "vocab"
        }
        made[name] = task(vocab=vocab, **fields)
    return made


def make_model(config: ml_collections.ConfigDict) -> Pix2Seq:
    """The model of a resolved config."""
    return Pix2Seq.from_config(config.model)


def check_classes(names, config: ml_collections.ConfigDict, *, where: str) -> None:
    """Raises ValueError unless `names` are the classes that a resolved config was made for, in the
    same order.

    A label that either side has no name for agrees with any name.
    """
    known, found = tuple(config.data.category_names), tuple(names)
    for label, pair in enumerate(itertools.zip_longest(known, found), 1):
        if pair[0] != pair[1] and UNNAMED.format(label) not in pair:
            raise ValueError(
                f"{where} has {len(found)} classes, the model has {len(known)}; the first that "
                f"differ are {pair[1]!r} there and {pair[0]!r} in the model; give the annotations "
                "it was trained for, or another --workdir"
            )


def check_keypoints(names, config: ml_collections.ConfigDict, number: int, *, where: str) -> None:
    """Raises ValueError unless `names` are the `number` keypoints that a resolved config was made
    for, in its order.

    Imported models have a number and no names.
    """
    known, found = list(config.data.keypoint_names), list(names)
    if len(found) != number or (known and found != known):
        raise ValueError(
            f"{where} has the keypoints {found} and the model {known or number}; give the "
            "annotations that it was trained for, in the same order, or leave keypoints out of "
            "the tasks"
        )


def label_ids(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """Category ids that the labels of a resolved config stand for, () for the order of the
    annotations."""
    return (
        tuple(config.data.label_ids) if "label_ids" in config.data else ()
    )  # early runs did not record it
