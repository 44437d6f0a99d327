"""The columns of an annotation file: a COCO-format JSON as NumPy arrays, and the cache that saves
reading it again.

Columns are a dictionary of arrays; n annotations stand in the order of the file:
    images, categories: u8, JSON text of the two lists, without the keys that are not used;
    ids: i64[n], or texts where one is no integer; image_id, category_id: i64[n];
    boxes: f64[n,4] x, y, width, height in pixels; area: f64[n] pixels², NaN where the file has none
        that is positive;
    crowd: bool[n]; bad: bool[n], annotations that break the format, to be left out;
    report: u8, what was counted (coco.json.Report.content);
    those of outlines.read_segmentations and keypoints.read_keypoints where asked for.
"""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path, PurePath

import numpy as np

from pix2seq_jax.data.coco import json as coco_json
from pix2seq_jax.data.coco.files import is_impossible
from pix2seq_jax.data.coco.json import BadAnnotations, Report, number_rows, whole_numbers
from pix2seq_jax.data.coco.keypoints import Keypoints, read_keypoints
from pix2seq_jax.data.coco.outlines import read_segmentations
from pix2seq_jax.files.locations import absolute, open_to_read, state_of
from pix2seq_jax.files.whole import save_arrays

log = logging.getLogger("pix2seq_jax")

_VERSION = 1  # of what the arrays mean; another one in a file of the cache: it is not used
_IMAGE_KEYS = ("id", "file_name", "height", "width")
_CATEGORY_KEYS = ("id", "name", "keypoints", "skeleton")
_CROWD = {None: False, 0: False, 1: True, "0": False, "1": True}  # 0 == False in Python


@dataclasses.dataclass(frozen=True)
class Cache:
    """Files with the columns of annotation files.

    Attributes:
        folder: of one file for each annotation file and way to read it; made when it is needed.
        writes: whether this process writes; one of those that share the folder is enough.
        unsaved: what `save` will write: file -> its key and columns.
    """

    folder: PurePath
    writes: bool = True
    unsaved: dict[PurePath, tuple[str, dict[str, np.ndarray]]] = dataclasses.field(
        default_factory=dict
    )

    def save(self) -> None:
        """Writes the columns that were read from annotation files since the last call."""
        for file, (key, columns) in self.unsaved.items():
            _save(file, key, columns)
        self.unsaved.clear()


def read_columns(
    path: PurePath,
    *,
    outlines: bool = False,
    keypoints: bool = False,
    bad: str = "error",
    cache: Cache | None = None,
) -> dict[str, np.ndarray]:
    """The columns of an annotation file, see the module.

    Args:
        path: COCO-format JSON with images, annotations and categories.
        outlines: whether to read `segmentation`.
        keypoints: whether to read `keypoints`; the JSON must be of the kind person_keypoints.
        bad: "error" or "drop", what becomes of annotations that break the format.
        cache: of this and other files; one that cannot be used is a line in the log.

    Raises:
        ValueError: the file is missing, broken, or not COCO; names it, the value and the remedy.
    """
    if not (cache and path.is_file()):
        return _read(path, outlines, keypoints, bad)
    how = [str(absolute(path)), outlines, keypoints, bad]
    key = json.dumps([_VERSION, *how, *state_of(path)])
    digest = hashlib.sha256(json.dumps(how).encode()).hexdigest()
    file = cache.folder / f"{path.stem}-{digest[:16]}.npz"
    unsaved_key, columns = cache.unsaved.get(file, ("", None))
    if unsaved_key != key:
        columns = _load(file, key)
    if columns is None:
        columns = _read(path, outlines, keypoints, bad)
        if cache.writes:
            cache.unsaved[file] = key, columns
    return columns


def _read(path: Path, outlines: bool, keypoints: bool, rule: str) -> dict[str, np.ndarray]:
    """From the JSON; its Python objects, five times as large as the text, are gone afterwards."""
    with coco_json.no_collector():
        return _columns(path, outlines, keypoints, rule)


