"""Where the XML files of VOC and their images are, if not in VOC's own folders.

A folder holds a split if its XML files lie beside the images, or in a folder beside that of the
images, as in annotations/ and images/. Splits are folders called train and val, valid, validation
or test; without these the folder itself is read, and its images say no split.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

SPLITS = ("train", "val")
ENDS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
PAIRS = (("train", "val"), ("train", "valid"), ("train", "validation"), ("train", "test"))
# Folders of the XML files and of the images, below that of the split.
PLACES = (
    (".", "."),
    ("annotations", "images"),
    ("Annotations", "JPEGImages"),
    ("Annotations", "images"),
    ("xml", "images"),
    ("labels", "images"),
)
WORDS = "XML files beside the images, or in annotations/ beside images/"


class NotOneImage(ValueError):
    """XML files and images do not belong together."""


class Beside(NamedTuple):
    """The images of a split.

    Attributes:
        images: their folder.
        annotations: that of the XML files, called as the images.
        files: the images, sorted.
    """

    images: Path
    annotations: Path
    files: tuple[Path, ...]


def find(source: Path, splits: Sequence[str] = SPLITS) -> dict[str, Beside]:
    """Split -> its images, those of `splits`; "" where there are no splits; {} where nothing is
    there.

    Raises:
        NotOneImage: an XML file has no image, or two images share one.
    """
    for names in PAIRS:
        named = zip(SPLITS, names, strict=True)
        beside = {split: _look(source / name) for split, name in named if split in splits}
        if None not in beside.values():
            return beside
    own = _look(source)
    return {} if own is None else {"": own}


def _look(folder: Path) -> Beside | None:
    """The images and XML files of a folder, if it holds some."""
    if (folder / "ImageSets" / "Main").is_dir():  # VOC's own layout says which are read
        return None
    for annotations, images in PLACES:
        xml = folder / annotations
        if not (folder / images).is_dir() or not _with_end(xml, (".xml",)):
            continue
        files = _with_end(folder / images, ENDS)
        if files:
            _check(xml, files)
            return Beside(folder / images, xml, tuple(files))
    return None


def _check(annotations: Path, images: Iterable[Path]) -> None:
    """Raises NotOneImage where an XML file does not belong to exactly one image."""
    stems: dict[str, Path] = {}
    for image in images:
        other = stems.setdefault(image.stem, image)
        if other != image:
            raise NotOneImage(
                f"{image} and {other.name} belong to the same {image.stem}.xml; rename one of them"
            )
    lonely = [path for path in _with_end(annotations, (".xml",)) if path.stem not in stems]
    if lonely:
        raise NotOneImage(
            f"{len(lonely)} annotation files have no image of the same name, the first is "
            f"{lonely[0]} (suffixes: {', '.join(ENDS)}); add the images or remove the XML files"
        )


def _with_end(folder: Path, ends: tuple[str, ...]) -> list[Path]:
    """The files of a folder with one of the suffixes, sorted; hidden ones are no data."""
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.suffix.lower() in ends)
    return sorted(file for file in files if not file.name.startswith("."))
