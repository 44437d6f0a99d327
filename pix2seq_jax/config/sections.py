"""The section of each task in a config, with the published settings.

Defaults are those of the two halves of the task (tasks, evaluation); what stands here differs from
them, or was published. In preprocessing strings `{size}` is config.data.size, `{side}` the side of
the padded images, and `{slots}`, `{max_instances}` and `{objects}` stand for these fields; they are
filled in when a run begins (config.fill).
"""

import dataclasses
import math
from typing import Any

import ml_collections

from pix2seq_jax.config import recipes
from pix2seq_jax.evaluation import HOST_TASKS
from pix2seq_jax.evaluation.base import HostTask
from pix2seq_jax.tasks import TASKS
from pix2seq_jax.tasks.base import Task


def section(
    task: type[Task],
    host_task: type[HostTask],
    *,
    train_ops: str,
    eval_ops: str,
    sampler: str,
    **fields: Any,
) -> dict[str, Any]:
    """The section of a task: what all tasks have, and the fields of its two halves.

    Args:
        task: device half.
        host_task: host half.
        train_ops, eval_ops: preprocessing.
        sampler: as text for decoding.sampling.from_string.
        fields: that differ from the defaults.
    """
    common = {
        "weight": 1.0,
        "batch_size": 0,  # images in a training batch; 0: train.batch_size
        "mix": {"data": 1.0},  # data sets ("data", or of config.more_data) and their shares
        "train_ops": train_ops,
        "eval_ops": eval_ops,
        "eval_batch_size": 0,  # 0: eval.batch_size
        "sampler": sampler,
        "num_samples": 1,  # drawn for each prompt
        "eos_bias": 0.0,
        "grammar": False,
    }
    return common | _defaults(task) | _defaults(host_task) | fields


def _defaults(half: type) -> dict[str, Any]:
    """The default of each field that has one."""
    return {
        field.name: field.default
        for field in dataclasses.fields(half)
        if field.default is not dataclasses.MISSING
    }


def detection(*, slots: int) -> dict[str, Any]:
    """All objects of an image, up to config.data.slots."""
    del slots
    return section(
        TASKS["detection"],
        HOST_TASKS["detection"],
        train_ops=recipes.DETECTION_TRAIN,
        eval_ops=recipes.DETECTION_EVAL,
        sampler="nucleus(0.4)",
        max_instances=0,  # data.slots
    )


def segmentation(*, slots: int) -> dict[str, Any]:
    """10 objects of an image in training, 8 samples of each box in evaluation."""
    return section(
        TASKS["segmentation"],
        HOST_TASKS["segmentation"],
        train_ops=recipes.SEGMENTATION_TRAIN,
        eval_ops=recipes.SEGMENTATION_EVAL,
        sampler="nucleus(0.8)",
        max_instances=min(slots, 10),
        padding_weight=1.0,  # as published; the weights of the tasks belong to it
        eval_batch_size=4,  # times `objects` times `num_samples` sequences at a time
        num_samples=8,
        objects=min(slots, 20),
        objects_final=min(slots, 100),
    )


def keypoints(*, slots: int) -> dict[str, Any]:
    """A crop of twice the box for each object."""
    return section(
        TASKS["keypoints"],
        HOST_TASKS["keypoints"],
        train_ops=recipes.KEYPOINTS_TRAIN,
        eval_ops=recipes.KEYPOINTS_EVAL,
        sampler="nucleus(0.1)",
        num_keypoints=0,  # as many as the data have
        grammar=True,  # coordinates only: the invisible token is suppressed
        objects=min(slots, 20),
    )


def captioning(*, slots: int) -> dict[str, Any]:
    """Five captions of an image at once; greedy decoding."""
    del slots
    return section(
        TASKS["captioning"],
        HOST_TASKS["captioning"],
        train_ops=recipes.CAPTIONING_TRAIN,
        eval_ops=recipes.CAPTIONING_EVAL,
        sampler="greedy",
        padding_weight=1.0,  # as published; the weights of the tasks belong to it
        grammar=True,
    )


SECTIONS = {
    "detection": detection,
    "segmentation": segmentation,
    "keypoints": keypoints,
    "captioning": captioning,
}


def share_out(config: ml_collections.ConfigDict, mix: dict[str, float]) -> None:
    """Sets the weights of the tasks in the proportions of a mix, so that they sum to one."""
    total = math.fsum(mix[name] for name in config.tasks)
    for name, task in config.tasks.items():
        task.weight = mix[name] / total
