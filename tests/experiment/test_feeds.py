"""What is in the batches of a step."""

import pytest

from pix2seq_jax.config.fill import fill
from pix2seq_jax.experiment import feeds
from pix2seq_jax.tasks import TASKS
from tests.helpers import small


@pytest.mark.parametrize("mixing", ["batch", "data"])
def test_tasks_of_weight_0_are_neither_read_nor_run(tmp_path, mixing):
    config = fill(small.config("multitask.py:shapes", tmp_path, train__mixing=mixing))
    config.tasks.keypoints.weight = 0.0
    tasks = {name: TASKS[name] for name in config.tasks}
    trained = feeds.trained_tasks(config, tasks)
    rest = [name for name in config.tasks if name != "keypoints"]
    assert len(rest) == 3
    if mixing == "data":
        assert [task.name for task in trained["mixed"].tasks] == rest
    else:
        assert list(trained) == list(feeds.images_per_step(config)) == rest
    assert list(feeds.batch_sizes(config)) == list(trained)
