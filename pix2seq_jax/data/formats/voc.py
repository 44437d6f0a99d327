"""PASCAL VOC as COCO's JSON: VOC2012/{Annotations/NAME.xml, ImageSets/Main/{train,val}.txt,
JPEGImages/NAME.jpg}, or XML files beside their images as programs that label images write them
(`voc_folders` says where they are looked for).

Pixels of VOC are counted from 1 and its boxes contain their last pixel, so xmin..xmax becomes x =
xmin - 1 and width = xmax - xmin + 1. Objects that are `difficult` do not count in VOC's evaluation;
they become crowd regions, which do not count in COCO's. Categories are numbered from 1 on in the
order of the alphabet, as VOC's own twenty are.

Some programs count from 0, against the format. XML files beside images are read so where one of
their boxes starts at 0; the log says it. An image without XML file has no objects there; the log
counts them. A name that a list of ImageSets has twice is read once, with a warning.
"""

import logging
import math
import xml.etree.ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pix2seq_jax.data.formats import voc_folders

log = logging.getLogger("pix2seq_jax")
SPLITS = voc_folders.SPLITS
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_YEAR = "VOC2012"  # where the folder of all years is given, the year that is read


def folder_of(source: Path) -> Path:
    """The folder of a year: `source`, or VOC2012 in it or in its VOCdevkit.

    Raises:
        ValueError: none of them has Annotations, ImageSets and JPEGImages.
    """
    years = _years(source)
    for folder in years:
        if _is_year(folder):
            return folder
    raise ValueError(
        f"--source={source}: no folder with Annotations, ImageSets/Main and JPEGImages is there or "
        f"in {years[1]} or {years[2]}; give the folder of a year, as in VOCdevkit/VOC2012, or one "
        f"with {voc_folders.WORDS}"
    )


def _years(source: Path) -> list[Path]:
    """Where VOC's own layout is looked for."""
    return [source, source / _YEAR, source / "VOCdevkit" / _YEAR]


def _is_year(folder: Path) -> bool:
    """Whether a folder has VOC's own layout."""
    parts = ("Annotations", "ImageSets/Main", "JPEGImages")
    return all((folder / part).is_dir() for part in parts)


def is_there(source: Path) -> bool:
    """Whether `convert` finds a layout that it reads, perhaps with something wrong in it. XML
    files beside images do not count where all lie in folders below, as in a folder of data sets."""
    try:
        beside = voc_folders.find(source, scattered=False)
    except voc_folders.NotOneImage:
        return True
    except OSError:  # a folder above that may not be read
        return False
    return bool(beside) or any(map(_is_year, _years(source)))


def convert(
    source: Path, splits: Sequence[str] = SPLITS
) -> dict[str, tuple[Path, dict[str, dict]]]:
    """Split -> (folder of images, {"instances": COCO's JSON with images, annotations and
    categories}); the split is "" where all images are in one folder.

    Args:
        source: see `folder_of` and `voc_folders.find`.
        splits: that are read, of SPLITS; of images in one folder, all are.

    Raises:
        ValueError: a file is missing or cannot be read; names it, the value and the remedy.
    """
    own_layout = any(map(_is_year, _years(source)))
    beside = voc_folders.find(source, splits, scattered=not own_layout)
    if beside:
        folders = {split: own.images for split, own in beside.items()}
        records = {split: _read_beside(own) for split, own in beside.items()}
        _count_from_one(source, [row for rows in records.values() for row in rows])
    else:
        folder = folder_of(source)
        folders = dict.fromkeys(splits, folder / "JPEGImages")
        records = {split: _read_split(folder, split) for split in splits}
    every = [row for rows in records.values() for row in rows]
    names = sorted({one["name"] for row in every for one in row["objects"]})
    if not names:
        raise ValueError(f"{source}: no image has an object in its XML file")
    numbers = {name: number for number, name in enumerate(names, 1)}
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    content = {split: _content(rows, numbers) for split, rows in records.items()}
    return {
        split: (folders[split], {"instances": own | {"categories": categories}})
        for split, own in content.items()
    }


