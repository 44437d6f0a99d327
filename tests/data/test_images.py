"""Image files of all kinds -> RGB."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFile

from pix2seq_jax.data.images import decode_image, empty_pixels, header, is_aligned

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (12, 20, 3), np.uint8)


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def turned(orientation: int, form: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(COLOUR), form, exif=exif)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_mode_becomes_rgb_as_pillow_converts_it(mode):
    image = Image.fromarray(COLOUR).convert("L" if mode == "LA" else "RGB").convert(mode)
    data = encode(image, "TIFF" if mode == "CMYK" else "PNG")
    decoded = decode_image(data, "x")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_cmyk_jpeg():
    image = Image.fromarray(np.full((16, 16, 3), (200, 30, 90), np.uint8)).convert("CMYK")
    decoded = decode_image(encode(image, "JPEG", quality=95), "x")
    assert np.abs(decoded.astype(int) - (200, 30, 90)).max() <= 6


def test_transparent_palette_does_not_warn():
    image = Image.fromarray(COLOUR).quantize(8)
    decoded = decode_image(encode(image, transparency=bytes(range(8))), "x")
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("most", [1, 255])
def test_floats_keep_their_range(most):
    gray = RNG.random((9, 7), np.float32)
    gray[0, :2] = 0, 1
    decoded = decode_image(encode(Image.fromarray(gray * np.float32(most)), "TIFF"), "x")
    np.testing.assert_array_equal(decoded[..., 1], np.rint(gray * np.float32(255)))


@pytest.mark.parametrize("wrong", [-1.0, 4000.0, np.nan])
def test_floats_without_a_known_range_are_refused(wrong):
    data = encode(Image.fromarray(np.array([[0.0, wrong]], np.float32)), "TIFF")
    with pytest.raises(ValueError, match=r"x.tiff cannot be decoded .*not from 0 to 1 or to 255"):
        decode_image(data, "x.tiff")


def test_sixteen_bits_keep_their_range():
    gray = RNG.integers(0, 65536, (9, 7), np.uint16)
    decoded = decode_image(encode(Image.fromarray(gray)), "x")
    np.testing.assert_array_equal(
        decoded, np.repeat((gray >> 8).astype(np.uint8)[..., None], 3, axis=2)
    )


def test_orientation_follows_the_annotated_size():
    data, upright = turned(6), np.rot90(COLOUR, -1)
    np.testing.assert_array_equal(decode_image(data, "x"), upright)  # as a viewer
    np.testing.assert_array_equal(decode_image(data, "x", (20, 12)), upright)
    np.testing.assert_array_equal(decode_image(data, "x", (12, 20)), COLOUR)
    np.testing.assert_array_equal(decode_image(data, "x", (99, 99)), COLOUR)  # fits neither


def test_upside_down_is_turned_only_without_annotated_size():
    np.testing.assert_array_equal(decode_image(turned(3), "x"), COLOUR[::-1, ::-1])
    np.testing.assert_array_equal(decode_image(turned(3), "x", (12, 20)), COLOUR)


@pytest.mark.parametrize("cut", [0, 10, 150, 300])
def test_broken_and_truncated_files_are_named(cut):
    with pytest.raises(ValueError, match=r"image a/b\.jpg cannot be decoded .*; replace the file"):
        decode_image(encode(Image.fromarray(COLOUR), "JPEG")[:cut], "a/b.jpg")


def test_the_header_is_that_of_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(turned(6))
    assert header(str(tmp_path / "a.png")) == (12, 20, True)
    (tmp_path / "b.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"b\.png cannot be decoded"):
        header(str(tmp_path / "b.png"))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_the_annotated_size_has_the_pixels_that_pillow_decodes(
    mode, subsampling, progressive, monkeypatch
):
    """With the annotated size libjpeg-turbo reads it without Pillow, into aligned memory."""
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 1 << 20)  # noise is larger than the file's default
    for height, width in ((1, 1), (17, 33), (100, 101)):
        image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
        for quality in (30, 95):
            options = {"quality": quality, "progressive": progressive, "subsampling": subsampling}
            data = encode(image, "JPEG", **options)
            decoded = decode_image(data, "x", (height, width))
            assert is_aligned(decoded)
            wanted = Image.open(io.BytesIO(data)).convert("RGB")
            np.testing.assert_array_equal(decoded, np.asarray(wanted))


def test_a_jpeg_of_another_kind_is_left_to_pillow():
    image = Image.fromarray(np.full((16, 20, 3), (200, 30, 90), np.uint8))
    data = encode(image.convert("CMYK"), "JPEG", quality=95)
    wanted = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(decode_image(data, "x", (16, 20)), np.asarray(wanted))
    # A byte too many between two segments: libjpeg-turbo warns, Pillow reads it.
    data = encode(image, "JPEG")
    table = data.index(b"\xff\xdb")
    dirty = data[:table] + b"\x00" + data[table:]
    np.testing.assert_array_equal(
        decode_image(dirty, "x", (16, 20)), decode_image(data, "x", (16, 20))
    )


def test_a_truncated_jpeg_of_the_annotated_size_is_named():
    data = encode(Image.fromarray(COLOUR), "JPEG")
    with pytest.raises(ValueError, match=r"image a/b\.jpg cannot be decoded .*truncated"):
        decode_image(data[: len(data) - 40], "a/b.jpg", COLOUR.shape[:2])


def test_memory_for_pixels_is_aligned():
    assert all(is_aligned(empty_pixels(height, 7)) for height in range(1, 40))
    assert not is_aligned(empty_pixels(9, 7)[:, 1:])


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_memory_of_a_picture_is_kept_for_the_next():
    """Else every page of it would be handed out anew: 1,200 for four pictures of 1.2 MB."""
    code = """if True:
        import resource
        from pix2seq_jax.data.images import empty_pixels

        def faults():
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

        def four():
            for pixels in [empty_pixels(640, 640) for _ in range(4)]:
                pixels.fill(0)

        four()
        before = faults()
        for _ in range(50):
            four()
        print(faults() - before)
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 1000
