"""Masks against the recorded ones, and every form of a COCO segmentation."""

import json
import time

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pix2seq_jax.evaluation.metrics import coco, masks
from pix2seq_jax.geometry.point_lists import split_rings


def rectangle(top, left, bottom, right):
    return [top, left, top, right, bottom, right, bottom, left]


def painted(height, width, *windows):
    mask = np.zeros((height, width), bool)
    for top, left, bottom, right in windows:
        mask[top:bottom, left:right] = True
    return mask


def test_masks_are_the_recorded_ones(ops_golden):
    for points, mask in zip(
        ops_golden["mask/polygon_yx_px"], ops_golden["mask/decoded"], strict=True
    ):
        drawn = masks.rasterize(points, 80, 100)
        assert drawn.dtype == bool and drawn.shape == (80, 100)
        np.testing.assert_array_equal(drawn, mask)


def test_polygons_are_united_and_start_anywhere():
    a, b = (2, 3, 10, 8), (5, 6, 12, 18)
    both = painted(16, 20, a, b)
    np.testing.assert_array_equal(
        masks.rasterize([*rectangle(*a), -2, -2, *rectangle(*b), -1, -1], 16, 20), both
    )
    turned = np.roll(rectangle(*a), 4).tolist()
    np.testing.assert_array_equal(masks.rasterize([*turned, -2, -2, *rectangle(*b)], 16, 20), both)


def test_reserved_floats_and_leftovers():
    a = (2, 3, 10, 8)
    expected = painted(16, 20, a)
    for points in (
        [*rectangle(*a), -1, -1, *rectangle(5, 6, 12, 18)],  # nothing after the end
        [*rectangle(*a), -1, 7, *rectangle(5, 6, 12, 18)],
        [*rectangle(*a), -2, 7],  # a separator in one place is one
        [-2, -2, -2, -2, *rectangle(*a), -2, -2],
        # Invisible points are left out.
        [-3, -3, *rectangle(*a)[:4], -3, -3, *rectangle(*a)[4:]],
        [float("nan"), 3, *rectangle(*a), 4, float("inf")],
        [*rectangle(*a), -2, -2, 0, 0, 15, 19],  # two points have no area
        [*rectangle(*a), -2, -2, 0, 0],
    ):
        np.testing.assert_array_equal(masks.rasterize(points, 16, 20), expected)


def test_votes_in_a_window_are_those_in_the_whole_image():
    rng = np.random.default_rng(0)
    for _ in range(200):
        centre, spread = rng.uniform(-5, 65, 2), rng.uniform(1, 40)
        samples = centre[None, None] + rng.normal(0, spread, (3, 7, 2))
        # Decoded points lie in the image or beyond its far ends.
        samples = np.where(samples < 0, 0.0, samples)
        samples[:, 3] = np.where(rng.random() < 0.5, -2, samples[:, 3])
        points = samples.reshape(3, 14)
        whole = np.mean([masks.rasterize(one, 40, 60) for one in points], axis=0) >= 0.5
        np.testing.assert_array_equal(masks.average_masks(points, 40, 60), whole)


@pytest.mark.parametrize(
    "points", [[], [-1, -1], [-2, -2], [-3, -3] * 4, [4, 4], [1, 1, 9, 9], [5.5, 5.5] * 3]
)
def test_without_a_polygon_the_mask_is_empty(points):
    for mask in (masks.rasterize(points, 16, 20), masks.average_masks([points] * 2, 16, 20)):
        assert mask.shape == (16, 20) and mask.dtype == bool and not mask.any()


def test_points_outside_the_image_are_cut():
    assert masks.rasterize(rectangle(-50, -50, 1e9, 1e9), 16, 20).all()
    np.testing.assert_array_equal(
        masks.rasterize(rectangle(4, 5, 90, 90), 16, 20), painted(16, 20, (4, 5, 16, 20))
    )


def test_half_of_the_samples_are_enough():
    left, right, none = rectangle(0, 0, 16, 12), rectangle(0, 8, 16, 20), [-1.0] * 8
    overlap = painted(16, 20, (0, 8, 16, 12))
    assert masks.average_masks([left, right], 16, 20).all()
    np.testing.assert_array_equal(
        masks.average_masks([left, right], 16, 20, threshold=0.51), overlap
    )
    np.testing.assert_array_equal(masks.average_masks([left, right, none], 16, 20), overlap)
    np.testing.assert_array_equal(
        masks.average_masks([left], 16, 20), masks.rasterize(left, 16, 20)
    )


