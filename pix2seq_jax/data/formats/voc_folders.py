"""Where the XML files of VOC and their images are, if not in VOC's own folders.

A folder holds a split if its XML files lie beside the images, or in a folder beside that of the
images, as in annotations/ and images/. Both are read with the folders below them: an XML file
belongs to the image that has the same path there, suffixes apart. Hidden files and folders are not
read, nor are links to folders. Where XML files lie beside the images, one of them must have an
image; folders called like those of another place, as annotations/, are not read then.

Splits are folders called train and val, valid, validation or test; without these the folder itself
is read, and its images say no split.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
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
_OF_PLACES = {name for names in PLACES for name in names}
_OF_SPLITS = {name for names in PAIRS for name in names}


class NotOneImage(ValueError):
    """XML files and images do not belong together."""


class Beside(NamedTuple):
    """The images of a split.

    Attributes:
        images: their folder.
        files: the images in it and below, sorted, with their XML files; None where one has none.
        left_out: images beside no XML file, in folders below.
    """

    images: Path
    files: Mapping[Path, Path | None]
    left_out: tuple[Path, ...] = ()


def find(
    source: Path, splits: Sequence[str] = SPLITS, *, scattered: bool = True
) -> dict[str, Beside]:
    """Split -> its images, those of `splits`; "" where there are no splits; {} where nothing is
    there.

    Args:
        source: the folder.
        splits: that are read, of SPLITS.
        scattered: whether XML files beside images may all lie in folders below `source`; else
            they are read where one lies in `source` itself.

    Raises:
        NotOneImage: an XML file has no image, two images share one, or only one of two splits is
            there.
    """
    for names in PAIRS:
        named = {split: source / name for split, name in zip(SPLITS, names, strict=True)}
        if not all(named[split].is_dir() for split in splits):
            continue
        beside = {split: _look(named[split]) for split in splits}
        if None not in beside.values():
            return beside
    own = _look(source, scattered)
    if own is None:
        return {}
    _check_names(source, own)
    return {"": own}


def _look(folder: Path, scattered: bool = True) -> Beside | None:
    """The images and XML files of a folder, if it holds some."""
    if (folder / "ImageSets" / "Main").is_dir():  # VOC's own layout says which are read
        return None
    for annotations, images in PLACES:
        same = annotations == images
        if same and not scattered and not _holds_pair(folder):
            continue
        skipped = _OF_PLACES if same else set()
        xml = _below(folder / annotations, (".xml",), skipped)
        files = _below(folder / images, ENDS, skipped) if xml else {}
        if not files or (same and not xml.keys() & files.keys()):
            continue
        _check(xml, files)
        own = {one: xml.get(key, [None])[0] for key, (one,) in files.items()}
        left_out = _without_xml(folder, own) if same else ()
        kept = {image: path for image, path in own.items() if image not in left_out}
        return Beside(folder / images, kept, left_out)
    return None


def _without_xml(folder: Path, files: Mapping[Path, Path | None]) -> tuple[Path, ...]:
    """The images in folders below that have no image with an XML file, as masks or thumbnails."""
    described = {image.parent for image, path in files.items() if path} | {folder}
    return tuple(image for image in files if image.parent not in described)


def _holds_pair(folder: Path) -> bool:
    """Whether an XML file and its image lie in the folder itself."""
    files = [file for file in folder.glob("*.*") if not file.name.startswith(".")]
    stems = {file.stem for file in files if file.suffix.lower() == ".xml"}
    return any(file.stem in stems for file in files if file.suffix.lower() in ENDS)


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _below(folder: Path, ends: Iterable[str], skipped: set[str]) -> dict[Path, list[Path]]:
    """The files in a folder and below with one of the suffixes, sorted, by their path from there
    on without suffix; without what is hidden and the folders in it that `skipped` names."""
    every = []
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        top = Path(parent) == folder
        hidden = {name for name in (*folders, *names) if name.startswith(".")}
        left_out = hidden | skipped if top else hidden
        folders[:] = [name for name in folders if name not in left_out]
        ended = [name for name in names if name.lower().endswith(tuple(ends))]
        every += [Path(parent, name) for name in ended if name not in hidden]
    by_path: dict[Path, list[Path]] = {}
    for file in sorted(every):
        by_path.setdefault(file.relative_to(folder).with_suffix(""), []).append(file)
    return by_path


def _check(xml: Mapping[Path, list[Path]], images: Mapping[Path, list[Path]]) -> None:
    """Raises NotOneImage where an XML file does not belong to exactly one image."""
    for key, same in images.items():
        if len(same) > 1:
            raise NotOneImage(
                f"{same[1]} and {same[0].name} belong to the same {key.name}.xml; rename one of "
                "them"
            )
    for same in xml.values():
        if len(same) > 1:
            raise NotOneImage(
                f"{same[1]} and {same[0].name} belong to the same image; remove one of them"
            )
    lonely = [file for key, (file,) in xml.items() if key not in images]
    if lonely:
        raise NotOneImage(
            f"{len(lonely)} annotation files have no image of the same name, the first is "
            f"{lonely[0]} (suffixes: {', '.join(ENDS)}); add the images or remove the XML files"
        )


def _check_names(source: Path, own: Beside) -> None:
    """Raises NotOneImage where images that say no split are in a folder that is called like one."""
    for image in own.files:
        name, *rest = image.relative_to(own.images).parts
        if rest and name in _OF_SPLITS:
            raise NotOneImage(
                f"{own.images / name} is called like a split, but {source} has no two folders of "
                "images and XML files called train and val (or valid, validation, test); make "
                f"them (--splits=train needs train alone), or rename {name} to have a seed split "
                "all images"
            )
