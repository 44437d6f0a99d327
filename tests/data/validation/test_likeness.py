"""Images that are alike: copies of another size and quality are, other pictures are not."""

import io

import numpy as np
from PIL import Image

from pix2seq_jax.data.images import decode_image, glance
from pix2seq_jax.data.validation import likeness
from pix2seq_jax.data.validation.likeness import Look, Pair
from tests.helpers import small


def encoded(picture: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, **options)
    return stream.getvalue()


def photo(seed: int, side: int = 160) -> Image.Image:
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8))
    return coarse.resize((side * 4 // 3, side), Image.Resampling.BICUBIC)


def look(data: bytes) -> Look:
    return Look(*glance(data, "photo", likeness.SMALL), data[-40:], "")


def test_copies_are_found_and_other_pictures_are_not():
    jpeg = encoded(photo(0), format="JPEG", quality=90)
    looks = [
        look(jpeg),
        look(encoded(photo(1), format="JPEG")),
        look(encoded(photo(0).resize((640, 480)), format="JPEG", quality=50)),
        look(encoded(photo(0), format="PNG")),
        look(jpeg),
    ]
    pairs = likeness.pairs(looks, ["train", "train", "train", "train", "val"])
    assert set(pairs) == {
        Pair(0, 4, True),
        Pair(0, 2, False),
        Pair(0, 3, False),
        Pair(2, 3, False),
    }


def test_broken_files_are_like_those_of_the_same_bytes_alone():
    broken = Look(0, 0, False, np.zeros((*likeness.SMALL, 3), np.uint8), b"", "cut off")
    assert likeness.pairs([broken, broken], ["train", "val"]) == []
    cut = broken._replace(digest=b"the same")
    assert likeness.pairs([cut, broken, cut], ["train", "val", "val"]) == [Pair(0, 2, True)]


def test_drawn_pictures_that_differ_in_a_figure_are_not_alike(tmp_path):
    folder = small.make_shapes(tmp_path / "shapes")
    files = sorted(map(str, folder.glob("*/*.jpg")))
    assert likeness.pairs(likeness.look_at(files), ["train"] * len(files)) == []


def test_the_hash_tells_where_it_gets_darker():
    ramp = np.broadcast_to(np.arange(0, 90, 5, np.uint8)[None, None, :, None], (1, 16, 18, 3))
    assert not likeness.hashes(ramp).any() and likeness.hashes(ramp[:, :, ::-1]).all()
    noise = 100 + np.random.default_rng(0).integers(0, 3, (1, 16, 18, 3)).astype(np.uint8)
    assert not likeness.hashes(noise).any()


def test_a_glance_is_a_small_copy():
    data = encoded(photo(3, 900), format="JPEG", quality=95)
    height, width, turned, small_copy = glance(data, "photo", (16, 18))
    assert (height, width, turned, small_copy.shape) == (900, 1200, False, (16, 18, 3))
    whole = Image.fromarray(decode_image(data, "photo")).resize((18, 16), Image.Resampling.BILINEAR)
    assert np.abs(small_copy.astype(int) - np.asarray(whole)).max() <= 3
