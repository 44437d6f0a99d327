"""The images of an annotation file where they are stored: which files they are, and how large."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from pix2seq_jax.data.coco.checked_images import Headers
from pix2seq_jax.data.coco.json import Report, column, integers, shown
from pix2seq_jax.data.coco.part import Part
from pix2seq_jax.data.coco.sizes import compare_sizes
from pix2seq_jax.data.images import check_regular, header

BROKEN = "images that cannot be decoded"
MISSING = "images that are not in the folder, left out with their annotations"
MOST_BROKEN = 0.5  # of the images; beyond it the folder or the download is broken


class Images(NamedTuple):
    """The list `images` of a file.

    Attributes:
        ids: i64[I].
        files: I paths.
        sizes: i32[I,2], height and width in pixels that annotations are normalised by.
        dropped: i64[n], ids of those that are left out because their files are missing, or because
            they are of another split.
    """

    ids: np.ndarray
    files: list[str]
    sizes: np.ndarray
    dropped: np.ndarray


Look = Callable[[Sequence[str]], Headers]  # what the beginnings and ends of files say


class Storage(Protocol):
    """Where the images of an annotation file are; `str()` names it in errors.

    Attributes:
        headers: what is known of the files without looking at them; None: nothing.
        remedy: what to do where images are missing.
    """

    headers: Look | None
    remedy: str

    def locate(self, annotations: PurePath, names: Sequence[str]) -> list[str | None]:
        """For every file name of an annotation file what `load` takes, which no file of another
        storage has (a path has that); None where there is none, see `locate_names`."""

    def load(self, file: str) -> bytes:
        """Content of an image file; ValueError where it cannot be read."""


@dataclass(frozen=True)
class ImageFolder:
    """Images as files in a folder."""

    folder: Path
    headers: ClassVar[None] = None
    remedy: ClassVar[str] = (
        "give the folder that the file names of the JSON start from, or add these images"
    )

    def __str__(self) -> str:
        return f"the folder {self.folder}"

    def locate(self, annotations: PurePath, names: Sequence[str]) -> list[str | None]:
        """Existing path of every file name, see `locate`."""
        return locate(annotations, self.folder, names)

    def load(self, file: str) -> bytes:
        """Content of an image file, see `read_file`."""
        return read_file(file)


def storage_of(images: str | PurePath | Storage) -> Storage:
    """A storage; a path stands for a folder of images."""
    return ImageFolder(Path(images)) if isinstance(images, str | PurePath) else images


@dataclass(frozen=True)
class ImageRules:
    """What becomes of images that are not as they should be. Raises ValueError for words that are
    no rule.

    Attributes:
        missing: "error" refuses images that are not in the folder, "drop" leaves them out and
            counts them.
        bad: "error" refuses files that cannot be decoded, "replace" counts them, for others to be
            read instead.
        headers: looks at the files (coco.checked_images) where the storage knows nothing of them;
            None: they are not looked at, and their sizes not compared.
        part: the split that is read of a file that says none; None: all of it.
    """

    missing: str = "error"
    bad: str = "error"
    headers: Look | None = None
    part: Part | None = None

    def __post_init__(self) -> None:
        for field, value, words in (
            ("missing", self.missing, ("error", "drop")),
            ("bad", self.bad, ("error", "replace")),
        ):
            if value not in words:
                raise ValueError(f"config.data.{field}_images={value!r}: give one of {list(words)}")


def read_images(
    path: PurePath,
    images: Storage,
    records: list,
    report: Report,
    rules: ImageRules | None = None,
) -> Images:
    """The list `images` of a file, with what its files say where `headers` reads them.

    A size in the JSON that contradicts its file is one of three cases, see `_checked_sizes`.

    Args:
        path: of the annotation file.
        images: where they are.
        records: the list.
        report: counts what is repaired or left out.
        rules: default ImageRules().

    Raises:
        ValueError: there are none, or none in a split, one has no id or file name, ids are not
            unique, files are missing or broken, or a size contradicts its file.
    """
    rules = rules or ImageRules()
    ids, names, rows = listed(path, records, report)
    others = ids[:0]
    if rules.part is not None:
        mine = rules.part.choose(path, ids)
        ids, others = ids[mine], ids[~mine]
        names = [name for name, own in zip(names, mine, strict=True) if own]
        rows = [row for row, own in zip(rows, mine, strict=True) if own]
    files = images.locate(path, names)
    gone = [row for row, file in enumerate(files) if file is None]
    if gone and (rules.missing == "error" or len(gone) == len(files)):
        some = ", or leave them out by --config.data.missing_images=drop"
        remedy = "" if len(gone) == len(files) else some
        raise ValueError(
            f"{len(gone)} of {len(files)} images of {path} are not in {images}, first: "
            f"{names[gone[0]]}; {images.remedy}{remedy}"
        )
    report.add(
        MISSING,
        [names[row] for row in gone],
    )
    there = [row for row, file in enumerate(files) if file is not None]
    files = [files[row] for row in there]
    look = rules.headers if images.headers is None else images.headers
    sizes = _sizes(path, [records[rows[row]] for row in there], files, look, rules, report)
    return Images(ids[there], files, sizes, np.concatenate([ids[gone], others]))


def listed(
    path: PurePath, records: list, report: Report
) -> tuple[np.ndarray, list[str], list[int]]:
    """Ids i64[I], file names and rows of the list; an image that is listed twice counts once."""
    ids = integers(path, column(path, records, "id", "images"), "id", "images")
    names = column(path, records, "file_name", "images")
    for row, name in enumerate(names):
        if not isinstance(name, str) or not name.strip("/\\. ") or "\0" in name:
            raise ValueError(
                f"annotation file {path}: images[{row}] has file_name {shown(repr(name))}, which "
                "names no file; correct it"
            )
    first: dict[int, int] = {}
    keep = []
    for row, image_id in enumerate(ids.tolist()):
        if names[first.setdefault(image_id, row)] != names[row]:
            raise ValueError(
                f"annotation file {path}: image id {image_id} is given to "
                f"{names[first[image_id]]} and to {names[row]}; ids must be unique"
            )
        if first[image_id] == row:
            keep.append(row)
    if not keep:
        raise ValueError(
            f"annotation file {path}: the list images is empty; at least one image is needed"
        )
    if len(keep) < len(ids):
        again = sorted(set(range(len(ids))) - set(keep))
        report.add("images listed twice, read once", ids[again].tolist())
    return ids[keep], [names[row] for row in keep], keep


def locate(path: PurePath, folder: Path, names: Sequence[str]) -> list[str | None]:
    """Existing path of every file name, see `locate_names`; None where there is none.

    Folders are listed once instead of one `stat` per file (118k files on a network disk). Names
    are compared in Unicode normal form C: some systems store decomposed letters where the JSON has
    composed ones.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(
            f"image folder {folder} does not exist; give the folder that holds the images of {path}"
        )
    listings: dict[str, dict[str, str]] = {}
    return locate_names(names, lambda parts: _entry(folder, parts, listings))


