"""The boxes that prompt outlines and keypoints, where they come from, and the random keys of
images."""

import json

import jax
import ml_collections
import numpy as np
import pytest

from pix2seq_jax.evaluation import HOST_TASKS
from pix2seq_jax.evaluation.boxes import Boxes, boxes_of_annotations, boxes_of_results
from pix2seq_jax.evaluation.decoders import make_decoder, row_keys
from tests.helpers import four_tasks

CATEGORIES = (7, 3)  # category ids of labels 1 and 2


def boxes(labels, scores, image_ids=None) -> Boxes:
    """Boxes that are told by their first coordinate: 10 times the row plus the slot."""
    labels, scores = np.int32(labels), np.float32(scores)
    rows, slots = labels.shape
    places = np.zeros((rows, slots, 4), np.float32)
    places[..., 0] = 10 * np.arange(rows)[:, None] + np.arange(slots)
    return Boxes(
        np.arange(rows) if image_ids is None else np.int64(image_ids), places, labels, scores
    )


def told(found: Boxes) -> list[list[tuple[int, int, float]]]:
    """(which, label, score) of the boxes that are kept, by image."""
    return [
        [
            (int(box[0]), int(label), round(float(score), 3))
            for box, label, score in zip(*row, strict=True)
            if label
        ]
        for row in zip(found.boxes, found.labels, found.scores, strict=True)
    ]


GIVEN = boxes(
    [[1, 2, 1, 3], [0, 2, 0, 2], [0, 0, 0, 0]],
    [[0.2, 0.9, 0.4, 0.3], [0.9, 0.1, 0.8, 0.5], [0.1] * 4],
)


def test_the_best_boxes_come_first():
    found = GIVEN.best(2)
    assert told(found) == [[(1, 2, 0.9), (2, 1, 0.4)], [(13, 2, 0.5), (11, 2, 0.1)], []]
    assert found.labels.shape == found.scores.shape == (3, 2) and found.boxes.shape == (3, 2, 4)
    np.testing.assert_array_equal(found.image_ids, GIVEN.image_ids)


def test_other_labels_are_left_out():
    assert told(GIVEN.best(3, (1, 3))) == [[(2, 1, 0.4), (3, 3, 0.3), (0, 1, 0.2)], [], []]
    assert told(GIVEN.best(1, {2})) == [[(1, 2, 0.9)], [(13, 2, 0.5)], []]
    assert told(GIVEN.best(2, [])) == [[], [], []]


def test_boxes_of_one_score_keep_their_order():
    found = boxes([[1] * 6], [[0.5, 0.7, 0.5, 0.7, 0.5, 0.7]]).best(5)
    assert [which for which, _, _ in told(found)[0]] == [1, 3, 5, 0, 2]


def test_fewer_boxes_than_asked_for():
    found = GIVEN.best(10)
    assert found.labels.shape == (3, 4)
    assert [len(row) for row in told(found)] == [4, 2, 0]
    empty = boxes(np.zeros((2, 0)), np.zeros((2, 0))).best(3)
    assert empty.boxes.shape == (2, 0, 4)


def test_rows_of_few_slots_hold_all_boxes():
    found = GIVEN.rows(3)
    assert found.image_ids.tolist() == [0, 0, 1]  # none of the third image, which has no box
    assert told(found) == [
        [(1, 2, 0.9), (2, 1, 0.4), (3, 3, 0.3)],
        [(0, 1, 0.2)],
        [(13, 2, 0.5), (11, 2, 0.1)],
    ]
    assert found.boxes.shape == (3, 3, 4)
    assert told(GIVEN.rows(7)) == told(GIVEN.best(7))[:2]


def test_boxes_of_some_images():
    given = GIVEN._replace(image_ids=np.int64([40, 2**40, 7]))
    found = given.of_images([7, 40, 8])
    assert found.image_ids.tolist() == [40, 7]  # in their own order
    assert told(found) == [told(GIVEN)[0], []]
    np.testing.assert_array_equal(found.boxes, GIVEN.boxes[[0, 2]])
    assert told(given.of_images([])) == []


def section(sampler: str) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {"sampler": sampler, "num_samples": 1, "eos_bias": 0.0, "grammar": True}
    )


@pytest.mark.parametrize("name", ["detection", "segmentation", "keypoints"])
def test_only_captions_are_searched_for(name):
    model, tasks = four_tasks.tiny(), four_tasks.TASKS
    with pytest.raises(
        ValueError, match=rf"config.tasks.{name}.sampler='beam\(2\)': beam search is for captions"
    ):
        make_decoder(model, tasks[name], section("beam(2)"))
    assert callable(make_decoder(model, tasks["captioning"], section("beam(2)")))
    with pytest.raises(ValueError, match="sampler 'best'"):
        make_decoder(model, tasks[name], section("best"))


