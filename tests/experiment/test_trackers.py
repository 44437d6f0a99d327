"""Figures and pictures reach the real packages, without network, and a resumed run the same one."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from pix2seq_jax.experiment import trackers
from pix2seq_jax.experiment.logs import MetricWriter

CONFIG = {"seed": 3, "train": {"steps": 2}}
PICTURE = {"detection/1": np.zeros((8, 8, 3), np.uint8)}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The services write to this disk."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "service").as_uri())


def write(names: str, workdir, step: int) -> None:
    """One row and a picture, as a run writes them."""
    opened = trackers.open_trackers(names, workdir, CONFIG)
    writer = MetricWriter(workdir, trackers=opened)
    writer.scalars(step, {"train/loss": 1.5 / step, "train/bad": float("nan")})
    writer.images(step, PICTURE)
    writer.close()


@pytest.mark.filterwarnings("ignore")  # of the package
def test_mlflow_has_the_rows_of_both_parts_of_a_run(tmp_path, offline):
    import mlflow

    write("mlflow", tmp_path, 1)
    first = json.loads((tmp_path / trackers.FILE).read_text())
    write("mlflow", tmp_path, 3)
    assert json.loads((tmp_path / trackers.FILE).read_text()) == first
    client = mlflow.MlflowClient((tmp_path / "service").as_uri())
    history = client.get_metric_history(first["mlflow"], "train/loss")
    assert [(row.step, row.value) for row in history] == [(1, 1.5), (3, 0.5)]
    assert client.get_metric_history(first["mlflow"], "train/bad") == []
    artefacts = {item.path for item in client.list_artifacts(first["mlflow"])}
    assert {"config.json", "images"} <= artefacts
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def rows_of(file: Path) -> list[dict]:
    """The rows of an offline run of wandb, whose file is a log of protocol buffers.

    Seven bytes are followed by parts of records, each behind a checksum, its length and whether it
    is the last one (1, 4). No part crosses a multiple of 32 KiB, nor do the seven bytes before it.
    """
    from wandb.proto import wandb_internal_pb2

    content, rows, at, record = file.read_bytes(), [], 7, b""
    while at < len(content):
        if (left := -at % 2**15) and left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind not in (1, 4):
            continue
        history = wandb_internal_pb2.Record.FromString(record).history
        if history.item:
            names = [item.key or ".".join(item.nested_key) for item in history.item]
            values = [json.loads(item.value_json) for item in history.item]
            rows.append(dict(zip(names, values, strict=True)))
        record = b""
    return rows


@pytest.mark.filterwarnings("ignore")  # of the package
def test_wandb_has_the_rows_of_both_parts_of_a_run(tmp_path, offline):
    write("wandb", tmp_path, 1)
    (first,) = json.loads((tmp_path / trackers.FILE).read_text()).values()
    write("wandb", tmp_path, 3)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert files and all(file.name == f"run-{first}.wandb" for file in files)
    rows = [row for file in files for row in rows_of(file)]
    losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert losses == {1: 1.5, 3: 0.5}, rows
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/detection/*.png"))


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match=r"trackers='comet': 'comet' is none of"):
        trackers.names_of("comet")
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI is not set"):
        trackers.names_of("wandb+mlflow")
    assert trackers.open_trackers("", tmp_path, CONFIG) == []
    assert list(tmp_path.iterdir()) == []
