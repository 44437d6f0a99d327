"""Evaluations while training: after a save, at most one failure in a row, left at SIGTERM and made
up for."""

import json
import logging
import os
import shutil
import signal

import pytest

from pix2seq_jax import evaluate, train
from pix2seq_jax.evaluation import in_training
from pix2seq_jax.experiment import claim, logs, stopping
from tests.helpers import small
from tests.helpers.commands import command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def lines(caplog, monkeypatch):
    """The lines of the log."""
    monkeypatch.setattr(logs.log, "handlers", [caplog.handler])
    monkeypatch.setattr(logs.log, "propagate", False)  # or each line is there twice
    return caplog


class AtLine(logging.Handler):
    """Does something when a log line with these words is written."""

    def __init__(self, words: str, action) -> None:
        super().__init__()
        self.words, self.action = words, action

    def emit(self, record: logging.LogRecord) -> None:
        if self.words in record.getMessage():
            self.action()


def saved(workdir) -> list[int]:
    return sorted(
        int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()
    )


def make(folder, **overrides):
    sizes = {"train__steps": 3, "train__eval_steps": 2, "eval__images_in_training": 8}
    return small.config("detection.py:shapes", folder, **(sizes | overrides))


def test_sigterm_in_an_evaluation(folder, tmp_path, lines):
    """The step is saved, nothing is scored, and the run makes up for the evaluation when it goes
    on."""
    handler = AtLine("evaluate step 2", lambda: os.kill(os.getpid(), signal.SIGTERM))
    logs.log.addHandler(handler)
    with pytest.raises(stopping.Interrupted) as caught:
        train.run(make(folder), tmp_path)
    assert caught.value.code == 143
    assert saved(tmp_path) == [2] and not (tmp_path / "metrics.json").exists()
    assert f"SIGTERM: step 2 is saved in {tmp_path}" in lines.text
    logs.log.removeHandler(handler)
    lines.clear()
    assert train.run(make(folder), tmp_path)["detection"]["images"] == small.VAL_IMAGES
    told = [record.getMessage() for record in lines.records]
    assert [line for line in told if line.startswith("evaluate step")] == [
        "evaluate step 2",
        "evaluate step 3",
    ]
    scores = json.loads((tmp_path / "checkpoints" / "metrics.json").read_text())
    assert scores.keys() == {"2", "3"} and "detection/AP" in scores["2"]
    lines.clear()
    train.run(make(folder, train__steps=4, train__eval_steps=3), tmp_path)  # step 3 was evaluated
    assert "evaluate step 3" not in lines.text and "evaluate step 4" in lines.text


