"""YOLO's text files as COCO's JSON: data.yaml with `names`, `train` and `val`, images in
images/FOLDER, and labels/FOLDER/NAME.txt for images/FOLDER/NAME.jpg.

A line of a label file is a class, counted from 0, and a box as centre x, centre y, width, height,
or a polygon x, y, x, y, … of at least three points; all are shares of the width and height of the
image. They may lie a little outside of it; what is below -1 or above 2 is refused, as pixels are.
Class c becomes category c + 1. An image without a label file has no objects; the log counts them,
and label files without an image. A split without any label file is refused.

Where data.yaml has `kpt_shape: [J, 2 or 3]`, every line has a box and J keypoints behind it: x, y
and, of three, v as in COCO (0 not labelled, 1 hidden, 2 visible). Of two, all are visible but those
at 0, 0 or below, which are not labelled. The area of such an object is that of its box.
"""

import logging
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from pix2seq_jax.data.coco.keypoints import mirrored
from pix2seq_jax.data.coco.person import COCO_KEYPOINTS
from pix2seq_jax.data.images import header
from pix2seq_jax.files.locations import is_hidden
from pix2seq_jax.geometry.rings import area

log = logging.getLogger("pix2seq_jax")
SPLITS = ("train", "val")
FILE = "data.yaml"
_CLASSES = "classes.txt"  # names of classes, which some programs write beside labels
_LEAST, _MOST = -1, 2  # of shares: boxes may reach out of the image a little
ENDS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Schema(NamedTuple):
    """What the lines of label files hold.

    Attributes:
        classes: names by their number.
        keypoints: names of the J keypoints; () where lines have none.
        numbers: of a keypoint, 2 or 3.
        skeleton: pairs of keypoints, counted from 1.
    """

    classes: dict[int, str]
    keypoints: tuple[str, ...] = ()
    numbers: int = 3
    skeleton: tuple[tuple[int, int], ...] = ()


def convert(
    source: Path, splits: Sequence[str] = SPLITS
) -> dict[str, tuple[Path, dict[str, dict]]]:
    """Split -> (folder of images, COCO's JSON by kind: "instances" and, where there are keypoints,
    "person_keypoints", each with images, annotations and categories).

    Args:
        source: data.yaml, or the folder that it is in.
        splits: that are read, of SPLITS.

    Raises:
        ValueError: a file is missing or cannot be read; names it, the value and the remedy.
    """
    path = source if source.is_file() else source / FILE
    content = _read_yaml(path)
    root = path.parent / str(content.get("path") or "")
    if not root.is_dir():  # written for another machine
        root = path.parent
    names = _class_names(path, content.get("names"))
    schema = Schema(names)
    if "kpt_shape" in content:
        schema = _keypoints(path, content, names)
    made, every = {}, []
    for split in splits:
        files = _images(path, root, split, content.get(split))
        folder = Path(os.path.commonpath([file.parent for file in files]))
        with ThreadPoolExecutor() as pool:  # headers of images, which wait for the disk
            rows = list(pool.map(lambda file: _read_image(file, schema), files))
        bare = [file for file, row in zip(files, rows, strict=True) if row[1] is None]
        _tell_bare(split, folder, bare, len(files))
        made[split] = folder, _contents(folder, files, rows, schema)
        every += files
    folders = {folder for folder, _ in made.values()} | {file.parent for file in every}
    _tell_lonely(folders, every)
    return made


def _read_yaml(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}; --source is a folder with data.yaml, or that file"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no YAML with the keys names, train and val; correct it")
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


def _keypoints(path: Path, content: dict, classes: dict[int, str]) -> Schema:
    """The keypoints that data.yaml describes: those of COCO's person where there are 17 that
    `flip_idx` mirrors like a person's, else named by `kpt_names`, or keypoint_1 and so on."""
    shape, flipped = content["kpt_shape"], content.get("flip_idx")
    whole = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)
    if not whole or shape[0] < 1 or shape[1] not in (2, 3):
        raise ValueError(
            f"{path}: kpt_shape={shape!r}; give the number of keypoints and 2 (x, y) or 3 (x, y, "
            "v), as in [17, 3]"
        )
    if flipped is not None and not _is_mirroring(flipped, shape[0]):
        raise ValueError(
            f"{path}: flip_idx={flipped!r}; give for each of the {shape[0]} keypoints the number, "
            "from 0 on, of the one that it changes places with in a mirrored image, or leave it out"
        )
    person = COCO_KEYPOINTS["names"]
    names, skeleton = _keypoint_names(path, content.get("kpt_names"), shape[0]), ()
    if not names and flipped == mirrored(person).tolist():
        names = person
    if names == person:
        skeleton = tuple((first + 1, last + 1) for first, last in COCO_KEYPOINTS["skeleton"])
    names = names or tuple(f"keypoint_{number + 1}" for number in range(shape[0]))
    if flipped is not None and flipped != mirrored(names).tolist():
        pairs = tuple((names[a], names[b]) for a, b in enumerate(flipped) if a < b)
        text = "%s: the names of keypoints do not say what flip_idx says; train with "
        log.warning(text + '--config.data.flip_pairs="%s"', path, str(pairs).replace(" ", ""))
    return Schema(classes, names, shape[1], skeleton)


