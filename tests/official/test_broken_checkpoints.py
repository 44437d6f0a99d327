"""Every way in which an official checkpoint can be broken is refused by name."""

import json
import shutil

import pytest

from pix2seq_jax.official import reader
from tests.helpers.official_checkpoints import key, random, recorded, write


def refused(folder, *parts: str) -> None:
    with pytest.raises(ValueError) as caught:
        reader.load(folder)
    for part in parts:
        assert part in str(caught.value)


def test_variables_that_only_one_side_has_are_named(changed):
    extra = "decoder/decoder/dec_layers/3/cross_ln/beta"
    refused(
        changed({}, {extra: random(48)}),
        "1 variables that the model has no place for",
        extra,
        "[48]",
    )
    refused(
        changed({}, {"proj/bias": None}),
        "no variable proj/bias [48]",
        "params/projection/dense/bias",
    )
    part = "decoder/decoder/dec_layers/1/cross_mha/_key_dense/kernel"
    refused(
        changed({}, {part: random(48, 3, 8)}),
        part,
        "[48, 3, 8] in the checkpoint and [48, 3, 16] in the model",
    )


def test_another_architecture_is_refused(golden_dir, changed, tmp_path):
    folder = shutil.copytree(golden_dir / "resnet_tiny", tmp_path / "mixed")
    shutil.copy(golden_dir / "vit_tiny" / "config.json", folder)
    refused(folder, "another architecture than its config.json says")
    refused(changed({"dim_att": 64}, {}), "another architecture")
    refused(changed({"name": "image_diffusion_model"}, {}), "config.json", "image_diffusion_model")
    refused(changed({"resnet_variant": "c5"}, {}), "config.json", "backbone.variant='c5'", "dc5")
    refused(changed({"resnet_variant": "c4", "resnet_sk_ratio": 0.06}, {}), "resnet_sk_ratio=0.06")
    config = json.loads((folder / "config.json").read_text())
    refused(write(tmp_path / "other", config, {"w": random(3)}), "no variable")


def test_directories_that_are_none(golden_dir, tmp_path):
    refused(tmp_path / "nothing", "nothing is not a directory")
    refused(golden_dir / "ops.npz", "ops.npz is not a directory")
    refused(tmp_path, "config.json does not exist")
    shutil.copy(golden_dir / "vit_tiny" / "config.json", tmp_path)
    refused(tmp_path, "no checkpoint in", "ckpt-NUMBER.index")
    (tmp_path / "config.json").write_text('{"model": ')
    refused(tmp_path, "config.json is not JSON", "line 1")
    (tmp_path / "config.json").write_text("[]")
    refused(tmp_path, "holds a list, not an object")


def test_configs_that_lack_something(changed):
    folder = changed({}, {})
    config = json.loads((folder / "config.json").read_text())
    del config["model"]["dim_att"]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "config.json: its model lacks ['dim_att']")
    (folder / "config.json").write_text("{}")
    refused(folder, "config.json: it has no section 'model'")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_data(keep, golden_dir, tmp_path):
    folder = shutil.copytree(golden_dir / "vit_tiny", tmp_path / "copy")
    data = folder / "ckpt-0.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[: int(keep * data.stat().st_size)])
    refused(folder, "ckpt-0", "cut short", "copy")


def test_damaged_files(golden_dir, tmp_path):
    folder = shutil.copytree(golden_dir / "vit_tiny", tmp_path / "copy")
    data, index = folder / "ckpt-0.data-00000-of-00001", folder / "ckpt-0.index"
    whole = data.read_bytes()
    table = recorded(folder)[1][key("decoder/ar_decoder.Stoken_embedding")]
    start = whole.index(table.tobytes()) + 400
    data.write_bytes(whole[:start] + bytes(8) + whole[start + 8 :])
    refused(folder, "ckpt-0", "Checksum does not match", "copy it again")
    data.unlink()
    refused(folder, "ckpt-0")
    index.write_bytes(index.read_bytes()[:100])
    refused(folder, "ckpt-0")


def test_cloud_storage_without_access():
    refused(
        "gs://pix2seq-no-such-bucket/model",
        "gs://pix2seq-no-such-bucket/model",
        "cannot be read",
        "gcloud storage cp",
    )
