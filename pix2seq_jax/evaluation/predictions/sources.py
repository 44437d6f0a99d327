"""What `--images` of predict means: an image, a folder, a glob, a list on stdin, or a video; and
what their pictures are called."""

import glob
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from PIL import Image, ImageFile

from pix2seq_jax.experiment.logs import log
from pix2seq_jax.files.locations import is_hidden

STDIN = "-"
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")


class Source(NamedTuple):
    """What is to be looked at.

    Attributes:
        paths: of image files, sorted (those of a list in its order); () for a video.
        video: path of a video, or "".
    """

    paths: tuple[str, ...]
    video: str = ""


def find(images: str, *, limit: int = 0, without: str = "", stdin: TextIO | None = None) -> Source:
    """The files that `images` stands for.

    Args:
        images: path of an image or a video; a folder, all images in it and in its subfolders; a
            glob, `**` for subfolders; or "-", paths on stdin, one on a line.
        limit: only the first so many image files; 0: all.
        without: a folder whose files are left out of a folder of images or a glob.
        stdin: what "-" reads; None: that of the process.

    Raises:
        ValueError: nothing is there, or all of it is left out.
    """
    if images == STDIN:
        lines = (line.strip() for line in (stdin or sys.stdin))
        first: dict[str, str] = {}
        for line in filter(None, lines):
            first.setdefault(os.path.normpath(line), line)
        paths = list(first.values())
    elif os.path.isdir(images):
        if without and os.path.realpath(images) == os.path.realpath(without):
            raise ValueError(
                f"--out={without} is the folder of the images, and pictures in it would be images "
                "the next time; give another folder"
            )
        paths = _in_folder(images, without)
    elif _is_file(images):  # a name may hold [ or *
        paths = [images]
    else:
        found = filter(_is_file, glob.glob(images, recursive=True))
        fixed = itertools.takewhile(lambda part: not glob.has_magic(part), Path(images).parts)
        paths = sorted(_but_those_in(without, Path(*fixed), found))
    if not paths:
        hint = "give an image, a video, a folder, a glob in quotes, or - for paths on stdin"
        if "://" in images:
            hint = "addresses are not fetched; download the file and give its path"
        raise ValueError(f"--images={images!r}: 0 files match; {hint}")
    if len(paths) == 1 and is_video(paths[0]):
        return Source((), paths[0])
    return Source(tuple(paths[: max(limit, 0) or None]))


def _is_file(path: str | Path) -> bool:
    """Whether there is a file, or a link to one that is missing: reading it says so."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def is_video(path: str) -> bool:
    """Whether a path has the suffix of a video."""
    return Path(path).suffix.lower() in VIDEOS


def _in_folder(folder: str, without: str) -> list[str]:
    """The image files in a folder and its subfolders, but those of one subfolder, by their suffix;
    others are counted in the log. Hidden ones are passed over, as a glob does it."""
    root = Path(folder)
    paths = (path for path in root.rglob("*") if _is_file(path) and not is_hidden(path, root))
    paths = _but_those_in(without, root, paths)
    files, known = sorted(map(str, paths)), _suffixes() - set(VIDEOS)
    images = [file for file in files if Path(file).suffix.lower() in known]
    if others := sorted(set(files) - set(images)):
        text = "%s: not read, no images by their suffix: %d, such as %s"
        log.info(text, folder, len(others), os.path.relpath(others[0], folder))
    return images


def _but_those_in(without: str, root: Path, paths: Iterable[Any]) -> Iterator[Any]:
    """The paths below `root`; where a folder `without` is below it, too, those in this one are left
    out."""
    out, root = Path(without).resolve(), root.resolve()
    nothing = not without or out == root or not out.is_relative_to(root)
    return (path for path in paths if nothing or not Path(path).resolve().is_relative_to(out))


def _suffixes() -> set[str]:
    """Those of the formats that Pillow opens; others it only writes, or knows by name."""
    known = Image.registered_extensions()  # fills Image.OPEN as well
    stubs = {
        form
        for form, (opener, _) in Image.OPEN.items()
        if isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)
    }
    return {end for end, form in known.items() if form in Image.OPEN and form not in stubs}


def names_for(paths: Sequence[str]) -> list[str]:
    """A PNG's name for each file; files of the same name in several folders get the folders into
    their names."""
    stems = [Path(path).stem for path in paths]
    if len(set(stems)) == len(stems):
        return [f"{stem}.png" for stem in stems]
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [
        os.path.relpath(os.path.abspath(path), root).replace(os.sep, "_") + ".png" for path in paths
    ]


def check_names(paths: Sequence[str], names: Sequence[str], folder: Path) -> None:
    """Raises ValueError where a picture would overwrite one of the images, or two would have one
    name."""
    images, pictures = {Path(path).resolve() for path in paths}, {}
    for path, name in zip(paths, names, strict=True):
        target = (folder / name).resolve()
        if target in images:
            raise ValueError(
                f"--out={folder}: the picture of {path} would overwrite {target}; choose "
                "another folder"
            )
        if target in pictures:
            raise ValueError(
                f"the pictures of {pictures[target]} and {path} would both be {name}; rename one "
                "of them, or give them one after the other"
            )
        pictures[target] = path
