"""What a config reads: the sources of its tasks, the streams of their training data, the text model
of captions."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from pix2seq_jax.config import layouts
from pix2seq_jax.data import pipeline, selections
from pix2seq_jax.data.coco import folder as coco_folder
from pix2seq_jax.data.coco import json as coco_json
from pix2seq_jax.data.coco.captions import CocoCaptions
from pix2seq_jax.data.coco.checked_images import CheckedImages
from pix2seq_jax.data.coco.columns import Cache
from pix2seq_jax.data.coco.files import ImageRules
from pix2seq_jax.data.ops.chain import read_chain
from pix2seq_jax.data.text import Text
from pix2seq_jax.experiment import resolve, saved_run
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.experiment.workdir import CHECKPOINTS
from pix2seq_jax.training import checkpoint

COLUMNS = (
    "columns"  # folder of a workdir: what is kept of the annotation and image files that it reads
)


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
        folder = Path(workdir) / COLUMNS if workdir else None
        writes = jax.process_index() == 0
        self.columns = Cache(folder, writes=writes) if folder else None
        shared = (
            {"part": (jax.process_index(), jax.process_count()), "gather": _maximum}
            if _several()
            else {}
        )
        self.images = CheckedImages(folder and folder / "images.npz", writes=writes, **shared)

    def save(self) -> None:
        """Process 0 writes what was learned; a file that cannot be written is a line in the log."""
        if self.columns:
            self.columns.save()
        self.images.save()


def _several() -> bool:
    return jax.process_count() > 1


def _maximum(table: np.ndarray) -> np.ndarray:
    """Of the tables of all processes; all call it."""
    return np.asarray(multihost_utils.process_allgather(table)).max(axis=0)


def _open(data: ml_collections.ConfigDict, split: str, kind: str) -> tuple[str, str]:
    """(folder of images, annotation file) of a data section; ValueError where one is missing."""
    if data.source != "coco_dir":
        raise ValueError(
            f"config.data.source={data.source!r}: only 'coco_dir' (a COCO-format folder) is known"
        )
    if missing := [name for name in (f"{split}_images", f"{split}_{kind}") if name not in data]:
        raise ValueError(
            f"a section of config.more_data lacks {missing[0]}; a task's `mix` needs it"
        )
    images, annotations = data[f"{split}_images"], data[f"{split}_{kind}"]
    if not Path(annotations).exists():
        annotations = _other_name(annotations)
    for path in (annotations, images):
        if not Path(path).exists():
            raise ValueError(f"the {split} data is missing: {path} does not exist; {data.hint}")
    return images, annotations


def _other_name(annotations: str) -> str:
    """The annotation file under another name that a data set is distributed with, if that
    exists."""
    path = Path(annotations)
    for usual, other in layouts.OTHER_NAMES.items():
        renamed = path.with_name(path.name.replace(usual, other))
        if renamed.exists():
            return str(renamed)
    return annotations


def bad_images(config: ml_collections.ConfigDict) -> coco_json.Report | None:
    """Where images that cannot be read are counted, or None where they are errors; see
    config.data.bad_images."""
    return coco_json.Report() if config.data.bad_images == "replace" else None


ANNOTATIONS = {  # which of the annotation files of a data section a task reads
    "detection": "annotations",
    "segmentation": "annotations",
    "keypoints": "keypoints",
    "captioning": "captions",
}


def check_paths(config: ml_collections.ConfigDict, split: str) -> None:
    """Raises ValueError where a file or folder that the tasks read is missing, before anything
    large is opened."""
    for name in resolve.task_names(config):
        _open(config.data, split, ANNOTATIONS[name])


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
    resolved = (split == "val" or data is not None) and "category_names" in config.data
    data, opened = data or config.data, {}
    labels = _labels(config) if resolved else {"label_ids": tuple(data.label_ids)}
    names = list(names) or resolve.task_names(config)
    cache = cache or InputCache()
    rules = ImageRules(
        config.data.missing_images,
        config.data.bad_images,
        cache.images if data.check_images else None,
    )
    reads = {
        "bad_annotations": config.data.bad_annotations,
        "cache": cache.columns,
        "image_rules": rules,
    }
    if "detection" in names or "segmentation" in names:
        max_points = config.tasks.segmentation.max_points if "segmentation" in names else 0
        boxes = coco_folder.CocoDir(
            *_open(data, split, "annotations"), max_points=max_points, **labels, **reads
        )
        opened = {"detection": boxes.without_polygons(), "segmentation": boxes}
        if not resolved:
            labels = {"label_ids": boxes.category_ids, "label_names": boxes.category_names}
    if "keypoints" in names:
        reads |= {"keypoints": True, "flip_pairs": config.data.flip_pairs}
        opened["keypoints"] = coco_folder.CocoDir(
            *_open(data, split, "keypoints"), **labels, **reads
        )
    if "captioning" in names:
        section = config.tasks.captioning
        options = {"per_image": section.captions_per_image, "max_tokens": section.max_tokens}
        options |= {"bad_annotations": config.data.bad_annotations, "image_rules": rules}
        opened["captioning"] = CocoCaptions(*_open(data, split, "captions"), text=text, **options)
    if resolved:
        _check_names(opened, config)
    return {name: opened[name] for name in names}


def _labels(config: ml_collections.ConfigDict) -> dict[str, tuple]:
    """What the labels of a resolved config stand for, as arguments of CocoDir; an imported model
    may not know."""
    ids = tuple(config.data.category_ids)
    if not ids:
        return {"label_ids": tuple(config.data.label_ids)}
    return {"label_ids": ids, "label_names": tuple(config.data.category_names[: len(ids)])}


def _check_names(opened: dict[str, Any], config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless sources have the classes and keypoints of a resolved config."""
    for name, source in opened.items():
        if name == "captioning":
            continue
        where = str(source.annotations_path)
        resolve.check_classes(source.category_names, config, where=where)
        if name == "keypoints":
            number = config.tasks.keypoints.num_keypoints
            resolve.check_keypoints(source.keypoint_names, config, number, where=where)


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


