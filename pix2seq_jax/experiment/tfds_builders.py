"""TFDS builders of COCO 2017 with all four kinds of annotations and of Objects365, from files on
disk:

    tfds build pix2seq_coco --imports=pix2seq_jax.experiment.tfds_builders \\
        --manual_dir=data/coco --data_dir=data/tfds --file_format=array_record

Then `tfds.data_source("pix2seq_coco", data_dir="data/tfds")` has random access to the images and
their annotations.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from pix2seq_jax.data.coco.json import Report, read_json
from pix2seq_jax.data.coco.person import COCO_KEYPOINTS
from pix2seq_jax.data.images import header
from pix2seq_jax.data.shards.joining import Item, join
from pix2seq_jax.experiment.preparing import coco_split

log = logging.getLogger("pix2seq_jax")

SPLITS = {"train": "train", "validation": "val"}  # TFDS's names -> ours
UNREAD = "images that cannot be read, left out with their annotations"
KEYPOINTS = len(COCO_KEYPOINTS["names"])


class CocoFormat(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images with objects, keypoints and captions, as far as there are annotation files.

    An image has `image` as stored, `image/filename`, `image/id`, `objects` and `captions`. Of an
    object: `id`; `bbox` yxyx, normalised and clipped to the image; `label`, the category id of the
    JSON; `category`, its name; `area` in pixels²; `is_crowd`; `segmentation`, the JSON text of the
    polygons or run lengths, "" without; `keypoints` f32[17,3], x, y in pixels and v as in COCO,
    zeros without.
    """

    VERSION = tfds.core.Version("1.0.0")
    LAYOUT: ClassVar[str]  # of experiment.preparing.COCO

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        one = {
            "id": np.int64,
            "bbox": features.BBoxFeature(),
            "label": np.int64,
            "category": features.Text(),
            "area": np.float32,
            "is_crowd": np.bool_,
            "segmentation": features.Text(),
            "keypoints": features.Tensor(shape=(KEYPOINTS, 3), dtype=np.float32),
        }
        every = {
            "image": features.Image(shape=(None, None, 3)),
            "image/filename": features.Text(),
            "image/id": np.int64,
            "objects": features.Sequence(one),
            "captions": features.Sequence(features.Text()),
        }
        return self.dataset_info_from_configs(features=features.FeaturesDict(every))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        return {name: self._generate_examples(root, split) for name, split in SPLITS.items()}

    def _generate_examples(self, root: Path, split: str) -> Iterator[tuple[str, dict]]:
        files, report = coco_split(root, self.LAYOUT, split), Report()
        names: dict[int, str] = {}
        for kind, path in files.annotations.items():
            if kind != "captions":
                for category in read_json(path, ("categories",))["categories"]:
                    names[category["id"]] = category["name"]
        for item in join(files, report, missing="drop"):
            try:
                size = header(item.file)[:2]
            except ValueError as error:
                report.add(UNREAD, [error])
                continue
            yield item.name, example(item, size, names)
        if report:
            log.warning("data: %s", report.describe(split))


class Pix2seqCoco(CocoFormat):
    """COCO 2017 with instances, person_keypoints and captions."""

    LAYOUT = "coco"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "--manual_dir is the folder with train2017, val2017 and annotations (cocodataset.org)."
    )


class Pix2seqObjects365(CocoFormat):
    """Objects365 as it is distributed."""

    LAYOUT = "objects365"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "--manual_dir is the folder with train, val and annotations (objects365.org)."
    )


def example(item: Item, size: tuple[int, int], names: dict[int, str]) -> dict[str, Any]:
    """An image of this height and width with its annotations, see CocoFormat; `names` of categories
    by id."""
    objects: dict[int, dict] = {}
    for kind in ("instances", "person_keypoints"):  # the same ids, so that they add up
        for annotation in item.annotations.get(kind, {}).get("annotations", ()):
            objects[annotation["id"]] = objects.get(annotation["id"], {}) | annotation
    captions = item.annotations.get("captions", {}).get("annotations", ())
    entry = next(iter(item.annotations.values()))["image"]
    return {
        "image": item.file,
        "image/filename": item.name,
        "image/id": entry["id"],
        "objects": [_object(one, size, names) for one in objects.values()],
        "captions": [one["caption"] for one in captions],
    }


def _object(annotation: dict, size: tuple[int, int], names: dict[int, str]) -> dict[str, Any]:
    x, y, width, height = annotation["bbox"]
    corners = np.array([y, x, y + height, x + width]) / np.array([*size, *size])
    segmentation = annotation.get("segmentation")
    keypoints = annotation.get("keypoints", [0] * (3 * KEYPOINTS))
    return {
        "id": annotation["id"],
        "bbox": tfds.features.BBox(*np.clip(corners, 0, 1).tolist()),
        "label": annotation["category_id"],
        "category": names[annotation["category_id"]],
        "area": annotation.get("area", width * height),
        "is_crowd": bool(annotation.get("iscrowd", 0)),
        "segmentation": json.dumps(segmentation) if segmentation else "",
        "keypoints": np.array(keypoints, np.float32).reshape(KEYPOINTS, 3),
    }
