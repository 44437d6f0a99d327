"""Reading COCO-format JSON: what CocoDir and CocoCaptions have in common. Errors name the file and
the record."""

import contextlib
import ctypes
import gc
import itertools
import json
import sys
import threading
from collections import Counter, defaultdict
from pathlib import Path, PurePath

import numpy as np

_NAMED = 3  # how many offenders of each kind a report names
_SHOWN = 200  # characters of a value that an error shows
_ID_LENGTH = 60  # characters of an annotation id that is text
_FILE_NAME, _PIECE = b'"file_name"', 2**24  # key of an image; bytes
LARGEST = 1e9  # pixels; coordinates beyond it are no coordinates


class Report(Counter):
    """What was repaired or left out, kind -> count, and the first names of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self._named: dict[str, list[str]] = defaultdict(list)
        self._once: dict[tuple[str, str], None] = {}  # a set in order
        self._lock = threading.Lock()

    def add(self, kind: str, names: list) -> None:
        """Counts the names; no names, no entry."""
        if names:
            self[kind] += len(names)
            self._named[kind] += [str(name) for name in names[: _NAMED - len(self._named[kind])]]

    def add_once(self, kind: str, name) -> None:
        """Counts a name that may be met again and again, while images are read by several
        threads."""
        with self._lock:
            if (kind, str(name)) not in self._once:
                self._once[kind, str(name)] = None
                self.add(kind, [name])

    def once(self, start: int = 0) -> list[tuple[str, str]]:
        """(kind, name) of what `add_once` has counted, from number `start` on."""
        with self._lock:
            return list(itertools.islice(self._once, start, None))

    def replace(self, kind: str, names: list) -> None:
        """Counts the names in place of those counted before."""
        self.pop(kind, None)
        self._named.pop(kind, None)
        self.add(kind, names)

    def content(self) -> list[list]:
        """All that was counted, as values of a JSON, for `add_content`."""
        return [[kind, count, self._named[kind]] for kind, count in self.items()]

    def add_content(self, content: list[list]) -> None:
        """Counts what another report has counted."""
        for kind, count, named in content:
            self[kind] += count
            self._named[kind] += named[: _NAMED - len(self._named[kind])]

    def describe(self, file: str = "") -> str:
        """One line per kind with the first names, the file before it if given; "" when there is
        nothing to report."""
        with self._lock:
            lines = [
                f"{count} {kind} (first: {', '.join(self._named[kind])})"
                for kind, count in self.items()
            ]
        return "\n".join(f"{file}: {line}" if file else line for line in lines)


@contextlib.contextmanager
def no_collector():
    """The garbage collector walks the millions of new objects of a large JSON again and again: a
    third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_json(path: Path, lists: tuple[str, ...]) -> dict:
    """The annotation file, an object with these lists; ValueError names the line or the
    list that is missing."""
    if not path.is_file():
        raise ValueError(
            f"annotation file {path} does not exist; give the path of a COCO-format JSON"
        )
    try:
        with path.open(encoding="utf-8-sig") as file, no_collector():
            content = json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"annotation file {path} is broken JSON: {error.msg} at line {error.lineno} column "
            f"{error.colno}; copy or write the file again"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"annotation file {path} is not UTF-8 text: {error}; save it as UTF-8"
        ) from error
    except RecursionError as error:
        raise ValueError(
            f"annotation file {path} is not COCO format: its lists are nested too deep to be "
            "read; write it again"
        ) from error
    except OSError as error:
        raise ValueError(
            f"annotation file {path} cannot be read: {error}; correct its permissions"
        ) from error
    except ValueError as error:  # an integer of more than 4300 digits
        raise ValueError(
            f"annotation file {path} cannot be read: {error}; correct this number"
        ) from error
    for key in lists:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(
                f"annotation file {path} is not COCO format: it has no list {key!r}; "
                f"it must be an object with the lists {', '.join(lists[:-1])} and {lists[-1]}"
            )
    return content


def count_images(path: PurePath) -> int:
    """The images that a COCO-format JSON lists, by their key "file_name", without parsing it: it is
    read at the rate of its disk, and held a piece at a time."""
    count, rest = 0, b""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            piece = rest + piece
            count += piece.count(_FILE_NAME)
            # Shorter than the key, so that nothing counts twice.
            rest = piece[-(len(_FILE_NAME) - 1) :]
    return count


