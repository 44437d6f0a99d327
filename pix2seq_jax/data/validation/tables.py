"""A COCO-format JSON as columns, read without refusing anything: what is wrong is kept for the
checks."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pix2seq_jax.data.coco.columns import is_area, read_crowd
from pix2seq_jax.data.coco.files import is_side, locate
from pix2seq_jax.data.coco.json import (
    BadAnnotations,
    Report,
    annotation_ids,
    has,
    index_images,
    no_collector,
    number_rows,
    read_json,
    shown,
    whole_numbers,
)
from pix2seq_jax.data.coco.keypoints import Keypoints, read_keypoints
from pix2seq_jax.data.coco.outlines import check_mask_sizes, read_segmentations
from pix2seq_jax.data.validation.findings import KEPT, Batch, Finding

INSTANCES, KEYPOINTS, CAPTIONS = "instances", "person_keypoints", "captions"
LISTS = ("images", "annotations", "categories")


class Segmentations(NamedTuple):
    """The column `segmentation` of n annotations.

    Attributes:
        columns: see `coco.outlines.read_segmentations`.
        broken: bool[n], those that cannot be read.
        wrong_size: bool[n], run lengths of another size than their image.
    """

    columns: dict[str, np.ndarray]
    broken: np.ndarray
    wrong_size: np.ndarray


class KeypointColumn(NamedTuple):
    """The column `keypoints` of n annotations.

    Attributes:
        fault: what is wrong with the names of the keypoints; "": nothing.
        xyv: f32[n,J,3], pixels and visibility; zeros where there are none.
        present: bool[n], which annotations have them.
        broken: bool[n], those that are not J times three finite numbers.
        categories: ids of the categories that have keypoints.
    """

    fault: str
    xyv: np.ndarray
    present: np.ndarray
    broken: np.ndarray
    categories: frozenset


class AnnotationFile:
    """The columns of one file, for I images, n annotations and C categories.

    Attributes:
        split: "train" or "val".
        kind: INSTANCES, KEYPOINTS or CAPTIONS.
        path, folder: of the file and of its images.
        broken: why it cannot be read; "": it can.
        missing_lists: of LISTS.
        not_objects: the entries of its lists that are no JSON objects, each as a line.
        images, annotations, categories: its records; {} stands for what is no object.
        image_ids: i64[I]; bad_image_ids: bool[I].
        names: I file names; "" where there is none.
        sizes: i64[I,2], height and width in pixels; 0, 0 where it does not have both.
        ids: i64[n] or str[n], of the annotations.
        image_id, category_id: i64[n]; bad_image_id, bad_category_id: bool[n], no whole numbers.
        index: i64[n], the image of each annotation; -1: there is none.
        boxes: f64[n,4], x, y, width, height in pixels; NaN where they are no numbers.
        area: f64[n] in pixels², NaN where it is not positive.
        crowd, bad_crowd: bool[n].
        category_ids: i64[C]; bad_category_ids: bool[C].
    """

    def __init__(self, split: str, kind: str, path: Path, folder: Path) -> None:
        """Reads the file; raises nothing for what is wrong with it."""
        self.split, self.kind, self.path, self.folder = split, kind, path, folder
        self.broken, self.missing_lists, self.not_objects = "", [], []
        with no_collector():
            content = self._read()
            self.images, self.annotations, self.categories = (
                self._objects(key, content.get(key)) for key in LISTS
            )
            self._read_images()
            self._read_annotations()
        ids = [record.get("id") for record in self.categories]
        self.category_ids, self.bad_category_ids = whole_numbers(ids)

    def _read(self) -> dict:
        try:
            content = read_json(self.path, ())
        except ValueError as error:
            self.broken = str(error)
            return {}
        if not isinstance(content, dict):
            self.broken = f"it holds {shown(content)}, which is no object with lists"
            return {}
        wanted = LISTS[:2] if self.kind == CAPTIONS else LISTS
        self.missing_lists = [key for key in wanted if not isinstance(content.get(key), list)]
        return content

    def _objects(self, key: str, records) -> list[dict]:
        if not isinstance(records, list):
            return []
        odd = [row for row, record in enumerate(records) if not isinstance(record, dict)]
        self.not_objects += [f"{key}[{row}] is {shown(records[row])}" for row in odd]
        return [record if isinstance(record, dict) else {} for record in records]

    def _read_images(self) -> None:
        ids = [record.get("id") for record in self.images]
        self.image_ids, self.bad_image_ids = whole_numbers(ids)
        names = [record.get("file_name") for record in self.images]
        self.names = [name if _is_name(name) else "" for name in names]
        sizes = [(record.get("height"), record.get("width")) for record in self.images]
        real = [size if all(map(is_side, size)) else (0, 0) for size in sizes]
        self.sizes = np.array(real, np.float64).astype(np.int64).reshape(-1, 2)

    def _read_annotations(self) -> None:
        records = self.annotations
        self.ids = annotation_ids(records)
        ids = [record.get("image_id") for record in records]
        self.image_id, self.bad_image_id = whole_numbers(ids)
        ids = [record.get("category_id") for record in records]
        self.category_id, self.bad_category_id = whole_numbers(ids)
        self.boxes = number_rows([record.get("bbox") for record in records], 4)
        self.crowd, self.bad_crowd = read_crowd([record.get("iscrowd") for record in records])
        areas = (record.get("area") for record in records)
        self.area = np.array([value if is_area(value) else np.nan for value in areas], np.float64)
        self.index = np.full(len(records), -1, np.int64)
        listed = np.flatnonzero(~self.bad_image_ids)
        if len(listed):
            index = index_images(self.image_ids[listed], self.image_id)
            there = (index >= 0) & ~self.bad_image_id
            self.index = np.where(there, listed[index], -1)

    @cached_property
    def files(self) -> list[str]:
        """I paths of the images; "" where the folder has no such file."""
        files = [""] * len(self.names)
        named = [row for row, name in enumerate(self.names) if name]
        if named and self.folder.is_dir():
            paths = locate(self.path, self.folder, [self.names[row] for row in named])
            for row, path in zip(named, paths, strict=True):
                files[row] = str(path) if path else ""
        return files

    @cached_property
    def once(self) -> np.ndarray:
        """bool[I], the images that are not a second entry of an id; annotations belong to them."""
        once = np.zeros(len(self.images), bool)
        once[np.unique(self.image_ids, return_index=True)[1]] = True
        return once

    @cached_property
    def image_sizes(self) -> np.ndarray:
        """i64[n,2], height and width by the file of the image of each annotation; 0, 0 where they
        are not known."""
        if not len(self.images):
            return np.zeros((len(self.annotations), 2), np.int64)
        return np.where(self.index[:, None] >= 0, self.sizes[self.index], 0)

    @cached_property
    def corners(self) -> np.ndarray:
        """f64[n,4], the boxes as yxyx in pixels."""
        low = self.boxes[:, 1::-1]
        return np.concatenate([low, low + self.boxes[:, 3:1:-1]], axis=1)

    @cached_property
    def objects(self) -> np.ndarray:
        """bool[n], the annotations that a task may learn: no crowds, of a listed image, with a box
        that has an area."""
        area = (self.boxes[:, 2:] > 0).all(axis=1)
        return area & ~self.crowd & (self.index >= 0)

    @cached_property
    def class_names(self) -> dict[int, str]:
        """Category id -> name."""
        pairs = zip(self.category_ids.tolist(), self.categories, strict=True)
        good = zip(pairs, self.bad_category_ids.tolist(), strict=True)
        return {number: str(record.get("name", "")) for (number, record), bad in good if not bad}

    @cached_property
    def segmentations(self) -> Segmentations:
        """The outlines and run lengths of the annotations."""
        bad = self._tolerant()
        columns = read_segmentations(self.annotations, bad)
        broken = bad.rows.copy()
        check_mask_sizes(columns, self.image_sizes, bad)
        return Segmentations(columns, broken, bad.rows & ~broken)

    @cached_property
    def keypoints(self) -> KeypointColumn:
        """The keypoints of the annotations."""
        count = len(self.annotations)
        nothing = np.zeros(count, bool)
        listed = zip(self.categories, self.bad_category_ids.tolist(), strict=True)
        categories = [{"name": "", **record} for record, bad in listed if not bad]
        try:
            schema = Keypoints(self.path, categories)
        except ValueError as error:
            return KeypointColumn(
                str(error), np.zeros((count, 0, 3), np.float32), nothing, nothing, frozenset()
            )
        bad, number = self._tolerant(), len(schema.names)
        columns = read_keypoints(self.annotations, number, bad)
        xyv = np.nan_to_num(columns["keypoints"].reshape(count, number, 3))
        present = columns["has_keypoints"]
        return KeypointColumn("", xyv, present, bad.rows, schema.category_ids)

    def _tolerant(self) -> BadAnnotations:
        return BadAnnotations(self.path, self.ids, "drop", Report())

    def of_annotations(self, rows: np.ndarray, value: Callable[[int], str] | str) -> Batch:
        """Findings of annotations.

        Args:
            rows: bool[n].
            value: of a row, as a line; or the key whose value is shown.
        """
        numbers = np.flatnonzero(rows)
        made = []
        for row in numbers[:KEPT].tolist():
            text = _line(self.annotations[row], row, value)
            image, image_id = int(self.index[row]), int(self.image_id[row])
            files = self._files([image]) if image >= 0 else ()
            number = None if self.bad_image_id[row] else image_id
            made.append(Finding(str(self.path), text, number, self.ids[row].item(), files))
        return len(numbers), made

    def of_images(self, rows: np.ndarray, value: Callable[[int], str] | str) -> Batch:
        """Findings of images bool[I], see `of_annotations`."""
        numbers = np.flatnonzero(rows)
        made = []
        for row in numbers[:KEPT].tolist():
            number = None if self.bad_image_ids[row] else int(self.image_ids[row])
            text = f"{self.names[row]}: {_line(self.images[row], row, value)}"
            made.append(Finding(str(self.path), text, number, files=self._files([row])))
        return len(numbers), made

    def _files(self, rows: list[int]) -> tuple[str, ...]:
        return tuple(self.files[row] for row in rows if self.files[row])

    def of_file(self, values: list[str]) -> Batch:
        """Findings about the file itself, one for each line."""
        return len(values), [Finding(str(self.path), value) for value in values[:KEPT]]


def _is_name(name) -> bool:
    """Whether it can be the name of a file."""
    return isinstance(name, str) and bool(name.strip("/\\. ")) and "\0" not in name


def _line(record: dict, row: int, value: Callable[[int], str] | str) -> str:
    return has(record, value) if isinstance(value, str) else value(row)
