"""Folders in a format that `prepare` reads and training does not: Pascal VOC and YOLO."""

from pathlib import Path
from typing import NamedTuple

import yaml

from pix2seq_jax.data.formats import voc, yolo

_LARGEST = 2**20  # bytes of a file that may be a data.yaml


class Foreign(NamedTuple):
    """What a folder is.

    Attributes:
        kind: "voc" or "yolo"; "" for a YOLO folder that says no classes.
        hint: what to do with it.
    """

    kind: str
    hint: str


def recognise(folder: Path) -> Foreign | None:
    """What a folder is; None for anything else."""
    if voc.is_there(folder):
        return _prepared("voc", "a Pascal VOC folder", folder, folder)
    if files := descriptions(folder):
        source = folder if files[0].name == yolo.FILE else files[0]
        return _prepared("yolo", "a YOLO folder", folder, source)
    if _has_labels(folder):
        hint = (
            f"{folder} has images/ and labels/ like a YOLO folder, but no {yolo.FILE}; write one "
            "there with the lines `train: images/train`, `val: images/val` and `names: [first "
            "class, second class]`, and try again"
        )
        return Foreign("", hint)
    return None


def _prepared(kind: str, title: str, folder: Path, source: Path) -> Foreign:
    out = f"{str(folder).rstrip('/')}_shards"
    hint = (
        f"{folder} is {title}, which is not read as it is; run `python -m pix2seq_jax.prepare "
        f"--from={kind} --source={source} --out={out}` and give data={out}"
    )
    return Foreign(kind, hint)


def descriptions(folder: Path) -> list[Path]:
    """The files of a folder that name its classes and splits for YOLO, the usual one first."""
    if (folder / yolo.FILE).is_file():
        return [folder / yolo.FILE]
    files = [path for end in ("yaml", "yml") for path in sorted(folder.glob(f"*.{end}"))]
    return [path for path in files if is_description(path)]


def is_description(path: Path) -> bool:
    """Whether a YAML file has classes and training images."""
    try:
        if path.suffix not in (".yaml", ".yml") or path.stat().st_size > _LARGEST:
            return False
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and {"names", "train"} <= content.keys()


def _has_labels(folder: Path) -> bool:
    """Whether there are images/ and text files in labels/, or both below train/."""
    for parent in (folder, folder / "train"):
        labels = parent / "labels"
        if (parent / "images").is_dir() and any(
            next(labels.glob(form), None) is not None for form in ("*.txt", "*/*.txt")
        ):
            return True
    return False