def return_memory() -> None:
    """Gives freed memory back to the system.

    The objects of a large JSON are freed in pieces that glibc keeps for later, gigabytes for COCO;
    nothing later needs them.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def shown(value) -> str:
    """A value of a JSON for an error, not longer than a line; "?" is what UTF-8 cannot hold."""
    return str(value)[:_SHOWN].encode("utf-8", "replace").decode()


def has(record: dict, key: str) -> str:
    """What a record has under a key, for an error: "has bbox [1, 2]" or "has no 'bbox'"."""
    return f"has {key} {shown(record[key])}" if key in record else f"has no {key!r}"


def column(path: Path, records: list, key: str, what: str) -> list:
    """Values of a key that every record must have."""
    try:
        return [record[key] for record in records]
    except (KeyError, TypeError) as error:
        index = next(
            i
            for i, record in enumerate(records)
            if not isinstance(record, dict) or key not in record
        )
        raise ValueError(
            f"annotation file {path} is not COCO format: {what}[{index}] has no {key!r}: "
            f"{shown(records[index])}"
        ) from error


def _whole(value) -> int:
    """Raises TypeError, ValueError or OverflowError for what is no whole number."""
    if isinstance(value, bool):
        raise TypeError("a truth value is no number")
    number = int(value)
    if isinstance(value, float) and value != number:
        raise ValueError("a number with a fraction is not whole")
    return number


def whole_numbers(values: list) -> tuple[np.ndarray, np.ndarray]:
    """Values of a JSON -> i64[n], and bool[n], which of them are no whole numbers of 64 bits (0
    stands there).

    Digits in a text and floats without a fraction are whole numbers; truth values are not.
    """
    wrong = np.zeros(len(values), bool)
    if all(type(value) is int for value in values):
        with contextlib.suppress(OverflowError):
            return np.array(values, np.int64), wrong
    numbers = np.zeros(len(values), np.int64)
    for row, value in enumerate(values):
        try:
            numbers[row] = _whole(value)
        except (TypeError, ValueError, OverflowError):
            wrong[row] = True
    return numbers, wrong


def integers(path: Path, values: list, key: str, what: str) -> np.ndarray:
    """Identifiers as int64[n], see `whole_numbers`; ValueError names the first that is none."""
    numbers, wrong = whole_numbers(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"annotation file {path}: the {key!r} of {what} is not an integer, first: "
            f"{what}[{row}] has {shown(repr(values[row]))}; give whole numbers of at most 64 bits"
        )
    return numbers


def number_rows(values: list, width: int) -> np.ndarray:
    """Lists of `width` numbers -> f64[n,width]; a row of NaN for what is none, or has a number
    beyond LARGEST."""
    try:
        numbers = np.array(values, np.float64).reshape(len(values), width)
    except (TypeError, ValueError, OverflowError):
        numbers = np.full((len(values), width), np.nan)
        for row, value in zip(numbers, values, strict=True):
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                row[:] = np.array(value, np.float64).reshape(width)
    numbers[~(np.abs(numbers) < LARGEST).all(axis=1)] = np.nan
    return numbers


def annotation_ids(records: list) -> np.ndarray:
    """Ids of annotations for errors and reports, by default their number in the list: i64[n],
    or texts where one is no integer."""
    values = [
        record.get("id", row) if isinstance(record, dict) else row
        for row, record in enumerate(records)
    ]
    if all(type(value) is int for value in values):
        with contextlib.suppress(OverflowError):
            return np.array(values, np.int64)
    return np.array([str(value)[:_ID_LENGTH] for value in values], np.str_)


class BadAnnotations:
    """The one rule for annotations that break the format: the file is refused, or they are left out
    and counted.

    Attributes:
        ids: i64[n] or str[n], of all annotations of the file.
        rows: bool[n], those that are left out.
    """

    def __init__(self, path: Path, ids: np.ndarray, rule: str, report: Report) -> None:
        """Starts without any; `rule` is "error" or "drop"; the report counts those that are left
        out."""
        if rule not in ("error", "drop"):
            raise ValueError(f"config.data.bad_annotations={rule!r}: give 'error' or 'drop'")
        self.ids, self.rows = ids, np.zeros(len(ids), bool)
        self._path, self._drop, self._report = path, rule == "drop", report

    def name(self, row: int) -> str:
        """An annotation for an error."""
        return f"annotation {self.ids[row]}"

    def add(self, rows, what: str, first: str) -> None:
        """These annotations break the format.

        Args:
            rows: their rows, ascending.
            what: what they all have, after "annotations with".
            first: a clause that names the first one and shows its value.

        Raises:
            ValueError: the rule is "error".
        """
        rows = np.asarray(rows, np.int64)
        if not len(rows):
            return
        if not self._drop:
            raise ValueError(
                f"annotation file {self._path}: {len(rows)} annotations with {what}, first: "
                f"{first}; correct or remove them, or leave them out by "
                "--config.data.bad_annotations=drop"
            )
        fresh = rows[~self.rows[rows]]
        self._report.add(f"annotations with {what}, left out", self.ids[fresh].tolist())
        self.rows[fresh] = True

    def add_values(self, wrong: np.ndarray, records: list[dict], key: str, what: str) -> None:
        """Adds the annotations bool[n] whose value of a key is wrong."""
        rows = np.flatnonzero(wrong)
        if len(rows):
            self.add(rows, what, f"{self.name(rows[0])} {has(records[rows[0]], key)}")


def dicts(records: list, bad: BadAnnotations) -> list[dict]:
    """The annotations; what is no object is bad, and {} stands for it."""
    wrong = [row for row, record in enumerate(records) if not isinstance(record, dict)]
    if not wrong:
        return records
    bad.add(wrong, "no keys", f"annotations[{wrong[0]}] is {shown(records[wrong[0]])}")
    return [record if isinstance(record, dict) else {} for record in records]


def index_images(image_ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Indices i64[n] of the ids `wanted` i64[n] among `image_ids` i64[I], which differ; -1 where an
    id is not there."""
    order = np.argsort(image_ids, kind="stable")
    index = order[np.minimum(np.searchsorted(image_ids, wanted, sorter=order), len(order) - 1)]
    return np.where(image_ids[index] == wanted, index, -1)
