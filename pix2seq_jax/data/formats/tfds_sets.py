"""A data set that TFDS has built, as images and COCO's JSON.

An example has `image`, `image/filename` and `objects` with `bbox` (yxyx, normalised) and `label`,
as `coco` and `voc` of the catalogue have them, and perhaps what experiment.tfds_builders adds:
`segmentation`, `keypoints` and `captions`. The images become files again, byte for byte as TFDS
stores them.
"""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pix2seq_jax.data.coco.person import COCO_KEYPOINTS
from pix2seq_jax.files.whole import write_whole

SPLITS = {"train": ("train",), "val": ("validation", "val", "test")}  # TFDS's names of a split


def convert(
    name: str, source: Path, images: Path, splits: Iterable[str]
) -> dict[str, tuple[Path, dict[str, dict]]]:
    """Writes the images of a built data set, and makes COCO's JSON.

    Args:
        name: of the data set, as in coco/2017.
        source: folder of TFDS (--data_dir).
        images: folder for the images, `images/SPLIT/NAME`; those that are there stay.
        splits: "train" and "val".

    Returns:
        Split -> (folder of its images, kind of annotations -> JSON).

    Raises:
        ValueError: the data set is not there, or has no boxes.
    """
    import tensorflow_datasets as tfds  # here, since it needs a second

    try:
        builder = tfds.builder(name, data_dir=str(source))
        there = dict(builder.info.splits)
    except Exception as error:  # TFDS raises many kinds
        raise ValueError(
            f"--from=tfds:{name}: {' '.join(str(error).split())[:300]}; --source={source} is the "
            f"--data_dir of `tfds build {name}`"
        ) from error
    made = {}
    for split in splits:
        own = next((one for one in SPLITS[split] if one in there), None)
        if own is None:
            raise ValueError(
                f"--from=tfds:{name}: {source} has the splits {sorted(there)}, none of "
                f"{list(SPLITS[split])}; build it first, or read only one by --splits=train or val"
            )
        labels = _labels(name, dict(builder.info.features.items()))
        skip = {"image": tfds.decode.SkipDecoding()}
        if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            examples = builder.as_data_source(split=own, decoders=skip)
        else:
            stored = builder.as_dataset(split=own, decoders=skip, shuffle_files=False)
            examples = tfds.as_numpy(stored)
        rows = _written(examples, images / split, labels)
        made[split] = images / split, _content(list(rows), labels)
    return made


def _labels(name: str, features: dict[str, Any]) -> dict[int, tuple[int, str]]:
    """Category id and name by label; empty where the examples say them. ValueError where there are
    no boxes."""
    objects = dict(features["objects"].feature.items()) if "objects" in features else {}
    if "image" not in features or not {"bbox", "label"} <= set(objects):
        raise ValueError(
            f"--from=tfds:{name}: its features are {sorted(features)}; a data set with image and "
            "objects (bbox, label) is needed"
        )
    label = objects["label"]
    names = getattr(label, "names", None)
    return {number: (number + 1, text) for number, text in enumerate(names or ())}


def _written(
    examples: Iterable[dict], folder: Path, labels: dict[int, tuple[int, str]]
) -> Iterator[dict]:
    """What is known of each example, after its image is written."""
    for number, example in enumerate(examples, 1):
        data = example["image"]
        with Image.open(io.BytesIO(data)) as image:
            (width, height), end = image.size, (image.format or "img").lower()
        text = example.get("image/filename", b"").decode()
        file_name = text or f"{number:012d}.{end}"
        path = folder / file_name
        if not path.is_file() or path.stat().st_size != len(data):
            write_whole(path, data)
        record = {"id": int(example.get("image/id", number)), "file_name": file_name}
        yield {
            "image": record | {"width": width, "height": height},
            "objects": list(_objects(example["objects"], width, height, labels)),
            "captions": [one.decode() for one in _captions(example)],
        }


def _captions(example: dict) -> list[bytes]:
    captions = example.get("captions", [])
    return list(captions["text"] if isinstance(captions, dict) else captions)


def _objects(
    objects: dict, width: int, height: int, labels: dict[int, tuple[int, str]]
) -> Iterator[dict]:
    """Annotations without ids, with the `name` of their class."""
    for row, box in enumerate(objects["bbox"]):
        own = {key: value[row] for key, value in objects.items()}
        top, left, bottom, right = (float(side) for side in box)
        sides = [(right - left) * width, (bottom - top) * height]
        label = int(own["label"])
        category, name = labels.get(label, (label, own.get("category", b"").decode()))
        crowd = own.get("is_crowd", own.get("is_difficult", False))
        made = {
            "category_id": category,
            "name": name or f"class {category}",
            "bbox": [left * width, top * height, *sides],
            "area": float(own.get("area", sides[0] * sides[1])),
            "iscrowd": int(crowd),
        }
        if own.get("segmentation", b""):
            made["segmentation"] = json.loads(own["segmentation"])
        if "keypoints" in own:
            points = np.asarray(own["keypoints"], np.float64)
            made["num_keypoints"] = int(np.count_nonzero(points[:, 2]))
            made["keypoints"] = points.round(3).ravel().tolist()
        yield made


def _content(rows: list[dict], labels: dict[int, tuple[int, str]]) -> dict[str, dict]:
    """COCO's JSON by kind of annotations."""
    images = [row["image"] for row in rows]
    names = dict(labels.values())
    objects: list[dict] = []
    captions: list[dict] = []
    for row in rows:
        image_id = row["image"]["id"]
        for one in row["objects"]:
            names.setdefault(one["category_id"], one["name"])
            rest = {key: value for key, value in one.items() if key != "name"}
            objects.append({"id": len(objects) + 1, "image_id": image_id, **rest})
        for text in row["captions"]:
            captions.append({"id": len(captions) + 1, "image_id": image_id, "caption": text})
    categories = [{"id": number, "name": name} for number, name in sorted(names.items())]
    made = {"instances": {"images": images, "annotations": objects, "categories": categories}}
    # Keypoints are of the categories that have any.
    people = {one["category_id"] for one in objects if one.get("num_keypoints")}
    if people:
        skeleton = [[first + 1, last + 1] for first, last in COCO_KEYPOINTS["skeleton"]]
        schema = {"keypoints": list(COCO_KEYPOINTS["names"]), "skeleton": skeleton}
        own = [category | schema for category in categories if category["id"] in people]
        their = [one for one in objects if one["category_id"] in people]
        made["person_keypoints"] = {"images": images, "annotations": their, "categories": own}
    if captions:
        made["captions"] = {"images": images, "annotations": captions}
    return made
