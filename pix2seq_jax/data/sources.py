"""Randomly accessible sources: `len(source)` images, `source[i]` -> raw features of image i."""

import contextlib
import gc
import json
import os
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from pix2seq_jax.data.images import header_size

_CLIP_TOLERANCE = 1e-3  # pixels; JSON files round box + size to two decimals
UNNAMED = "class {}"  # stands for the name of a label that nobody named
_NAMED = 3  # how many offenders of each kind a report names


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


def _read_json(path: Path) -> dict:
    """The annotation file; ValueError names the file, the place in it and what is missing."""
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
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(
                f"annotation file {path} is not COCO format: it has no list {key!r}; "
                "it must be an object with the lists images, annotations and categories"
            )
    return content


def _column(path: Path, records: list, key: str, what: str) -> list:
    """Values of a key that every record must have."""
    try:
        return [record[key] for record in records]
    except (KeyError, TypeError) as error:
        index = next(i for i, record in enumerate(records) if not isinstance(record, dict) or key not in record)
        raise ValueError(
            f"annotation file {path} is not COCO format: {what}[{index}] has no {key!r}: {str(records[index])[:200]}"
        ) from error


def _integers(path: Path, values: list, key: str, what: str) -> np.ndarray:
    """Identifiers as int64[n]; ids written as digit strings are accepted, others refused."""
    try:
        return np.array([int(v) for v in values], np.int64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"annotation file {path}: a {key!r} of {what} is not an integer: {error}") from error


def _boxes(path: Path, values: list, ids: list) -> np.ndarray:
    """`bbox` entries -> f64[n,4] as in the file (x, y, width, height in pixels); refuses what is not four numbers."""
    try:
        boxes = np.array(values, np.float64).reshape(len(values), 4)
    except (TypeError, ValueError):
        boxes = np.full((len(values), 4), np.nan)
        for row, value in zip(boxes, values, strict=True):
            if isinstance(value, list) and len(value) == 4 and all(isinstance(v, int | float) for v in value):
                row[:] = value
    bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if bad.size:
        raise ValueError(
            f"annotation file {path}: {bad.size} boxes are not four finite numbers [x, y, width, height], first: "
            f"annotation {ids[bad[0]]} has bbox {values[bad[0]]}; correct or remove these annotations"
        )
    return boxes


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


