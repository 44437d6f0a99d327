"""Headers of image files: each is read once, what is wrong is one line, and several processes share
the work."""

import os

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data import images
from pix2seq_jax.data.coco import checked_images
from pix2seq_jax.data.coco.checked_images import CheckedImages


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        Image.new("RGB", (10 + i, 6)).save(path)
    return [str(path) for path in paths]


@pytest.fixture
def looked(monkeypatch):
    """The files that are really read, in any order."""
    read, whole = [], images.check_file

    def check(file):
        read.append(file)
        return whole(file)

    monkeypatch.setattr(checked_images, "check_file", check)
    return read


def test_a_second_start_reads_only_what_has_changed(files, looked, tmp_path):
    cache = tmp_path / "cache" / "images.npz"
    checked = CheckedImages(cache)
    first = checked(files)
    checked(files)
    assert sorted(looked) == files
    np.testing.assert_array_equal(first.sizes, [[6, 10 + i] for i in range(5)])
    assert not first.turned.any() and not first.errors
    checked.save()
    looked.clear()
    Image.new("RGB", (30, 40)).save(files[2])
    os.utime(files[3], ns=(0, 0))
    second = CheckedImages(cache)(files)
    assert sorted(looked) == [files[2], files[3]]
    assert second.sizes.tolist() == [[6, 10], [6, 11], [40, 30], [6, 13], [6, 14]]


def test_broken_files_are_looked_at_again(files, looked, tmp_path):
    with open(files[1], "wb") as stream:
        stream.write(b"no image")
    checked = CheckedImages(tmp_path / "images.npz")
    assert list(checked(files).errors) == [1]
    checked.save()
    looked.clear()
    assert "cannot be decoded" in CheckedImages(tmp_path / "images.npz")(files).errors[1]
    assert set(looked) == {files[1]}


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_memory_counts_as_none(files, looked, tmp_path, content):
    cache = tmp_path / "images.npz"
    if content is None:
        CheckedImages(cache)(files)
        checked = CheckedImages(cache)
        checked(files)
        checked.save()
        content = cache.read_bytes()[:-40]
        looked.clear()
    cache.write_bytes(content)
    assert not CheckedImages(cache)(files).errors
    assert sorted(looked) == files


def test_a_memory_that_cannot_be_written_is_no_error(files, tmp_path):
    (tmp_path / "file").write_text("")
    checked = CheckedImages(tmp_path / "file" / "images.npz")
    checked(files)
    checked.save()


def test_processes_share_the_files(files, looked):
    with open(files[3], "wb") as stream:
        stream.write(b"")
    tables = []
    for index in range(2):
        CheckedImages(part=(index, 2), gather=lambda table: tables.append(table) or table)(files)
    assert len(looked) == 5 + 1  # the broken one again, for its error
    whole = CheckedImages(part=(0, 2), gather=lambda table: np.maximum(table, tables[1]))(files)
    alone = CheckedImages()(files)
    np.testing.assert_array_equal(whole.sizes, alone.sizes)
    assert whole.errors == alone.errors and list(alone.errors) == [3]


def flipped_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))


BROKEN = {
    "pipe": lambda path: os.mkfifo(path),
    "folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not an image"),
    "missing": lambda path: None,
    "huge": lambda path: Image.new("1", (30_000, 30_000)).save(path, "PNG"),
    "cut": lambda path: (
        Image.effect_noise((64, 64), 50).save(path, "JPEG"),
        os.truncate(path, 900),
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_image_is_one_line_that_names_the_file(tmp_path, kind):
    path = tmp_path / "some.jpg"
    BROKEN[kind](path)
    error = CheckedImages()([str(path)]).errors[0]
    assert "some.jpg" in error and "\n" not in error and "replace the file" in error


def test_a_flipped_byte_is_found_when_the_picture_is_decoded(tmp_path):
    """It cannot be seen at the beginning and the end; a row that reads it takes another image
    (data.reading)."""
    path = tmp_path / "some.png"
    Image.effect_noise((64, 64), 50).save(path)
    flipped_byte(path)
    assert not CheckedImages()([str(path)]).errors
    with pytest.raises(ValueError, match=r"some\.png cannot be decoded"):
        images.decode_image(path.read_bytes(), str(path))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "I;16", "1", "RGBA"])
def test_every_kind_of_image_passes_and_is_not_decoded(tmp_path, mode, monkeypatch):
    form = {"CMYK": "JPEG"}.get(mode, "PNG")
    path = tmp_path / "some"
    Image.new(mode, (9, 7)).save(path, form)
    monkeypatch.setattr(images, "decode_image", None)
    assert images.check_file(str(path)) == (7, 9, False)
