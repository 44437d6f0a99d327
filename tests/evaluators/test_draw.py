"""Boxes are drawn where they are, in the color of their class, for whatever a model or an annotator hands over."""

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.evaluators import draw

GREY = np.full((500, 600, 3), 128, np.uint8)  # within SIDES: drawn at its own size, with lines of 2 px
NAMES = ("circle", "étoile", "星")


def changed(picture: Image.Image, image: np.ndarray = GREY) -> np.ndarray:
    """bool[H,W]: the pixels that differ from the image."""
    return (np.asarray(picture) != image).any(-1)


def test_the_pixels_of_the_frame_change_and_no_others():
    frame = np.zeros((500, 600), bool)
    frame[50:150, 200:400] = True
    frame[52:148, 202:398] = False
    picture = draw.draw_boxes(GREY, np.float32([[50, 200, 150, 400]]), [2])
    np.testing.assert_array_equal(changed(picture), frame)
    assert set(map(tuple, np.asarray(picture)[frame].tolist())) == {draw.color(2)}


def test_parts_outside_are_cut_off():
    picture = draw.draw_boxes(GREY, np.float32([[-50, -70, 100, 80]]), [1])
    frame = np.zeros((500, 600), bool)
    frame[:100, :80] = True
    frame[:98, :78] = False
    np.testing.assert_array_equal(changed(picture), frame)


@pytest.mark.parametrize(
    "box", [(600, 10, 700, 50), (-20, 10, -5, 50), (10, 700, 50, 800), (1e9, 0, 2e9, 5), (np.nan, 0, 9, 9)]
)
def test_boxes_that_cannot_be_seen_leave_no_trace(box):
    assert not changed(draw.draw_boxes(GREY, np.float32([box]), [1], NAMES)).any()


@pytest.mark.parametrize("box", [(100, 200, 101, 201), (100, 200, 100, 200), (100, 200, 60, 150), (100, 200, 100, 400)])
def test_boxes_of_a_pixel_or_less_are_seen(box):
    seen = changed(draw.draw_boxes(GREY, np.float32([box]), [1]))
    assert seen[100, 200] and not seen[:100].any() and not seen[:, :200].any()


def test_low_scores_and_empty_slots_are_left_out():
    boxes = np.float32([[10, 10, 50, 50], [100, 100, 200, 200], [300, 300, 400, 400], [0, 0, 0, 0]])
    labels, scores = np.array([1, 2, 0, 0]), np.float32([0.29, 0.3, 0.9, np.nan])
    seen = changed(draw.draw_boxes(GREY, boxes, labels, scores=scores, threshold=np.float32(0.3)))
    assert seen[100, 100] and not seen[:90].any() and not seen[210:].any()
    assert not changed(draw.draw_boxes(GREY, boxes, labels, scores=scores, threshold=0.5)).any()


def test_the_best_scored_is_on_top():
    boxes = np.float32([[100, 100, 200, 200]] * 3)
    picture = draw.draw_boxes(GREY, boxes, [1, 2, 3], scores=np.float32([0.2, 0.9, 0.5]))
    assert picture.getpixel((150, 100)) == draw.color(2)


def test_names_and_scores_are_written_at_the_box():
    boxes = np.float32([[200, 200, 400, 400]])
    frame = changed(draw.draw_boxes(GREY, boxes, [2]))
    named = changed(draw.draw_boxes(GREY, boxes, [2], NAMES)) & ~frame
    scored = changed(draw.draw_boxes(GREY, boxes, [2], NAMES, [0.5])) & ~frame
    crowd = changed(draw.draw_boxes(GREY, boxes, [2], NAMES, is_crowd=[True])) & ~frame
    assert 0 < named.sum() < scored.sum() < crowd.sum()
    for text in (named, scored, crowd):
        y, x = np.nonzero(text)
        assert y.max() < 200 and y.min() > 170 and x.min() == 200


@pytest.mark.parametrize("box", [(0, 0, 40, 60), (0, 560, 500, 600), (470, 590, 500, 600), (0, 0, 500, 600)])
def test_names_stay_inside_the_picture(box):
    frame = changed(draw.draw_boxes(GREY, np.float32([box]), [1]))
    text = changed(draw.draw_boxes(GREY, np.float32([box]), [1], NAMES)) & ~frame
    whole = changed(draw.draw_boxes(GREY, np.float32([[200, 200, 400, 400]]), [1], NAMES))[:200]
    assert text.sum() > 0.75 * whole.sum()  # the rest covers the frame