def _is_mirroring(flipped, count: int) -> bool:
    """Whether it is a list that exchanges some of 0 to `count` - 1 in pairs."""
    if not isinstance(flipped, list) or not all(type(number) is int for number in flipped):
        return False
    if sorted(flipped) != list(range(count)):
        return False
    return all(flipped[flipped[number]] == number for number in range(count))


def _keypoint_names(path: Path, names, count: int) -> tuple[str, ...]:
    """The names that all classes have in `kpt_names`: a list, or a list by class. () for None."""
    if names is None:
        return ()
    every = list(names.values()) if isinstance(names, dict) else [names]
    first = every[0] if every else []
    whole = isinstance(first, list) and all(isinstance(name, str) for name in first)
    if not whole or len(set(first)) != count or any(own != first for own in every):
        raise ValueError(
            f"{path}: kpt_names={names!r}; give {count} different names, the same for every class"
        )
    return tuple(first)


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
            inside = [file for file in where.rglob("*") if file.suffix.lower() in ENDS]
            files += sorted(file for file in inside if not is_hidden(file, where))
        elif where.is_file():
            lines = _lines(where, "list of images")
            files += [root / line.strip() for line in lines if line.strip()]
        else:
            raise ValueError(
                f"{path}: {split} names {entry!r}, and {where} does not exist; correct the path"
            )
    if not files:
        raise ValueError(f"{path}: there is no image in {split}={told!r}")
    return list(dict.fromkeys(files))


def _lines(path: Path, what: str) -> list[str]:
    """The lines of a text file; raises FileNotFoundError where it is not there."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} {path} cannot be read: {error}; copy it again") from error


def _label_file(image: Path) -> Path:
    """labels/…/NAME.txt of images/…/NAME.jpg: the last folder `images` is exchanged."""
    parts = list(image.with_suffix(".txt").parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def _read_image(file: Path, schema: Schema) -> tuple[tuple[int, int], list[dict] | None]:
    """(height, width) and the objects of an image, in pixels, None where it has no label file;
    annotations are made on what viewers show (EXIF orientation)."""
    height, width, turned = header(str(file))
    if turned:
        height, width = width, height
    labels = _label_file(file)
    try:
        lines = _lines(labels, "label file")
    except FileNotFoundError:
        return (height, width), None
    where = [(f"{labels}, line {number}", line) for number, line in enumerate(lines, 1)]
    objects = [_object(*one, (height, width), schema) for one in where if one[1].strip()]
    return (height, width), objects


def _object(place: str, line: str, size: tuple[int, int], schema: Schema) -> dict:
    """An annotation without ids; `keypoints` as in COCO where the schema has some."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        values = []
    count = schema.numbers * len(schema.keypoints)
    polygon = not count and len(values) >= 7 and len(values) % 2 == 1
    if not (len(values) == 5 + count or polygon) or not all(map(math.isfinite, values)):
        raise ValueError(f"{place}: {line.strip()[:200]!r}; {_expected(schema, len(values))}")
    number = int(values[0])
    if number != values[0] or number not in schema.classes:
        raise ValueError(
            f"{place}: class {values[0]:g} has no name in data.yaml, which has "
            f"{sorted(schema.classes)}; correct one of them"
        )
    shares = values[1:] if polygon else values[1:5]
    _check_shares(place, line, shares, box=not polygon)
    pixels = np.reshape(shares, (-1, 2)) * size[::-1]
    more = _polygon(pixels) if polygon else _box(pixels)
    if count:
        points = np.reshape(values[5:], (-1, schema.numbers))
        visible = _visible(place, points)
        _check_shares(place, line, points[visible > 0, :2].ravel().tolist())
        more |= _keypoint_fields(points, visible, size)
    return {"category_id": number + 1, "bbox": more.pop("bbox"), "iscrowd": 0, **more}


def _expected(schema: Schema, count: int) -> str:
    """What a line should hold, where it has `count` numbers."""
    if schema.keypoints:
        number = len(schema.keypoints)
        return (
            f"a class, four numbers of the box and {schema.numbers} for each of {number} keypoints "
            f"are expected by kpt_shape of data.yaml, {5 + schema.numbers * number} in all, and "
            f"there are {count}"
        )
    hint = ""
    if count > 5:
        hint = "; lines with keypoints need kpt_shape in data.yaml"
    return (
        "a class and four numbers are expected (x, y of the centre, width, height), or a class "
        f"and a polygon of at least three points{hint}"
    )


def _check_shares(place: str, line: str, numbers: Sequence[float], *, box: bool = False) -> None:
    """Raises ValueError where numbers are far outside of the image, or a size is below 0."""
    outside = [number for number in numbers if not _LEAST <= number <= _MOST]
    if outside:
        raise ValueError(
            f"{place}: {line.strip()[:200]!r} has {outside[0]:g}; shares of the width and height "
            "of the image, 0 to 1, are expected; these look like pixels, divide them by its size"
        )
    if box and min(numbers[2:]) < 0:
        raise ValueError(
            f"{place}: {line.strip()[:200]!r}; width {numbers[2]:g} and height {numbers[3]:g} of "
            "the box are expected to be 0 or more; correct the line or remove it"
        )


