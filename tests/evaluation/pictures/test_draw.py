"""Boxes, masks and keypoints are drawn where they are, for whatever a model or an annotator hands
over; captions below."""

import numpy as np
import pytest
from PIL import Image
from pycocotools.cocoeval import Params

from pix2seq_jax.data.coco.person import COCO_KEYPOINTS
from pix2seq_jax.data.shapes import dataset
from pix2seq_jax.evaluation.pictures import draw, lettering
from pix2seq_jax.evaluation.pictures.marks import FAINT, TINT, color

# within SIDES: drawn at its own size, with lines of 2 px
GREY = np.full((500, 600, 3), 128, np.uint8)
NAMES = ("circle", "étoile", "星")


def draw_boxes(image, boxes, labels, names=None, scores=None, *, is_crowd=None, **options):
    """`draw_objects` of boxes f32[N,4] yxyx in pixels, labels i32[N], scores and is_crowd [N]."""
    objects = {"boxes": boxes, "labels": labels, "scores": scores, "is_crowd": is_crowd}
    return draw.draw_objects(image, objects, names, **options)


def changed(picture: Image.Image, image: np.ndarray = GREY) -> np.ndarray:
    """bool[H,W]: the pixels that differ from the image."""
    return (np.asarray(picture) != image).any(-1)


def test_the_pixels_of_the_frame_change_and_no_others():
    frame = np.zeros((500, 600), bool)
    frame[50:150, 200:400] = True
    frame[52:148, 202:398] = False
    picture = draw_boxes(GREY, np.float32([[50, 200, 150, 400]]), [2])
    np.testing.assert_array_equal(changed(picture), frame)
    assert set(map(tuple, np.asarray(picture)[frame].tolist())) == {color(2)}


def test_parts_outside_are_cut_off():
    picture = draw_boxes(GREY, np.float32([[-50, -70, 100, 80]]), [1])
    frame = np.zeros((500, 600), bool)
    frame[:100, :80] = True
    frame[:98, :78] = False
    np.testing.assert_array_equal(changed(picture), frame)


@pytest.mark.parametrize(
    "box",
    [
        (600, 10, 700, 50),
        (-20, 10, -5, 50),
        (10, 700, 50, 800),
        (1e9, 0, 2e9, 5),
        (np.nan, 0, 9, 9),
    ],
)
def test_boxes_that_cannot_be_seen_leave_no_trace(box):
    assert not changed(draw_boxes(GREY, np.float32([box]), [1], NAMES)).any()


@pytest.mark.parametrize(
    "box", [(100, 200, 101, 201), (100, 200, 100, 200), (100, 200, 60, 150), (100, 200, 100, 400)]
)
def test_boxes_of_a_pixel_or_less_are_seen(box):
    seen = changed(draw_boxes(GREY, np.float32([box]), [1]))
    assert seen[100, 200] and not seen[:100].any() and not seen[:, :200].any()


def test_low_scores_and_label_0_are_left_out():
    boxes = np.float32([[10, 10, 50, 50], [100, 100, 200, 200], [300, 300, 400, 400], [0, 0, 0, 0]])
    labels, scores = np.array([1, 2, 0, 0]), np.float32([0.29, 0.3, 0.9, np.nan])
    seen = changed(draw_boxes(GREY, boxes, labels, scores=scores, threshold=np.float32(0.3)))
    assert seen[100, 100] and not seen[:90].any() and not seen[210:].any()
    assert not changed(draw_boxes(GREY, boxes, labels, scores=scores, threshold=0.5)).any()


def test_the_best_scored_is_on_top():
    boxes = np.float32([[100, 100, 200, 200]] * 3)
    picture = draw_boxes(GREY, boxes, [1, 2, 3], scores=np.float32([0.2, 0.9, 0.5]))
    assert picture.getpixel((150, 100)) == color(2)


def test_names_and_scores_are_written_at_the_box():
    boxes = np.float32([[200, 200, 400, 400]])
    frame = changed(draw_boxes(GREY, boxes, [2]))
    named = changed(draw_boxes(GREY, boxes, [2], NAMES)) & ~frame
    scored = changed(draw_boxes(GREY, boxes, [2], NAMES, [0.5])) & ~frame
    crowd = changed(draw_boxes(GREY, boxes, [2], NAMES, is_crowd=[True])) & ~frame
    assert 0 < named.sum() < scored.sum() < crowd.sum()
    for text in (named, scored, crowd):
        y, x = np.nonzero(text)
        assert y.max() < 200 and y.min() > 170 and x.min() == 200


