"""The captions source: piece ids, references, what is left out, what is refused."""

import copy
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data import pipeline
from pix2seq_jax.data.coco.captions import CocoCaptions
from pix2seq_jax.data.source import ImageSource
from pix2seq_jax.data.text import Text
from tests.helpers import small
from tests.helpers.epochs import one_epoch

CONTENT = {
    "images": [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 6} for i in (40, 7, 9)],
    "annotations": [
        {"id": 1, "image_id": 9, "caption": "ab"},
        {"id": 2, "image_id": 40, "caption": "abcd"},
        {"id": 3, "image_id": 9, "caption": "c"},
        {"id": 4, "image_id": 9, "caption": "ba"},
    ],
}


class Letters:
    """Piece 10 for a, 11 for b, ..."""

    def encode(self, sentences: list[str]) -> list[list[int]]:
        return [[ord(letter) - ord("a") + 10 for letter in sentence] for sentence in sentences]


def opened(folder, change=lambda content: None, **options) -> CocoCaptions:
    content = copy.deepcopy(CONTENT)
    change(content)
    for image in CONTENT["images"]:
        Image.new("RGB", (6, 8)).save(folder / image["file_name"])
    (folder / "captions.json").write_text(json.dumps(content))
    options = {"text": Letters(), "per_image": 2, "max_tokens": 4} | options
    return CocoCaptions(folder, folder / "captions.json", **options)


def test_features(tmp_path):
    source = opened(tmp_path)
    assert len(source) == 2
    np.testing.assert_array_equal(source.image_ids, [40, 9])
    assert source.fields["captions"] == (np.int32, (2, 4))
    first, second = source[0], source[1]
    assert second.keys() == source.fields.keys() | {"file"}
    assert second["captions"].dtype == np.int32
    np.testing.assert_array_equal(first["captions"], [[10, 11, 12, 13]])  # cut, and the only one
    np.testing.assert_array_equal(
        second["captions"], [[10, 11, 1, 0], [12, 1, 0, 0], [11, 10, 1, 0]]
    )
    np.testing.assert_array_equal(second["orig_size"], [8, 6])
    assert second["image"] == (tmp_path / "9.png").read_bytes()
    assert source.references == {40: ["abcd"], 9: ["ab", "c", "ba"]}
    assert source.report == {
        "images without captions, left out": 1,
        "captions of more than 4 tokens, cut (named by image)": 1,
    }
    assert "captions.json: 1 images without captions, left out (first: 7)" in source.describe()


def test_captions_of_exactly_the_length_keep_their_end(tmp_path):
    source = opened(tmp_path, max_tokens=5)
    np.testing.assert_array_equal(source[0]["captions"][0], [10, 11, 12, 13, 1])
    assert list(source.report) == ["images without captions, left out"]


def test_captions_without_words_are_counted(tmp_path):
    source = opened(tmp_path, lambda content: content["annotations"][1].update(caption=" \n"))
    np.testing.assert_array_equal(source.image_ids, [9])
    assert source.report == {
        "captions without words, left out": 1,
        "images without captions, left out": 2,
    }


def test_half_a_character_is_counted_and_replaced(tmp_path):
    """What is left of an emoji that was cut in the middle."""
    sentences = ["ab abcd c ba a \ufffd"] * 3
    text = Text.train(sentences, 30)
    source = opened(tmp_path, lambda c: c["annotations"][0].update(caption="a \ud83d"), text=text)
    assert source.references[9] == ["a \ufffd", "c", "ba"]
    words = "captions with half a character, which is read as U+FFFD"
    assert source.report[words] == 1 and f"{words} (first: 1)" in source.describe()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["annotations"][1].update(caption=5),
            r"1 annotations with captions that are not text, first: annotation 2 has caption 5"
            ".*bad_annotations=drop",
        ),
        (lambda c: c["annotations"][1].update(caption=["a"]), "annotation 2 has caption"),
        (lambda c: c["annotations"][1].update(caption=None), "annotation 2 has caption None"),
        (lambda c: c["annotations"][1].pop("caption"), "has no 'caption'"),
        (lambda c: c["annotations"].clear(), "no image has a caption"),
        (
            lambda c: c.pop("images"),
            "no list 'images'; it must be an object with the lists images and annotations",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        opened(tmp_path, change)
    assert "captions.json" in str(caught.value)


@pytest.mark.parametrize("option", ["per_image", "max_tokens"])
def test_sizes_are_positive(tmp_path, option):
    with pytest.raises(ValueError, match=f"{option}=0: must be at least 1"):
        opened(tmp_path, **{option: 0})


def test_captions_beyond_those_of_a_row_are_read_in_later_epochs(tmp_path):
    """Five captions, two in a row of a batch: every one is read twice in five epochs."""
    more = [{"id": 5 + i, "image_id": 9, "caption": letter} for i, letter in enumerate("de")]
    source = opened(tmp_path, lambda content: content["annotations"].extend(more))
    # An epoch each.
    batches = pipeline.train_dataset(source, "decode|pad_image(8)", batch_size=2, seed=0)
    seen, short = [], []
    for batch in itertools.islice(batches, 5):
        assert sorted(batch["image_id"].tolist()) == [9, 40]
        row = batch["image_id"].tolist().index(9)
        seen += batch["captions"][row].tolist()
        short.append(batch["captions"][1 - row].tolist())
    assert sorted(seen) == sorted(2 * source[1]["captions"].tolist())
    assert short == [[[10, 11, 12, 13], [0, 0, 0, 0]]] * 5
    first = one_epoch(source, "decode|pad_image(8)")
    np.testing.assert_array_equal(first["captions"][1], source[1]["captions"][:2])


def test_the_embedded_captions_reach_the_batch(tmp_path):
    folder = small.make_shapes(tmp_path / "shapes")
    path = folder / "annotations" / "captions_val.json"
    text = Text.train([row["caption"] for row in json.loads(path.read_text())["annotations"]], 100)
    source = CocoCaptions(folder / "val", path, text=text)
    assert len(source) == small.VAL_IMAGES
    assert all(len(references) == 5 for references in source.references.values())
    ops = "decode|scale_jitter(32)|fixed_crop(32)|color_jitter(0.5)|pad_image(32)"
    batch = next(iter(pipeline.train_dataset(source, ops, batch_size=4, seed=0)))
    assert batch["captions"].shape == (4, 5, 128)
    for image_id, captions in zip(batch["image_id"], batch["captions"], strict=True):
        assert [text.decode(row) for row in captions] == source.references[int(image_id)]
    assert not source.report  # none was cut
    assert isinstance(source, ImageSource)
    every = one_epoch(source, "decode|resize(32)|pad_image(32)")
    np.testing.assert_array_equal(every["image_id"], source.image_ids)
    np.testing.assert_array_equal(every["captions"][3], source[3]["captions"])
