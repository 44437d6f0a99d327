"""Reading COCO-format JSON: what CocoDir and CocoCaptions have in common. Errors name the file and the place in it."""

import contextlib
import gc
import json
import os
import threading
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from pix2seq_jax.data.images import header_size

_NAMED = 3  # how many offenders of each kind a report names


class Report(Counter):
    """What was repaired or left out, kind -> count, and the first names of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self._named: dict[str, list[str]] = defaultdict(list)
        self._once: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def add(self, kind: str, names: list) -> None:
        """Counts the names; no names, no entry."""
        if names:
            self[kind] += len(names)
            self._named[kind] += [str(name) for name in names[: _NAMED - len(self._named[kind])]]

    def add_once(self, kind: str, name) -> None:
        """Counts a name that may be met again and again, while images are read by several threads."""
        with self._lock:
            if (kind, str(name)) not in self._once:
                self._once.add((kind, str(name)))
                self.add(kind, [name])

    def replace(self, kind: str, names: list) -> None:
        """Counts the names in place of those counted before."""
        self.pop(kind, None)
        self._named.pop(kind, None)
        self.add(kind, names)

    def describe(self, file: str = "") -> str:
        """One line per kind with the first names, the file before it if given; "" when there is nothing to report."""
        with self._lock:
            lines = [f"{count} {kind} (first: {', '.join(self._named[kind])})" for kind, count in self.items()]
        return "\n".join(f"{file}: {line}" if file else line for line in lines)


@contextlib.contextmanager
def _no_collector():
    """The garbage collector walks the millions of new objects of a large JSON again and again: a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_json(path: Path, lists: tuple[str, ...]) -> dict:
    """The annotation file, an object with these lists; ValueError names the place in the file and what is missing."""
    if not path.is_file():
        raise ValueError(f"annotation file {path} does not exist; give the path of a COCO-format JSON")
    try:
        with path.open(encoding="utf-8") as file, _no_collector():
            content = json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"annotation file {path} is broken JSON: {error.msg} at line {error.lineno} column {error.colno}; "
            "copy or write the file again"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"annotation file {path} is not UTF-8 text: {error}; save it as UTF-8") from error
    for key in lists:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(
                f"annotation file {path} is not COCO format: it has no list {key!r}; "
                f"it must be an object with the lists {', '.join(lists[:-1])} and {lists[-1]}"
            )
    return content


def column(path: Path, records: list, key: str, what: str) -> list:
    """Values of a key that every record must have."""
    try:
        return [record[key] for record in records]
    except (KeyError, TypeError) as error:
        index = next(i for i, record in enumerate(records) if not isinstance(record, dict) or key not in record)
        raise ValueError(
            f"annotation file {path} is not COCO format: {what}[{index}] has no {key!r}: {str(records[index])[:200]}"
        ) from error


def integers(path: Path, values: list, key: str, what: str) -> np.ndarray:
    """Identifiers as int64[n]; ids written as digit strings are accepted, others refused."""
    try:
        return np.array([int(v) for v in values], np.int64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"annotation file {path}: a {key!r} of {what} is not an integer: {error}") from error


def _locate(path: Path, folder: Path, names: list[str]) -> list[str]:
    """Existing path of every file name; ValueError names the first one that is missing.

    Folders are listed once instead of one `stat` per file (118k files on a network disk). Names are compared in Unicode
    normal form C: some systems store decomposed letters where the JSON has composed ones.
    """
    if not folder.is_dir():
        raise ValueError(f"image folder {folder} does not exist; give the folder that holds the images of {path}")
    listings: dict[str, dict[str, str]] = {}
    found, missing = [], []
    for name in names:
        head, tail = os.path.split(str(name))
        if head not in listings:
            parent = folder / head
            entries = os.listdir(parent) if parent.is_dir() else []
            listings[head] = {unicodedata.normalize("NFC", entry): entry for entry in entries}
        entry = listings[head].get(unicodedata.normalize("NFC", tail))
        (missing if entry is None else found).append(str(name) if entry is None else os.path.join(folder, head, entry))
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} images of {path} are not in the folder {folder}, first: {missing[0]}; "
            "give the folder that the file names of the JSON start from, or remove these images from the JSON"
        )
    return found


def read_images(path: Path, folder: Path, records: list, report: Report) -> tuple[np.ndarray, list[str], np.ndarray]:
    """The list `images` of a file -> ids i64[I], paths, sizes i32[I,2] (height, width).

    Raises:
        ValueError: there are none, one has no id or file name, ids are not unique, a file is missing.
    """
    ids = integers(path, column(path, records, "id", "images"), "id", "images")
    names = column(path, records, "file_name", "images")
    first: dict[int, int] = {}
    keep = []
    for row, image_id in enumerate(ids.tolist()):
        if names[first.setdefault(image_id, row)] != names[row]:
            raise ValueError(
                f"annotation file {path}: image id {image_id} is given to {names[first[image_id]]} and to "
                f"{names[row]}; ids must be unique"
            )
        if first[image_id] == row:
            keep.append(row)
    if not keep:
        raise ValueError(f"annotation file {path}: the list images is empty; at least one image is needed")
    if len(keep) < len(ids):
        report.add("images listed twice, read once", sorted(set(range(len(ids))) - set(keep)))
    files = _locate(path, folder, [names[row] for row in keep])
    sizes = [(records[row].get("height"), records[row].get("width")) for row in keep]
    unsized = [i for i, size in enumerate(sizes) if not all(isinstance(n, int | float) and n >= 1 for n in size)]
    for i in unsized:
        sizes[i] = header_size(files[i])
    report.add("images without width and height, read from the file", [files[i] for i in unsized])
    return ids[keep], files, np.array(sizes, np.int32).reshape(-1, 2)


def read_file(file: str) -> bytes:
    """Content of an image file; ValueError where it cannot be read."""
    try:
        with open(file, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise ValueError(f"image {file} cannot be read: {error}; is the disk still there?") from error


def rows_of_images(path: Path, image_ids: np.ndarray, records: list, report: Report) -> tuple[np.ndarray, np.ndarray]:
    """Annotations of known images, those of one image together and in the order of the file.

    Args:
        image_ids: i64[I].
        records: the list `annotations`.

    Returns:
        Their rows in the list i64[n], and of each the number of its image i64[n], which does not decrease.
    """
    wanted = integers(path, column(path, records, "image_id", "annotations"), "image_id", "annotations")
    order = np.argsort(image_ids, kind="stable")
    image = order[np.minimum(np.searchsorted(image_ids, wanted, sorter=order), len(order) - 1)]
    known = image_ids[image] == wanted
    report.add("annotations of images that are not listed, dropped", wanted[~known].tolist())
    rows = np.flatnonzero(known)
    rows = rows[np.argsort(image[rows], kind="stable")]
    return rows, image[rows]
