"""Masks from polygons, filled by pycocotools, and back to COCO results.

A ring is filled as COCO fills the polygons of its annotations, and a mask is the union of its
rings. Coordinates are in pixels of the image the mask belongs to.
"""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from pix2seq_jax.geometry.point_lists import split_rings
from pix2seq_jax.geometry.run_lengths import mask_of_runs, read_runs, runs_of_mask, text_of_runs

# Pixels outside of the image; pycocotools walks along every edge, also where it is not seen.
FAR = 10_000.0


def rasterize(points, height: int, width: int) -> np.ndarray:
    """The mask of one object.

    Args:
        points: f32[T], y, x, ... in pixels with the reserved floats of vocab, as in
            `geometry.point_lists.split_rings`.
        height: of the mask in pixels.
        width: of the mask in pixels.

    Returns:
        bool[H,W], empty without a polygon of three points.
    """
    return _fill(split_rings(points), height, width).astype(bool)


def average_masks(points, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
    """The mask that several samples of one object agree on (Pix2Seq v2, section 3.3).

    Args:
        points: f32[K,T], of each sample as in `rasterize`.
        height: of the mask in pixels.
        width: of the mask in pixels.
        threshold: share of the samples that must cover a pixel; exactly this share is enough, as in
            the release.

    Returns:
        bool[H,W].

    Raises:
        ValueError: points that are not [K,T] with at least one sample, or a threshold outside (0,
            1].
    """
    points = np.asarray(points)
    if points.ndim != 2 or not len(points):
        raise ValueError(f"points{list(points.shape)}: give [K,T], the samples of one object")
    if not 0 < threshold <= 1:
        raise ValueError(
            f"threshold={threshold}: give a share of the samples, above 0 and at most 1"
        )
    samples = [split_rings(sample) for sample in points]
    mask = np.zeros((height, width), bool, order="F")  # as pycocotools gives masks
    corner, size = _window(samples, height, width)
    votes = np.zeros(size, np.uint16, order="F")
    for rings in samples:
        votes += _fill([ring - corner[::-1] for ring in rings], *size)
    window = tuple(slice(start, start + length) for start, length in zip(corner, size, strict=True))
    mask[window] = votes >= threshold * len(points)
    return mask


def _window(
    samples: list[list[np.ndarray]], height: int, width: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corner (y, x) and size (height, width) of the part of an image that the rings of all samples
    lie in.

    Votes are counted there alone: of a photograph of 12 megapixels most objects cover a small part.
    The window reaches a pixel beyond the rings, so that they are filled as in the whole image.
    """
    rings = [ring for rings in samples for ring in rings]
    if not rings:
        return (0, 0), (1, 1)
    points = np.concatenate(rings)[:, ::-1]  # y, x
    limits = np.array([height, width])
    low = np.clip(np.floor(points.min(axis=0)).astype(np.int64) - 1, 0, limits - 1)
    high = np.clip(np.ceil(points.max(axis=0)).astype(np.int64) + 1, low + 1, limits)
    return tuple(low.tolist()), tuple((high - low).tolist())


def to_rle(mask) -> dict:
    """bool[H,W] -> compressed RLE {"size": [H, W], "counts": str}, ready for JSON."""
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask{list(mask.shape)}: give [H,W]")
    counts = text_of_runs(runs_of_mask(mask.astype(bool, copy=False)))
    return {"size": list(mask.shape), "counts": counts}


def result(image_id: int, category_id: int, mask, score: float) -> dict:
    """One COCO result: {image_id, category_id, segmentation: compressed RLE, score} of plain Python
    values.

    Args:
        image_id: of the image.
        category_id: of the class, as in the annotations.
        mask: bool[H,W] of the original image's size.
        score: confidence.
    """
    return {
        "image_id": int(image_id),
        "category_id": int(category_id),
        "segmentation": to_rle(mask),
        "score": float(f"{score:.9g}"),  # as in coco.results
    }


def decode_rle(
    segmentation: dict | Sequence[Sequence[float]], height: int, width: int
) -> np.ndarray:
    """The mask of any form of a COCO `segmentation`.

    Args:
        segmentation: a list of polygons [x, y, x, y, ...] in pixels, or an RLE {"size": [H, W],
            "counts": ...} with counts as a list of numbers (uncompressed) or as text or bytes
            (compressed). Polygons of fewer than three points are left out.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        bool[H,W].

    Raises:
        ValueError: an RLE of another size, or a form that is none of these.
    """
    if isinstance(segmentation, dict):
        if list(segmentation.get("size", ())) != [height, width] or "counts" not in segmentation:
            raise ValueError(
                f"RLE with {sorted(segmentation)} of size {segmentation.get('size')}: it must "
                f"have counts and the size [{height}, {width}] of the image"
            )
        return mask_of_runs(read_runs(segmentation["counts"], (height, width)), (height, width))
    rings = []
    for polygon in segmentation:
        flat = np.asarray(polygon, np.float64)
        if flat.ndim != 1 or flat.size % 2:
            raise ValueError(
                f"polygon{list(flat.shape)}: give the polygons of an object as [[x, y, x, y, "
                "...], ...]"
            )
        ring = flat.reshape(-1, 2)
        rings.append(ring[np.isfinite(ring).all(axis=1)])
    return _fill([ring for ring in rings if len(ring) >= 3], height, width).astype(bool)


def _fill(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """u8[H,W], 1 in the union of polygons [f64[n,2]] as x, y, of at least three points each."""
    if not rings:
        return np.zeros((height, width), np.uint8, order="F")  # as pycocotools gives masks
    polygons = [np.clip(ring, -FAR, max(height, width) + FAR).ravel().tolist() for ring in rings]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