def test_sigterm_ends_mode_eval(folder, tmp_path, lines):
    train.run(make(folder), tmp_path, evaluate_too=False)
    logs.log.addHandler(AtLine("evaluate step", lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(stopping.Interrupted):
        evaluate.run(make(folder), tmp_path)
    assert not (tmp_path / "metrics.json").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as it was


def test_a_report_is_of_the_last_evaluation(folder, tmp_path, lines):
    """Within a run, too, and where an earlier one looked at more images."""
    train.run(make(folder, train__steps=2), tmp_path)
    logs.log.addHandler(AtLine("evaluate step 4", lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(stopping.Interrupted):
        sizes = {"train__steps": 4, "train__eval_steps": 3, "eval__images_in_training": 5}
        train.run(make(folder, **sizes), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["step"] == 3
    command("report", f"--workdir={tmp_path}")
    assert "Step 3, seed" in (tmp_path / "report.html").read_text()
    rows = (tmp_path / "report" / "detection_images.csv").read_text().splitlines()
    assert len(rows) == 1 + 5 < 1 + small.VAL_IMAGES


@pytest.fixture
def images(folder, tmp_path):
    """A folder of validation images of which the first one is cut off, and the overrides that make
    this an error."""
    copy = shutil.copytree(folder / "val", tmp_path / "val")
    first = min(copy.iterdir())
    first.write_bytes(first.read_bytes()[:700])
    values = {"data__val_images": str(copy), "data__check_images": False}
    return first, folder / "val" / first.name, values


def test_an_evaluation_that_fails_loses_nothing(folder, tmp_path, lines, images):
    broken, whole, values = images
    values |= {"train__eval_steps": 1, "data__bad_images": "error", "eval__images_in_training": 0}
    with pytest.raises(
        ValueError, match=r"2 evaluations in a row failed, at step 2: ValueError: .*step 2 is saved"
    ):
        train.run(make(folder, **values), tmp_path / "run")
    assert saved(tmp_path / "run") == [1, 2]
    assert "the evaluation of step 1 failed, 1 in a row" in lines.text and "Traceback" in lines.text
    lines.clear()
    # Started again it fails at step 2 once more, which is one in a row, and again at the last step.
    with pytest.raises(ValueError, match=r"the last evaluation failed, at step 3: .*--mode=train"):
        train.run(make(folder, **values), tmp_path / "run")
    assert saved(tmp_path / "run") == [2, 3]
    shutil.copy(whole, broken)
    assert (
        train.run(make(folder, **values), tmp_path / "run")["detection"]["images"]
        == small.VAL_IMAGES
    )


def test_one_of_several_processes_does_not_go_on_alone(folder, tmp_path, images, monkeypatch):
    monkeypatch.setattr(in_training, "process_count", lambda: 2)
    values = images[2] | {"train__eval_steps": 1, "data__bad_images": "error"}
    values |= {"eval__images_in_training": 0}
    with pytest.raises(ValueError, match=r"an evaluation failed, at step 1: .*step 1 is saved"):
        train.run(make(folder, **values), tmp_path / "run")


def test_an_image_that_cannot_be_decoded_counts_as_empty(folder, tmp_path, lines, images):
    broken, _, values = images
    train.run(make(folder), tmp_path / "run", evaluate_too=False)
    metrics = evaluate.run(make(folder, **values), tmp_path / "run")
    assert metrics["detection"]["images"] == small.VAL_IMAGES
    assert (
        f"{broken} cannot be decoded" in lines.text
        and "scored as an empty picture (1 so far)" in lines.text
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("eval_ops", "decode|resize(64)", r"'image' has no fixed shape"),
        (
            "eval_ops",
            "decode|resize(64)|pad_image(64)|pad_objects(4)",
            r"pad_image\(64\) makes images of \(64, 64\) pixels.*\(48, 48\)",
        ),
        ("eval_ops", "decode|crop_to_box(2)|resize(48)|pad_image(48)", r"needs 'boxes'"),
        ("eval_ops", "resize(48)|pad_image(48)", r"must begin with decode"),
        ("eval_ops", "decode|resize(48", r"is not of the form"),
        ("sampler", "nucleus(2)", r"p must be above 0 and at most 1"),
        ("sampler", "topk(0)", r"k must be a whole number of at least 1"),
        ("sampler", "nucleus(0.4, temperature=0)", r"temperature=0: must be above 0"),
        ("sampler", "topk(5, 1e999)", r"temperature=inf"),
        ("sampler", "best", r"sampler 'best'"),
        ("sampler", "beam(2)", r"beam search is for captions"),
    ],
)
def test_what_an_evaluation_could_not_use_is_refused_first(folder, tmp_path, field, value, message):
    config = make(folder)
    config.tasks.detection[field] = value
    with pytest.raises(ValueError, match=rf"config.tasks.detection.{field}.*{message}"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_masks_that_coco_counts(folder):
    """While training 20 boxes of an image get a mask, in a final evaluation 100; early runs did not
    record it."""
    section = small.load("multitask.py").tasks.segmentation
    assert (section.objects, section.objects_final) == (20, 100)
    assert claim._is_free("tasks.segmentation.objects_final")
