"""The commands as a user runs them, in processes of their own: kill -9 and resume, SIGTERM,
evaluation, prediction."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from pix2seq_jax.training import trees
from tests.helpers import small

MAIN = [sys.executable, "-m", "pix2seq_jax.main"]
ENVIRONMENT = os.environ | {
    "JAX_COMPILATION_CACHE_DIR": str(small.ROOT / ".pytest_cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
# Long enough to be interrupted, saved every ten steps, nothing thrown away.
LONG = {
    "train__steps": 40,
    "train__checkpoint_steps": 10,
    "train__keep_latest": 100,
    "train__log_steps": 5,
}


def start(*args: str, **variables: str) -> subprocess.Popen:
    env = ENVIRONMENT | variables
    return subprocess.Popen(args, cwd=small.ROOT, env=env, stderr=subprocess.PIPE, text=True)


def finish(*args: str, code: int = 0, **variables: str) -> str:
    """Runs to the end, checks the exit code and returns what went to stderr."""
    process = start(*args, **variables)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors[-3000:]
    return errors


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(12_000):
        if path.exists():
            return
        assert process.poll() is None, (
            f"ended before {path.name} was there: {process.stderr.read()[-3000:]}"
        )
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


def arrays(folder: Path) -> dict[str, bytes]:
    """All arrays of a checkpoint, optimizer included, as bytes."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        saved = reader.metadata(folder / "state").item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        tree = reader.restore(folder / "state", ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {name: np.asarray(leaf).tobytes() for name, leaf in trees.flatten_names(tree).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory) -> Path:
    """The workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("straight")
    finish(*MAIN, *small.flags(folder, **LONG), f"--workdir={workdir}")
    return workdir


def test_run_writes_what_it_promises(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["step"] == 40 and metrics["detection"]["images"] == small.VAL_IMAGES
    assert set(metrics["detection"]["per_class"]) >= {"person", "circle"}
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == [1, *range(5, 41, 5)]
    assert all(row["train/eta_s"] >= 0 for row in rows if "train/loss" in row and row["step"] > 1)
    assert list(trained.glob("events.out.tfevents.*"))
    assert len(list((trained / "pictures").glob("*.png"))) == 1
    results = json.loads((trained / "results" / "detection.json").read_text())
    known = json.loads((trained / "config.json").read_text())["data"]["category_ids"]
    assert results and {row["category_id"] for row in results} <= set(known)


def test_resume_after_kill_is_bit_identical(folder, trained, tmp_path):
    command = [*MAIN, *small.flags(folder, **LONG), f"--workdir={tmp_path}"]
    process = start(*command)
    wait_for(tmp_path / "checkpoints" / "10", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "checkpoints" / "40").exists(), "the run was over before it was killed"
    assert "resumed at step" in finish(*command)
    for step in ("20", "40"):
        straight, resumed = (arrays(run / "checkpoints" / step) for run in (trained, tmp_path))
        assert straight.keys() == resumed.keys() and len(straight) > 50
        assert [name for name in straight if straight[name] != resumed[name]] == []


def test_sigterm_saves_and_exits_cleanly(folder, tmp_path):
    command = [
        *MAIN,
        *small.flags(folder, train__steps=1_000_000, train__checkpoint_steps=20),
        f"--workdir={tmp_path}",
    ]
    process = start(*command, "--mode=train")
    wait_for(tmp_path / "checkpoints" / "20", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    # 128 + 15: scripts tell it from the end of the training.
    assert process.returncode == 143, errors[-3000:]
    newest = max(
        int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal()
    )
    assert f"SIGTERM: step {newest} is saved" in errors and newest > 20


def test_parameters_are_cut_where_a_flag_says_so(folder, tmp_path):
    """First over `model`, which does not divide the heads, then over `fsdp`."""

    def trained_on(steps: int, **mesh) -> str:
        options = small.flags(folder, train__steps=steps, model__enc_heads=1, mesh__data=1, **mesh)
        return finish(*MAIN, *options, f"--workdir={tmp_path}", JAX_NUM_CPU_DEVICES="2")

    errors = trained_on(2, mesh__model=2, mesh__allow_whole=True)
    assert "'model': 2" in errors and "does not divide: it stays whole" in errors
    errors = trained_on(3, mesh__fsdp=2)
    assert "'fsdp': 2" in errors and "resumed at step 2" in errors
    assert json.loads((tmp_path / "metrics.json").read_text())["step"] == 3


def test_evaluation_does_not_depend_on_the_batch_size(folder, trained):
    found = {}
    for size in (1, 7, 64):
        finish(
            *MAIN,
            *small.flags(folder, eval__batch_size=size),
            f"--workdir={trained}",
            "--mode=eval",
        )
        results = json.loads((trained / "results" / "detection.json").read_text())
        key = [(row["image_id"], row["category_id"], *row["bbox"]) for row in results]
        found[size] = key, np.array([row["score"] for row in results])
        assert (
            json.loads((trained / "metrics.json").read_text())["detection"]["images"]
            == small.VAL_IMAGES
        )
    for size in (7, 64):
        assert found[size][0] == found[1][0]
        np.testing.assert_allclose(found[size][1], found[1][1], rtol=0, atol=1e-6)


def test_predict_reads_any_image_and_skips_broken_ones(trained, tmp_path):
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 255, (40, 90, 3), np.uint8))
    images = tmp_path / "images"
    images.mkdir()
    colour.save(images / "plain.jpg")
    colour.convert("CMYK").save(images / "cmyk.jpg")
    colour.convert("L").save(images / "größe.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    colour.save(images / "turned.jpg", exif=exif)
    (images / "broken.jpg").write_bytes((images / "plain.jpg").read_bytes()[:200])
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "pix2seq_jax.predict",
        f"--workdir={trained}",
        f"--out={out}",
        "--threshold=0",
    ]
    errors = finish(*command, f"--images={images}/*", code=1)
    assert "broken.jpg" in errors and "4 images, 1 skipped" in errors
    rows = {
        Path(row["file"]).name: row["objects"]
        for row in json.loads((out / "predictions.json").read_text())
    }
    assert sorted(rows) == ["cmyk.jpg", "größe.png", "plain.jpg", "turned.jpg"]
    assert all((out / f"{Path(name).stem}.png").is_file() for name in rows)
    names = json.loads((trained / "config.json").read_text())["data"]["category_names"]
    for name, (height, width) in {"plain.jpg": (40, 90), "turned.jpg": (90, 40)}.items():
        assert rows[name]
        for found in rows[name]:
            ymin, xmin, ymax, xmax = found["box"]
            assert 0 <= ymin <= ymax <= height and 0 <= xmin <= xmax <= width
            assert found["category"] in names and 0 <= found["score"] <= 1


def test_predict_does_not_overwrite_the_images(trained, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    command = [
        sys.executable,
        "-m",
        "pix2seq_jax.predict",
        f"--workdir={trained}",
        f"--out={tmp_path}",
    ]
    errors = finish(*command, f"--images={tmp_path}/*.png", code=2)
    assert "would overwrite" in errors and "photo.png" in errors
    with Image.open(tmp_path / "photo.png") as image:
        assert image.size == (40, 40)


def test_errors_of_the_commands_are_one_line(trained, tmp_path):
    predict = [
        sys.executable,
        "-m",
        "pix2seq_jax.predict",
        f"--workdir={trained}",
        f"--out={tmp_path}",
    ]
    errors = finish(*predict, f"--images={tmp_path}/none/*.jpg", code=2)
    assert "error: --images=" in errors and "Traceback" not in errors
    missing = [
        f"--config={small.ROOT}/configs/detection.py:data={tmp_path},arch=tiny",
        f"--workdir={tmp_path}/w",
    ]
    errors = finish(*MAIN, *missing, code=2)
    assert f"error: the train data is missing: {tmp_path}" in errors and "Traceback" not in errors
