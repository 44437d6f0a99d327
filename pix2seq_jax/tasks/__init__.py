"""The tasks by name."""

from pix2seq_jax.tasks.captioning import Captioning
from pix2seq_jax.tasks.detection import Detection
from pix2seq_jax.tasks.keypoints import Keypoints
from pix2seq_jax.tasks.segmentation import Segmentation

TASKS = {
    Detection.name: Detection,
    Segmentation.name: Segmentation,
    Keypoints.name: Keypoints,
    Captioning.name: Captioning,
}