@pytest.mark.parametrize(
    "box", [(0, 0, 40, 60), (0, 560, 500, 600), (470, 590, 500, 600), (0, 0, 500, 600)]
)
def test_names_stay_inside_the_picture(box):
    frame = changed(draw_boxes(GREY, np.float32([box]), [1]))
    text = changed(draw_boxes(GREY, np.float32([box]), [1], NAMES)) & ~frame
    whole = changed(draw_boxes(GREY, np.float32([[200, 200, 400, 400]]), [1], NAMES))[:200]
    assert text.sum() > 0.75 * whole.sum()  # the rest covers the frame


def test_names_of_equal_boxes_do_not_cover_each_other():
    boxes = np.float32([[200, 200, 300, 400]] * 3)
    pixels = np.asarray(draw_boxes(GREY, boxes, [1, 2, 3], ["circle"] * 3, [0.9, 0.8, 0.7]))
    areas = [(pixels == color(label)).all(-1).sum() for label in (1, 2, 3)]
    assert min(areas[1:]) > 500  # a label's background; the lines of 2 and 3 are under those of 1


def test_letters_that_the_font_lacks_are_replaced_by_the_class():
    boxes = np.float32([[200, 200, 400, 400]])
    for name, written in (
        ("星", "class 3"),
        ("étoile à Øß", "étoile à Øß"),
        ("", ""),
    ):
        picture, expected = (
            draw_boxes(GREY, boxes, [3], ["", "", text]) for text in (name, written)
        )
        assert (np.asarray(picture) == np.asarray(expected)).all(), name


def test_colors_are_stable_and_apart():
    colors = [color(label) for label in range(1, 30)]
    assert len(set(colors)) == 29 and colors == [color(label) for label in range(1, 30)]
    neighbours = np.abs(np.diff(np.array(colors), axis=0)).sum(1)
    assert neighbours.min() > 100


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((48, 64), (480, 360)),
        ((300, 200), (320, 480)),
        ((2000, 1000), (512, 1024)),
        ((1, 3000), (1024, 1)),
    ],
)
def test_pictures_are_scaled_to_a_readable_size(size, expected):
    image = np.zeros((*size, 3), np.uint8)
    scale = max(expected) / max(size)
    box = np.float32([[0.25, 0.25, 0.75, 0.75]]) * np.float32([*size, *size])
    picture = draw_boxes(image, box, [1])
    assert picture.size == expected
    y, x = np.nonzero(changed(picture, np.zeros((expected[1], expected[0], 3), np.uint8)))
    for found, wanted in zip(
        (y.min(), x.min(), y.max() + 1, x.max() + 1), box[0] * scale, strict=True
    ):
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
    assert tuple(left[150, 100]) == color(1) and tuple(right[150, 100]) == color(2)


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
    pictures = [
        Image.new("RGB", size, color(i))
        for i, size in enumerate([(50, 30), (70, 20), (40, 60)], start=1)
    ]
    sheet = draw.contact_sheet(pictures, columns=2)
    assert sheet.size == (50 + 70 + draw.GAP, 30 + 60 + draw.GAP)
    for i, picture in enumerate(pictures, start=1):
        assert (np.asarray(sheet) == color(i)).all(-1).sum() == picture.width * picture.height
    assert draw.contact_sheet(pictures[:1], columns=3).size == (50, 30)
    with pytest.raises(ValueError, match="0 pictures"):
        draw.contact_sheet([])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_images_of_another_kind_are_refused(image):
    with pytest.raises(ValueError, match=r"must be uint8\[H,W,3\]"):
        draw_boxes(image, [], [])


def disc(y: int, x: int, radius: int) -> np.ndarray:
    """bool[500,600]"""
    rows, columns = np.mgrid[:500, :600]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def test_masks_are_tinted_inside_outlined_and_untouched_outside():
    mask = disc(250, 300, 100)
    picture = draw.draw_objects(GREY, {"labels": [2], "masks": mask[None]})
    np.testing.assert_array_equal(changed(picture), mask)
    pixels, inside = np.asarray(picture), disc(250, 300, 90)
    tint = 128 + TINT * (np.array(color(2)) - 128.0)
    assert np.abs(pixels[inside] - tint).max() <= 1
    outline = (pixels == color(2)).all(-1)
    assert outline[150:154].any() and outline[250, 201:203].all() and not outline[inside].any()
    assert outline[250].sum() == 4  # 2 px on either side


def test_masks_at_the_border_and_empty_ones():
    mask = np.zeros((2, 500, 600), bool)
    mask[0, :50, :80] = True
    picture = draw.draw_objects(GREY, {"labels": [1, 1], "masks": list(mask)}, NAMES)
    assert changed(picture)[:50, :80].all() and picture.getpixel((0, 20)) == color(1)
    assert not changed(picture)[100:].any() and not changed(picture)[:, 120:].any()


