"""Evaluation and prediction of four tasks decode every picture once, and hold a few at a time."""

import json
import shutil

import pytest

from pix2seq_jax import evaluate, predict, train
from pix2seq_jax.data.ops import image as ops_image
from tests.helpers import small
from tests.helpers.multitask import make

TASKS = ("detection", "segmentation", "keypoints", "captioning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A run of three steps with its evaluation."""
    workdir = tmp_path_factory.mktemp("run")
    metrics = train.run(make(folder), workdir)
    return workdir, metrics


@pytest.fixture
def decoded(monkeypatch):
    """The files that are decoded."""
    files, decode = [], ops_image.decode_image

    def counted(data, name, size=None):
        files.append(name)
        return decode(data, name, size)

    monkeypatch.setattr(ops_image, "decode_image", counted)
    return files


def test_every_picture_is_decoded_once_for_all_tasks_and_pictures(
    folder, trained, tmp_path, decoded
):
    """However many are looked at together; what is found does not depend on it."""
    results = []
    for size in (7, 20):
        workdir = shutil.copytree(trained[0], tmp_path / str(size))
        evaluate.run(make(folder, eval__batch_size=size, eval__pictures=3), workdir)
        looked_at, shown = decoded[: small.VAL_IMAGES], decoded[small.VAL_IMAGES :]
        assert len(set(looked_at)) == small.VAL_IMAGES
        # The report shows the best and the worst, which are known in the end.
        assert len(shown) == len(list((workdir / "report").glob("*.png"))) < small.VAL_IMAGES
        decoded.clear()
        results.append(
            {task: json.loads((workdir / "results" / f"{task}.json").read_text()) for task in TASKS}
        )
    assert all(results[0][task] for task in TASKS if task != "keypoints")  # nobody was found
    for task in TASKS:
        for one, other in zip(*(found[task] for found in results), strict=True):
            score = one.pop("score", 0.0)
            # Sums depend on the size of a batch.
            assert other.pop("score", 0.0) == pytest.approx(score, rel=1e-4)
            assert one == other


def test_prediction_holds_a_few_pictures_at_a_time(folder, trained, tmp_path, decoded):
    """All of them were decoded before the first was looked at, and kept to the end."""
    rows = predict.stream(
        str(trained[0]), f"{folder}/*/*.jpg", str(tmp_path), batch_size=2, threshold=0.0
    )
    next(rows)
    # Two are rounded up to eight devices; at most four chunks are held.
    assert len(decoded) <= 4 * 8
    every = small.TRAIN_IMAGES + small.VAL_IMAGES
    assert len(list(rows)) == every - 1
    assert len(decoded) == len(set(decoded)) == every