def test_a_result_is_plain_json_and_scores_like_its_mask(ops_golden):
    drawn = ops_golden["mask/decoded"].astype(bool)
    truth = {
        "images": [{"id": 1, "height": 80, "width": 100}],
        "categories": [{"id": 5, "name": "thing"}],
        "annotations": [
            {
                "id": i,
                "image_id": 1,
                "category_id": 5,
                "segmentation": masks.to_rle(mask),
                "area": int(mask.sum()),
            }
            | {"bbox": coco_mask.toBbox(masks.to_rle(mask)).tolist(), "iscrowd": 0}
            for i, mask in enumerate(drawn)
        ],
    }
    found = [masks.result(np.int64(1), np.int32(5), mask, np.float32(0.3)) for mask in drawn]
    assert found == json.loads(json.dumps(found)) and isinstance(
        found[0]["segmentation"]["counts"], str
    )
    assert found[0]["score"] == 0.300000012 and found[0]["segmentation"]["size"] == [80, 100]
    assert coco.evaluate(truth, found, "segm")["AP"] == 1.0
    shifted = [masks.result(1, 5, np.roll(mask, 30, axis=1), 0.3) for mask in drawn]
    assert coco.evaluate(truth, shifted, "segm")["AP"] < 0.5


def test_every_form_of_a_segmentation_is_read(ops_golden):
    for points, mask in zip(
        ops_golden["mask/polygon_yx_px"], ops_golden["mask/decoded"].astype(bool), strict=True
    ):
        compressed = masks.to_rle(mask)
        polygons = [ring.ravel().tolist() for ring in split_rings(points)]
        flat = mask.ravel(order="F")
        edges = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *([0] if flat[0] else []), *edges, flat.size]).tolist()
        for segmentation in (
            compressed,
            compressed | {"counts": compressed["counts"].encode()},
            polygons,
            {"size": [80, 100], "counts": counts},
        ):
            read = masks.decode_rle(segmentation, 80, 100)
            assert read.dtype == bool
            np.testing.assert_array_equal(read, mask)


def test_segmentations_without_area():
    for segmentation in (
        [],
        [[]],
        [[1, 1, 5, 5]],
        [[1, 1, float("nan"), 5, 9, 9]],
        {"size": [8, 9], "counts": [72]},
    ):
        mask = masks.decode_rle(segmentation, 8, 9)
        assert mask.shape == (8, 9) and not mask.any()
    np.testing.assert_array_equal(  # four numbers are a box to pycocotools, and no polygon
        masks.decode_rle([[1, 1, 5, 5], [2, 1, 6, 1, 6, 4, 2, 4]], 8, 9),
        painted(8, 9, (1, 2, 4, 6)),
    )


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"points\[2, 4\]: give y, x, y, x"):
        masks.rasterize(np.zeros((2, 4)), 8, 8)
    with pytest.raises(ValueError, match=r"points\[3\]: give y, x"):
        masks.rasterize(np.zeros(3), 8, 8)
    with pytest.raises(ValueError, match=r"points\[4\]: give \[K,T\]"):
        masks.average_masks(np.zeros(4), 8, 8)
    with pytest.raises(ValueError, match=r"points\[0, 4\]: give \[K,T\]"):
        masks.average_masks(np.zeros((0, 4)), 8, 8)
    with pytest.raises(ValueError, match=r"threshold=0: give a share"):
        masks.average_masks(np.zeros((1, 4)), 8, 8, threshold=0)
    with pytest.raises(ValueError, match=r"mask\[2, 8, 8\]: give \[H,W\]"):
        masks.to_rle(np.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match=r"of size \[8, 8\]: .* the size \[8, 9\] of the image"):
        masks.decode_rle({"size": [8, 8], "counts": [64]}, 8, 9)
    with pytest.raises(ValueError, match=r"RLE with \['size'\]"):
        masks.decode_rle({"size": [8, 9]}, 8, 9)
    for counts in ([71], [80, -8], [10, 70]):
        with pytest.raises(ValueError, match=r"run lengths (fill \d+ of 8 x 9 pixels|are broken)"):
            masks.decode_rle({"size": [8, 9], "counts": counts}, 8, 9)
    with pytest.raises(ValueError, match=r"polygon\[\]: give the polygons"):
        masks.decode_rle([1, 2, 3, 4, 5, 6], 8, 9)
    with pytest.raises(ValueError, match=r"polygon\[7\]: give the polygons"):
        masks.decode_rle([[1, 2, 3, 4, 5, 6, 7]], 8, 9)


def test_a_hundred_objects_of_eight_samples_take_a_moment():
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = rng.uniform(20, 250, (100, 8, 1)) * rng.uniform(0.8, 1.2, (100, 8, 60))
    around = np.stack([np.sin(angle), np.cos(angle)], axis=-1) * radius[..., None]
    points = np.clip(rng.uniform(0, 640, (100, 8, 1, 2)) + around, 0, 640).reshape(100, 8, 120)
    start = time.process_time()
    for samples in points:
        masks.result(1, 1, masks.average_masks(samples, 640, 640), 0.5)
    # 0.7 s measured; a Python loop over pixels or points takes minutes.
    assert time.process_time() - start < 5
