"""The source of objects: a folder of images and a COCO-format JSON of their annotations."""

import copy
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from pix2seq_jax.data.coco.classes import UNNAMED, match_labels, read_categories
from pix2seq_jax.data.coco.columns import Cache, content_of, read_columns
from pix2seq_jax.data.coco.files import ImageRules, Storage, read_images, storage_of
from pix2seq_jax.data.coco.json import (
    BadAnnotations,
    Report,
    index_images,
    return_memory,
    shown,
)
from pix2seq_jax.data.coco.keypoints import Keypoints
from pix2seq_jax.data.coco.outlines import Outlines, check_mask_sizes
from pix2seq_jax.data.source import BOX_FIELDS, IMAGE_FIELDS, layout
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.vocab import POINT_PADDING

_CLIP_TOLERANCE = 1e-3  # pixels; JSON files round box + size to two decimals


class CocoDir:
    """Images and a COCO-format JSON, held as columns (one NumPy array per field, not a
    dict per object).

    `source[i]` gives the raw features of image i:
        image: bytes of the file; file: its path; image_id: i64; orig_size: i32[2], height and width
            by the JSON;
        boxes: f32[n,4] yxyx normalised to the image and clipped to it;
        labels: i32[n], 1..C in the order of the JSON's categories;
        area: f32[n] pixels² of the annotation; is_crowd: bool[n]; scores: f32[n], 1;
        polygons: f32[n,2*max_points] where asked for, outlines as point lists
            (coco.outlines.point_list), simplified to at most max_points points with separators; all
            padding for crowd regions;
        keypoints: f32[n,2J] where asked for, y, x of each; -3, -3 where it is not labelled;
        keypoint_swap: i32[J], the keypoint that each becomes in a mirror image, or -1
            (coco.keypoints.mirrored).

    Attributes:
        fields: what `source[i]` gives, see data.source.
        annotations_path: the JSON.
        category_names, category_ids: label l is `category_names[l-1]`, `category_ids[l-1]`;
            `label_ids` and `label_names` say what they are for a label that the JSON lacks.
        image_ids: i64[len].
        files: paths, for `load`.
        keypoint_names, skeleton, keypoint_swap: see coco.keypoints.Keypoints; empty without them.
        keypoint_categories: ids of the categories that have keypoints.
        keypoint_labels: their labels.
        report: what was repaired or dropped, kind -> count; `describe()` names the first ones.
    """

    def __init__(
        self,
        images: str | PurePath | Storage,
        annotations: str | PurePath,
        *,
        keep_empty: bool = True,
        label_ids: Sequence[int] = (),
        label_names: Sequence[str] = (),
        max_points: int = 0,
        keypoints: bool = False,
        flip_pairs: Sequence[tuple[str, str]] = (),
        bad_annotations: str = "error",
        cache: Cache | None = None,
        image_rules: ImageRules | None = None,
    ) -> None:
        """Opens the JSON, checks it and the existence of every image.

        Args:
            images: folder that the `file_name`s start from, or another storage of images.
            annotations: COCO-format JSON (instances).
            keep_empty: keep images that have no object but crowd regions; the published runs train
                without them.
            label_ids: category id of label 1, 2, …; () for the order of the JSON. Published models
                take category ids for labels, gaps included. A label whose category the JSON lacks
                is UNNAMED.
            label_names: names of labels 1, 2, … as the training data have them, one for each of
                `label_ids`: categories are then matched by name, whatever their ids and order
                (coco.classes.match_labels).
            max_points: length of the point lists of `polygons`, 128 in the paper; 0: no polygons
                are read.
            keypoints: whether to read them; the JSON must be of the kind person_keypoints.
            flip_pairs: names of keypoints that are exchanged in a mirror image; () where their
                names say it.
            bad_annotations: what becomes of annotations that break the format (no image, a box that
                is not finite, an unknown category, malformed polygons or keypoints that are
                wanted): "error" refuses the file, "drop" leaves them out and counts them in the
                report.
            cache: of the columns of JSON files, so that they are not read again; None: there is
                none.
            image_rules: what becomes of images that are missing or broken; default ImageRules().

        Raises:
            ValueError: the folder or JSON is missing or not COCO, a class is none of `label_names`,
                or see the rules.
        """
        self.annotations_path, self.storage = path_of(annotations), storage_of(images)
        self.fields, self.report = layout((*IMAGE_FIELDS, *BOX_FIELDS)), Report()
        reads = {"outlines": bool(max_points), "keypoints": keypoints}
        columns = read_columns(self.annotations_path, **reads, bad=bad_annotations, cache=cache)
        self.report.add_content(content_of(columns["report"]))
        categories = content_of(columns["categories"])
        self._read_categories(categories, tuple(label_ids), tuple(label_names))
        listed = content_of(columns["images"])
        images = read_images(self.annotations_path, self.storage, listed, self.report, image_rules)
        self.image_ids, self.files, self.sizes, self._dropped = images
        self._outlines: Outlines | None = None
        self._keypoints: Keypoints | None = None
        if keypoints:
            self._keypoints = Keypoints(self.annotations_path, categories, flip_pairs)
        self._read_schema()
        rows = self._choose_rows(columns, bad_annotations)
        self._read_objects(columns, rows)
        if max_points:
            self._read_outlines(columns, rows, max_points)
        if self._keypoints:
            self._read_keypoints(columns, rows)
        self._clip()
        if not keep_empty:
            self._drop_empty()
        del columns, listed
        return_memory()

    def _read_categories(
        self, records: list, label_ids: tuple[int, ...], label_names: tuple[str, ...]
    ) -> None:
        self._listed = read_categories(self.annotations_path, records)
        if label_names:
            matched = match_labels(self.annotations_path, self._listed, label_ids, label_names)
            self.category_ids, self.category_names = matched
            return
        self.category_ids = label_ids or tuple(self._listed)
        self.category_names = tuple(
            self._listed.get(category_id, UNNAMED.format(label))
            for label, category_id in enumerate(self.category_ids, 1)
        )

    def _read_schema(self) -> None:
        schema = self._keypoints
        self.keypoint_names = schema.names if schema else ()
        self.skeleton = schema.skeleton if schema else ()
        self.keypoint_categories = tuple(sorted(schema.category_ids)) if schema else ()
        self.keypoint_labels = tuple(
            label
            for label, category_id in enumerate(self.category_ids, 1)
            if category_id in self.keypoint_categories
        )
        self.keypoint_swap = schema.swap if schema else np.zeros(0, np.int32)

    def _choose_rows(self, columns: dict[str, np.ndarray], rule: str) -> np.ndarray:
        """Rows of the file's annotations that have an image and are whole: those of an image
        together, in the order of the file. Reports the others."""
        image = index_images(self.image_ids, columns["image_id"])
        dropped = np.isin(columns["image_id"], self._dropped)
        unlisted = columns["image_id"][(image < 0) & ~columns["bad"] & ~dropped].tolist()
        self.report.add("annotations of images that are not listed, dropped", unlisted)
        bad = BadAnnotations(self.annotations_path, columns["ids"], rule, self.report)
        bad.rows |= columns["bad"] | (image < 0)
        ids = columns["category_id"]
        unknown = np.flatnonzero(~np.isin(ids, self.category_ids) & ~bad.rows)
        if len(unknown):
            allowed = f"the categories are {shown(list(self.category_ids))}"
            text = f"{bad.name(unknown[0])} has category_id {ids[unknown[0]]}; {allowed}"
            bad.add(unknown, "an unknown category id", text)
        if "rle_rows" in columns:
            sizes = np.where(bad.rows[:, None], 0, self.sizes[image])
            check_mask_sizes(columns, sizes, bad)
        rows = np.flatnonzero(~bad.rows)
        rows = rows[np.argsort(image[rows], kind="stable")]
        self._image = image[rows]
        return rows

    def _read_objects(self, columns: dict[str, np.ndarray], rows: np.ndarray) -> None:
        """Columns of these annotations of the file; boxes as in the file."""
        self._image_id, self._ids = self.image_ids[self._image], columns["ids"][rows]
        order = np.argsort(self.category_ids)
        category = np.searchsorted(self.category_ids, columns["category_id"][rows], sorter=order)
        self._labels = (order[category] + 1).astype(np.int32)
        self._xywh, self._crowd = columns["boxes"][rows], columns["crowd"][rows]
        area = columns["area"][rows]
        self._area = np.where(np.isnan(area), np.abs(self._xywh[:, 2] * self._xywh[:, 3]), area)
        kind = "annotations without a positive area, that of the box is taken"
        self.report.add(kind, self._ids[np.isnan(area)].tolist())

    def _read_outlines(
        self, columns: dict[str, np.ndarray], rows: np.ndarray, max_points: int
    ) -> None:
        sizes = self.sizes[self._image]
        self._outlines = Outlines(
            self.annotations_path, columns, rows, self._ids, sizes, max_points
        )
        self._outlines.count(self._crowd, self.report)
        self.fields |= layout(["polygons"], M=max_points)

    def _read_keypoints(self, columns: dict[str, np.ndarray], rows: np.ndarray) -> None:
        wanted = np.isin(self._labels, self.keypoint_labels) & ~self._crowd
        self._keypoints.take(columns, rows, self._ids, self.sizes[self._image], wanted, self.report)
        self.fields |= layout(["keypoints", "keypoint_swap"], J=len(self.keypoint_names))

    def _clip(self) -> None:
        """Boxes in the file -> normalised yxyx clipped to the image; rows without area leave the
        training columns."""
        size = self.sizes[self._image].astype(np.float64)  # [n,2] height, width
        low = self._xywh[:, 1::-1]
        corners = np.concatenate([low, low + self._xywh[:, 3:1:-1]], axis=1)
        limits = np.concatenate([size, size], axis=1)
        clipped = np.clip(corners, 0, limits)
        outside = (np.abs(clipped - corners) > _CLIP_TOLERANCE).any(axis=1)
        boxes = (clipped / limits).astype(np.float32)
        area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        self.report.add("boxes outside their image, clipped", self._ids[outside & area].tolist())
        flat = "boxes without area, not learnt (an evaluation counts them)"
        self.report.add(flat, self._ids[~area].tolist())
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
            raise ValueError(
                f"annotation file {self.annotations_path}: no image has an object to learn from"
            )
        self.report.add("images without objects, left out", self.image_ids[~keep].tolist())
        self.files = [self.files[row] for row in np.flatnonzero(keep).tolist()]
        self.image_ids, self.sizes = self.image_ids[keep], self.sizes[keep]
        self._starts, self._stops = self._starts[keep], self._stops[keep]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> dict:
        """Raw features of one image, see the class. Raises ValueError where the file cannot be
        read."""
        return self.take(index)

    def take(self, index: int, numbers: Sequence[int] | None = None) -> dict:
        """Raw features of one image with only the objects of these numbers, by default all."""
        return {"image": self.load(self.files[index]), **self.without_image(index, numbers)}

    def without_image(self, index: int, numbers: Sequence[int] | None = None) -> dict:
        """What `take` gives, but for `image`: nothing is read."""
        part = np.arange(self._starts[index], self._stops[index])
        part = part if numbers is None else part[list(numbers)]
        rows = self._rows[part]
        features = {
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
        if self._keypoints:
            features |= {
                "keypoints": self._keypoints.points(rows),
                "keypoint_swap": self.keypoint_swap,
            }
        return features

    def load(self, file: str) -> bytes:
        """Content of one of `files`; ValueError where it cannot be read."""
        return self.storage.load(file)

    def _polygons(self, rows: np.ndarray) -> np.ndarray:
        """f32[n,2*max_points]; crowd regions have none."""
        polygons = np.full((len(rows), 2 * self._outlines.max_points), POINT_PADDING, np.float32)
        for number in np.flatnonzero(~self._crowd[rows]).tolist():
            polygons[number] = self._outlines.points(int(rows[number]), self.report)
        return polygons

    def objects(self) -> dict[str, np.ndarray]:
        """All objects, image by image, without reading the images: `image` i64[n], `number` i64[n]
        in that image, `label` i32[n], `is_crowd` bool[n], `num_keypoints` i64[n] (0 without
        keypoints)."""
        counts = self._stops - self._starts
        bounds = zip(self._starts, self._stops, strict=True)
        part = np.concatenate([np.arange(start, stop) for start, stop in bounds])
        rows = self._rows[part]
        num_keypoints = np.zeros(len(rows), np.int64)
        if self._keypoints:
            num_keypoints = self._keypoints.counts(rows)
        return {
            "image": np.repeat(np.arange(len(self)), counts),
            "label": self._labels[rows],
            "number": part - np.repeat(self._starts, counts),
            "is_crowd": self._crowd[rows],
            "num_keypoints": num_keypoints,
        }

    def without_polygons(self) -> "CocoDir":
        """The same data for tasks that do not look at outlines; the columns are shared."""
        plain = copy.copy(self)
        plain._outlines = None
        plain.fields = {name: value for name, value in self.fields.items() if name != "polygons"}
        return plain

    def count_over(self, slots: int, task: str) -> int:
        """Counts and reports the images with more objects than `slots`; a batch of the task leaves
        out the rest. Reports all images where none has an object. Crowds aside."""
        objects = self._objects()
        if not objects.any():
            kind = f"images, none of which has an object for {task} to learn from"
            self.report.replace(kind, self.image_ids.tolist())
        over = np.flatnonzero(objects > slots)
        kind = f"images with more than {slots} objects, the rest left out of {task}"
        self.report.replace(kind, self.image_ids[over].tolist())
        return len(over)

    def count_unlabelled(self) -> int:
        """Counts and reports the objects that should have keypoints and have no labelled one inside
        the image; the keypoints task never sees them."""
        table = self.objects()
        unlabelled = (
            ~table["is_crowd"]
            & (table["num_keypoints"] == 0)
            & np.isin(table["label"], self.keypoint_labels)
        )
        rows = self._rows[self._starts[table["image"]] + table["number"]][unlabelled]
        self.report.replace(
            "objects without labelled keypoints, never seen by keypoints", self._ids[rows].tolist()
        )
        return len(rows)

    def describe(self) -> str:
        """One line per kind of repair, with the first ids or files; "" when the data needed
        none."""
        return self.report.describe("/".join(self.annotations_path.parts[-2:]))

    def coco_dict(self) -> dict:
        """The images, annotations (boxes as in the file) and categories for pycocotools.

        Fills in `area`, `iscrowd`, `id`, `width` and `height` where the file had none.
        `segmentation` and `keypoints` are there when the source gives polygons and keypoints: as in
        the file, not simplified.
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
        if self._keypoints:
            for row, annotation in zip(rows, annotations, strict=True):
                annotation |= self._keypoints.of(row)
            categories = [
                category | self._keypoints.category(category["id"]) for category in categories
            ]
        return {"images": images, "annotations": annotations, "categories": categories}
