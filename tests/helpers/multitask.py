"""The four tasks in a run that is small enough for tests."""

from tests.helpers import small


def make(folder, **overrides):
    """The demo's config, shrunk, on the folder; keywords as of `small.config`."""
    config = small.config("multitask.py:shapes", folder, **overrides)
    for section in config.tasks.values():
        section.batch_size = 8
    config.tasks.segmentation.num_samples = 2
    return config
