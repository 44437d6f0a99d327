"""From a data set as it is distributed to shards: which files make up its splits."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pix2seq_jax.config import layouts
from pix2seq_jax.data.formats import voc, yolo
from pix2seq_jax.data.shards import writing
from pix2seq_jax.data.shards.joining import Split
from pix2seq_jax.experiment import logs
from pix2seq_jax.files.whole import write_whole

COCO = {"coco": "coco", "objects365": "objects365", "coco_dir": "folder"}  # -> config.layouts
CONVERTERS = {"voc": voc.convert, "yolo": yolo.convert}
SPLITS = ("train", "val")


def run(
    kind: str,
    source: str,
    out: str,
    splits: Sequence[str],
    *,
    images_per_shard: int,
    workers: int,
    missing_images: str,
) -> None:
    """Writes the shards of the splits, says how far it is, and what was left out.

    Args:
        kind: of COCO or CONVERTERS.
        source: folder of the data set.
        out: folder to write; that of an earlier run with the same arguments is completed.
        splits: of SPLITS.
        images_per_shard: of all shards but the last of a split.
        workers: processes.
        missing_images: "error" or "drop".

    Raises:
        ValueError: an argument, the source or the folder is not as it should be.
    """
    _check(kind, source, out, splits, images_per_shard, workers)
    root, target = Path(source), Path(out)
    if kind in COCO:
        every = {split: _coco_split(root, kind, split) for split in splits}
    else:
        every = _converted(CONVERTERS[kind](root), root, target, splits)
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


def _check(
    kind: str, source: str, out: str, splits: Sequence[str], images_per_shard: int, workers: int
) -> None:
    """Raises ValueError for arguments that do not fit."""
    if kind not in (*COCO, *CONVERTERS):
        raise ValueError(f"--from={kind}: give one of {', '.join((*COCO, *CONVERTERS))}")
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


def _coco_split(root: Path, kind: str, split: str) -> Split:
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
    made: Mapping[str, tuple[Path, dict]], root: Path, out: Path, splits: Sequence[str]
) -> dict[str, Split]:
    """Splits whose annotations were made by a converter, which are written first."""
    every = {}
    for split in splits:
        images, content = made[split]
        path = writing.annotation_file(out, "instances", split)
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        if not writing.is_there(path, hashlib.sha256(text).hexdigest(), root):
            write_whole(path, text)
        every[split] = Split(split, images, {"instances": path})
    return every
