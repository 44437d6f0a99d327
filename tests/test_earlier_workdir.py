"""A workdir that an earlier version wrote is evaluated and goes on as it did then."""

import json
import shutil
from pathlib import Path

import pytest

import pix2seq_jax
from pix2seq_jax import evaluate, train
from pix2seq_jax.experiment import saved_run
from tests.helpers import small

RECORDED = Path(__file__).parent / "golden" / "workdir_0_1"
EXPECTED = json.loads((RECORDED / "expected.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def workdir(tmp_path) -> Path:
    return shutil.copytree(RECORDED, tmp_path / "run")


def config(folder: Path, **overrides):
    """That of the run, whose weights of the tasks have changed since."""
    weights = {"detection": 0.55, "segmentation": 0.25, "captioning": 0.1, "keypoints": 0.1}
    overrides |= {f"tasks__{name}__weight": weight for name, weight in weights.items()}
    name = "multitask.py:shapes"
    return small.config(name, folder, seed=3, train__checkpoint_steps=2, **overrides)


def test_it_is_evaluated_alike(folder, workdir):
    """Without draws, which are others since tokens are drawn by one number each."""
    greedy = {f"tasks__{name}__sampler": "greedy" for name in ("detection", "segmentation")}
    evaluate.run(config(folder, **greedy), workdir)
    for task in ("detection", "segmentation", "captioning"):
        rows = json.loads((workdir / "results" / f"{task}.json").read_text())
        for row, expected in zip(rows[: len(EXPECTED[task])], EXPECTED[task], strict=True):
            assert row.keys() == expected.keys()
            for name, value in expected.items():
                close = pytest.approx(value, abs=1e-3) if name in ("bbox", "score") else value
                assert row[name] == close, (task, name)


def test_it_goes_on_alike(folder, workdir):
    train.run(config(folder, train__steps=4), workdir, evaluate_too=False)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert losses[3] == pytest.approx(EXPECTED["losses"]["3"], rel=1e-6)
    assert losses[4] == pytest.approx(EXPECTED["losses"]["4"], rel=1e-6)


def test_it_predicts(folder, workdir):
    images = sorted((folder / "val").glob("*.jpg"))[:2]
    predictor = pix2seq_jax.load(workdir)
    assert predictor.step == 2
    assert len(predictor(images, threshold=0.0)) == 2


def test_its_config_says_all_that_later_versions_read(workdir):
    assert saved_run.load_config(workdir).mesh.fsdp == 1
