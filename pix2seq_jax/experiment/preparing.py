"""From a data set as it is distributed to shards: which files make up its splits."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pix2seq_jax.config import folders, layouts
from pix2seq_jax.data.coco.files import listed
from pix2seq_jax.data.coco.json import Report, read_json
from pix2seq_jax.data.coco.part import Part
from pix2seq_jax.data.formats import tfds_sets, voc, yolo
from pix2seq_jax.data.shards import writing
from pix2seq_jax.data.shards.joining import Split
from pix2seq_jax.experiment import logs
from pix2seq_jax.files.whole import write_whole

COCO = {"coco": "coco", "objects365": "objects365", "coco_dir": "folder"}  # -> config.layouts
CONVERTERS = {"voc": voc.convert, "yolo": yolo.convert}
KINDS = {"annotations": "instances", "keypoints": "person_keypoints", "captions": "captions"}
TFDS = "tfds:"  # before the name of a data set
SPLITS = ("train", "val")
IMAGES = ".images"  # in the folder to write: what is no file in the source, until it is in shards


def run(
    kind: str,
    source: str,
    out: str,
    splits: Sequence[str],
    *,
    images_per_shard: int,
    workers: int,
    missing_images: str,
    val_share: float = 0.0,
    split_seed: int = 0,
) -> None:
    """Writes the shards of the splits, says how far it is, and what was left out.

    Args:
        kind: of COCO or CONVERTERS, or TFDS and a name; "": the layout is recognised.
        source: folder of the data set.
        out: folder to write; that of an earlier run with the same arguments is completed.
        splits: of SPLITS.
        images_per_shard: of all shards but the last of a split.
        workers: processes.
        missing_images: "error" or "drop".
        val_share: of the images of a file that says no split; 0: folders.VAL_SHARE.
        split_seed: of that split, see coco.part.

    Raises:
        ValueError: an argument, the source or the folder is not as it should be.
    """
    _check(kind, source, out, splits, images_per_shard, workers)
    root, target = Path(source), Path(out)
    part = {"val_share": val_share, "split_seed": split_seed}
    every = _recognised(source, target, splits, **part) if not kind else {}
    if kind in COCO:
        every = {split: coco_split(root, kind, split) for split in splits}
    elif kind in CONVERTERS:
        own = CONVERTERS[kind](root, splits)
        if "" in own:
            own = _split_by_seed(*own[""], root, splits, **part)
        every = _converted({split: own[split] for split in splits}, root, target)
    elif kind:
        name = kind.removeprefix(TFDS)
        made = tfds_sets.convert(name, root, target / IMAGES, splits)
        every = _converted(made, root, target)
    for split in every.values():

        def progress(parts, total, name=split.name):
            return logs.followed(parts, total, name=name, size=lambda part: part.shard.records)

        told = writing.write(
            split,
            target,
            images_per_shard=images_per_shard,
            workers=workers,
            missing=missing_images,
            progress=progress,
        )
        if told:
            logs.log.warning("data: %s", told)
    shutil.rmtree(target / IMAGES, ignore_errors=True)


def _check(
    kind: str, source: str, out: str, splits: Sequence[str], images_per_shard: int, workers: int
) -> None:
    """Raises ValueError for arguments that do not fit."""
    if kind and kind not in (*COCO, *CONVERTERS) and not kind.startswith(TFDS):
        names = ", ".join((*COCO, *CONVERTERS))
        raise ValueError(f"--from={kind}: give one of {names}, or {TFDS}NAME")
    if not Path(source).exists():
        raise ValueError(f"--source={source} does not exist; give the folder of the data set")
    if "://" in out:
        raise ValueError(
            f"--out={out}: shards are written to a disk; give a local folder and copy it there, "
            "for instance by `gcloud storage cp -r`"
        )
    if not splits or not set(splits) <= set(SPLITS):
        raise ValueError(f"--splits={','.join(splits)}: give train, val or both")
    for name, value in (("images_per_shard", images_per_shard), ("workers", workers)):
        if value < 1:
            raise ValueError(f"--{name}={value}: must be at least 1")


def _recognised(
    source: str, out: Path, splits: Sequence[str], *, val_share: float, split_seed: int
) -> dict[str, Split]:
    """The splits of a folder whose layout is recognised."""
    folder = folders.recognise(source)
    if folder.kind == "array_record":
        raise ValueError(f"--source={source} holds shards already; train with data={source}")
    if folder.kind != "coco_dir":
        raise ValueError(f"--source={source}: {folder.hint}")
    logs.log.info("data: %s", folder.words)
    every = {split: _split_of(folder, split) for split in splits}
    if not folder.val_share:
        return every
    made = {}
    for split, one in every.items():
        part = Part(split, val_share or folder.val_share, split_seed)
        made[split] = one.images, {k: _cut(path, part) for k, path in one.annotations.items()}
        logs.log.info("data: %s by share %g and seed %d", split, part.val_share, part.seed)
    return _converted(made, Path(source), out)


def _split_by_seed(
    images: Path,
    contents: Mapping[str, dict],
    source: Path,
    splits: Sequence[str],
    *,
    val_share: float,
    split_seed: int,
) -> dict[str, tuple[Path, dict[str, dict]]]:
    """Splits of converted annotations that say none."""
    made = {}
    for split in splits:
        part = Part(split, val_share or folders.VAL_SHARE, split_seed)
        for content in contents.values():
            part.choose(source, np.array([one["id"] for one in content["images"]]))
        made[split] = images, {kind: part.cut(content) for kind, content in contents.items()}
        logs.log.info("data: %s by share %g and seed %d", split, part.val_share, part.seed)
    return made


def _split_of(folder: folders.Folder, split: str) -> Split:
    """A split with the annotation files that it has."""
    paths = {kind: Path(file) for kind, file in folder.annotations[split].items()}
    annotations = {KINDS[kind]: path for kind, path in paths.items() if path.is_file()}
    if not annotations:
        raise ValueError(
            f"--splits: {split} has no annotations; {folder.hint}; --splits=train or val reads "
            "only one of them"
        )
    return Split(split, Path(folder.images[split]), annotations)


def _cut(path: Path, part: Part) -> dict:
    """The content of an annotation file for one split."""
    content = read_json(path, ("images", "annotations"))
    part.choose(path, listed(path, content["images"], Report())[0])
    return part.cut(content)


def coco_split(root: Path, kind: str, split: str) -> Split:
    """A split of a folder in COCO's format with the annotation files that it has."""
    layout = layouts.LAYOUTS[COCO[kind]]
    name = dict(zip(SPLITS, layout["splits"], strict=True))[split]
    annotations, tried = {}, []
    for file in layouts.ANNOTATIONS.values():
        tried.append(file.format(root=root, split=name))
        path = Path(layouts.existing(tried[-1]))
        if path.exists():
            annotations[Path(tried[-1]).name.removesuffix(f"_{name}.json")] = path
    if not annotations:
        raise ValueError(
            f"--from={kind} --source={root}: none of {', '.join(tried)} exists; "
            f"{layout['hint']}; --splits=train or val reads only one of them"
        )
    return Split(split, Path(layouts.IMAGES.format(root=root, split=name)), annotations)


def _converted(
    made: Mapping[str, tuple[Path, Mapping[str, dict]]], root: Path, out: Path
) -> dict[str, Split]:
    """Splits whose annotations were made by a converter, which are written first."""
    every = {}
    for split, (images, contents) in made.items():
        paths = {kind: writing.annotation_file(out, kind, split) for kind in contents}
        for kind, content in contents.items():
            text = json.dumps(content, separators=(",", ":")).encode()
            if not writing.is_there(paths[kind], hashlib.sha256(text).hexdigest(), root):
                write_whole(paths[kind], text)
        every[split] = Split(split, images, paths)
    return every