def locate_names(
    names: Sequence[str], entry: Callable[[list[str]], str | None]
) -> list[str | None]:
    """What `entry` says of every file name, which it gets as a list of folders and a name.

    Names are tried as they are, then without their first folder, and so on: the JSON may have been
    written for another folder. That of Objects365 says images/v1/patch8/NAME.jpg, and the files
    lie in patch8/NAME.jpg. One number of folders is left out for all of them, that which finds
    most, and none by which two names would become one file.
    """
    parts = [
        [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        for name in names
    ]
    best: list[str | None] = [None] * len(names)
    for level in range(max(map(len, parts))):
        left = [own[min(level, len(own) - 1) :] for own in parts]
        if level and len({tuple(own) for own in left}) < len({tuple(own) for own in parts}):
            break
        files = [entry(own) for own in left]
        if files.count(None) < best.count(None):
            best = files
        if None not in best:
            break
    return best


def _entry(folder: Path, parts: list[str], listings: dict[str, dict[str, str]]) -> str | None:
    """The path of a file below a folder; `listings` remembers what is in each folder."""
    head, tail = os.path.join(*parts[:-1], ""), parts[-1]
    if head not in listings:
        parent = folder / head
        entries = os.listdir(parent) if parent.is_dir() else []
        listings[head] = {unicodedata.normalize("NFC", entry): entry for entry in entries}
    entry = listings[head].get(unicodedata.normalize("NFC", tail))
    return None if entry is None else os.path.join(folder, head, entry)


def _sizes(
    path: PurePath,
    records: list[dict],
    files: list[str],
    look: Look | None,
    rules: ImageRules,
    report: Report,
) -> np.ndarray:
    """i32[I,2], height and width of images: those of the JSON, corrected by those of the files."""
    written = [(record.get("height"), record.get("width")) for record in records]
    sized = [all(is_side(side) for side in size) for size in written]
    sizes = [size if real else (0, 0) for size, real in zip(written, sized, strict=True)]
    sizes = np.array(sizes, np.int32).reshape(-1, 2)
    unsized = np.flatnonzero(~np.array(sized, bool))
    broken: dict[int, str] = {}
    if look is not None:
        headers = look(files)
        broken = _count_broken(headers, report, rules)
        whole = np.array([row not in broken for row in range(len(files))], bool)
        sizes = np.where(sizes == 0, headers.sizes, sizes)
        sizes = _checked_sizes(path, files, sizes, headers, whole, report)
    for row in unsized.tolist():
        if row in broken:
            raise ValueError(
                f"{broken[row]}; annotation file {path} has no width and height of it either"
            )
        if look is None:
            sizes[row] = header(files[row])[:2]
    report.add(
        "images without width and height, read from the file",
        [files[row] for row in unsized.tolist()],
    )
    return sizes


def is_side(value) -> bool:
    """Whether a value of the JSON is a height or a width."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < 2**31


def is_impossible(side) -> bool:
    """Whether a value of the JSON is a number that no height or width can be, NaN among them. 0 and
    below count as missing."""
    return isinstance(side, int | float) and not -(2**31) < side < 2**31


def _count_broken(headers: Headers, report: Report, rules: ImageRules) -> dict[int, str]:
    """Errors of the files that cannot be decoded by their row; ValueError where they are not to be
    passed over."""
    broken, total = headers.errors, len(headers.sizes)
    if broken:
        first = next(iter(broken.values()))
        if rules.bad == "error":
            raise ValueError(
                f"{len(broken)} of {total} images are broken, first: {first}; with "
                "--config.data.bad_images=replace others are read in their place"
            )
        if len(broken) > MOST_BROKEN * total:
            raise ValueError(
                f"{len(broken)} of {total} images are broken, first: {first}; is the download "
                "whole?"
            )
    report.add(BROKEN, list(broken.values()))
    return broken


def _checked_sizes(
    path: Path,
    files: list[str],
    sizes: np.ndarray,
    headers: Headers,
    whole: np.ndarray,
    report: Report,
) -> np.ndarray:
    """The sizes i32[I,2] that annotations are made on, see `compare_sizes`; `whole` bool[I] are
    read. Contradictions are refused."""
    stored = headers.sizes
    compared = compare_sizes(sizes, stored, headers.turned)
    wrong = np.flatnonzero(compared.wrong & whole).tolist()
    _refuse_sizes(path, files, sizes, stored, wrong)

    def named(rows: np.ndarray) -> list[str]:
        return [files[row] for row in np.flatnonzero(rows).tolist()]

    report.add(
        "images with height and width exchanged in the JSON, those of the file used",
        named(compared.exchanged & whole),
    )
    report.add(
        "images of another size than in the JSON and the same aspect, boxes are scaled to them",
        named(compared.scaled & whole),
    )
    # Decoding turns an image only if that gives exactly the size.
    turned = stored[:, ::-1]
    sizes = np.where((compared.as_shown & whole)[:, None], turned, sizes)
    exchanged = compared.exchanged & whole
    return np.where(exchanged[:, None], stored, sizes).astype(np.int32)


def _refuse_sizes(
    path: Path, files: list[str], sizes: np.ndarray, stored: np.ndarray, rows: list[int]
) -> None:
    """Raises ValueError where sizes i32[I,2] of the JSON tell nothing about the files of these
    rows."""
    if not rows:
        return
    (height, width), (real_height, real_width) = sizes[rows[0]].tolist(), stored[rows[0]].tolist()
    raise ValueError(
        f"annotation file {path}: {len(rows)} images are of another size than their files, first: "
        f"{files[rows[0]]} is {real_width} x {real_height} pixels (width x height) and {width} x "
        f"{height} in the JSON; correct width and height in the JSON, or give the images it was "
        "made for"
    )


def read_file(file: str) -> bytes:
    """Content of an image file; ValueError where it cannot be read, or is no file (reading a
    pipe would not end)."""
    try:
        check_regular(file, os.stat(file))
        with open(file, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise ValueError(
            f"image {file} cannot be read: {error}; is the disk still there?"
        ) from error