def test_masks_are_scaled_with_the_picture():
    image, mask = np.full((50, 60, 3), 128, np.uint8), np.zeros((1, 50, 60), bool)
    mask[0, 10:20, 30:45] = True
    picture = draw.draw_objects(image, {"labels": np.array([1]), "masks": mask})
    assert picture.size == (480, 400)
    y, x = np.nonzero(changed(picture, np.full((400, 480, 3), 128, np.uint8)))
    assert [y.min(), x.min(), y.max() + 1, x.max() + 1] == [80, 240, 160, 360]


def test_a_better_mask_lies_over_a_worse_one():
    objects = {
        "labels": [1, 2],
        "scores": np.float32([0.9, 0.4]),
        "masks": [disc(200, 200, 80), disc(200, 250, 80)],
    }
    outline = (np.asarray(draw.draw_objects(GREY, objects)) == color(1)).all(-1)
    assert outline[200, 278]  # the right end of the first, inside of the second


def test_limbs_lie_between_keypoints_that_are_visible():
    keypoints = np.float32([[[100, 100], [100, 300], [300, 300], [300, 100]]])
    visible = np.array([[True, True, True, False]])
    objects = {"labels": [1], "keypoints": keypoints, "visible": visible}
    picture = draw.draw_objects(GREY, objects, skeleton=[(0, 1), (1, 2), (2, 3), (3, 0)])
    seen = changed(picture)
    assert picture.getpixel((200, 100)) == color(1) and picture.getpixel((300, 200)) == color(2)
    assert seen[100, 100:300].all() and seen[100:300, 300].all()
    assert picture.getpixel((100, 100)) == picture.getpixel((300, 300)) == lettering.INK
    # the keypoint at (300, 100) and its limbs
    assert not seen[:, :90].any() and not seen[200:, :250].any()
    everything = changed(draw.draw_objects(GREY, objects | {"visible": None}, skeleton=[(2, 3)]))
    assert everything[300, 100:300].all()


@pytest.mark.parametrize("keypoint", [(np.nan, 5), (np.inf, 5), (-1e30, 5)])
def test_keypoints_that_are_nowhere_are_not_drawn(keypoint):
    objects = {"labels": [1], "keypoints": np.array([[keypoint, (100, 100)]])}
    seen = changed(draw.draw_objects(GREY, objects, NAMES, skeleton=[(0, 1)]))
    assert seen[100, 100] and not seen[:60].any() and not seen[110:].any()
    objects["visible"] = np.zeros((1, 2), bool)
    assert not changed(draw.draw_objects(GREY, objects, NAMES, skeleton=[(0, 1)])).any()


def test_masks_and_keypoints_share_the_fate_of_their_object():
    keypoints = np.float32(
        [[[100, 100], [150, 100]], [[400, 500], [300, 500]], [[400, 100], [300, 100]]]
    )
    masks = [disc(100, 100, 50), disc(400, 500, 50), disc(400, 100, 50)]
    objects = {
        "labels": [1, 2, 0],
        "scores": np.float32([0.5, 0.29, 0.9]),
        "masks": masks,
        "keypoints": keypoints,
    }
    seen = changed(draw.draw_objects(GREY, objects, NAMES, skeleton=[(0, 1)], threshold=0.3))
    assert seen[100, 100] and not seen[200:].any()


def test_faint_boxes_lie_below_and_have_no_name():
    boxes = np.float32([[100, 100, 200, 200], [100, 100, 300, 300]])
    objects = {"labels": [1, 2], "boxes": boxes, "scores": np.float32([0.1, 0.9])}
    picture = draw.draw_objects(GREY, objects | {"faint": [False, True]}, NAMES)
    pixels, seen = np.asarray(picture), changed(picture)
    assert tuple(pixels[150, 100]) == color(1) and tuple(pixels[299, 250]) == FAINT
    assert seen[250, 299] and not seen[250, 150:299].any()  # a line of one pixel
    bare = draw.draw_objects(GREY, {name: objects[name][:1] for name in objects}, NAMES)
    assert np.array_equal(np.asarray(bare)[:100], pixels[:100])  # the name is that of one


def test_names_go_to_the_mask_or_the_keypoints_where_there_is_no_box():
    for marks in (
        {"masks": [disc(300, 300, 40)]},
        {"keypoints": np.float32([[[260, 260], [340, 340]]])},
    ):
        bare, named = (
            changed(draw.draw_objects(GREY, {"labels": [1]} | marks, names))
            for names in (None, NAMES)
        )
        y, x = np.nonzero(named & ~bare)
        assert y.min() > 230 and y.max() < 265 and 255 < x.min() < 265


