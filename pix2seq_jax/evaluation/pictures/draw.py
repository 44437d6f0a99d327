"""Pictures of predictions beside the ground truth, by PIL: boxes, masks, skeletons and captions.

Boxes are yxyx and keypoints yx, in pixels of the picture they lie on.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from pix2seq_jax.evaluation.pictures.lettering import (
    INK,
    Tag,
    letter_size,
    readable,
    text_font,
    wrapped,
    write_tags,
)
from pix2seq_jax.evaluation.pictures.marks import color, draw_marks, faint

# Pictures are scaled until their longer side lies between these: text is readable on 48 px, and
# files stay small.
SIDES = (480, 1024)
GAP = 6  # pixels between pictures
BACKGROUND = (32, 32, 32)
CAPTION_LINES = 6  # longer captions end in "..."
PER_OBJECT = ("boxes", "scores", "is_crowd", "masks", "keypoints", "visible", "faint")


def draw_objects(
    image,
    objects: dict,
    names: Sequence[str] | None = None,
    *,
    skeleton: Sequence[tuple[int, int]] = (),
    threshold: float = 0.0,
    sides: tuple[int, int] = SIDES,
) -> Image.Image:
    """A scaled copy of an image with all that is known of its objects, the best-scored on top.

    Args:
        image: u8[H,W,3].
        objects: `labels` i32[N], 1-based, objects with label 0 are left out (without it there are
            no objects), and any of `boxes` f32[N,4] yxyx in pixels of `image`, parts outside of it
            are not drawn; `scores` f32[N] in [0, 1]; `is_crowd` bool[N], crowds are named as such;
            `masks` N times bool[H,W] of `image`, tinted and outlined in the class's colour;
            `keypoints` f32[N,J,2] yx in pixels of `image`, and `visible` bool[N,J] (all, if not
            given); `faint` bool[N], boxes that are thin and grey below all others, without a name.
        names: name of label l at l - 1 (written as "class l" if no font has its letters);
            None: no text.
        skeleton: pairs of keypoints, counted from 0, each a limb of its own colour.
        threshold: objects that score less are left out.
        sides: smallest and largest longer side of the result, in pixels.

    Returns:
        RGB picture of the proportions of `image`.

    Raises:
        ValueError: an image that is not u8[H,W,3], masks of another size, not one entry per label,
            keypoints that are not [N,J,2], or a skeleton of keypoints that do not exist.
    """
    picture = _picture(image)
    objects = _checked(objects, (picture.height, picture.width), skeleton)
    picture, scale = _scaled(picture, sides)
    numbers = _ranked(objects, threshold)
    frames = draw_marks(picture, objects, numbers, scale, skeleton)
    if names is not None:  # after all marks, so that no line crosses a name
        tags = [
            Tag(_words(objects, i, names), color(int(objects["labels"][i])), frames[i])
            for i in reversed(numbers)
            if i in frames and not faint(objects, i)
        ]
        write_tags(picture, tags, letter_size(picture.size))
    return picture


def _picture(image) -> Image.Image:
    """u8[H,W,3] -> picture."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image {image.dtype}{list(image.shape)}: a picture must be uint8[H,W,3]")
    return Image.fromarray(image)


def _checked(objects: dict, size: tuple[int, int], skeleton: Sequence[tuple[int, int]]) -> dict:
    """The objects without what is None, keypoints as f64[N,J,2] with NaN where not visible; refuses
    what does not fit."""
    objects = {key: value for key, value in objects.items() if value is not None}
    count = len(objects.setdefault("labels", ()))
    for key in PER_OBJECT:
        if key in objects and len(objects[key]) != count:
            raise ValueError(
                f"{len(objects[key])} {key} of {count} labels: give one per object, label 0 for "
                "none"
            )
    for mask in objects.get("masks", ()):
        if np.shape(mask) != size:
            raise ValueError(
                f"a mask of {list(np.shape(mask))}: must be bool{list(size)}, the size of its image"
            )
    if "keypoints" in objects and count:
        objects["keypoints"] = _visible_keypoints(objects, skeleton)
    return objects


def _visible_keypoints(objects: dict, skeleton: Sequence[tuple[int, int]]) -> np.ndarray:
    """f64[N,J,2] with NaN for keypoints that are not visible, not finite or far away."""
    keypoints = np.array(objects["keypoints"], np.float64)
    if keypoints.ndim != 3 or keypoints.shape[2] != 2:
        raise ValueError(
            f"keypoints of shape {list(keypoints.shape)}: must be [N,J,2], yx in pixels"
        )
    count, last = keypoints.shape[:2], keypoints.shape[1] - 1
    visible = np.asarray(objects.get("visible", np.ones(count)), bool)
    if visible.shape != count:
        raise ValueError(
            f"visible of shape {list(visible.shape)}: must be {list(count)}, as keypoints"
        )
    if any(not 0 <= number <= last for pair in skeleton for number in pair):
        raise ValueError(
            f"skeleton {list(skeleton)}: keypoints are 0 to {last}; COCO's files count from 1, "
            "subtract it"
        )
    keypoints[~visible | ~(np.abs(keypoints) < 1e5).all(-1)] = np.nan
    return keypoints


