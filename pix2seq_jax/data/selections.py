"""Sources made of other sources: one row per object, and images with the objects of somebody else
(predicted ones).

What they are made of has, besides `len`, `[i]` and `fields` (data.sources), `image_ids` i64[len],
`sizes` i32[len,2] (height and width in pixels), `take(i, numbers)`, the features of image i with
only these of its objects, and `objects()`, a table of all objects that reads no image.
"""

import numpy as np

from pix2seq_jax.data.coco.folder import FIELDS


class PerObject:
    """Rows of one object each, for tasks that look at one object: raw features of its image with
    that object only.

    Crowd regions have no row. The rows of an image follow each other.

    Attributes:
        source: what it is made of.
        rows: i64[len,2], (row in the source, number of the object there) of each row.
        image_ids: i64[len]; several rows may have the same.
        fields: as in the source.
    """

    def __init__(self, source, *, min_keypoints: int = 0) -> None:
        """Lists the objects.

        Args:
            source: see the module.
            min_keypoints: objects with fewer labelled keypoints get no row.

        Raises:
            ValueError: keypoints are asked for that the source does not give, or no object is left.
        """
        if min_keypoints and "keypoints" not in source.fields:
            raise ValueError(
                f"min_keypoints={min_keypoints}: the source gives no keypoints; open it with "
                "keypoints=True"
            )
        table = source.objects()
        keep = ~table["is_crowd"] & (table["num_keypoints"] >= min_keypoints)
        if not keep.any():
            raise ValueError(
                f"none of {len(keep)} objects is left: crowd regions are left out, and "
                f"min_keypoints={min_keypoints}"
            )
        self.source, self.fields = source, source.fields
        self.rows = np.stack([table["image"], table["number"]], axis=1).astype(np.int64)[keep]
        self.image_ids = source.image_ids[self.rows[:, 0]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        """Raw features of one object."""
        row, number = self.rows[index].tolist()
        return self.source.take(row, [number])

    def describe(self) -> str:
        """That of the source."""
        return self.source.describe()


class WithObjects:
    """Images of a source with given objects in place of the annotated ones; no polygons, no
    keypoints.

    Attributes:
        source: what it is made of.
        image_ids: i64[len].
        fields: of images and boxes (data.sources.FIELDS).
    """

    def __init__(
        self,
        source,
        image_ids: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        scores: np.ndarray,
    ) -> None:
        """Takes the objects.

        Args:
            source: see the module.
            image_ids: i64[I], the images, in the order of the rows.
            boxes: f32[I,N,4] yxyx in pixels of the original image; clipped to it. They may have no
                area.
            labels: i32[I,N]; 0 is no object. Object number k of a row is the k-th whose label is
                not 0.
            scores: f32[I,N].

        Raises:
            ValueError: an image is not in the source, shapes do not fit each other, or a box is not
                finite.
        """
        boxes, labels, scores = (
            np.asarray(boxes, np.float32),
            np.asarray(labels, np.int32),
            np.asarray(scores),
        )
        self.image_ids = np.asarray(image_ids, np.int64)
        shapes = [self.image_ids.shape, boxes.shape, labels.shape, scores.shape]
        if labels.ndim != 2 or shapes != [
            labels.shape[:1],
            (*labels.shape, 4),
            labels.shape,
            labels.shape,
        ]:
            raise ValueError(
                f"image_ids{shapes[0]}, boxes{shapes[1]}, labels{shapes[2]} and scores{shapes[3]} "
                "do not fit; give [I], [I,N,4], [I,N] and [I,N]"
            )
        place = {image_id: row for row, image_id in enumerate(source.image_ids.tolist())}
        unknown = [image_id for image_id in self.image_ids.tolist() if image_id not in place]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(self.image_ids)} images are not in the source, first: "
                f"image id {unknown[0]}; give the data that the objects were found in"
            )
        row, slot = np.nonzero(labels)
        self._boxes, self._labels = boxes[row, slot], labels[row, slot]
        self._scores = scores[row, slot].astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(self._boxes).all(axis=1))
        if bad.size:
            raise ValueError(
                f"{bad.size} boxes are not finite, first: {self._boxes[bad[0]].tolist()} of image "
                f"id {self.image_ids[row[bad[0]]]}; give yxyx in pixels, and label 0 where there "
                "is no object"
            )
        self.source, self.fields = source, dict(FIELDS)
        self._row = row
        self._bounds = np.searchsorted(row, np.arange(len(self) + 1))
        self._places = np.array([place[image_id] for image_id in self.image_ids.tolist()], np.int64)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> dict:
        """Raw features of one image with the given objects; `area` is that of the box, in
        pixels²."""
        return self.take(index)

    def take(self, index: int, numbers: list[int] | None = None) -> dict:
        """Raw features of one image with only the objects of these numbers, by default all."""
        part = np.arange(self._bounds[index], self._bounds[index + 1])
        part = part if numbers is None else part[list(numbers)]
        features = self.source.take(int(self._places[index]), [])
        limits = np.tile(self.source.sizes[self._places[index]], 2).astype(np.float32)
        boxes = np.clip(self._boxes[part], 0, limits)
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
        return {
            **{name: features[name] for name in ("image", "file", "image_id", "orig_size")},
            "boxes": boxes / limits,
            "labels": self._labels[part],
            "area": sides[:, 0] * sides[:, 1],
            "is_crowd": np.zeros(len(part), bool),
            "scores": self._scores[part],
        }

    def objects(self) -> dict[str, np.ndarray]:
        """All objects, see CocoDir.objects."""
        return {
            "image": self._row,
            "number": np.arange(len(self._row)) - self._bounds[self._row],
            "is_crowd": np.zeros(len(self._row), bool),
            "num_keypoints": np.zeros(len(self._row), np.int64),
        }

    def describe(self) -> str:
        """That of the source."""
        return self.source.describe()
