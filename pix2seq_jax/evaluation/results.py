"""From what the tasks decode to results as COCO writes them. Floor of NumPy: it runs in threads
beside the devices."""

from collections.abc import Mapping, Sequence

import numpy as np

from pix2seq_jax.evaluation.metrics import coco, masks

Part = Mapping[str, np.ndarray]  # what a task's `decode` gives, on the host


def detections(part: Part, image_ids: Sequence[int], category_ids: Sequence[int]) -> list[dict]:
    """COCO results of `boxes f32[B,N,4]` yxyx in pixels, `labels i32[B,N]`, `scores f32[B,N]`."""
    return coco.results(image_ids, part["boxes"], part["labels"], part["scores"], category_ids)


def outlines(
    part: Part,
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    *,
    sizes: Sequence[tuple[int, int]],
    threshold: float,
) -> list[dict]:
    """COCO results with masks, and `bbox`, of `points f32[B,N,K,T]` and the boxes that prompted
    them.

    Args:
        part: see tasks.segmentation.
        image_ids: of each row.
        category_ids: category id of label l at l - 1.
        sizes: height and width of each row's image in pixels.
        threshold: share of the K samples that must cover a pixel.
    """
    results = []
    for row, slot in np.argwhere(part["labels"] > 0):
        mask = masks.average_masks(part["points"][row, slot], *sizes[row], threshold)
        category_id = category_ids[part["labels"][row, slot] - 1]
        result = masks.result(image_ids[row], category_id, mask, part["scores"][row, slot])
        results.append(result | {"bbox": coco.xywh(part["boxes"][row, slot])})
    return results


def poses(part: Part, image_ids: Sequence[int], category_ids: Sequence[int]) -> list[dict]:
    """COCO results with keypoints, and `bbox`, of `keypoints f32[B,N,J,2]` yx in pixels and the
    boxes that prompted."""
    results = []
    for row, slot in np.argwhere(part["labels"] > 0):
        joints = np.asarray(part["keypoints"][row, slot], np.float64)[:, ::-1]  # x, y
        found = np.concatenate([joints.round(4), np.ones((len(joints), 1))], axis=1)
        results.append(
            {
                "image_id": int(image_ids[row]),
                "category_id": int(category_ids[part["labels"][row, slot] - 1]),
                "keypoints": found.ravel().tolist(),
                "score": float(f"{part['scores'][row, slot]:.9g}"),
                "bbox": coco.xywh(part["boxes"][row, slot]),
            }
        )
    return results


def captions(part: Part, image_ids: Sequence[int], text) -> list[dict]:
    """[{image_id, caption}] of `pieces i32[B,T]`; `text.decode` makes words of pieces."""
    return [
        {"image_id": int(image_id), "caption": text.decode(pieces.tolist())}
        for image_id, pieces in zip(image_ids, part["pieces"], strict=True)
    ]