def _scaled(picture: Image.Image, sides: tuple[int, int]) -> tuple[Image.Image, float]:
    """(the picture with its longer side between `sides`, by what it was multiplied)."""
    longer = max(picture.size)
    scale = min(max(longer, sides[0]), sides[1]) / longer
    if scale == 1:
        return picture, scale
    size = [max(1, round(side * scale)) for side in picture.size]
    return picture.resize(size, Image.Resampling.BICUBIC), scale


def _ranked(objects: dict, threshold: float) -> list[int]:
    """Numbers of the objects that have a label and score enough, faint ones first, the best
    last."""
    labels = objects["labels"]
    scores = np.asarray(objects.get("scores", np.ones(len(labels))))
    order = sorted(np.argsort(scores, kind="stable"), key=lambda i: not faint(objects, i))
    return [int(i) for i in order if labels[i] > 0 and scores[i] >= threshold]


def _words(objects: dict, i: int, names: Sequence[str]) -> str:
    """What is written at object i: its class, its score, whether it is a crowd."""
    label = int(objects["labels"][i])
    words = [readable(str(names[label - 1]), label)]
    if "scores" in objects:
        words.append(f"{float(objects['scores'][i]):.2f}")
    if "is_crowd" in objects and objects["is_crowd"][i]:
        words.append("(crowd)")
    return " ".join(words)


def side_by_side(
    image,
    predictions: dict,
    ground_truth: dict,
    names: Sequence[str] | None,
    *,
    skeleton: Sequence[tuple[int, int]] = (),
    threshold: float = 0.3,
    title: str = "",
    sides: tuple[int, int] = SIDES,
) -> Image.Image:
    """The prediction on the left, the ground truth on the right, captions below.

    Args:
        image: u8[H,W,3].
        predictions: objects as in `draw_objects`, if there are any, and `caption` str or `captions`
            list[str].
        ground_truth: likewise; its scores are not looked at, and the numbers of objects may differ.
        names: name of label l at l - 1.
        skeleton: pairs of keypoints, counted from 0.
        threshold: predictions that score less are not drawn.
        title: written before "prediction", such as the image's name.
        sides: smallest and largest longer side of each half, in pixels.

    Raises:
        ValueError: as `draw_objects`.
    """
    left = draw_objects(
        image, predictions, names, skeleton=skeleton, threshold=threshold, sides=sides
    )
    right = draw_objects(
        image, ground_truth | {"scores": None}, names, skeleton=skeleton, sides=sides
    )
    scored = "" if predictions.get("scores") is None else f", score from {threshold:g}"
    left = _headed(left, f"{title}  prediction{scored}".strip())
    right = _headed(right, "ground truth")
    return contact_sheet(
        [captioned(left, _captions(predictions)), captioned(right, _captions(ground_truth))]
    )


def _headed(picture: Image.Image, text: str) -> Image.Image:
    """A picture under a line of text."""
    size = max(12, round(max(picture.size) / 36))
    headed = Image.new("RGB", (picture.width, picture.height + 2 * size), BACKGROUND)
    headed.paste(picture, (0, 2 * size))
    ImageDraw.Draw(headed).text((size // 2, size // 2), text, fill=INK, font=text_font(size, text))
    return headed


def _captions(example: dict) -> list[str]:
    """What stands under `caption` and under `captions`, either a text or several."""
    captions = []
    for key in ("caption", "captions"):
        texts = example.get(key)
        if isinstance(texts, str):
            captions.append(texts)
        elif texts is not None:
            captions.extend(texts)
    return captions


def captioned(
    picture: Image.Image, captions: Sequence[str], most: int = CAPTION_LINES
) -> Image.Image:
    """A picture above its captions, each on lines of its own (several: with a dash before each);
    without any, itself.

    "?" stands for letters that the font has in no form, "(empty)" for a caption without words,
    "..." for what is beyond `most` lines. Pictures too narrow for text get an empty margin
    on the right.
    """
    if not captions:
        return picture
    size = max(12, round(max(picture.size) / 36))
    width, dash = max(picture.width, 12 * size), size if len(captions) > 1 else 0
    texts = [wrapped(text, size, width - size - dash, most) for text in captions]
    line = round(1.4 * size)
    height = picture.height + line * sum(map(len, texts)) + size
    whole = Image.new("RGB", (width, height), BACKGROUND)
    whole.paste(picture, (0, 0))
    draw, y = ImageDraw.Draw(whole), picture.height + size // 2
    for lines in texts:
        font = text_font(size, " ".join(lines))
        if dash:
            draw.text((size // 2, y), "-", fill=INK, font=font)
        for text in lines:
            draw.text((size // 2 + dash, y), text, fill=INK, font=font)
            y += line
    return whole


def contact_sheet(images: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """Pictures of any sizes in rows of `columns`, on a dark ground. Raises ValueError without
    pictures or columns."""
    if not images or columns < 1:
        raise ValueError(
            f"{len(images)} pictures in {columns} columns: at least one of each is needed"
        )
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    widths = [
        max(picture.width for picture in images[column::columns])
        for column in range(min(columns, len(images)))
    ]
    heights = [max(picture.height for picture in row) for row in rows]
    size = [sum(sides) + GAP * (len(sides) - 1) for sides in (widths, heights)]
    sheet = Image.new("RGB", size, BACKGROUND)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (sum(widths[:x]) + GAP * x, sum(heights[:y]) + GAP * y))
    return sheet
