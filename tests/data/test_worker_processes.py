"""Worker processes make the batches that one process makes, report what they find, and end."""

import itertools
import os
import signal

import jax
import numpy as np
import pytest

from pix2seq_jax.data import pipeline
from pix2seq_jax.data.coco.json import Report
from pix2seq_jax.data.reading import REPLACED
from pix2seq_jax.data.worker_processes import WorkerProcesses
from pix2seq_jax.experiment import feeds, inputs, resolve
from pix2seq_jax.training import sharding
from tests.helpers import small

STEPS, START = 9, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Drawn images, one of which is broken."""
    made = small.make_shapes(tmp_path_factory.mktemp("shapes"))
    sorted((made / "train").iterdir())[0].write_bytes(b"no image")
    return made


def opened(folder, **overrides):
    """(config, streams) of two tasks."""
    config = small.config("multitask.py:shapes", folder, data__check_images=False, **overrides)
    config = resolve.select_tasks(config, ("detection", "segmentation"))
    sources = inputs.open_sources(config, "train")
    config = resolve.resolve(config, sources)
    return config, inputs.open_streams(config, sources, None)


def dataset(folder, bad_images: Report | None) -> dict:
    """Arguments of train_dataset."""
    _, streams = opened(folder)
    rest = {"batch_size": 16, "start_step": START, "workers": 2, "bad_images": bad_images}
    return {"source": streams["detection"], "seed": 1} | rest


def drawn(folder, processes: int, cache: float) -> tuple[dict, Report]:
    """(batches by task as a run gets them, what was found in the data)."""
    config, streams = opened(folder, data__worker_processes=processes, data__cache=cache)
    mesh, report = sharding.make_mesh(devices=jax.devices()[:1]), Report()
    with feeds.open_feeds(config, streams, mesh, start=START, bad_images=report) as own:
        steps = [{name: next(feed) for name, feed in own.items()} for _ in range(STEPS)]
    return {name: [step[name] for step in steps] for name in own}, report


@pytest.fixture(scope="module")
def made(folder):
    """What three processes draw, each with images in memory, and one without."""
    return drawn(folder, 3, 0.01), drawn(folder, 1, 0.0)


def test_batches_are_those_of_one_process(made):
    (several, _), (alone, _) = made
    assert list(several) == ["detection", "segmentation"]
    for name, batches in several.items():
        for (arrays, host), (own_arrays, own_host) in zip(batches, alone[name], strict=True):
            assert "image" in arrays and "image_id" in host
            for one, other in ((arrays, own_arrays), (host, own_host)):
                assert one.keys() == other.keys()
                for field, value in one.items():
                    assert value.dtype == other[field].dtype
                    np.testing.assert_array_equal(value, other[field], err_msg=field)


def test_what_they_find_is_counted_here(made):
    (_, several), (_, alone) = made
    assert several[REPLACED] == alone[REPLACED] == 1
    assert several.describe() == alone.describe()
    assert "000000000" in several.describe()


def test_an_error_is_that_of_one_process(folder):
    arguments = dataset(folder, None)
    with pytest.raises(ValueError) as alone:
        list(itertools.islice(pipeline.train_dataset(**arguments), 40))
    workers = WorkerProcesses({"detection": arguments}, 1)
    with pytest.raises(ValueError) as several:
        list(itertools.islice(workers.batches("detection"), 40))
    workers.close()
    assert str(several.value) == str(alone.value)
    assert "cannot be decoded" in str(several.value)


def test_a_killed_process_is_an_error_and_none_is_left(folder):
    workers = WorkerProcesses({"detection": dataset(folder, Report())}, 1)
    batches = workers.batches("detection")
    next(batches)
    (process,) = workers._processes
    os.kill(process.pid, signal.SIGTERM)  # of a whole group: it goes on
    next(batches)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(ValueError, match=r"exit code -9.*worker_processes"):
        list(itertools.islice(batches, 100))
    workers.close()
    assert not process.is_alive()


def test_a_source_that_cannot_be_sent_is_refused(folder):
    arguments = dataset(folder, None)
    arguments["source"][0].source.hook = lambda: None
    with pytest.raises(ValueError, match=r"cannot be sent to another process.*worker_processes=1"):
        WorkerProcesses({"detection": arguments}, 2)
