"""Predictions in COCO's results format: what `pycocotools.COCO.loadRes` and other tools read."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pix2seq_jax.evaluation.metrics import coco, masks
from pix2seq_jax.evaluation.predictor import Prediction


def image_ids(paths: Sequence[str], annotations: str = "") -> list[int]:
    """An id for each file: those of a COCO file that names the images, else 1, 2, 3, ... in order.

    Args:
        paths: of the images.
        annotations: a JSON with `images`, each with `file_name` and `id`; "" for none. Of a
            `file_name` with folders the last part counts where the whole is not the end of a path
            and no other name ends in this part.

    Raises:
        ValueError: the JSON cannot be read, lacks one of the files, has several of its name, or
            would give two files one id.
    """
    if not annotations:
        return list(range(1, len(paths) + 1))
    by_name = _ids_by_name(annotations)
    lasts = Counter(Path(name).name for name in by_name)
    by_last = {Path(name).name: i for name, i in by_name.items() if lasts[Path(name).name] == 1}
    path_of: dict[int, str] = {}
    for path in paths:
        parts = Path(path).parts
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        known = next((by_name[end] for end in ends if end in by_name), by_last.get(parts[-1]))
        if known is None:
            several, name = lasts[parts[-1]], parts[-1]
            what = f"{several} images {name}, none of them as in {path}"
            raise ValueError(
                f"--image_ids={annotations} has {what if several else f'no image {name}'}; give "
                "the file of these images, or leave --image_ids out"
            )
        if known in path_of:
            raise ValueError(
                f"--image_ids={annotations}: {path_of[known]} and {path} are both image "
                f"{known}; give paths that end in the file names there, or leave --image_ids out"
            )
        path_of[known] = path
    return list(path_of)


def _ids_by_name(annotations: str) -> dict[str, int]:
    try:
        rows = json.loads(Path(annotations).read_bytes())["images"]
        listed = [(str(row["file_name"]).replace("\\", "/"), int(row["id"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--image_ids={annotations} cannot be read ({type(error).__name__}: {error}); give a "
            "JSON in COCO's format with images that have file_name and id"
        ) from error
    by_name = dict(listed)
    if twice := [name for name, image_id in listed if by_name[name] != image_id]:
        raise ValueError(
            f"--image_ids={annotations} lists {twice[0]} with several ids; give each image one"
        )
    return by_name


def results(
    prediction: Prediction, image_id: int, category_ids: Sequence[int]
) -> list[Mapping[str, Any]]:
    """One row for each object, the best first.

    `image_id`, `category_id`, `bbox` [x, y, width, height] in pixels, `score`, and where the model
    finds them `segmentation` (compressed RLE) and `keypoints` [x, y, v, ...], v 1 for those that
    count and 0 (with x and y 0) for the others.
    """
    rows = []
    for i, label in enumerate(prediction.labels.tolist()):
        row = {
            "image_id": image_id,
            "category_id": int(category_ids[label - 1]) if len(category_ids) else label,
            "bbox": coco.xywh(prediction.boxes[i]),
            "score": round(float(prediction.scores[i]), 6),
        }
        if prediction.masks is not None and prediction.masks[i].any():
            row["segmentation"] = masks.to_rle(prediction.masks[i])
        if prediction.keypoints is not None and prediction.visible[i].any():
            seen = prediction.visible[i][:, None]
            points = np.concatenate([prediction.keypoints[i][:, ::-1], seen], axis=1) * seen
            row["keypoints"] = np.round(points.astype(np.float64), 2).ravel().tolist()
        rows.append(row)
    return rows
