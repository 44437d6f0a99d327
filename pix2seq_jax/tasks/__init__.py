"""The tasks by name."""

from pix2seq_jax.tasks.captioning import Captioning
from pix2seq_jax.tasks.detection import Detection

TASKS = {Detection.name: Detection, Captioning.name: Captioning}
