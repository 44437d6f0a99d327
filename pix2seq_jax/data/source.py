"""What a source of data is, and the fields of an image: the only list of them.

A source is randomly accessible: `len(source)` rows, `source[i]` -> the raw features of row i as
NumPy arrays. Write a class with the members of `Source`, and `pipeline.train_dataset` reads it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol, runtime_checkable

import numpy as np

Fields = Mapping[str, tuple[type, tuple[int | None, ...]]]  # name -> (type, shape)


@runtime_checkable
class Source(Protocol):
    """What training reads.

    Attributes:
        fields: what `source[i]` gives, see `layout`.
    """

    fields: Fields

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict:
        """Raw features: `image`, the bytes of a file; `file`, its name for errors; and the other
        `fields`. Raises ValueError where the file cannot be read."""

    def describe(self) -> str:
        """One line per kind of thing that was repaired or left out; "" where nothing was."""


@runtime_checkable
class FileSource(Source, Protocol):
    """A source that knows a row without reading its image. `data.reading.ImageCache` then reads a
    file once, for all rows and sources that show it.

    `file` is where the image is: no two images have the same, in whatever sources.
    """

    def without_image(self, index: int) -> dict:
        """Raw features but `image`, which is `load(file)`."""

    def load(self, file: str) -> bytes:
        """Content of an image file; ValueError where it cannot be read."""


@runtime_checkable
class ImageSource(Source, Protocol):
    """A source whose rows are the images of an annotation file: what evaluation reads besides.

    Attributes:
        annotations_path: of the file.
        image_ids: i64[len].
        files: len paths, for `load`.
        sizes: i32[len,2], height and width in pixels.
    """

    annotations_path: PurePath
    image_ids: np.ndarray
    files: Sequence[str]
    sizes: np.ndarray

    def load(self, file: str) -> bytes:
        """Content of one of `files`; ValueError where it cannot be read."""


@runtime_checkable
class ObjectSource(ImageSource, Protocol):
    """Images with objects of classes.

    Attributes:
        category_ids, category_names: label l is `category_ids[l-1]`, `category_names[l-1]`.
        keypoint_names: empty without keypoints.
        skeleton: pairs of keypoints counted from 0.
        keypoint_categories, keypoint_labels: ids and labels of the categories that have keypoints.
    """

    category_ids: Sequence[int]
    category_names: Sequence[str]
    keypoint_names: Sequence[str]
    skeleton: Sequence[tuple[int, int]]
    keypoint_categories: Sequence[int]
    keypoint_labels: Sequence[int]

    def take(self, index: int, numbers: Sequence[int] | None = None) -> dict:
        """Raw features of one image with only the objects of these numbers, by default all."""

    def without_image(self, index: int, numbers: Sequence[int] | None = None) -> dict:
        """What `take` gives but `image`, see FileSource."""

    def objects(self) -> dict[str, np.ndarray]:
        """All objects, image by image, without reading the images: `image` i64[n], `number` i64[n]
        in that image, `label` i32[n], `is_crowd` bool[n], `num_keypoints` i64[n]."""

    def count_over(self, slots: int, task: str) -> int:
        """Counts and reports the images with more objects than `slots`."""

    def count_unlabelled(self) -> int:
        """Counts and reports the objects that should have keypoints and have none."""

    def coco_dict(self) -> dict:
        """The images, annotations and categories for pycocotools, boxes as in the file."""


@dataclass(frozen=True)
class Field:
    """One field of the raw features.

    Attributes:
        dtype: of NumPy.
        axes: H height, W width, N objects, M points, J keypoints, C captions, T tokens; or a
            number.
        points: whether the last axis lists so many points y, x, y, x, ..., normalised to the image.
    """

    dtype: type
    axes: tuple[str | int, ...]
    points: bool = False


FIELDS = {
    "image": Field(np.uint8, ("H", "W", 3)),  # decoded; a source gives the bytes of the file
    "image_id": Field(np.int64, ()),
    "orig_size": Field(np.int32, (2,)),  # height, width; (0, 0): those of the file
    "boxes": Field(np.float32, ("N", 2), points=True),
    "labels": Field(np.int32, ("N",)),  # from 1 on
    "area": Field(np.float32, ("N",)),  # pixels²
    "is_crowd": Field(np.bool_, ("N",)),
    "scores": Field(np.float32, ("N",)),
    "polygons": Field(np.float32, ("N", "M"), points=True),
    "keypoints": Field(np.float32, ("N", "J"), points=True),
    "keypoint_swap": Field(np.int32, ("J",)),  # what each becomes in a mirror image, or -1
    "captions": Field(np.int32, ("C", "T")),
}
VARYING = ("H", "W", "N")  # axes whose length differs from image to image
IMAGE_FIELDS = ("image", "image_id", "orig_size")  # of every source
BOX_FIELDS = ("boxes", "labels", "area", "is_crowd", "scores")  # of every object
LISTS = {  # name -> N or C, what it lists; padded with zeros where streams share a batch
    name: field.axes[0] for name, field in FIELDS.items() if field.axes[:1] in (("N",), ("C",))
}
OBJECT_FIELDS = tuple(name for name, axis in LISTS.items() if axis == "N")
POINT_FIELDS = tuple(name for name, field in FIELDS.items() if field.points)


def layout(names: Iterable[str], **sizes: int) -> Fields:
    """What `Source.fields` says of these fields: name -> (type, shape of an image's).

    Args:
        names: of FIELDS.
        sizes: of the axes that all images share: M, J, C, T. The shape has None for VARYING ones.
    """
    made = {}
    for name in names:
        field = FIELDS[name]
        shape = [None if axis in VARYING else sizes.get(axis, axis) for axis in field.axes]
        if field.points:
            shape[-1] *= 2
        made[name] = (field.dtype, tuple(shape))
    return made