def test_captions_stand_below_and_leave_the_picture_alone():
    objects = {
        "labels": np.array([2]),
        "boxes": np.float32([[50, 200, 150, 400]]),
        "scores": np.float32([0.5]),
    }
    plain = np.asarray(draw.side_by_side(GREY, objects, objects, NAMES))
    captions = {"caption": "a circle"}, {"captions": ["one circle", "a round thing"]}
    pair = np.asarray(draw.side_by_side(GREY, objects | captions[0], objects | captions[1], NAMES))
    height, width = plain.shape[:2]
    assert pair.shape[1] == width and pair.shape[0] > height + 40
    np.testing.assert_array_equal(pair[:height], plain)
    text = (pair[height:] > 150).all(-1)
    assert 0 < text[:, :603].sum() < text[:, 603:].sum()
    assert not text[-4:].any() and text[:, 603:][-24:].any()


def test_a_pair_of_captions_needs_no_objects():
    pair = np.asarray(
        draw.side_by_side(GREY, {"caption": "two dogs"}, {"captions": ["a dog", "two dogs"]}, None)
    )
    head = 2 * round(600 / 36)
    np.testing.assert_array_equal(pair[head : head + 500, :600], GREY)
    np.testing.assert_array_equal(pair[head : head + 500, 606:], GREY)
    assert (pair[head + 500 :, :600] > 150).any() and (pair[head + 500 :, 606:] > 150).any()


def test_captions_are_wrapped_and_cut():
    picture = Image.new("RGB", (500, 100))
    one, two, many, word = (
        draw.captioned(picture, [text])
        for text in ("a dog", "a dog " * 15, "a dog " * 9999, "d" * 99)
    )
    assert one.width == two.width == many.width == 500
    assert 100 < one.height < two.height == word.height < many.height < 300
    for image in (two, many, word):
        text = np.asarray(image)[100:] > 150
        assert text.any() and not text[:, -5:].any()
    assert draw.captioned(picture, []) is picture
    assert draw.captioned(Image.new("RGB", (1, 100)), ["a dog"]).width > 100


@pytest.mark.parametrize(
    "text", ["", " \n\t", "星星星", "a\nb\x00", "\ud800", "🐕‍🦺", "e\u0301toile", "\u0301", "نص"]
)
def test_captions_of_any_letters_can_be_written(text):
    picture = Image.new("RGB", (300, 40))
    drawn = draw.captioned(picture, [text, text])
    assert (np.asarray(drawn)[40:] > 150).all(-1).any()
    assert not lettering.missing(lettering.writable(text))


def test_letters_lose_their_accents_before_they_are_lost():
    assert (
        lettering.writable(" a\n dog's “étoile” – 星").replace("é", "e") == "a dog's “etoile” - ?"
    )


@pytest.mark.parametrize(
    ("objects", "skeleton", "message"),
    [
        ({"masks": np.ones((1, 4, 4), bool)}, (), r"mask of \[4, 4\]: must be bool\[500, 600\]"),
        ({"boxes": np.zeros((2, 4))}, (), "2 boxes of 1 labels"),
        ({"keypoints": np.zeros((1, 34))}, (), r"\[1, 34\]: must be \[N,J,2\]"),
        (
            {"keypoints": np.zeros((1, 3, 2)), "visible": np.ones((1, 2))},
            (),
            r"visible of shape \[1, 2\]",
        ),
        (
            {"keypoints": np.zeros((1, 17, 2))},
            [*dataset.SKELETON[:1], [17, 1]],
            "keypoints are 0 to 16",
        ),
    ],
)
def test_marks_that_do_not_fit_are_refused(objects, skeleton, message):
    with pytest.raises(ValueError, match=message):
        draw.draw_objects(GREY, {"labels": [1], **objects}, skeleton=skeleton)


def test_objects_without_labels_are_refused():
    with pytest.raises(ValueError, match="1 boxes of 0 labels"):
        draw.draw_objects(GREY, {"boxes": np.zeros((1, 4))})


def test_the_keypoints_of_coco():
    assert list(COCO_KEYPOINTS["names"]) == dataset.KEYPOINTS
    np.testing.assert_allclose(
        COCO_KEYPOINTS["sigmas"], Params(iouType="keypoints").kpt_oks_sigmas, rtol=1e-12
    )
    np.testing.assert_array_equal(COCO_KEYPOINTS["skeleton"], np.array(dataset.SKELETON) - 1)
