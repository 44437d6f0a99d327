"""Outlines: what becomes of COCO segmentations on their way to token sequences and back to
masks."""

import itertools
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.geometry import rings
from pix2seq_jax.geometry.run_lengths import runs_of_text
from pix2seq_jax.vocab import POINT_PADDING, POINT_SEPARATOR, Vocab
from tests.helpers import small
from tests.helpers.outlines import HEIGHT, WIDTH, blob, rings_of

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]  # clockwise on the screen


def write(folder, segmentations: list, **more):
    """A COCO file of one image and one annotation for each segmentation; ... stands for none."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.png")
    rows = [
        {
            "id": 50 + i,
            "image_id": 1,
            "category_id": 1,
            "bbox": [10, 10, 20, 20],
            "area": 400.0,
            "iscrowd": 0,
            **more,
        }
        | ({} if value is ... else {"segmentation": value})
        for i, value in enumerate(segmentations)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": rows,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def opened(folder, segmentations: list, max_points: int = 128, **more) -> CocoDir:
    return CocoDir(folder, write(folder, segmentations, **more), max_points=max_points)


def rasterised(rings: list, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rle = coco_mask.frPyObjects(
        [np.asarray(ring, np.float64).ravel().tolist() for ring in rings], height, width
    )
    return coco_mask.decode(coco_mask.merge(rle)).astype(bool)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def test_a_ring_keeps_its_first_point_and_runs_clockwise(tmp_path):
    backwards = [[10, 10, 10, 30, 30, 30, 30, 10, 10, 10]]  # closed explicitly, too
    source = opened(tmp_path, [SQUARE, backwards, SQUARE], max_points=6)
    assert source.fields["polygons"] == (np.float32, (None, 12))
    got = source[0]["polygons"]
    assert got.dtype == np.float32
    expected = np.array([10, 10, 10, 30, 30, 30, 30, 10]) / ([HEIGHT, WIDTH] * 4)
    np.testing.assert_allclose(got, [[*expected, -1, -1, -1, -1]] * 3, rtol=1e-6)
    np.testing.assert_array_equal(source.take(0, [1])["polygons"], got[1:2])
    assert not source.report


def test_parts_are_separated_and_clipped_to_the_image(tmp_path):
    parts = [*SQUARE, [600, 400, 700, 400, 700, 600, 600, 600]]
    (got,) = opened(tmp_path, [parts], max_points=10)[0]["polygons"]
    first, second = rings_of(got)
    np.testing.assert_allclose(first, np.reshape(SQUARE, (-1, 2)), rtol=1e-5)
    np.testing.assert_allclose(second, [[600, 400], [640, 400], [640, 480], [600, 480]], rtol=1e-5)
    assert (got.reshape(-1, 2)[4] == POINT_SEPARATOR).all()


def test_what_encloses_nothing_or_is_missing_is_counted(tmp_path):
    line, short = [5, 5, 9, 9, 7, 7], [1, 1, 2, 2]
    source = opened(tmp_path, [[line, *SQUARE, short], [line], ..., None, [], [[]]])
    got = source[0]["polygons"]
    assert len(rings_of(got[0])) == 1
    assert (got[1:] == POINT_PADDING).all()
    assert source.report == {
        "polygons of fewer than 3 points or without area, dropped": 4,
        "objects without segmentation": 5,
    }
    assert "(first: 51, 52, 53)" in source.describe()


def test_crowds_have_no_outline(tmp_path):
    source = opened(
        tmp_path, [{"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}, ..., SQUARE], iscrowd=1
    )
    assert (source[0]["polygons"] == POINT_PADDING).all()
    assert not source.report


def test_pycocotools_takes_what_the_file_says(tmp_path):
    rle = {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}
    rows = opened(tmp_path, [SQUARE, rle, ..., [*SQUARE, [1, 1, 2, 2]]]).coco_dict()["annotations"]
    assert rows[0]["segmentation"] == rows[3]["segmentation"] == SQUARE
    assert rows[1]["segmentation"] == rle
    assert rows[2]["segmentation"] == {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    json.dumps(rows)
    assert (
        "segmentation" not in opened(tmp_path, [SQUARE], max_points=0).coco_dict()["annotations"][0]
    )


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2, 3, 4, 5, 6, 7]], "has an odd number of coordinates, 7: [1, 2, 3, 4, 5, 6, 7]"),
        (
            [[1, 2, 3, NAN, 5, 6]],
            "has a coordinate that is no finite number, nan, in: [1, 2, 3, nan, 5, 6]",
        ),
        ([[1, 2, 3, INF, 5, 6]], "no finite number, inf"),
        ([SQUARE[0], [1, 2, None, 4, 5, 6]], "no finite number, None, in: [1, 2, None, 4, 5, 6]"),
        ([1, 2, 3, 4, 5, 6], "is no list of polygons"),
        ("abc", "is no list of polygons"),
        ({"size": [3, 3], "counts": [9]}, "are not for 480 x 640"),
        ({"size": [HEIGHT, WIDTH]}, "has no run lengths"),
    ],
)
def test_malformed_segmentations_are_named(tmp_path, value, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        opened(tmp_path, [SQUARE, value])
    assert (
        "instances.json: 1 annotations with a broken segmentation, first: the segmentation "
        "of annotation 51"
    ) in str(caught.value)
    assert len(opened(tmp_path, [SQUARE, value], max_points=0)[0]["labels"]) == 2  # nobody looks


@pytest.mark.parametrize("counts", [[5, 5], "0", "zzz", [-1, HEIGHT * WIDTH + 1], ["a"], [1.5]])
def test_broken_run_lengths_are_named(tmp_path, counts):
    with pytest.raises(
        ValueError,
        match=r"segmentation of annotation 50 cannot be read, the run lengths .*correct or",
    ):
        opened(tmp_path, [{"size": [HEIGHT, WIDTH], "counts": counts}])


def test_a_file_without_segmentations_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"none of its 2 objects has a `segmentation`.*out of the tasks"
    ):
        opened(tmp_path, [..., ...])
    assert len(opened(tmp_path, [..., ...], max_points=0)[0]["labels"]) == 2


def test_no_room_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_points=2: an outline needs at least 3"):
        opened(tmp_path, [SQUARE], max_points=2)


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_become_outlines(tmp_path, compressed):
    rng = np.random.default_rng(1)
    masks = [rasterised([blob(rng, 300, 60), blob(rng, 300, 25)]) for _ in range(4)]
    masks += [rasterised(SQUARE), np.zeros((HEIGHT, WIDTH), bool), np.ones((HEIGHT, WIDTH), bool)]
    segmentations = []
    for mask in masks:
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        text = rle["counts"].decode()
        counts = text if compressed else runs_of_text(text)
        segmentations.append({"size": [HEIGHT, WIDTH], "counts": counts})
    source = opened(tmp_path, segmentations)
    for _ in range(2):
        got = source[0]["polygons"]
    assert source.report == {"objects without segmentation": 1}  # not twice
    for row, mask in zip(got, masks, strict=True):
        if mask.any():
            outline = rings_of(row)
            assert all(rings.area(ring) > 0 for ring in outline)
            assert iou(rasterised(outline), mask) > 0.95
        else:
            assert (row == POINT_PADDING).all()


def test_too_many_parts_are_counted(tmp_path):
    parts = [[x, 10, x + 2 + x / 100, 10, x + 2, 14] for x in range(0, 400, 10)]
    source = opened(tmp_path, [parts])
    assert source.report == {
        "objects of more than 32 parts, the smallest left out (128 points hold 32)": 1
    }
    assert len(rings_of(source[0]["polygons"][0])) == 32


def roundtrip(row: np.ndarray, height: int, width: int) -> np.ndarray:
    """Point list -> 1000 bins -> mask."""
    vocab = Vocab(size=3000)
    quantised = np.asarray(vocab.dequantize(vocab.quantize(jnp.asarray(row))))
    return rasterised(rings_of(np.where(row < 0, row, quantised), height, width), height, width)


def test_masks_survive_as_tokens(tmp_path):
    rng = np.random.default_rng(0)
    shapes = [
        [blob(rng, int(rng.integers(60, 600)), r) for r in radii]
        for radii in [[30], [90], [50, 20]] * 8
    ]
    source = opened(tmp_path, [[ring.ravel().tolist() for ring in rings] for rings in shapes])
    rows = source[0]["polygons"]
    ious = [
        iou(roundtrip(row, HEIGHT, WIDTH), rasterised(rings))
        for row, rings in zip(rows, shapes, strict=True)
    ]
    print(f"blobs: mean IoU {np.mean(ious):.4f}, worst {min(ious):.4f}")
    assert np.mean(ious) >= 0.95
    assert min(ious) >= 0.9


def test_the_embedded_masks_survive_as_tokens(tmp_path):
    folder = small.make_shapes(tmp_path / "shapes")
    source = CocoDir(folder / "val", folder / "annotations" / "instances_val.json", max_points=128)
    ious = []
    truth = itertools.groupby(source.coco_dict()["annotations"], lambda row: row["image_id"])
    place = {int(image_id): i for i, image_id in enumerate(source.image_ids)}
    for image_id, rows in truth:
        features = source[place[image_id]]
        height, width = features["orig_size"].tolist()
        for row, annotation in zip(features["polygons"], rows, strict=True):
            if not annotation["iscrowd"]:
                ious.append(
                    iou(
                        roundtrip(row, height, width),
                        rasterised(annotation["segmentation"], height, width),
                    )
                )
    print(f"embedded: {len(ious)} objects, mean IoU {np.mean(ious):.4f}, worst {min(ious):.4f}")
    assert len(ious) > 20
    assert np.mean(ious) >= 0.95
