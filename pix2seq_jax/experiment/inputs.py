"""What a config reads: the sources of its tasks, and the streams of their training data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from pix2seq_jax.config import layouts
from pix2seq_jax.data import mixing, selections
from pix2seq_jax.data.coco import json as coco_json
from pix2seq_jax.data.coco.checked_images import CheckedImages
from pix2seq_jax.data.coco.columns import Cache
from pix2seq_jax.data.coco.files import ImageRules, Storage, storage_of
from pix2seq_jax.data.coco.part import Part
from pix2seq_jax.data.ops.chain import read_chain
from pix2seq_jax.data.shards.reading import ImageShards
from pix2seq_jax.data.text import Text
from pix2seq_jax.evaluation import HOST_TASKS, make_host_tasks
from pix2seq_jax.evaluation.base import Opening
from pix2seq_jax.experiment import resolve
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.files.locations import path_of

STORAGES = {"coco_dir": storage_of, "array_record": ImageShards}  # by config.data.source
COLUMNS = "columns"  # folder of a workdir: what is kept of the files that it reads


class InputCache:
    """What a run keeps of the files that it reads, so that they are not read again: it is written
    by `save` alone.

    Attributes:
        columns: of annotation files; None where nothing is kept.
        images: what the headers of image files tell.
    """

    def __init__(self, workdir: str | Path | None = None) -> None:
        """Reads what an earlier run kept in the workdir. The processes of a job share the looking
        at images."""
        folder = path_of(workdir) / COLUMNS if workdir else None
        writes = jax.process_index() == 0
        self.columns = Cache(folder, writes=writes) if folder else None
        part, gather = (jax.process_index(), jax.process_count()), _maximum
        file = folder / "images.npz" if folder else None
        if jax.process_count() == 1:
            self.images = CheckedImages(file)
        else:
            self.images = CheckedImages(file, part=part, gather=gather, writes=writes)

    def save(self) -> None:
        """Process 0 writes what was learned; a file that cannot be written is a line in the log."""
        if self.columns:
            self.columns.save()
        self.images.save()


def _maximum(table: np.ndarray) -> np.ndarray:
    """Of the tables of all processes; all call it."""
    return np.asarray(multihost_utils.process_allgather(table)).max(axis=0)


def data_paths(data: ml_collections.ConfigDict, split: str, kind: str) -> tuple[str, str]:
    """(folder of images, annotation file) of a data section; ValueError where one is missing."""
    if data.source not in STORAGES:
        raise ValueError(
            f"config.data.source={data.source!r}: give 'coco_dir' for images as files, or "
            "'array_record' for the shards that `python -m pix2seq_jax.prepare` writes"
        )
    if missing := [name for name in (f"{split}_images", f"{split}_{kind}") if name not in data]:
        raise ValueError(
            f"a section of config.more_data lacks {missing[0]}; a task's `mix` needs it"
        )
    images = data[f"{split}_images"]
    annotations = layouts.existing(data[f"{split}_{kind}"])
    for path in (annotations, images):
        if not path_of(path).exists():
            raise ValueError(f"the {split} data is missing: {path} does not exist; {data.hint}")
    return images, annotations


def part_of(
    config: ml_collections.ConfigDict, split: str, data: ml_collections.ConfigDict | None = None
) -> Part | None:
    """The images of a split of a data section where train and val are the same files, and its
    val_share is above 0. None: all that the files hold.

    Raises:
        ValueError: of one task they are the same files, and of another they are not.
    """
    data = config.data if data is None else data
    if not data.val_share or "val_images" not in data or "train_images" not in data:
        return None
    kinds = dict.fromkeys(HOST_TASKS[name].annotations for name in resolve.task_names(config))
    same = {
        kind: data[f"train_{kind}"] == data[f"val_{kind}"]
        for kind in kinds
        if f"train_{kind}" in data  # a section of config.more_data may have less
    }
    if all(same.values()):
        return Part(split, data.val_share, data.split_seed)
    if any(same.values()):
        names = ", ".join(f"val_{kind}" for kind, one in same.items() if not one)
        raise ValueError(
            f"config.data.val_share={data.val_share:g} splits the files that train and val share, "
            f"but {names} differs; give all of val its own files, or none"
        )
    return None


def log_layout(config: ml_collections.ConfigDict) -> None:
    """One line: what the data folder was recognised as, and how it is split."""
    data, line = config.data, config.data.layout
    if part_of(config, "val"):
        share = f"about {100 * data.val_share:g} % of its images are val"
        line = f"{line}; {share}, by config.data.split_seed={data.split_seed}"
    if line:
        log.info("data: %s", line)


def bad_images(config: ml_collections.ConfigDict) -> coco_json.Report | None:
    """Where images that cannot be read are counted, or None where they are errors; see
    config.data.bad_images."""
    return coco_json.Report() if config.data.bad_images == "replace" else None


def check_paths(config: ml_collections.ConfigDict, split: str) -> None:
    """Raises ValueError where a file or folder that the tasks read is missing, before anything
    large is opened."""
    for name in resolve.task_names(config):
        data_paths(config.data, split, HOST_TASKS[name].annotations)


def open_sources(
    config: ml_collections.ConfigDict,
    split: str,
    text: Text | None = None,
    *,
    data: ml_collections.ConfigDict | None = None,
    names: Sequence[str] = (),
    cache: InputCache | None = None,
) -> dict[str, Any]:
    """The `train` or `val` source of each task of a config, in the order of tasks.TASKS.

    Args:
        config: its tasks say what is read.
        split: "train" or "val".
        text: for captions.
        data: another section than config.data.
        names: only these tasks; () for all.
        cache: of the run; the caller saves it. None: all files are read.

    Raises:
        ValueError: a file is missing or cannot be used; its classes or keypoints are not those of
            the training data, where the config is resolved and the split is another than those.
    """
    data = config.data if data is None else data
    resolved = (split == "val" or data is not config.data) and "category_names" in config.data
    names = list(names) or resolve.task_names(config)
    host_tasks = {name: one for name, one in make_host_tasks(config).items() if name in names}
    points = [one.outline_points(config.tasks[name]) for name, one in host_tasks.items()]
    opening = Opening(
        paths=_opened_once(data, split),
        labels=_labels(config) if resolved else {"label_ids": tuple(data.label_ids)},
        reads=_rules(config, data, cache or InputCache(), part_of(config, split, data)),
        text=text,
        flip_pairs=config.data.flip_pairs,
        outline_points=max(points),
        follows=not resolved,
    )
    opened = {}
    for name, host_task in host_tasks.items():
        source = opened[name] = host_task.open(opening, config.tasks[name])
        if resolved and host_task.has_classes:
            where = str(source.annotations_path)
            resolve.check_classes(source.category_names, config, where=where)
            host_task.check(source, config, where=where)
    return {name: opened[name] for name in names}


def _opened_once(
    data: ml_collections.ConfigDict, split: str
) -> Callable[[str], tuple[Storage, str]]:
    """Kind of annotations -> (storage of images, annotation file), see `data_paths`."""
    storages: dict[str, Storage] = {}

    def paths(kind: str) -> tuple[Storage, str]:
        images, annotations = data_paths(data, split, kind)
        if images not in storages:
            storages[images] = STORAGES[data.source](images)
        return storages[images], annotations

    return paths


def _rules(
    config: ml_collections.ConfigDict,
    data: ml_collections.ConfigDict,
    cache: InputCache,
    part: Part | None,
) -> dict[str, Any]:
    """What becomes of bad input, and the cache, as arguments of CocoDir."""
    images = cache.images if data.check_images else None
    rules = ImageRules(config.data.missing_images, config.data.bad_images, images, part)
    return {
        "bad_annotations": config.data.bad_annotations,
        "cache": cache.columns,
        "image_rules": rules,
    }


def _labels(config: ml_collections.ConfigDict) -> dict[str, tuple]:
    """What the labels of a resolved config stand for, as arguments of CocoDir; an imported model
    may not know."""
    ids = tuple(config.data.category_ids)
    if not ids:
        return {"label_ids": tuple(config.data.label_ids)}
    return {"label_ids": ids, "label_names": tuple(config.data.category_names[: len(ids)])}


def describe(opened: dict[str, Any]) -> str:
    """What was repaired or dropped in sources by task, each line once; "" for nothing. None stands
    for no source."""
    lines = [
        line
        for source in opened.values()
        if source is not None
        for line in source.describe().splitlines()
    ]
    return "\n".join(dict.fromkeys(lines))


class Teller:
    """Called again and again, logs the lines of `describe` that are new since the last call:
    outlines and images are first looked at when they are read."""

    def __init__(self, opened: dict[str, Any]) -> None:
        self._opened, self._logged = opened, describe(opened).splitlines()

    def __call__(self) -> None:
        lines = describe(self._opened).splitlines()
        if fresh := [line for line in lines if line not in self._logged]:
            log.warning("data: %s", "\n".join(fresh))
        self._logged = lines


def _open_more(
    config: ml_collections.ConfigDict, dataset: str, text: Text | None, cache: InputCache | None
) -> dict[str, Any]:
    """The training sources of a data set of config.more_data, of the tasks whose `mix` names it.

    Raises:
        ValueError: its classes or keypoints are not those of config.data.
    """
    paths = ("train_", "val_")
    shared = {
        key: value
        for key, value in config.data.items()
        if key == "val_share" or not key.startswith(paths)
    }
    shared["hint"] = f"correct config.more_data.{dataset}"
    data = ml_collections.ConfigDict(shared | config.more_data[dataset].to_dict())
    names = [name for name in resolve.task_names(config) if dataset in config.tasks[name].mix]
    try:
        opened = open_sources(config, "train", text, data=data, names=names, cache=cache)
    except ValueError as error:
        raise ValueError(f"data {dataset}: {error}") from error
    _count_unseen(opened, config)
    log.info("data %s: %s images", dataset, len(next(iter(opened.values()))))
    if describe(opened):
        log.warning("data %s: %s", dataset, describe(opened))
    return opened


def _count_unseen(opened: dict[str, Any], config: ml_collections.ConfigDict) -> None:
    """Puts into the reports of training sources what the tasks never see: objects beyond the slots
    of an image, and people without keypoints. A task that looks at one object at a time has a row
    for each."""
    for name, source in opened.items():
        chain, host_task = read_chain(config.tasks[name].train_ops), HOST_TASKS[name]
        if host_task.has_classes and not chain.per_object:
            source.count_over(chain.slots, name)
        host_task.count_unseen(source)


def open_streams(
    config: ml_collections.ConfigDict,
    opened: dict[str, Any],
    text: Text | None,
    *,
    cache: InputCache | None = None,
) -> dict[str, list]:
    """The training data of each task: `pipeline.Stream`s of its data sets, whose weights are shares
    of the task.

    Args:
        config: resolved.
        opened: sources of config.data by task.
        text: for captions.
        cache: see `open_sources`.

    Raises:
        ValueError: a task's `mix` names data that config.more_data does not describe, or see
            `_open_more`.
    """
    names = {"data", *config.more_data}
    for name in opened:
        if unknown := sorted(set(config.tasks[name].mix) - names):
            raise ValueError(
                f"config.tasks.{name}.mix names {unknown[0]!r}; it may name 'data' and "
                f"{sorted(config.more_data)}"
            )
    mixes = [config.tasks[name].mix.items() for name in opened]
    used = {dataset for mix in mixes for dataset, share in mix if share} - {"data"}
    every = {dataset: _open_more(config, dataset, text, cache) for dataset in sorted(used)} | {
        "data": opened
    }
    _count_unseen(opened, config)
    streams = {}
    for name in opened:
        section, streams[name] = config.tasks[name], []
        total = sum(section.mix.values())
        if not total > 0:
            raise ValueError(
                f"config.tasks.{name}.mix={dict(section.mix)}: at least one share must be above 0"
            )
        for dataset, share in section.mix.items():
            if not share:
                continue
            source = every[dataset][name]
            if read_chain(section.train_ops).per_object:
                fewest = HOST_TASKS[name].min_keypoints
                source = selections.PerObject(source, min_keypoints=fewest)
            streams[name].append(mixing.Stream(source, section.train_ops, share / total))
    return streams
