"""The tasks by name."""

from pix2seq_jax.tasks.detection import Detection

TASKS = {Detection.name: Detection}
