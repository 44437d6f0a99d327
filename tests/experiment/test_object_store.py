"""A run whose workdir is in a bucket: `gs://`, with the real clients and a made-up store.

Runs that differ in the place alone have the same numbers in their files.
"""

import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath

import pix2seq_jax
from pix2seq_jax import evaluate, train
from pix2seq_jax.config.fill import fill
from pix2seq_jax.experiment import checks, guard, reporting, saved_run, weight_search, workdir
from pix2seq_jax.official import source
from pix2seq_jax.training import checkpoint, sharding, trees
from tests.helpers import bucket, small

pytest.importorskip("google.cloud.storage", reason="pip install -e .[gcs]")
if shutil.which("openssl") is None:
    pytest.skip("no openssl for the certificate of a store", allow_module_level=True)

THERE = f"gs://{bucket.BUCKET}/folder/run"
STEPS = 3
FILES = (
    "config.json",
    "text.model",
    "metrics.json",
    "results/captioning.json",
    "parameters.txt",
    "report.html",
    "pictures/2.png",
    "columns/images.npz",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The made-up bucket, for this process."""
    with (
        bucket.served(tmp_path_factory.mktemp("bucket")) as variables,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


def config(data, **overrides):
    return small.config("captioning.py:shapes", data, **overrides)


@pytest.fixture(scope="module")
def here(data, tmp_path_factory):
    """A run on the disk, undisturbed."""
    folder = tmp_path_factory.mktemp("here")
    train.run(config(data, train__steps=STEPS), folder)
    return folder


@pytest.fixture(scope="module")
def address(store, data):
    """The same run in the bucket, which was left after a step and went on."""
    train.run(config(data, train__steps=STEPS - 1), THERE, evaluate_too=False)
    train.run(config(data, train__steps=STEPS), THERE)
    return THERE


def rows(folder) -> dict[int, dict]:
    """Rows of metrics.jsonl by step, without what depends on time."""
    by_step = {}
    for line in (epath.Path(folder) / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["step"] not in by_step or "eval/captioning/BLEU-1" in row
        timed = ("_per_s", "eta_s", "data_wait")
        kept = {name: value for name, value in row.items() if not name.endswith(timed)}
        by_step[row["step"]] = by_step.get(row["step"], {}) | kept
    return by_step


def test_a_run_is_written_and_goes_on_there(address, here):
    there = rows(address)
    assert list(there) == [1, 2, 3]
    for step in (1, 3):  # another length has another learning rate, in between
        assert there[step].keys() == rows(here)[step].keys()
    assert there[1] == rows(here)[1]
    folder = epath.Path(address)
    assert checkpoint.newest_whole_step(folder / "checkpoints") == STEPS
    for name in FILES:
        assert (folder / name).is_file() and (here / name).is_file(), name
    assert [path.name for path in folder.iterdir() if path.name.startswith("events.out")]
    assert not [path for path in folder.iterdir() if "partial" in path.name]


def test_a_run_is_evaluated_and_reported_there(address, data):
    metrics = evaluate.run(config(data, train__steps=STEPS), address)
    stored = json.loads((epath.Path(address) / "metrics.json").read_text())
    assert stored["captioning"] == metrics["captioning"] and stored["step"] == STEPS
    page = epath.Path(address) / "report.html"
    page.unlink()
    assert str(reporting.run(address)) == str(page)
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_what_was_not_finished_there_is_written_again(address, data):
    """A process that is killed while it saves leaves a folder of the final name."""
    folder = epath.Path(address) / "checkpoints"
    unfinished = folder / str(STEPS + 1)
    for path in (folder / str(STEPS)).iterdir():
        if path.name not in ("SHA256SUMS", "commit_success.txt") and not path.is_dir():
            (unfinished / path.name).write_bytes(path.read_bytes())
    (unfinished / "state" / "d" / "half").write_bytes(b"half")
    assert STEPS + 1 not in checkpoint.steps(folder)
    assert checkpoint.newest_whole_step(folder, set_aside=True) == STEPS
    train.run(config(data, train__steps=STEPS + 1), address, evaluate_too=False)
    assert checkpoint.newest_whole_step(folder) == STEPS + 1
    assert not (unfinished / "state" / "d" / "half").exists()
    assert list(rows(address)) == [1, 2, 3, 4]


def test_a_run_predicts_from_there(address):
    images = [np.zeros((64, 64, 3), np.uint8)]
    assert pix2seq_jax.load(address)(images)[0].texts


def test_a_run_starts_from_there(address, tmp_path):
    mesh, last = sharding.make_mesh(), checkpoint.steps(f"{address}/checkpoints")[0]
    folder = epath.Path(address)
    parts = [*_files(folder / "checkpoints" / str(last)), folder / "config.json"]
    for path in (*parts, folder / "text.model"):
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    there, here = source.read(f"{address}@{last}", mesh), source.read(str(tmp_path), mesh)
    assert there.text == here.text and there.text
    assert there.where == f"{address} step {last}"
    assert jax.tree.all(jax.tree.map(np.array_equal, there.arrays, here.arrays))
    assert len(trees.flatten_names(there.arrays)) > 10


def _files(folder) -> list:
    """All files below a folder."""
    files = []
    for path in folder.iterdir():
        files += _files(path) if path.is_dir() else [path]
    return files


def test_a_trace_is_kept_there(address):
    with pytest.raises(SystemExit):
        guard.guarded(lambda: int("one"), workdir=address)
    assert "invalid literal" in (epath.Path(address) / "error.txt").read_text()


def test_an_address_without_a_run_is_refused(store):
    with pytest.raises(ValueError, match="is not the workdir of a run"):
        saved_run.load_config(f"{THERE}/none")


def test_what_cannot_be_there_is_refused(store, data, tmp_path):
    for bad in ("gs://bucket", "gs://bucket/", "s3://bucket/run"):
        with pytest.raises(ValueError, match="is no address that a run is written to; give a fol"):
            workdir.check_writable(bad)
    with pytest.raises(ValueError, match=r"gs://none/run cannot be written .*check the address"):
        workdir.check_writable("gs://none/run")
    with pytest.raises(ValueError, match="profile_at=2 needs a folder; mount the bucket"):
        checks.check(fill(config(data, train__profile_at=2)), THERE, training=True)
    with pytest.raises(ValueError, match="a search for weights needs a folder"):
        weight_search.search(train.run, config(data), THERE, ratios=[0.5])


def test_without_the_package_a_run_is_refused(monkeypatch):
    monkeypatch.setattr(workdir, "STORAGE", "google.cloud.no_such_package")
    with pytest.raises(ValueError, match=r"needs the package google-cloud-storage.*pip install"):
        workdir.check_writable(THERE)
