"""What is in the batches of a training step: sizes, tasks, and where they come from."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import jax
import ml_collections

from pix2seq_jax.data import feed, pipeline
from pix2seq_jax.data.coco.json import Report
from pix2seq_jax.data.mixing import Stream
from pix2seq_jax.data.reading import ImageCache
from pix2seq_jax.data.worker_processes import WorkerProcesses
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.tasks import TASKS, Task
from pix2seq_jax.tasks.mixed import Mixed
from pix2seq_jax.training import sharding

MAX_PROCESSES = 8  # unless the config says more: each holds TensorFlow and the annotations


def batch_sizes(config: ml_collections.ConfigDict) -> dict[str, int]:
    """Images in the global batches of a step, by what is trained (see `trained_tasks`)."""
    if config.train.mixing == "data":
        return {Mixed.name: config.train.batch_size}
    return {
        name: config.tasks[name].batch_size or config.train.batch_size for name in weighing(config)
    }


def weighing(config: ml_collections.ConfigDict) -> list[str]:
    """The tasks with a share of the loss. The others are neither read nor run in training."""
    return [name for name, section in config.tasks.items() if section.weight]


def trained_tasks(config: ml_collections.ConfigDict, tasks: dict[str, Task]) -> dict[str, Task]:
    """What the step trains: every task that weighs something on a batch of its own, or ("data"
    mixing) all of them as one.

    Raises:
        ValueError: config.train.mixing is neither "batch" nor "data".
    """
    # In the order of `tasks`: random draws of a task follow its number.
    trained = {name: task for name, task in tasks.items() if name in weighing(config)}
    if config.train.mixing == "data":
        return {Mixed.name: Mixed(tuple(trained.values()))}
    if config.train.mixing != "batch":
        raise ValueError(f"config.train.mixing={config.train.mixing!r}: give 'batch' or 'data'")
    return trained


def images_per_step(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Images of a step by task; where all tasks share a batch, what their weights give on
    average."""
    if config.train.mixing == "data":
        return {
            name: section.weight * config.train.batch_size for name, section in config.tasks.items()
        }
    return batch_sizes(config)


def tokens_per_step(images: dict[str, float], trained: dict[str, Task]) -> dict[str, float]:
    """Tokens that a step reads of each task, prompts and padding counted."""
    rows = rows_of(images, trained)
    return {
        name: number * rows[name].per_image * rows[name].max_len for name, number in images.items()
    }


def rows_of(images: dict[str, float], trained: dict[str, Task]) -> dict[str, Task]:
    """What the rows of each task are written by: the task, or the one that all tasks share."""
    return {name: trained.get(name, trained.get(Mixed.name)) for name in images}


def task_seed(seed: int, name: str) -> int:
    """The seed of a task's data: tasks that read the same images would else see the same ones in
    each step. All tasks in one batch read different images anyway."""
    number = 0 if name == Mixed.name else list(TASKS).index(name)
    return (seed + 1_000_003 * number) % 2**31 if number else seed


@contextlib.contextmanager
def open_feeds(
    config: ml_collections.ConfigDict,
    streams: dict[str, list[Stream]],
    mesh: jax.sharding.Mesh,
    *,
    start: int,
    bad_images: Report | None,
) -> Iterator[dict[str, feed.Feed]]:
    """One feed of training batches per task, or one for all of them, from step `start` on."""
    sizes, rows = batch_sizes(config), sharding.batch_sharding(mesh)
    index, count = feed.row_block(rows)
    if config.train.mixing == "data":
        streams = {Mixed.name: together(config, streams)}
    processes = worker_processes(config)
    cache = image_cache(config, processes)
    datasets = {
        name: {
            "source": streams[name],
            "batch_size": size,
            "seed": task_seed(config.seed, name),
            "start_step": start,
            "repeats": config.train.repeats,
            "bad_images": bad_images,
            "cache": cache,
            "workers": config.data.workers or _threads(processes * len(sizes)),
            "process_index": index,
            "process_count": count,
        }
        for name, size in sizes.items()
    }
    with contextlib.ExitStack() as stack:
        if processes == 1:
            made = {name: pipeline.train_dataset(**rest) for name, rest in datasets.items()}
        else:
            log.info("%d worker processes prepare the images", processes)
            workers = WorkerProcesses(datasets, processes)
            made = {name: workers.batches(name) for name in datasets}
        feeds = {
            name: stack.enter_context(feed.Feed(batches, rows)) for name, batches in made.items()
        }
        if processes > 1:
            stack.callback(workers.close)  # first, so that no feed waits for a batch
        yield feeds


def worker_processes(config: ml_collections.ConfigDict) -> int:
    """How many processes prepare the images of this one: 1 is itself.

    An accelerator waits for one process's Python, and the cores beside it are idle. A CPU needs its
    cores for the steps.
    """
    if config.data.worker_processes:
        return config.data.worker_processes
    if jax.default_backend() == "cpu":
        return 1
    return min(max(pipeline.cpu_count() // 2, 1), MAX_PROCESSES)


def image_cache(config: ml_collections.ConfigDict, processes: int) -> ImageCache | None:
    """For each of so many processes that prepare images, its part of config.data.cache; None for
    none."""
    size = int(config.data.cache * 2**30) // processes
    if not size:
        return None
    log.info("up to %g GiB of decoded images stay in memory", config.data.cache)
    return ImageCache(size)


def _threads(datasets: int) -> int:
    """Of each data set that is read at the same time: together enough for the cores, and two more
    where that makes no more than two of each, to hide the waiting for a disk. Many more would wait
    for each other, and keep the training loop from running: Python lets one of them work at a
    time."""
    cores = pipeline.cpu_count()
    return max(math.ceil(cores / datasets), min(2, cores, (cores + 2) // datasets))


def together(config: ml_collections.ConfigDict, streams: dict[str, list[Stream]]) -> list[Stream]:
    """The streams of all tasks that weigh something as those of one batch."""
    names = [name for name in streams if name in weighing(config)]
    return [
        dataclasses.replace(stream, weight=stream.weight * config.tasks[name].weight, task=number)
        for number, name in enumerate(names)
        for stream in streams[name]
    ]


def task_rates(
    steps_per_s: float, images: dict[str, float], tokens: dict[str, float]
) -> dict[str, float]:
    """Images and tokens per second of each task."""
    return {f"{name}/images_per_s": steps_per_s * count for name, count in images.items()} | {
        f"{name}/tokens_per_s": steps_per_s * count for name, count in tokens.items()
    }