def _box(numbers: np.ndarray) -> dict:
    """The fields of f64[2,2] in pixels, x and y of the centre and of the size."""
    (x, y), (width, height) = numbers.tolist()
    return {"bbox": [x - width / 2, y - height / 2, width, height], "area": width * height}


def _polygon(points: np.ndarray) -> dict:
    """The fields of f64[n,2], x and y in pixels."""
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return {
        "bbox": [left, top, right - left, bottom - top],
        "segmentation": [points.ravel().tolist()],
        "area": abs(area(points)),
    }


def _visible(place: str, points: np.ndarray) -> np.ndarray:
    """v of COCO, f64[J], of keypoints f64[J,2 or 3]."""
    if points.shape[1] == 2:
        missing = (points < 0).any(axis=1) | (points == 0).all(axis=1)
        return np.where(missing, 0.0, 2.0)
    wrong = [value for value in points[:, 2].tolist() if value not in (0, 1, 2)]
    if wrong:
        raise ValueError(
            f"{place}: a keypoint has v={wrong[0]:g}; give 0 (not labelled), 1 (hidden) or 2"
        )
    return points[:, 2]


def _keypoint_fields(points: np.ndarray, visible: np.ndarray, size: tuple[int, int]) -> dict:
    """`keypoints` [x, y, v, …] in pixels and `num_keypoints` of f64[J,2 or 3], shares of the size
    (height, width), and v of each."""
    pixels = points[:, :2] * (size[1], size[0]) * (visible > 0)[:, None]
    made = np.column_stack([pixels, visible])
    return {"keypoints": made.ravel().tolist(), "num_keypoints": int((visible > 0).sum())}


def _tell_bare(split: str, folder: Path, bare: list[Path], count: int) -> None:
    """Logs how many of `count` images of a split have no label file; raises ValueError where none
    has one."""
    if len(bare) == count:
        raise ValueError(
            f"{split}: none of {count} images in {folder} has a label file, that of {bare[0].name} "
            f"was looked for at {_label_file(bare[0])}; put one there for each image, an empty "
            "one where it has no objects, or read the other split alone with --splits"
        )
    if bare:
        names = ", ".join(file.relative_to(folder).as_posix() for file in bare[:3])
        text = "%d of %d images in %s have no label file and are taken for images without objects"
        log.warning(text + ": %s", len(bare), count, folder, names)


def _tell_lonely(folders: Iterable[Path], images: Iterable[Path]) -> None:
    """Logs how many files where labels of the folders of images are looked for, or below, belong to
    no image; whether an image is read does not matter."""
    own = {_label_file(folder / "any.jpg").parent: folder for folder in folders}
    # Any text file may lie beside images.
    own = {labels: folder for labels, folder in own.items() if labels != folder}
    read = {_label_file(image) for image in images}
    places: dict[Path, Path] = {}  # label file -> where its image would be
    for labels, folder in own.items():
        if own.keys() & set(labels.parents):  # walked with the folder above
            continue
        files = (file for file in labels.rglob("*.txt") if file not in read)
        shown = (file for file in files if not is_hidden(file, labels) and file.name != _CLASSES)
        places |= {file: folder / file.relative_to(labels) for file in shown}
    stems = {folder: _stems(folder) for folder in {place.parent for place in places.values()}}
    lonely = sorted(file for file, place in places.items() if place.stem not in stems[place.parent])
    if lonely:
        text = "%d label files have no image in the folder of images and are not read: %s"
        log.warning(text, len(lonely), ", ".join(map(str, lonely[:3])))


def _stems(folder: Path) -> set[str]:
    """The names of the images in a folder without suffix; none where there is no folder."""
    return {file.stem for file in folder.glob("*") if file.suffix.lower() in ENDS}


def _contents(folder: Path, files: list[Path], rows: list, schema: Schema) -> dict[str, dict]:
    """COCO's JSON of a split by kind."""
    images, annotations, persons = [], [], []
    for image_id, (file, ((height, width), objects)) in enumerate(zip(files, rows, strict=True), 1):
        name = file.relative_to(folder).as_posix()
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for one in objects or ():
            whole = {"id": len(annotations) + 1, "image_id": image_id, **one}
            persons.append(whole)
            annotations.append(
                {key: value for key, value in whole.items() if "keypoints" not in key}
            )
    categories = [
        {"id": number + 1, "name": name} for number, name in sorted(schema.classes.items())
    ]
    contents = {"instances": annotations}
    if schema.keypoints:
        contents["person_keypoints"] = persons
    named = {"keypoints": list(schema.keypoints), "skeleton": list(map(list, schema.skeleton))}
    own = {"instances": categories, "person_keypoints": [one | named for one in categories]}
    return {
        kind: {"images": images, "annotations": objects, "categories": own[kind]}
        for kind, objects in contents.items()
    }
