"""Rows of several tasks become one list of objects to draw."""

import numpy as np
import pytest

from pix2seq_jax.evaluation.metrics import masks
from pix2seq_jax.evaluation.pictures import draw
from pix2seq_jax.evaluation.pictures.objects import drawable, merged

SIZE = (40, 60)
LABELS = {7: 1, 3: 2}  # category id -> label
BOX, OTHER = [10.0, 5.0, 20.0, 15.0], [30.0, 20.0, 8.0, 10.0]


def square(box) -> np.ndarray:
    x, y, width, height = (int(value) for value in box)
    mask = np.zeros(SIZE, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def detected(box=BOX, category=7, score=0.9) -> dict:
    return {"image_id": 1, "category_id": category, "bbox": list(box), "score": score}


def outlined(box=BOX, category=7, score=0.8) -> dict:
    return masks.result(1, category, square(box), score) | {"bbox": list(box)}


def with_points(box=BOX, category=7, score=0.7) -> dict:
    return detected(box, category, score) | {
        "keypoints": [box[0], box[1], 1, box[0] + 2, box[1] + 4, 1]
    }


def test_an_object_of_three_tasks_is_one():
    moved = [value + 0.4 for value in BOX]  # as scaling and rounding leave it
    rows = {
        "detection": [detected(OTHER), detected()],
        "segmentation": [outlined(moved)],
        "keypoints": [with_points(moved)],
    }
    other, one = merged(rows)
    assert other == detected(OTHER)
    assert one == detected() | {
        "segmentation": outlined(moved)["segmentation"],
        "keypoints": with_points(moved)["keypoints"],
    }
    assert rows["detection"][1] == detected()  # as it was given
    found = drawable(rows, LABELS, SIZE)
    np.testing.assert_allclose(found["boxes"], [[20, 30, 30, 38], [5, 10, 20, 30]])
    assert found["labels"] == [1, 1] and found["scores"] == [0.9, 0.9]
    assert found["is_crowd"] == [False, False]
    np.testing.assert_array_equal(found["masks"], [np.zeros(SIZE, bool), square(moved)])
    np.testing.assert_allclose(found["keypoints"], [[[0, 0], [0, 0]], [[5.4, 10.4], [9.4, 12.4]]])
    np.testing.assert_array_equal(found["visible"], [[False, False], [True, True]])
    draw.draw_objects(np.zeros((*SIZE, 3), np.uint8), found, ("one", "two"), skeleton=((0, 1),))


def test_without_detection_the_next_task_leads():
    (one,) = merged({"segmentation": [outlined()], "keypoints": [with_points()]})
    assert one["score"] == 0.8 and {"segmentation", "keypoints"} <= one.keys()
    (one,) = merged({"keypoints": [with_points()]})
    assert one == with_points()


@pytest.mark.parametrize(
    "row",
    [outlined(category=3), outlined([11.0, 5, 20, 15]), outlined([10.0, 5, 20, 16])],
    ids=["class", "place", "height"],
)
def test_others_at_the_same_place_stay_apart(row):
    rows = {"detection": [detected()], "segmentation": [row]}
    assert merged(rows) == [detected(), row]
    assert "segmentation" not in detected()
    found = drawable(rows, LABELS, SIZE)
    assert len(found["labels"]) == 2 and not found["masks"][0].any() and found["masks"][1].any()


def test_what_a_task_finds_twice_is_two():
    """Boxes that are found twice are drawn twice, and their masks go to one each."""
    twice = {
        "detection": [detected(), detected(score=0.6)],
        "segmentation": [outlined(), outlined(score=0.6)],
    }
    first, second = merged(twice)
    assert (first["score"], second["score"]) == (0.9, 0.6)
    assert first["segmentation"] == second["segmentation"] == outlined()["segmentation"]
    once = merged(twice | {"segmentation": [outlined()]})
    assert ["segmentation" in one for one in once] == [True, False]


def test_the_best_of_several_at_one_place_gets_the_mask():
    """In whatever order they are listed; objects keep theirs."""
    rows = {
        "detection": [detected(score=0.4), detected(OTHER), detected()],
        "segmentation": [outlined()],
        "keypoints": [with_points(score=0.2), with_points(score=0.6) | {"keypoints": [9] * 6}],
    }
    worst, other, best = merged(rows)
    assert (worst["score"], other["score"], best["score"]) == (0.4, 0.9, 0.9)
    assert ["segmentation" in one for one in (worst, other, best)] == [False, False, True]
    assert best["keypoints"] == [9] * 6 and worst["keypoints"] == with_points()["keypoints"]
    alone = [outlined(score=0.1), outlined(OTHER), outlined([1.0, 1, 4, 4])]
    assert merged({"detection": [], "segmentation": alone}) == alone


def test_nothing_to_draw():
    for rows in ({}, {"detection": [], "segmentation": [], "keypoints": [], "captioning": []}):
        found = drawable(rows, LABELS, SIZE)
        assert found["boxes"].shape == (0, 4)
        assert set(found) == {"boxes", "labels", "is_crowd", "scores"}
        assert found["labels"] == found["scores"] == found["is_crowd"] == []
        picture = draw.draw_objects(np.zeros((*SIZE, 3), np.uint8), found, ("one", "two"))
        assert not np.asarray(picture).any()


def test_other_categories_are_left_out():
    rows = {
        "detection": [detected(category=5), detected(OTHER, category=3)],
        "segmentation": [outlined(category=5)],
    }
    found = drawable(rows, LABELS, SIZE)
    assert found["labels"] == [2] and len(found["boxes"]) == 1 and "masks" not in found


def test_annotations_of_every_form():
    """Polygons, a crowd as uncompressed RLE, compressed RLE, and an object without a mask; no
    scores."""

    def annotation(box, **more):
        return {"image_id": 1, "category_id": 3, "bbox": list(box), "iscrowd": 0} | more

    x, y, width, height = BOX
    ring = [x, y, x + width, y, x + width, y + height, x, y + height]
    crowd_box = [0.0, 0.0, 60.0, 40.0]
    everything = {"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}
    objects = [
        annotation(BOX, segmentation=[ring], keypoints=[12, 8, 2, 0, 0, 0]),
        annotation(crowd_box, segmentation=everything, iscrowd=1, keypoints=[0] * 6),
        annotation(
            OTHER, segmentation=masks.to_rle(square(OTHER)), keypoints=[31, 22, 1, 33, 25, 2]
        ),
        annotation([1.0, 2.0, 3.0, 4.0], segmentation=[]),
    ]
    bare = [
        {key: row[key] for key in row if key not in ("segmentation", "keypoints")}
        for row in objects
    ]
    with_keypoints = [
        {key: row[key] for key in row if key != "segmentation"}
        for row in objects
        if "keypoints" in row
    ]
    rows = {"detection": bare, "segmentation": objects, "keypoints": with_keypoints}
    found = drawable(rows, LABELS, SIZE)
    assert "scores" not in found and found["labels"] == [2] * 4
    assert found["is_crowd"] == [False, True, False, False]
    expected = [square(BOX), np.ones(SIZE, bool), square(OTHER), np.zeros(SIZE, bool)]
    np.testing.assert_array_equal(found["masks"], expected)
    np.testing.assert_array_equal(
        found["visible"], [[True, False], [False, False], [True, True], [False, False]]
    )
    np.testing.assert_array_equal(found["keypoints"][2], [[22, 31], [25, 33]])
    draw.draw_objects(np.zeros((*SIZE, 3), np.uint8), found, ("one", "two"))


def test_a_mask_of_another_image_is_refused():
    row = detected() | {"segmentation": {"size": [10, 10], "counts": [100]}}
    with pytest.raises(ValueError, match="size \\[10, 10\\]"):
        drawable({"segmentation": [row]}, LABELS, SIZE)