class CocoDir:
    """A folder of images and a COCO-format JSON, held as columns (one NumPy array per field, not a dict per object).

    `source[i]` gives the raw features of image i:
        image: bytes of the file; file: its path; image_id: i64; orig_size: i32[2], height and width by the JSON;
        boxes: f32[n,4] yxyx normalised to the image and clipped to it; labels: i32[n], 1..C in the order of the
        JSON's categories; area: f32[n] pixels² of the annotation; is_crowd: bool[n]; scores: f32[n], 1.

    Attributes:
        annotations_path: the JSON.
        category_names, category_ids: label l is `category_names[l-1]`, `category_ids[l-1]`; a category of `label_ids`
            that the JSON lacks is UNNAMED.
        image_ids: i64[len].
        files: paths.
        report: what was repaired or dropped, kind -> count; `describe()` names the first ones.
    """

    def __init__(self, images: str | Path, annotations: str | Path, *, keep_empty: bool = True, label_ids=()) -> None:
        """Opens the JSON, checks it and the existence of every image.

        Args:
            images: folder that the `file_name`s start from.
            annotations: COCO-format JSON (instances).
            keep_empty: keep images that have no object but crowd regions; the published runs train without them.
            label_ids: category id of label 1, 2, …; () for the order of the JSON. Published models take the category
                ids for labels, gaps included.

        Raises:
            ValueError: the folder, the JSON or an image is missing, the JSON is broken or not COCO, a box is not
                finite, a category id is unknown, ids are not unique.
        """
        self.annotations_path, self.folder = Path(annotations), Path(images)
        self.report: Counter[str] = Counter()
        self._named: dict[str, list[str]] = defaultdict(list)
        content = _read_json(self.annotations_path)
        self._read_categories(content["categories"], tuple(label_ids))
        self._read_images(content["images"])
        self._read_objects(content["annotations"])
        self._clip()
        if not keep_empty:
            self._drop_empty()

    def _count(self, kind: str, names: list) -> None:
        """Adds to the report."""
        if names:
            self.report[kind] += len(names)
            self._named[kind] += [str(name) for name in names[: _NAMED - len(self._named[kind])]]

    def _read_categories(self, records: list, label_ids: tuple[int, ...]) -> None:
        path = self.annotations_path
        ids = _integers(path, _column(path, records, "id", "categories"), "id", "categories")
        if not len(ids):
            raise ValueError(f"annotation file {path}: the list categories is empty; at least one category is needed")
        double = [i for i, count in Counter(ids.tolist()).items() if count > 1]
        if double:
            raise ValueError(f"annotation file {path}: category id {double[0]} is given twice; ids must be unique")
        names = (str(name) for name in _column(path, records, "name", "categories"))
        self._listed = dict(zip(ids.tolist(), names, strict=True))
        self.category_ids = label_ids or tuple(self._listed)
        self.category_names = tuple(
            self._listed.get(category_id, UNNAMED.format(label))
            for label, category_id in enumerate(self.category_ids, 1)
        )

    def _read_images(self, records: list) -> None:
        path = self.annotations_path
        ids = _integers(path, _column(path, records, "id", "images"), "id", "images")
        names = _column(path, records, "file_name", "images")
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
            self._count("images listed twice, read once", sorted(set(range(len(ids))) - set(keep)))
        self.image_ids = ids[keep]
        self.files = _locate(path, self.folder, [names[row] for row in keep])
        sizes = [(records[row].get("height"), records[row].get("width")) for row in keep]
        unsized = [i for i, size in enumerate(sizes) if not all(isinstance(n, int | float) and n >= 1 for n in size)]
        for i in unsized:
            sizes[i] = header_size(self.files[i])
        self._count("images without width and height, read from the file", [self.files[i] for i in unsized])
        self.sizes = np.array(sizes, np.int32).reshape(-1, 2)  # height, width

    def _read_objects(self, records: list) -> None:
        """Columns of all annotations of known images, sorted by image; boxes as in the file."""
        path = self.annotations_path
        image_ids = _integers(path, _column(path, records, "image_id", "annotations"), "image_id", "annotations")
        order = np.argsort(self.image_ids, kind="stable")
        place = np.searchsorted(self.image_ids, image_ids, sorter=order)
        image = order[np.minimum(place, len(order) - 1)]
        known = self.image_ids[image] == image_ids
        self._count("annotations of images that are not listed, dropped", image_ids[~known].tolist())
        rows = np.flatnonzero(known)
        rows = rows[np.argsort(image[rows], kind="stable")]
        records = [records[row] for row in rows.tolist()]
        self._image, self._image_id = image[rows], image_ids[rows]
        self._ids = [record.get("id", row) for record, row in zip(records, rows.tolist(), strict=True)]
        categories = _integers(path, _column(path, records, "category_id", "annotations"), "category_id", "annotations")
        self._labels = self._to_labels(categories)
        self._xywh = _boxes(path, _column(path, records, "bbox", "annotations"), self._ids)
        self._crowd = np.array([bool(record.get("iscrowd", 0)) for record in records], bool)
        areas = (record.get("area") for record in records)
        area = np.array([a if isinstance(a, int | float) else np.nan for a in areas], np.float64)
        self._area = np.where(np.isfinite(area), area, self._xywh[:, 2] * self._xywh[:, 3])

    def _to_labels(self, categories: np.ndarray) -> np.ndarray:
        """Category ids -> labels i32[n]."""
        ids = np.array(self.category_ids, np.int64)
        order = np.argsort(ids)
        label = order[np.minimum(np.searchsorted(ids, categories, sorter=order), len(ids) - 1)]
        unknown = np.flatnonzero(ids[label] != categories)
        if unknown.size:
            raise ValueError(
                f"annotation file {self.annotations_path}: {unknown.size} annotations have an unknown category id, "
                f"first: annotation {self._ids[unknown[0]]} has category_id {categories[unknown[0]]}; the categories "
                f"are {list(self.category_ids)[:100]}; add the category or correct the annotation"
            )
        return (label + 1).astype(np.int32)

    def _clip(self) -> None:
        """Boxes in the file -> normalised yxyx clipped to the image; rows without area leave the training columns."""
        size = self.sizes[self._image].astype(np.float64)  # [n,2] height, width
        low = self._xywh[:, 1::-1]
        corners = np.concatenate([low, low + self._xywh[:, 3:1:-1]], axis=1)
        limits = np.concatenate([size, size], axis=1)
        clipped = np.clip(corners, 0, limits)
        outside = (np.abs(clipped - corners) > _CLIP_TOLERANCE).any(axis=1)
        boxes = (clipped / limits).astype(np.float32)
        area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        self._count("boxes outside their image, clipped", [self._ids[i] for i in np.flatnonzero(outside & area)])
        self._count("boxes without area, dropped", [self._ids[i] for i in np.flatnonzero(~area)])
        self._rows = np.flatnonzero(area)  # into the columns of all annotations
        self._boxes = boxes[self._rows]
        bounds = np.searchsorted(self._image[self._rows], np.arange(len(self) + 1))
        self._starts, self._stops = bounds[:-1], bounds[1:]  # of each image, into _rows and _boxes

    def _objects(self) -> np.ndarray:
        """Objects of each image, crowd regions aside: i64[len]."""
        total = np.concatenate([[0], np.cumsum(~self._crowd[self._rows])])
        return total[self._stops] - total[self._starts]

    def _drop_empty(self) -> None:
        """Leaves out the images that have no object to learn from."""
        keep = self._objects() > 0
        if not keep.any():
            raise ValueError(f"annotation file {self.annotations_path}: no image has an object to learn from")
        self._count("images without objects, left out", self.image_ids[~keep].tolist())
        self.files = [file for file, kept in zip(self.files, keep, strict=True) if kept]
        self.image_ids, self.sizes = self.image_ids[keep], self.sizes[keep]
        self._starts, self._stops = self._starts[keep], self._stops[keep]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> dict:
        """Raw features of one image, see the class. Raises ValueError where the file cannot be read."""
        file = self.files[index]
        try:
            with open(file, "rb") as stream:
                data = stream.read()
        except OSError as error:
            raise ValueError(f"image {file} cannot be read: {error}; is the disk still there?") from error
        part = slice(self._starts[index], self._stops[index])
        rows = self._rows[part]
        return {
            "image": data,
            "file": file,
            "image_id": self.image_ids[index],
            "orig_size": self.sizes[index],
            "boxes": self._boxes[part],
            "labels": self._labels[rows],
            "area": self._area[rows].astype(np.float32),
            "is_crowd": self._crowd[rows],
            "scores": np.ones(len(rows), np.float32),
        }

    def count_over(self, slots: int) -> int:
        """Counts and reports the images with more objects than `slots`; a batch leaves out the rest. Crowds aside."""
        over = np.flatnonzero(self._objects() > slots)
        kind = f"images with more than {slots} objects, the rest left out"
        self.report.pop(kind, None)
        self._named.pop(kind, None)
        self._count(kind, self.image_ids[over].tolist())
        return len(over)

    def describe(self) -> str:
        """One line per kind of repair, with the first ids or files; "" when the data needed none."""
        lines = [f"{count} {kind} (first: {', '.join(self._named[kind])})" for kind, count in self.report.items()]
        return "\n".join(f"{self.annotations_path.name}: {line}" for line in lines)

    def coco_dict(self) -> dict:
        """The images, annotations (boxes as in the file, no polygons) and categories for pycocotools.

        Fills in `area`, `iscrowd`, `id`, `width` and `height` where the file had none.
        """
        images = [
            {"id": int(i), "file_name": file, "height": int(h), "width": int(w)}
            for i, file, (h, w) in zip(self.image_ids, self.files, self.sizes, strict=True)
        ]
        annotations = [
            {
                "id": row + 1,  # pycocotools matches by id and takes 0 for "no match"
                "image_id": int(self._image_id[row]),
                "category_id": self.category_ids[self._labels[row] - 1],
                "bbox": self._xywh[row].tolist(),
                "area": float(self._area[row]),
                "iscrowd": int(self._crowd[row]),
            }
            for row in np.flatnonzero(np.isin(self._image_id, self.image_ids)).tolist()
        ]
        categories = [{"id": i, "name": name} for i, name in self._listed.items()]
        return {"images": images, "annotations": annotations, "categories": categories}
