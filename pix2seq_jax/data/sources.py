"""Randomly accessible sources: `len(source)` images, `source[i]` -> raw features of image i.

Raw features are NumPy arrays as in the table `source.fields`, name -> (type, shape with None where it varies), but for
`image`: a source gives the bytes of the file, and `file`, its name; the table says what the decoded image is.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pix2seq_jax.data.coco_json import Report, column, integers, read_file, read_images, read_json, rows_of_images
from pix2seq_jax.data.joints import Joints
from pix2seq_jax.data.points import Outlines
from pix2seq_jax.vocab import POINT_PADDING

_CLIP_TOLERANCE = 1e-3  # pixels; JSON files round box + size to two decimals
UNNAMED = "class {}"  # stands for the name of a label that nobody named

IMAGE_FIELDS = {
    "image": (np.uint8, (None, None, 3)),
    "image_id": (np.int64, ()),
    "orig_size": (np.int32, (2,)),
}
FIELDS = IMAGE_FIELDS | {
    "boxes": (np.float32, (None, 4)),
    "labels": (np.int32, (None,)),
    "area": (np.float32, (None,)),
    "is_crowd": (np.bool_, (None,)),
    "scores": (np.float32, (None,)),
}


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


class CocoDir:
    """A folder of images and a COCO-format JSON, held as columns (one NumPy array per field, not a dict per object).

    `source[i]` gives the raw features of image i:
        image: bytes of the file; file: its path; image_id: i64; orig_size: i32[2], height and width by the JSON;
        boxes: f32[n,4] yxyx normalised to the image and clipped to it; labels: i32[n], 1..C in the order of the
        JSON's categories; area: f32[n] pixels² of the annotation; is_crowd: bool[n]; scores: f32[n], 1;
        polygons: f32[n,2*max_points] where asked for, outlines as point lists (data.points.point_list), simplified to
        at most max_points points with separators; all padding for crowd regions;
        keypoints: f32[n,2J] and keypoint_swap: i32[J] where asked for: y, x of each joint, -3, -3 where it is not
        labelled; the joint that each becomes in a mirror image, or -1 (data.joints.mirrored).

    Attributes:
        fields: what `source[i]` gives, see the module.
        annotations_path: the JSON.
        category_names, category_ids: label l is `category_names[l-1]`, `category_ids[l-1]`; a category of `label_ids`
            that the JSON lacks is UNNAMED.
        image_ids: i64[len].
        files: paths.
        keypoint_names, keypoint_categories, skeleton, keypoint_swap: of the joints, and the ids of the categories that
            have them (data.joints.Joints); empty without keypoints.
        report: what was repaired or dropped, kind -> count; `describe()` names the first ones.
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        keep_empty: bool = True,
        label_ids=(),
        max_points: int = 0,
        keypoints: bool = False,
        flip_pairs=(),
    ) -> None:
        """Opens the JSON, checks it and the existence of every image.

        Args:
            images: folder that the `file_name`s start from.
            annotations: COCO-format JSON (instances).
            keep_empty: keep images that have no object but crowd regions; the published runs train without them.
            label_ids: category id of label 1, 2, …; () for the order of the JSON. Published models take the category
                ids for labels, gaps included.
            max_points: length of the point lists of `polygons`, 128 in the paper; 0: no polygons are read.
            keypoints: whether to read them; the JSON must be of the kind person_keypoints.
            flip_pairs: names of keypoints that change places in a mirror image; () where their names say it.

        Raises:
            ValueError: the folder, the JSON or an image is missing, the JSON is broken or not COCO, a box is not
                finite, a category id is unknown, ids are not unique, polygons or keypoints that are wanted are
                malformed.
        """
        self.annotations_path, self.folder = Path(annotations), Path(images)
        self.fields = dict(FIELDS)
        self.report = Report()
        content = read_json(self.annotations_path, ("images", "annotations", "categories"))
        self._read_categories(content["categories"], tuple(label_ids))
        self.image_ids, self.files, self.sizes = read_images(
            self.annotations_path, self.folder, content["images"], self.report
        )
        self._outlines: Outlines | None = None
        self._joints = Joints(self.annotations_path, content["categories"], flip_pairs) if keypoints else None
        self.keypoint_names = self._joints.names if self._joints else ()
        self.skeleton = self._joints.skeleton if self._joints else ()
        self.keypoint_categories = tuple(sorted(self._joints.category_ids)) if self._joints else ()
        self.keypoint_swap = self._joints.swap if self._joints else np.zeros(0, np.int32)
        self._read_objects(content["annotations"], max_points)
        self._clip()
        if not keep_empty:
            self._drop_empty()

    def _read_categories(self, records: list, label_ids: tuple[int, ...]) -> None:
        path = self.annotations_path
        ids = integers(path, column(path, records, "id", "categories"), "id", "categories")
        if not len(ids):
            raise ValueError(f"annotation file {path}: the list categories is empty; at least one category is needed")
        double = [i for i, count in Counter(ids.tolist()).items() if count > 1]
        if double:
            raise ValueError(f"annotation file {path}: category id {double[0]} is given twice; ids must be unique")
        names = (str(name) for name in column(path, records, "name", "categories"))
        self._listed = dict(zip(ids.tolist(), names, strict=True))
        self.category_ids = label_ids or tuple(self._listed)
        self.category_names = tuple(
            self._listed.get(category_id, UNNAMED.format(label))
            for label, category_id in enumerate(self.category_ids, 1)
        )

    def _read_objects(self, records: list, max_points: int) -> None:
        """Columns of all annotations of known images, sorted by image; boxes as in the file."""
        path = self.annotations_path
        rows, self._image = rows_of_images(path, self.image_ids, records, self.report)
        records = [records[row] for row in rows.tolist()]
        self._image_id = self.image_ids[self._image]
        self._ids = [record.get("id", row) for record, row in zip(records, rows.tolist(), strict=True)]
        categories = integers(path, column(path, records, "category_id", "annotations"), "category_id", "annotations")
        self._labels = self._to_labels(categories)
        self._xywh = _boxes(path, column(path, records, "bbox", "annotations"), self._ids)
        self._crowd = np.array([bool(record.get("iscrowd", 0)) for record in records], bool)
        areas = (record.get("area") for record in records)
        area = np.array([a if isinstance(a, int | float) else np.nan for a in areas], np.float64)
        self._area = np.where(np.isfinite(area), area, self._xywh[:, 2] * self._xywh[:, 3])
        if max_points:
            self._outlines = Outlines(path, records, self._ids, self.sizes[self._image], max_points)
            self._outlines.count(self._crowd, self.report)
            self.fields["polygons"] = (np.float32, (None, 2 * max_points))
        if self._joints:
            self._joints.read(records, self._ids, self.sizes[self._image], self.report)
            number = len(self.keypoint_names)
            self.fields |= {"keypoints": (np.float32, (None, 2 * number)), "keypoint_swap": (np.int32, (number,))}

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
        self.report.add("boxes outside their image, clipped", [self._ids[i] for i in np.flatnonzero(outside & area)])
        self.report.add("boxes without area, dropped", [self._ids[i] for i in np.flatnonzero(~area)])
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
        self.report.add("images without objects, left out", self.image_ids[~keep].tolist())
        self.files = [file for file, kept in zip(self.files, keep, strict=True) if kept]
        self.image_ids, self.sizes = self.image_ids[keep], self.sizes[keep]
        self._starts, self._stops = self._starts[keep], self._stops[keep]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> dict:
        """Raw features of one image, see the class. Raises ValueError where the file cannot be read."""
        return self.take(index)

    def take(self, index: int, numbers: Sequence[int] | None = None) -> dict:
        """Raw features of one image with only the objects of these numbers, by default all."""
        part = np.arange(self._starts[index], self._stops[index])
        part = part if numbers is None else part[list(numbers)]
        rows = self._rows[part]
        features = {
            "image": read_file(self.files[index]),
            "file": self.files[index],
            "image_id": self.image_ids[index],
            "orig_size": self.sizes[index],
            "boxes": self._boxes[part],
            "labels": self._labels[rows],
            "area": self._area[rows].astype(np.float32),
            "is_crowd": self._crowd[rows],
            "scores": np.ones(len(rows), np.float32),
        }
        if self._outlines:
            features["polygons"] = self._polygons(rows)
        if self._joints:
            features |= {"keypoints": self._joints.points(rows), "keypoint_swap": self.keypoint_swap}
        return features

    def _polygons(self, rows: np.ndarray) -> np.ndarray:
        """f32[n,2*max_points]; crowd regions have none."""
        polygons = np.full((len(rows), 2 * self._outlines.max_points), POINT_PADDING, np.float32)
        for place in np.flatnonzero(~self._crowd[rows]).tolist():
            polygons[place] = self._outlines.points(int(rows[place]), self.report)
        return polygons

    def objects(self) -> dict[str, np.ndarray]:
        """All objects, image by image, without reading the images: `image` i64[n], `number` i64[n] in that image,
        `is_crowd` bool[n], `num_keypoints` i64[n] (0 without keypoints)."""
        counts = self._stops - self._starts
        part = np.concatenate([np.arange(a, b) for a, b in zip(self._starts, self._stops, strict=True)])
        rows = self._rows[part]
        return {
            "image": np.repeat(np.arange(len(self)), counts),
            "number": part - np.repeat(self._starts, counts),
            "is_crowd": self._crowd[rows],
            "num_keypoints": self._joints.counts(rows) if self._joints else np.zeros(len(rows), np.int64),
        }

    def without_polygons(self) -> "CocoDir":
        """The same data for tasks that do not look at outlines; the columns are shared."""
        plain = copy.copy(self)
        plain._outlines, plain.fields = None, {k: v for k, v in self.fields.items() if k != "polygons"}
        return plain

    def count_over(self, slots: int) -> int:
        """Counts and reports the images with more objects than `slots`; a batch leaves out the rest. Crowds aside."""
        over = np.flatnonzero(self._objects() > slots)
        kind = f"images with more than {slots} objects, the rest left out"
        self.report.replace(kind, self.image_ids[over].tolist())
        return len(over)

    def describe(self) -> str:
        """One line per kind of repair, with the first ids or files; "" when the data needed none."""
        return self.report.describe(self.annotations_path.name)

    def coco_dict(self) -> dict:
        """The images, annotations (boxes as in the file) and categories for pycocotools.

        Fills in `area`, `iscrowd`, `id`, `width` and `height` where the file had none. `segmentation` and `keypoints`
        are there when the source gives polygons and keypoints: as in the file, not simplified.
        """
        images = [
            {"id": int(i), "file_name": file, "height": int(h), "width": int(w)}
            for i, file, (h, w) in zip(self.image_ids, self.files, self.sizes, strict=True)
        ]
        rows = np.flatnonzero(np.isin(self._image_id, self.image_ids)).tolist()
        annotations = [
            {
                "id": row + 1,  # pycocotools matches by id and takes 0 for "no match"
                "image_id": int(self._image_id[row]),
                "category_id": self.category_ids[self._labels[row] - 1],
                "bbox": self._xywh[row].tolist(),
                "area": float(self._area[row]),
                "iscrowd": int(self._crowd[row]),
            }
            for row in rows
        ]
        categories = [{"id": i, "name": name} for i, name in self._listed.items()]
        if self._outlines:
            for row, annotation in zip(rows, annotations, strict=True):
                annotation["segmentation"] = self._outlines.segmentation(row)
        if self._joints:
            for row, annotation in zip(rows, annotations, strict=True):
                annotation |= self._joints.of(row)
            categories = [category | self._joints.category(category["id"]) for category in categories]
        return {"images": images, "annotations": annotations, "categories": categories}
