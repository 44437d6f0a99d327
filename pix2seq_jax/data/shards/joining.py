"""The images of a split with what all annotation files say about each of them."""

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pix2seq_jax.data.coco.files import MISSING, listed, locate
from pix2seq_jax.data.coco.json import Report, read_json, whole_numbers


@dataclass(frozen=True)
class Split:
    """Images and their annotations, before they become shards.

    Attributes:
        name: "train" or "val".
        images: folder.
        annotations: kind ("instances", "person_keypoints", "captions") -> COCO-format JSON.
    """

    name: str
    images: Path
    annotations: Mapping[str, Path]


@dataclass(frozen=True)
class Item:
    """An image that becomes a record.

    Attributes:
        name: of its file, from the folder of images on, with slashes.
        file: its path.
        annotations: see records.
    """

    name: str
    file: str
    annotations: dict[str, dict[str, Any]]


def join(split: Split, report: Report, *, missing: str = "error") -> list[Item]:
    """The images that any of the files lists, in the order in which they are listed first.

    Args:
        split: what is read.
        report: counts the images that are left out, and the annotations that no image has.
        missing: "error" refuses images that are not in the folder, "drop" leaves them out.

    Raises:
        ValueError: a file is missing or not COCO, see coco.files; an image is missing.
    """
    items: dict[str, Item] = {}
    for kind, path in split.annotations.items():
        content = read_json(path, ("images", "annotations"))
        ids, names, rows = listed(path, content["images"], report)
        files = locate(path, split.images, names)
        _count_missing(path, split.images, names, files, missing, report)
        own = _by_image(content["annotations"], set(ids.tolist()), path, report)
        for image_id, file, row in zip(ids.tolist(), files, rows, strict=True):
            if file is None:
                continue
            if file not in items:
                name = Path(os.path.relpath(file, split.images)).as_posix()
                items[file] = Item(name, file, {})
            entry = {"image": content["images"][row], "annotations": own.get(image_id, [])}
            before = items[file].annotations.get(kind)  # of a file that has two ids
            entry["annotations"] = (before["annotations"] if before else []) + entry["annotations"]
            items[file].annotations[kind] = entry
    return list(items.values())


def _count_missing(
    path: Path, folder: Path, names: list[str], files: list, rule: str, report: Report
) -> None:
    """Reports the names without a file; ValueError where they are not to be passed over."""
    gone = [name for name, file in zip(names, files, strict=True) if file is None]
    every = len(gone) == len(names)
    if gone and (rule == "error" or every):
        remedy = "give the folder that their names start from"
        if not every:
            remedy = "add them, or leave them out by --missing_images=drop"
        raise ValueError(
            f"{len(gone)} of {len(names)} images of {path} are not in the folder {folder}, first: "
            f"{gone[0]}; {remedy}"
        )
    report.add(MISSING, gone)


def _by_image(
    records: list, image_ids: set[int], path: Path, report: Report
) -> dict[int, list[dict]]:
    """Annotations as they are, by the id of their image."""
    own = defaultdict(list)
    ids = [record.get("image_id") if isinstance(record, dict) else None for record in records]
    numbers, wrong = whole_numbers(ids)
    lost = []
    for row, (image_id, odd) in enumerate(zip(numbers.tolist(), wrong.tolist(), strict=True)):
        if odd or image_id not in image_ids:
            lost.append(row)
        else:
            own[image_id].append(records[row])
    report.add(
        f"annotations of {path.name} without an image that it lists, in no record (by their row)",
        lost,
    )
    return own
