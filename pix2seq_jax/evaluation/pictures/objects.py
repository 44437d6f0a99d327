"""From COCO results and annotations of one image, of several tasks, to the objects that
`draw.draw_objects` draws."""

from collections.abc import Mapping, Sequence

import numpy as np

from pix2seq_jax.evaluation.metrics import coco, masks

SAME_BOX = 0.5  # pixels that the boxes of one object may differ by, after a task has scaled them


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
    fields = {
        "boxes": np.reshape(coco.yxyx([row["bbox"] for row in objects]), (-1, 4)),
        "labels": [label_of[row["category_id"]] for row in objects],
        "is_crowd": [bool(row.get("iscrowd", 0)) for row in objects],
    }
    if all("score" in row for row in objects):
        fields["scores"] = [row["score"] for row in objects]
    if any(row.get("segmentation") for row in objects):
        empty = np.zeros(size, bool)
        fields["masks"] = [
            masks.decode_rle(row["segmentation"], *size) if row.get("segmentation") else empty
            for row in objects
        ]
    count = max((len(row.get("keypoints") or ()) // 3 for row in objects), default=0)
    if count:
        keypoints = np.zeros((len(objects), count, 3))  # x, y, v
        for number, row in enumerate(objects):
            if row.get("keypoints"):
                keypoints[number] = np.reshape(row["keypoints"], (-1, 3))
        fields |= {"keypoints": keypoints[..., 1::-1], "visible": keypoints[..., 2] > 0}
    return fields


def merged(rows: Mapping[str, Sequence[dict]]) -> list[dict]:
    """One row per object, from the COCO rows of one image by task; a row of the first task that has
    the box leads. Of several at one place, the best-scored row of a task goes to the best-scored
    object.

    Every row has `bbox` [x, y, width, height] in pixels, `category_id` and what its task predicts.
    """
    objects: list[dict] = []
    for own in rows.values():
        # A box that was detected twice is two objects: each takes one row of a task.
        unmatched, alone = sorted(objects, key=_worst_last), []
        for number in sorted(range(len(own)), key=lambda i: _worst_last(own[i])):
            row = own[number]
            match = next((i for i, one in enumerate(unmatched) if _same(one, row)), None)
            if match is None:
                alone.append(number)
                continue
            leading = unmatched.pop(match)  # it keeps its score
            leading.update({key: value for key, value in row.items() if key not in leading})
        objects += [dict(own[number]) for number in sorted(alone)]
    return objects


def _worst_last(row: dict) -> float:
    """A key to sort rows by; those of annotations, which have no score, keep their order."""
    return -row.get("score", 0.0)


def _same(one: dict, other: dict) -> bool:
    """Whether two rows are of one object: the box of one task prompts the others."""
    if one["category_id"] != other["category_id"]:
        return False
    apart = np.abs(np.subtract(one["bbox"], other["bbox"])).max()
    return apart <= SAME_BOX + 1e-3 * max(other["bbox"])
