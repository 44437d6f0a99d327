"""Rows of decoded images: those of the pipeline, traced once, and nothing that holds the images."""

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data import rows
from pix2seq_jax.data.coco.files import read_file
from pix2seq_jax.data.ops.chain import read_chain
from pix2seq_jax.data.source import IMAGE_FIELDS, layout
from tests.helpers.epochs import one_epoch

OPS = "decode|resize(32, antialias=True)|pad_image(32)|pad_objects(2)"
SIZES = [(40, 60), (64, 30), (20, 20)]


class Plain:
    """A source of image files without objects."""

    def __init__(self, files):
        self.files, self.fields = files, layout(IMAGE_FIELDS)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        size = np.array(SIZES[index], np.int32)
        return {
            "image": read_file(self.files[index]),
            "file": self.files[index],
            "image_id": np.int64(index),
            "orig_size": size,
        }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(
            folder / f"{number}.png"
        )
    return [str(folder / f"{number}.png") for number in range(len(SIZES))]


@pytest.mark.parametrize(
    "spec,in_graph",
    [
        ("decode|resize(32, antialias=True)|pad_image(32)", False),
        ("decode|resize(48)|resize(32)|pad_image((32, 40))", True),
    ],
)
def test_rows_are_those_of_the_pipeline(files, spec, in_graph):
    """Whether the graph calls Python for the pixels or they are made behind it."""
    ops = read_chain(spec).image_ops
    make = rows.Preprocess(ops, objects=False, spec=spec)
    kinds = {op.type for op in make._function.graph.get_operations()}
    assert ("PyFuncStateless" in kinds) == in_graph
    expected = one_epoch(Plain(files), spec)
    assert make.shapes["image"] == (np.uint8, expected["image"].shape[1:])
    decoded = [rows.read(file, size, read_file) for file, size in zip(files, SIZES, strict=True)]
    made = {
        i: make({"image": pixels, "orig_size": size}, i) for i, (pixels, size) in enumerate(decoded)
    }
    batch = make.batch(made, 4)
    assert (
        batch.keys() <= expected.keys()
        and {"image", "unpadded_size", "crop_offset"} <= batch.keys()
    )
    for name, value in batch.items():
        np.testing.assert_array_equal(value[:3], expected[name], err_msg=name)
    np.testing.assert_array_equal(batch["unpadded_size"][3], [1, 1])  # blank
    images = make.images(4)
    images[:] = 7
    made = {
        i: make({"image": pixels, "orig_size": size}, i, images[i])
        for i, (pixels, size) in enumerate(decoded)
    }
    assert make.batch(made, 4, images)["image"] is images
    np.testing.assert_array_equal(images, batch["image"])


def test_a_chain_is_traced_once():
    ops = read_chain(OPS).tensor_ops
    rows.Preprocess(ops, objects=True, spec=OPS)
    before = rows._traced.cache_info().misses
    assert rows.Preprocess(read_chain(OPS).tensor_ops, objects=True, spec=OPS).shapes["boxes"] == (
        np.float32,
        (2, 4),
    )
    assert rows._traced.cache_info().misses == before


@pytest.mark.parametrize(
    ("ops", "objects", "message"),
    [
        ("resize(32)|pad_image(32)", False, "must begin with decode"),
        ("decode|resize(32)", False, r"'image' has no fixed shape .* end with pad_image\(size\)"),
        ("decode|resize(32)|pad_image(32)", True, r"'boxes' has no fixed shape .*pad_objects\(n\)"),
        (
            "decode|crop_to_box(2.0)|resize(32)|pad_image(32)",
            False,
            "needs 'boxes', which is not given",
        ),
        ("decode|resize(32, antialias=3)|pad_image(one)|pad_objects(1)", True, "image size 'one'"),
    ],
)
def test_chains_that_do_not_fit_are_named(ops, objects, message):
    with pytest.raises(ValueError, match=message):
        rows.Preprocess(read_chain(ops).tensor_ops, objects=objects, spec=ops)


def test_an_image_that_is_larger_than_its_padding_is_an_error():
    ops = "decode|pad_image(32)"
    make = rows.Preprocess(read_chain(ops).image_ops, objects=False, spec=ops)
    pixels, size = np.zeros((40, 20, 3), np.uint8), np.array([40, 20], np.int32)
    with pytest.raises(ValueError, match=r"pad_image\(32\)' failed: .* 40 x 20 pixels is larger"):
        make({"image": pixels, "orig_size": size}, 0)
