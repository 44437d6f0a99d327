"""What is in the batches of a step."""

import shutil

import jax
import pytest

from pix2seq_jax.config.fill import fill
from pix2seq_jax.experiment import feeds, inputs, resolve
from pix2seq_jax.tasks import TASKS
from pix2seq_jax.training import sharding
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


@pytest.mark.parametrize("mixing,gib", [("batch", 0.01), ("data", 0.01), ("batch", 0.0)])
def test_images_in_memory_need_no_files(tmp_path, mixing, gib):
    folder = small.make_shapes(tmp_path / "shapes")
    overrides = {"data__cache": gib, "train__mixing": mixing}
    config = small.config("multitask.py:shapes", folder, **overrides)
    config = resolve.select_tasks(config, ("detection", "segmentation"))
    sources = inputs.open_sources(config, "train")
    config = resolve.resolve(config, sources)
    streams = inputs.open_streams(config, sources, None)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])

    def take(own: dict, steps: int) -> None:
        for _ in range(steps):
            for one in own.values():
                next(one)

    with feeds.open_feeds(config, streams, mesh, start=0, bad_images=None) as own:
        take(own, 30)  # several epochs of both, batches of 8
        shutil.rmtree(folder / "train")
        if gib:
            take(own, 30)
        else:
            with pytest.raises(ValueError, match=r"\.jpg"):
                take(own, 30)


def test_processes_share_the_room_for_images(tmp_path):
    config = small.config("detection.py:shapes", tmp_path, data__cache=1.5)
    assert feeds.image_cache(config, 1).size == 3 * 2**29
    assert feeds.image_cache(config, 3).size == 2**29
    config.data.cache = 0.0
    assert feeds.image_cache(config, 1) is None


@pytest.mark.parametrize(
    ("cores", "datasets", "threads"),
    [(1, 4, 1), (2, 1, 2), (2, 2, 2), (2, 4, 1), (4, 4, 1), (11, 4, 3), (16, 32, 1), (64, 1, 64)],
)
def test_threads_are_enough_for_the_cores_and_few_more(monkeypatch, cores, datasets, threads):
    monkeypatch.setattr(feeds.pipeline, "cpu_count", lambda: cores)
    assert feeds._threads(datasets) == threads
    assert datasets * threads >= cores
