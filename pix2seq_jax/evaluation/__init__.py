"""The host halves of the tasks by name: a new one has a line here, and one in `tasks.TASKS`."""

import dataclasses

import ml_collections

from pix2seq_jax.evaluation.base import HostTask
from pix2seq_jax.evaluation.captioning import Captioning
from pix2seq_jax.evaluation.detection import Detection
from pix2seq_jax.evaluation.keypoints import Keypoints
from pix2seq_jax.evaluation.segmentation import Segmentation

HOST_TASKS: dict[str, type[HostTask]] = {
    Detection.name: Detection,
    Segmentation.name: Segmentation,
    Keypoints.name: Keypoints,
    Captioning.name: Captioning,
}


def make_host_tasks(config: ml_collections.ConfigDict) -> dict[str, HostTask]:
    """The host tasks of a config by name, in the order of HOST_TASKS."""
    made = {}
    for name, host_task in HOST_TASKS.items():
        if name in config.tasks:
            fields = [field.name for field in dataclasses.fields(host_task)]
            made[name] = host_task(**{field: config.tasks[name][field] for field in fields})
    return made