def _read_beside(folder: voc_folders.Beside) -> list[dict]:
    """The images of a folder, those without XML file without objects."""
    rows, bare = [], []
    for image, path in folder.files.items():
        name = image.relative_to(folder.images).as_posix()
        if path is None:
            bare.append(name)
            rows.append({"image": {"file_name": name}, "objects": []})
            continue
        row = _read_image(path, image.stem)
        rows.append(row | {"image": row["image"] | {"file_name": name}})
    if bare:
        text = "%d of %d images in %s have no XML file and are taken for images without objects: %s"
        log.warning(text, len(bare), len(rows), folder.images, ", ".join(bare[:3]))
    if folder.left_out:
        text = "%d images in folders below %s without any XML file are left out: %s"
        names = ", ".join(map(str, folder.left_out[:3]))
        log.warning(text, len(folder.left_out), folder.images, names)
    return rows


def _count_from_one(source: Path, rows: list[dict]) -> None:
    """Moves all boxes by a pixel where one starts before the first pixel of VOC."""
    starts = {start for row in rows for one in row["objects"] for start in one["bbox"][:2]}
    if -1 not in starts:  # 0 in the file
        return
    text = "%s: a box starts at 0, so pixels are counted from 0 and boxes end before xmax and ymax"
    log.info(text, source)
    for row in rows:
        for one in row["objects"]:
            x, y, width, height = one["bbox"]
            one["bbox"] = [x + 1, y + 1, width - 1, height - 1]
            one["area"] = one["bbox"][2] * one["bbox"][3]


def _content(rows: list[dict], numbers: dict[str, int]) -> dict[str, list]:
    """The lists of images and annotations of a split."""
    images, annotations = [], []
    for image_id, row in enumerate(rows, 1):
        images.append({"id": image_id, **row["image"]})
        for one in row["objects"]:
            rest = {key: value for key, value in one.items() if key != "name"}
            ids = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(ids | {"category_id": numbers[one["name"]]} | rest)
    return {"images": images, "annotations": annotations}


def _read_split(folder: Path, split: str) -> list[dict]:
    """The images of a split, in its order: {"image": …, "objects": […]}."""
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}; it lists the images of {split}, one a line"
        ) from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise ValueError(f"{path} lists no image; one name a line is expected")
    again = [name for name, count in Counter(names).items() if count > 1]
    if again:
        text = "%s lists %d names more than once, the first is %s; each is read once"
        log.warning(text, path, len(again), again[0])
    every = dict.fromkeys(names)
    return [_read_image(folder / "Annotations" / f"{name}.xml", name) for name in every]


def _read_image(path: Path, name: str) -> dict:
    """The image and the objects of an XML file."""
    try:
        root = xml.etree.ElementTree.parse(path).getroot()
    except (OSError, xml.etree.ElementTree.ParseError) as error:
        raise ValueError(
            f"annotation file {path} cannot be read: {error}; copy it again, or take {name} out "
            "of ImageSets/Main"
        ) from error
    image = {"file_name": root.findtext("filename", "").strip() or f"{name}.jpg"}
    for side in ("width", "height"):
        text = root.findtext(f"size/{side}")
        if text is not None:
            value = int(_number(path, side, text))
            if value > 0:  # some programs write 0 for what they do not know
                image[side] = value
    return {"image": image, "objects": [_object(path, one) for one in root.findall("object")]}


def _object(path: Path, element: xml.etree.ElementTree.Element) -> dict:
    """An object as an annotation, with the `name` of its class."""
    name = element.findtext("name", "").strip()
    if not name:
        raise ValueError(f"annotation file {path}: an object has no name; add it or remove it")
    texts = [element.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    left, top, right, bottom = (
        _number(path, f"{corner} of {name}", text)
        for corner, text in zip(_CORNERS, texts, strict=True)
    )
    if right < left or bottom < top:
        raise ValueError(
            f"annotation file {path}: the box of {name} is {left:g}, {top:g}, {right:g}, "
            f"{bottom:g} (xmin, ymin, xmax, ymax), which ends before it starts; correct it"
        )
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    difficult = int(element.findtext("difficult", "0").strip() == "1")
    area = box[2] * box[3]
    return {"name": name, "bbox": box, "area": area, "iscrowd": difficult, "difficult": difficult}


def _number(path: Path, what: str, text: str | None) -> float:
    """A number of an XML file."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"annotation file {path}: {what} is {text!r}; give a number of pixels")
    return value