def tell_new(opened: dict[str, Any], told: str) -> str:
    """Logs the lines of `describe` that are not among those `told` before, and returns all:
    outlines are first looked at when they are read."""
    now = describe(opened)
    if fresh := [line for line in now.splitlines() if line not in told.splitlines()]:
        log.warning("data: %s", "\n".join(fresh))
    return now


def _open_more(
    config: ml_collections.ConfigDict, dataset: str, text: Text | None, cache: InputCache | None
) -> dict[str, Any]:
    """The training sources of a data set of config.more_data, of the tasks whose `mix` names it.

    Raises:
        ValueError: its classes or keypoints are not those of config.data.
    """
    shared = {
        key: value for key, value in config.data.items() if not key.startswith(("train_", "val_"))
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
        chain = read_chain(config.tasks[name].train_ops)
        if name != "captioning" and not chain.per_object:
            source.count_over(chain.slots, name)
        if name == "keypoints":
            source.count_unlabelled()


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
    known = {"data", *config.more_data}
    for name in opened:
        if unknown := sorted(set(config.tasks[name].mix) - known):
            raise ValueError(
                f"config.tasks.{name}.mix names {unknown[0]!r}; it may name 'data' and "
                f"{sorted(config.more_data)}"
            )
    used = {dataset for name in opened for dataset in config.tasks[name].mix} - {"data"}
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
                source = selections.PerObject(source, min_keypoints=int(name == "keypoints"))
            streams[name].append(pipeline.Stream(source, section.train_ops, share / total))
    return streams


def _sentences(path: str) -> list[str]:
    """The captions of a COCO captions JSON."""
    records = coco_json.read_json(Path(path), ("images", "annotations"))["annotations"]
    return [
        text
        for text in coco_json.column(Path(path), records, "caption", "annotations")
        if isinstance(text, str)
    ]


def _no_text(workdir: str | Path) -> ValueError:
    return ValueError(
        f"{workdir} has no text model: give that of the captions by --config.data.text_model=PATH "
        "(the published models use a SentencePiece model of 32,000 pieces), or leave captioning "
        "out, as in --config=configs/workdir.py:WORKDIR,tasks=detection+segmentation"
    )


def _load_given(config: ml_collections.ConfigDict) -> Text:
    """The text model config.data.text_model; ValueError unless it has the pieces that a decided
    vocabulary has."""
    text, pieces = Text.load(config.data.text_model), config.vocab.text_size
    if pieces and text.size != pieces:
        raise ValueError(
            f"{text.source} has {text.size} pieces and the model's vocabulary {pieces}: every "
            "caption would be read as other words; give the text model that it was trained with, "
            "or leave captioning out, as in "
            "--config=configs/workdir.py:WORKDIR,tasks=detection+segmentation"
        )
    return text


def _stored_text(workdir: str | Path) -> Text | None:
    """The text model of a workdir, or of its newest checkpoint."""
    stored = Path(workdir) / saved_run.TEXT_FILE
    if stored.is_file():
        return Text.load(stored)
    if model := checkpoint.load_meta(Path(workdir) / CHECKPOINTS).get("text_model"):
        return Text.from_bytes(base64.b64decode(model))
    return None


def open_text(config: ml_collections.ConfigDict, workdir: str | Path) -> Text | None:
    """The text model of a run: that of the workdir, else config.data.text_model, else one of the
    training captions.

    None without captions. The last is a pure function of the captions, so all hosts make the same.

    Raises:
        ValueError: another text model than that of the workdir, one that does not fit the
            vocabulary, or none for an imported model.
    """
    if "captioning" not in config.tasks:
        return None
    stored, given = _stored_text(workdir), config.data.text_model
    if stored:
        if given and Text.load(given) != stored:
            raise ValueError(
                f"workdir {workdir} was started with another text model ({stored.source}) than "
                f"config.data.text_model={given}; use another --workdir, or leave "
                "config.data.text_model empty"
            )
        return stored
    if given:
        return _load_given(config)
    if saved_run.is_imported(workdir):
        raise _no_text(workdir)
    text = Text.train(
        _sentences(_open(config.data, "train", "captions")[1]), config.data.text_pieces
    )
    log.info("text model of %s pieces trained from the training captions", text.size)
    return text


def load_text(config: ml_collections.ConfigDict, workdir: str | Path) -> Text | None:
    """The text model of a trained workdir, or of its newest checkpoint; of an imported one
    config.data.text_model."""
    if "captioning" not in config.tasks:
        return None
    if stored := _stored_text(workdir):
        return stored
    if config.data.text_model:
        return _load_given(config)
    raise _no_text(workdir)


def save_text(text: Text | None, workdir: str | Path) -> None:
    """Process 0 puts the text model of a run into its workdir."""
    path = Path(workdir) / saved_run.TEXT_FILE
    if text is None or jax.process_index() or path.is_file():
        return
    partial = path.with_suffix(".partial")
    partial.write_bytes(text.to_bytes())
    partial.replace(path)
