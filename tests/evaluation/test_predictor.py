"""`pix2seq_jax.load(workdir)(images)`: any kind of image, one typed result each."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import pix2seq_jax
from pix2seq_jax import predict
from tests.helpers import small

RECORDED = Path(__file__).parents[1] / "golden" / "workdir_0_1"  # of all four tasks


@pytest.fixture(scope="module")
def predictor():
    return pix2seq_jax.load(RECORDED)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")
    return sorted((folder / "val").glob("*.jpg"))[:3]


def assert_same(one, other) -> None:
    for name in ("boxes", "labels", "scores", "masks", "keypoints", "visible"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_array_equal(a, b)
    assert (one.names, one.texts) == (other.names, other.texts)


def test_paths_arrays_and_pil_images_are_one(predictor, files):
    images = []
    for file in files:
        with Image.open(file) as image:
            image.load()
            images.append(image.copy())
    arrays = [np.asarray(image.convert("RGB")) for image in images]
    results = predictor(files, threshold=0.0)
    assert len(results) == len(files) and any(len(result.boxes) for result in results)
    for others in (map(str, files), images, arrays):
        for one, other in zip(results, predictor(list(others), threshold=0.0), strict=True):
            assert_same(one, other)
    (alone,) = predictor(files[0], threshold=0.0)
    assert_same(alone, results[0])


@pytest.mark.parametrize("field", ["kernel_dtype", "cache_dtype"])
def test_dtypes_of_decoding_reach_the_model(field, files, tmp_path):
    loaded = pix2seq_jax.load(RECORDED, tasks=["detection"], **{field: "int8"})
    assert loaded.config.model[field] == "int8"
    with pytest.raises(ValueError, match=f"model.{field}='int4'; it may be one of"):
        next(predict.stream(str(RECORDED), str(files[0]), str(tmp_path / "out"), **{field: "int4"}))


def test_a_result_is_in_pixels_of_the_image_and_sorted(predictor, files):
    for file, result in zip(files, predictor(files, threshold=0.0), strict=True):
        with Image.open(file) as image:
            width, height = image.size
        count = len(result.boxes)
        assert result.boxes.shape == (count, 4) and result.boxes.dtype == np.float32
        assert (result.boxes >= 0).all()
        assert (result.boxes <= [height, width, height, width]).all()
        assert (np.diff(result.scores) <= 0).all()
        assert len(result.names) == len(result.labels) == count
        assert result.masks.shape == (count, height, width) and result.masks.dtype == bool
        assert result.keypoints.shape == (count, 17, 2) and result.visible.shape == (count, 17)
        assert isinstance(result.caption, str)


def test_a_dictionary_is_what_predict_writes(predictor, files, tmp_path):
    pattern = str(files[0].parent / "*.jpg")
    written = predict.run(str(RECORDED), pattern, str(tmp_path), limit=3, threshold=0.0)
    for row, result in zip(written, predictor(files, threshold=0.0), strict=True):
        assert row == {"file": row["file"]} | json.loads(json.dumps(result.to_dict()))


def test_some_tasks(predictor, files):
    (result,) = predictor(files[:1], tasks=["detection"], threshold=0.0)
    assert result.caption is None and result.masks is None and result.keypoints is None
    (result,) = predictor(files[:1], tasks=["captioning"], threshold=0.0)
    assert result.caption is not None and len(result.boxes) == 0
    with pytest.raises(ValueError, match=r"no \['depth'\]"):
        predictor(files[:1], tasks=["depth"])


def test_the_threshold_counts(predictor, files):
    (result,) = predictor(files[:1], threshold=1.0)
    assert len(result.boxes) == 0 and "objects" in result.to_dict()


def test_where_nothing_is_found_arrays_are_empty(predictor, files):
    """None says that the task was not asked for, and nothing else."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    (result,) = predictor(pixels, threshold=1.0)
    assert result.masks.shape == (0, 30, 40) and result.masks.dtype == bool
    assert result.keypoints.shape == (0, 17, 2)
    assert result.visible.shape == (0, 17) and result.visible.dtype == bool
    (result,) = predictor(pixels, tasks=["segmentation"], threshold=1.0)
    assert result.masks.shape == (0, 30, 40) and result.keypoints is result.visible is None
    (result,) = predictor(files[:1], tasks=["detection", "keypoints"], threshold=0.0)
    assert result.keypoints.shape == (len(result.boxes), 17, 2) and result.masks is None
    # As many boxes, and no one is asked about them.
    streamed = predictor.stream([pixels], threshold=1.0, broken=None)
    ((_, pixels, objects),) = streamed
    (one, other) = (predictor.prediction(objects, threshold) for threshold in (0.0, 1.0))
    assert one.masks.shape == (len(one.boxes), 30, 40) and len(one.boxes) > len(other.boxes) == 0
    assert not one.masks.any() and not one.visible.any()
    plain = {key: objects[key] for key in ("boxes", "labels", "scores", "is_crowd", "captions")}
    pictures = [predictor.picture(pixels, own, 0.0) for own in (objects, plain)]
    np.testing.assert_array_equal(*map(np.asarray, pictures))


def test_two_streams_at_a_time(predictor, files):
    """Neither leaves its mesh to the other, nor to who reads them."""

    def mesh():
        return jax.sharding.get_abstract_mesh()

    before, options = mesh(), {"threshold": 0.0, "broken": None}
    one, other = (predictor.stream(list(map(str, files)), **options) for _ in range(2))
    first, _ = next(one), next(other)
    assert mesh() == before
    one.close()
    assert [number for number, _, _ in other] == [1, 2]
    assert first[0] == 0 and mesh() == before


def test_grey_cmyk_and_turned_images(predictor):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (40, 30), np.uint8)
    three = np.repeat(grey[..., None], 3, axis=2)
    turned = Image.fromarray(three)
    exif = turned.getexif()
    exif[0x0112] = 6
    images = [grey, grey[..., None], three, Image.fromarray(three).convert("CMYK")]
    results = [predictor(image, threshold=0.0)[0] for image in images]
    for result in results[1:3]:
        assert_same(result, results[0])
    (result,) = predictor(turned, threshold=0.0)
    assert (result.boxes <= [30, 40, 30, 40]).all()
    assert predictor([], threshold=0.0) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), "float64 and shape"),
        (np.zeros((4, 4, 2), np.uint8), "three channels"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        ("missing.jpg", "missing.jpg"),
    ],
)
def test_what_is_no_image_is_refused(predictor, image, message):
    with pytest.raises(ValueError, match=message):
        predictor([image])


def test_importing_the_package_is_light():
    import subprocess
    import sys

    code = "import sys, pix2seq_jax; assert not {'jax', 'numpy', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
