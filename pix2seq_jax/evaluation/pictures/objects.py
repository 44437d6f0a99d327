"""From COCO results and annotations of one image, of several tasks, to the objects that
evaluators.draw draws."""

from collections.abc import Mapping, Sequence

import numpy as np

from pix2seq_jax.evaluation.metrics import masks

SAME_BOX = 0.5  # pixels that the boxes of one object may differ by, after a task has scaled them


def _yxyx(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [y, x, y + height, x + width]


def _same(one: dict, other: dict) -> bool:
    """Whether two rows are of one object: the box of one task prompts the others."""
    apart = np.abs(np.subtract(one["bbox"], other["bbox"])).max()
    return one["category_id"] == other["category_id"] and apart <= SAME_BOX + 1e-3 * max(
        other["bbox"]
    )


def merged(rows: Mapping[str, Sequence[dict]]) -> list[dict]:
    """One row per object, from the COCO rows of one image by task; a row of the first task that has
    the box leads.

    Every row has `bbox` [x, y, width, height] in pixels, `category_id` and what its task finds.
    """
    objects: list[dict] = []
    for own in rows.values():
        free = list(
            objects
        )  # a box that was found twice is two objects: each takes one row of a task
        for row in own:
            place = next((number for number, one in enumerate(free) if _same(one, row)), None)
            if place is None:
                objects.append(dict(row))
            else:  # keep the score of the box
                known = free.pop(place)
                known.update({key: value for key, value in row.items() if key not in known})
    return objects


def drawable(
    rows: Mapping[str, Sequence[dict]], label_of: Mapping[int, int], size: tuple[int, int]
) -> dict:
    """What `draw.draw_objects` takes, of the COCO results or annotations of one image by task.

    Args:
        rows: with `bbox`, by task; the first task leads.
        label_of: category id -> label; rows of other categories are left out.
        size: height and width of the image in pixels.
    """
    objects = [row for row in merged(rows) if row["category_id"] in label_of]
    found = {
        "boxes": np.array([_yxyx(row["bbox"]) for row in objects], np.float64).reshape(-1, 4),
        "labels": [label_of[row["category_id"]] for row in objects],
        "is_crowd": [bool(row.get("iscrowd", 0)) for row in objects],
    }
    if all("score" in row for row in objects):
        found["scores"] = [row["score"] for row in objects]
    if any(row.get("segmentation") for row in objects):
        empty = np.zeros(size, bool)
        found["masks"] = [
            masks.decode_rle(row["segmentation"], *size) if row.get("segmentation") else empty
            for row in objects
        ]
    joints = max((len(row.get("keypoints") or ()) // 3 for row in objects), default=0)
    if joints:
        points = np.zeros((len(objects), joints, 3))
        for place, row in zip(points, objects, strict=True):
            if row.get("keypoints"):
                place[:] = np.reshape(row["keypoints"], (-1, 3))
        found |= {"keypoints": points[..., 1::-1], "visible": points[..., 2] > 0}
    return found
