"""The tasks by name: a new one has a line here, and one in `evaluation.HOST_TASKS`.

A task that finds boxes stands before those that boxes prompt.
"""

from pix2seq_jax.tasks.base import Task
from pix2seq_jax.tasks.captioning import Captioning
from pix2seq_jax.tasks.detection import Detection
from pix2seq_jax.tasks.keypoints import Keypoints
from pix2seq_jax.tasks.segmentation import Segmentation

TASKS: dict[str, type[Task]] = {
    Detection.name: Detection,
    Segmentation.name: Segmentation,
    Keypoints.name: Keypoints,
    Captioning.name: Captioning,
}