def keys_of(image_ids, seed: int = 0, corner=(0, 0), size=(64, 48)) -> list[tuple]:
    halves = np.array(
        [[image_id & 0xFFFFFFFF, image_id >> 32 & 0xFFFFFFFF] for image_id in image_ids], np.uint32
    )
    window = (np.tile(np.int32(pair), (len(halves), 1)) for pair in (corner, size))
    return [
        tuple(key)
        for key in np.asarray(jax.random.key_data(row_keys(seed, halves, *window))).tolist()
    ]


def test_the_key_of_an_image_or_a_window_of_it_is_its_own():
    ids = [5, 6, 5 + 2**32, 5 * 2**32, -1]
    keys = keys_of(ids)
    assert len(set(keys)) == len(ids)
    assert keys_of(ids[::-1]) == keys[::-1]
    assert keys_of([9, 9, 6, 1, 5])[2::2] == [keys[1], keys[0]]  # whatever the neighbours
    for other in ({"seed": 1}, {"corner": (0, 3)}, {"corner": (3, 0)}, {"size": (48, 64)}):
        assert not set(keys_of(ids, **other)) & set(keys)


def annotation(image_id: int, box, category: int = 7, crowd: int = 0, **more) -> dict:
    return {"image_id": image_id, "bbox": box, "category_id": category, "iscrowd": crowd} | more


any_object = HOST_TASKS["segmentation"]().prompts
with_keypoints = HOST_TASKS["keypoints"]().prompts


def test_boxes_of_annotations():
    rows = [
        annotation(4, [1, 2, 3, 4], num_keypoints=0),
        annotation(9, [5, 6, 7, 8], 3, num_keypoints=2),
        annotation(4, [0, 0, 50, 50], crowd=1, num_keypoints=3),
        annotation(4, [2, 2, 2, 2], 3, num_keypoints=1),
        annotation(5, [9, 9, 9, 9]),
    ]
    found = boxes_of_annotations({"annotations": rows}, [9, 6, 4], CATEGORIES, any_object)
    assert found.image_ids.tolist() == [9, 6, 4]  # the order that was asked for
    np.testing.assert_array_equal(found.labels, [[2, 0], [0, 0], [1, 2]])
    np.testing.assert_array_equal(found.scores, found.labels > 0)
    # yxyx
    np.testing.assert_array_equal(found.boxes[:, 0], [[6, 5, 14, 12], [0] * 4, [2, 1, 6, 4]])
    keypoints = boxes_of_annotations({"annotations": rows}, [9, 6, 4], CATEGORIES, with_keypoints)
    np.testing.assert_array_equal(keypoints.labels, [[2], [0], [2]])
    nothing = boxes_of_annotations({"annotations": rows}, [6], CATEGORIES, any_object)
    assert nothing.labels.tolist() == [[0]]


def result(image_id: int, box, category: int = 7, score: float = 0.5) -> dict:
    return {"image_id": image_id, "bbox": box, "category_id": category, "score": score}


def test_boxes_of_results(tmp_path):
    path = tmp_path / "detection.json"
    rows = [
        result(4, [1, 2, 3, 4]),
        result(9, [5, 6, 7, 8], 3, 0.25),
        result(8, [0, 0, 1, 1], category=99),
    ]
    path.write_text(json.dumps([*rows, result(4, [2, 2, 2, 2], score=0.75)]))
    found = boxes_of_results(path, [9, 6, 4], CATEGORIES)
    assert found.image_ids.tolist() == [9, 6, 4]
    np.testing.assert_array_equal(found.labels, [[2, 0], [0, 0], [1, 1]])
    np.testing.assert_array_equal(found.scores, [[0.25, 0], [0, 0], [0.5, 0.75]])
    np.testing.assert_array_equal(found.boxes[2], [[2, 1, 6, 4], [2, 2, 4, 4]])


@pytest.mark.parametrize(
    "content",
    [
        None,
        "[",
        "3",
        '{"images": []}',
        json.dumps([{"image_id": 4, "caption": "a circle"}]),
        json.dumps([result(4, [1, 2, 3, 4], category=99)]),
    ],
    ids=["missing", "broken", "number", "annotations", "captions", "category"],
)
def test_a_file_that_holds_no_boxes_is_refused(tmp_path, content):
    path = tmp_path / "detection.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(
        ValueError, match=r"config.eval.boxes='.*detection.json' cannot be used .*'ground_truth'"
    ):
        boxes_of_results(path, [4], CATEGORIES)
