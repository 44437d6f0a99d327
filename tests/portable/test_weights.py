"""model.safetensors: written, read, imported into a workdir, and what is no such file."""

from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pix2seq_jax
from pix2seq_jax.experiment import saved_run
from pix2seq_jax.official import source
from pix2seq_jax.portable import artefacts, description, weights
from pix2seq_jax.training import sharding
from tests.helpers.commands import command

RECORDED = Path(__file__).parents[1] / "golden" / "workdir_0_1"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("weights")
    artefacts.write(RECORDED, out, weights_only=True)
    return out / weights.WEIGHTS_FILE


def test_an_import_predicts_as_before(file, tmp_path):
    workdir = tmp_path / "imported"
    printed = command("import_tf", f"--from={file}", f"--workdir={workdir}")
    assert "params/decoder/embedding" in printed
    assert saved_run.is_imported(workdir)
    pixels = np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)
    one, other = (
        pix2seq_jax.load(folder)(pixels, tasks=["detection", "captioning"], threshold=0.0)[0]
        for folder in (RECORDED, workdir)
    )
    assert len(one.boxes) and one.to_dict() == other.to_dict()  # with the text model


def test_a_warm_start_reads_it(file):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    there, here = source.read(str(RECORDED), mesh), source.read(str(file), mesh)
    assert there.text == here.text and there.config.to_dict() == here.config.to_dict()
    assert set(there.arrays) == set(here.arrays)
    for name, array in there.arrays.items():
        np.testing.assert_array_equal(array, here.arrays[name])


def test_it_is_the_whole_model_whatever_is_exported(file, tmp_path):
    artefacts.write(RECORDED, tmp_path, tasks="detection", weights_only=True)
    some, whole = weights.read(tmp_path / weights.WEIGHTS_FILE), weights.read(file)
    assert "text_model" in whole.meta and some.meta == whole.meta
    assert some.config.to_dict() == whole.config.to_dict()


def test_tensors_have_their_names(file):
    arrays = load_file(file)
    assert all(name.startswith("params/") for name in arrays)
    assert all(array.dtype == np.float32 for array in arrays.values())


def test_what_is_no_export_is_refused(file, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"broken\.safetensors cannot be read as safetensors"):
        weights.read(broken)
    with pytest.raises(ValueError, match=r"missing\.safetensors cannot be read"):
        weights.read(tmp_path / "missing.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, other)
    with pytest.raises(ValueError, match="no config of a Pix2Seq model"):
        weights.read(other)
    stored = weights.read(file)
    arrays = dict(stored.arrays)
    del arrays["params/decoder/embedding"]
    weights.write(other, weights.nested(arrays), stored.config, stored.meta)
    with pytest.raises(ValueError, match="params/decoder/embedding is missing in the file"):
        weights.read(other)


def test_the_weights_of_an_export_are_not_replaced_alone(file, tmp_path):
    (tmp_path / description.FILE).write_text("{}")
    with pytest.raises(ValueError, match=f"--out={tmp_path} holds a whole export"):
        artefacts.write(RECORDED, tmp_path, weights_only=True)
    assert not (tmp_path / weights.WEIGHTS_FILE).exists()


def test_a_refused_export_changes_nothing(tmp_path, monkeypatch):
    for name in (description.FILE, weights.WEIGHTS_FILE):
        (tmp_path / name).write_text("there before")

    def refuse(*_, **__):
        raise ValueError("cannot be exported")

    monkeypatch.setattr(description, "describe", refuse)
    with pytest.raises(ValueError, match="cannot be exported"):
        artefacts.write(RECORDED, tmp_path)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"there before"}


def test_an_export_that_was_stopped_is_none(tmp_path, monkeypatch):
    (tmp_path / description.FILE).write_text("{}")

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(artefacts, "_exported", stopped)
    with pytest.raises(KeyboardInterrupt):
        artefacts.write(RECORDED, tmp_path)
    assert not (tmp_path / description.FILE).exists()