def test_names_of_equal_boxes_do_not_cover_each_other():
    boxes = np.float32([[200, 200, 300, 400]] * 3)
    pixels = np.asarray(draw.draw_boxes(GREY, boxes, [1, 2, 3], ["circle"] * 3, [0.9, 0.8, 0.7]))
    areas = [(pixels == draw.color(label)).all(-1).sum() for label in (1, 2, 3)]
    assert min(areas[1:]) > 500  # a label's background; the lines of 2 and 3 are under those of 1


def test_letters_that_the_font_lacks_are_replaced_by_the_class():
    boxes = np.float32([[200, 200, 400, 400]])
    for name, written in (("星", "class 3"), ("звезда", "class 3"), ("étoile à Øß", "étoile à Øß"), ("", "")):
        picture, expected = (draw.draw_boxes(GREY, boxes, [3], ["", "", text]) for text in (name, written))
        assert (np.asarray(picture) == np.asarray(expected)).all(), name


def test_colors_are_stable_and_apart():
    colors = [draw.color(label) for label in range(1, 30)]
    assert len(set(colors)) == 29 and colors == [draw.color(label) for label in range(1, 30)]
    neighbours = np.abs(np.diff(np.array(colors), axis=0)).sum(1)
    assert neighbours.min() > 100


@pytest.mark.parametrize(
    ("size", "expected"),
    [((48, 64), (480, 360)), ((300, 200), (320, 480)), ((2000, 1000), (512, 1024)), ((1, 3000), (1024, 1))],
)
def test_pictures_are_scaled_to_a_readable_size(size, expected):
    image = np.zeros((*size, 3), np.uint8)
    scale = max(expected) / max(size)
    box = np.float32([[0.25, 0.25, 0.75, 0.75]]) * np.float32([*size, *size])
    picture = draw.draw_boxes(image, box, [1])
    assert picture.size == expected
    y, x = np.nonzero(changed(picture, np.zeros((expected[1], expected[0], 3), np.uint8)))
    for found, wanted in zip((y.min(), x.min(), y.max() + 1, x.max() + 1), box[0] * scale, strict=True):
        assert abs(found - wanted) <= 1


def test_prediction_is_left_and_truth_right():
    boxes = np.float32([[100, 100, 200, 200], [300, 300, 400, 400]])
    predictions = {"boxes": boxes[:1], "labels": np.array([1]), "scores": np.float32([0.8])}
    truth = {"boxes": boxes, "labels": np.array([2, 3]), "is_crowd": np.array([False, True])}
    pair = draw.side_by_side(GREY, predictions, truth, NAMES, title="image 139")
    head = pair.height - 500
    assert pair.width == 2 * 600 + draw.GAP and head > 0
    left, right = np.asarray(pair)[head:, :600], np.asarray(pair)[head:, -600:]
    assert changed(left)[101, 101] and not changed(left)[220:].any()
    assert changed(right)[101, 101] and changed(right)[301, 301]
    assert tuple(left[150, 100]) == draw.color(1) and tuple(right[150, 100]) == draw.color(2)


def test_a_pair_without_objects_is_the_image_twice():
    nothing = {
        "boxes": np.zeros((0, 4), np.float32),
        "labels": np.zeros(0, np.int32),
        "scores": np.zeros(0, np.float32),
    }
    pair = np.asarray(draw.side_by_side(GREY, nothing, nothing, NAMES))[-500:]
    np.testing.assert_array_equal(pair[:, :600], GREY)
    np.testing.assert_array_equal(pair[:, -600:], GREY)


def test_contact_sheet_holds_every_picture_whole():
    pictures = [Image.new("RGB", size, draw.color(i)) for i, size in enumerate([(50, 30), (70, 20), (40, 60)], start=1)]
    sheet = draw.contact_sheet(pictures, columns=2)
    assert sheet.size == (50 + 70 + draw.GAP, 30 + 60 + draw.GAP)
    for i, picture in enumerate(pictures, start=1):
        assert (np.asarray(sheet) == draw.color(i)).all(-1).sum() == picture.width * picture.height
    assert draw.contact_sheet(pictures[:1], columns=3).size == (50, 30)
    with pytest.raises(ValueError, match="0 pictures"):
        draw.contact_sheet([])


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_images_of_another_kind_are_refused(image):
    with pytest.raises(ValueError, match=r"must be uint8\[H,W,3\]"):
        draw.draw_boxes(image, [], [])