def _columns(path: Path, outlines: bool, keypoints: bool, rule: str) -> dict[str, np.ndarray]:
    report = Report()
    content = coco_json.read_json(path, ("images", "annotations", "categories"))
    _check_sides(path, content["images"])
    columns = {
        "images": text_column(_reduced(content["images"], _IMAGE_KEYS)),
        "categories": text_column(_reduced(content["categories"], _CATEGORY_KEYS)),
    }
    bad = BadAnnotations(path, coco_json.annotation_ids(content["annotations"]), rule, report)
    records = coco_json.dicts(content["annotations"], bad)
    columns |= _read_objects(records, bad)
    if outlines:
        columns |= read_segmentations(records, bad)
    if keypoints:
        categories = content["categories"]
        ids = coco_json.column(path, categories, "id", "categories")
        coco_json.integers(path, ids, "id", "categories")
        columns |= read_keypoints(records, len(Keypoints(path, categories).names), bad)
    return columns | {"ids": bad.ids, "bad": bad.rows, "report": text_column(report.content())}


def _check_sides(path: Path, records: list) -> None:
    """Raises ValueError for a width or height that no image has; missing ones are read from the
    files."""
    for row, record in enumerate(records):
        for key in ("height", "width"):
            side = record.get(key) if isinstance(record, dict) else None
            if is_impossible(side):
                raise ValueError(
                    f"annotation file {path}: images[{row}] has the {key} "
                    f"{coco_json.shown(side)}; give pixels, or remove the value: it is read from "
                    "the file then"
                )


def _reduced(records: list, keys: tuple[str, ...]) -> list:
    """The records with only these keys; what is no object stays, for the error."""
    return [
        {key: record[key] for key in keys if key in record} if isinstance(record, dict) else record
        for record in records
    ]


def text_column(content) -> np.ndarray:
    """JSON values as u8[bytes]."""
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def content_of(column: np.ndarray):
    """What `text_column` was made of."""
    return json.loads(column.tobytes())


def _read_objects(records: list[dict], bad: BadAnnotations) -> dict[str, np.ndarray]:
    """The columns that every annotation has."""
    columns = {}
    for key in ("image_id", "category_id"):
        columns[key], wrong = whole_numbers([record.get(key) for record in records])
        bad.add_values(wrong, records, key, f"a value of {key} that is no whole number")
    columns["boxes"] = number_rows([record.get("bbox") for record in records], 4)
    wrong = np.isnan(columns["boxes"]).any(axis=1)
    bad.add_values(
        wrong, records, "bbox", "a box that is not four finite numbers [x, y, width, height]"
    )
    columns["crowd"], wrong = read_crowd([record.get("iscrowd") for record in records])
    bad.add_values(wrong, records, "iscrowd", "an iscrowd that is neither 0 nor 1")
    areas = (record.get("area") for record in records)
    area = np.array([value if is_area(value) else np.nan for value in areas], np.float64)
    return columns | {"area": area}


def is_area(value) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 < value < coco_json.LARGEST**2
    )


def read_crowd(values: list) -> tuple[np.ndarray, np.ndarray]:
    """`iscrowd` entries -> what they say, bool[n], and which of them say nothing, bool[n]."""
    wrong = np.zeros(len(values), bool)
    try:
        return np.array([_CROWD[value] for value in values], bool), wrong
    except (KeyError, TypeError):
        crowd = np.zeros(len(values), bool)
        for row, value in enumerate(values):
            try:
                crowd[row] = _CROWD[value]
            except (KeyError, TypeError):
                wrong[row] = True
        return crowd, wrong


def _load(file: PurePath, key: str) -> dict[str, np.ndarray] | None:
    """The columns with this key in a file; None where there are none."""
    try:
        if not file.is_file():
            return None
        with open_to_read(file) as stream, np.load(stream, allow_pickle=False) as content:
            if content_of(content["key"]) != key:
                return None  # of another state of the annotation file
            return {name: content[name] for name in content.files if name != "key"}
    except Exception as error:  # NumPy and zipfile raise many kinds on damaged files
        log.warning(
            "%s cannot be used (%s: %s); the annotation file is read",
            file,
            type(error).__name__,
            error,
        )
        return None


def _save(file: PurePath, key: str, columns: dict[str, np.ndarray]) -> None:
    """Writes the columns; a file that cannot be written is a line in the log."""
    try:
        save_arrays(file, {"key": text_column(key), **columns})
    except OSError as error:
        log.warning(
            "%s cannot be written (%s); annotations will be read again by the next run", file, error
        )
