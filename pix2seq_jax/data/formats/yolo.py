"""YOLO's text files as COCO's JSON: data.yaml with `names`, `train` and `val`, images in
images/FOLDER, and labels/FOLDER/NAME.txt for images/FOLDER/NAME.jpg.

A line of a label file is a class, counted from 0, and a box as centre x, centre y, width, height,
or a polygon x, y, x, y, … of at least three points; all are shares of the width and height of the
image. Class c becomes category c + 1. An image without a label file has no objects.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import yaml

from pix2seq_jax.data.images import header
from pix2seq_jax.geometry.rings import area

SPLITS = ("train", "val")
FILE = "data.yaml"
ENDS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def convert(source: Path) -> dict[str, tuple[Path, dict]]:
    """Split -> (folder of images, COCO's JSON with images, annotations and categories).

    Args:
        source: data.yaml, or the folder that it is in.

    Raises:
        ValueError: a file is missing or cannot be read; names it, the value and the remedy.
    """
    path = source if source.is_file() else source / FILE
    content = _read_yaml(path)
    root = path.parent / str(content.get("path") or "")
    if not root.is_dir():  # written for another machine
        root = path.parent
    names = _class_names(path, content.get("names"))
    categories = [{"id": number + 1, "name": name} for number, name in sorted(names.items())]
    made = {}
    for split in SPLITS:
        files = _images(path, root, split, content.get(split))
        folder = Path(os.path.commonpath([file.parent for file in files]))
        with ThreadPoolExecutor() as pool:  # headers of images, which wait for the disk
            rows = list(pool.map(lambda file: _read_image(file, names), files))
        made[split] = folder, _content(folder, files, rows) | {"categories": categories}
    return made


def _read_yaml(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}; --source is a folder with data.yaml, or that file"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no YAML with the keys names, train and val; correct it")
    if "kpt_shape" in content:
        raise ValueError(
            f"{path} has kpt_shape={content['kpt_shape']}: keypoints of YOLO are not read; "
            "convert the data to COCO's person_keypoints JSON and use --from=coco_dir"
        )
    return content


def _class_names(path: Path, names) -> dict[int, str]:
    """Names of the classes by their number."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    whole = isinstance(names, dict) and all(
        type(number) is int and number >= 0 and isinstance(name, str | int)
        for number, name in names.items()
    )
    if not whole or not names:
        raise ValueError(
            f"{path}: names={names!r}; give a list of names, or their numbers from 0 on with names"
        )
    return {number: str(name) for number, name in names.items()}


def _images(path: Path, root: Path, split: str, told) -> list[Path]:
    """The image files of a split, sorted where a folder is read."""
    entries = told if isinstance(told, list) else [told]
    if not all(isinstance(entry, str) and entry for entry in entries):
        raise ValueError(
            f"{path}: {split}={told!r}; give a folder of images as in images/{split}, a text file "
            "with a path a line, or a list of these"
        )
    files: list[Path] = []
    for entry in entries:
        where = root / entry
        if not where.exists() and entry.startswith("../"):  # as Roboflow writes it
            where = root / entry.removeprefix("../")
        if where.is_dir():
            inside = (file for file in where.rglob("*") if file.suffix.lower() in ENDS)
            files += sorted(inside)
        elif where.is_file():
            lines = where.read_text(encoding="utf-8").splitlines()
            files += [root / line.strip() for line in lines if line.strip()]
        else:
            raise ValueError(
                f"{path}: {split} names {entry!r}, and {where} does not exist; correct the path"
            )
    if not files:
        raise ValueError(f"{path}: there is no image in {split}={told!r}")
    return list(dict.fromkeys(files))


def _label_file(image: Path) -> Path:
    """labels/…/NAME.txt of images/…/NAME.jpg: the last folder `images` is exchanged."""
    parts = list(image.with_suffix(".txt").parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def _read_image(file: Path, names: dict[int, str]) -> tuple[tuple[int, int], list[dict]]:
    """(height, width) and the objects of an image, in pixels; annotations are made on what viewers
    show (EXIF orientation)."""
    height, width, turned = header(str(file))
    if turned:
        height, width = width, height
    labels = _label_file(file)
    try:
        lines = labels.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"label file {labels} cannot be read: {error}; copy it again") from error
    where = [(f"{labels}, line {number}", line) for number, line in enumerate(lines, 1)]
    objects = [_object(*one, (height, width), names) for one in where if one[1].strip()]
    return (height, width), objects


def _object(place: str, line: str, size: tuple[int, int], names: dict[int, str]) -> dict:
    """An annotation without ids."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        values = []
    polygon = len(values) >= 7 and len(values) % 2 == 1
    if not (len(values) == 5 or polygon) or not all(math.isfinite(value) for value in values):
        raise ValueError(
            f"{place}: {line.strip()[:200]!r}; a class and four numbers are expected (x, y of the "
            "centre, width, height), or a class and a polygon of at least three points"
        )
    number = int(values[0])
    if number != values[0] or number not in names:
        raise ValueError(
            f"{place}: class {values[0]:g} has no name in data.yaml, which has {sorted(names)}; "
            "correct one of them"
        )
    height, width = size
    xs = [value * width for value in values[1::2]]
    ys = [value * height for value in values[2::2]]
    if polygon:
        ring = [coordinate for point in zip(xs, ys, strict=True) for coordinate in point]
        left, top = min(xs), min(ys)
        box = [left, top, max(xs) - left, max(ys) - top]
        more = {"segmentation": [ring], "area": abs(area(np.array([xs, ys]).T))}
    else:
        (x, w), (y, h) = xs, ys
        box = [x - w / 2, y - h / 2, w, h]
        more = {"area": w * h}
    return {"category_id": number + 1, "bbox": box, "iscrowd": 0, **more}


def _content(folder: Path, files: list[Path], rows: list) -> dict[str, list]:
    """The lists of images and annotations of a split."""
    images, annotations = [], []
    for image_id, (file, ((height, width), objects)) in enumerate(zip(files, rows, strict=True), 1):
        name = file.relative_to(folder).as_posix()
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for one in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **one})
    return {"images": images, "annotations": annotations}
