"""A run that starts from an encoder of another library."""

import jax
import numpy as np
import pytest

from pix2seq_jax.config.fill import fill
from pix2seq_jax.experiment import checks, resolve
from pix2seq_jax.experiment import start as run_start
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.pretrained import start
from pix2seq_jax.training import optim, sharding, trees
from pix2seq_jax.training import state as train_state
from tests.helpers import pretrained, small
from tests.helpers.warm_start import make


def first_state(config, workdir, mesh):
    options = {name: value for name, value in config.optim.items() if name != "frozen"}
    model, tx = resolve.make_model(config), optim.make(learning_rate=1e-3, **options)
    with jax.set_mesh(mesh):
        state, origin = run_start.first_state(config, workdir, {}, model, tx, mesh)
    return trees.flatten_names(train_state.variables(state)), origin


@pytest.mark.parametrize("name", ["torchvision/vit_tiny", "keras/resnet_tiny"])
def test_the_state_has_the_encoder_and_the_report_is_written(golden_dir, tmp_path, caplog, name):
    """On a mesh that cuts parameters; what is not of the encoder is as without it."""
    path = str(pretrained.recorded(golden_dir, name))
    encoder = pretrained.RECORDED[name][0]()
    fields = {"enc_layers": encoder.enc_layers, "enc_mlp": 32, "stem_norm": encoder.stem_norm}
    fields |= {name: getattr(encoder, name) for name in ("use_cls_token", "pos_encoding")}
    backbone = {"name": "vit", "patch_size": 4}
    if "resnet" in name:
        variant = {"depth": 50, "variant": "c4", "width": 1 / 32, "convention": "keras"}
        backbone = {"name": "resnet", "frozen_bn": False} | variant
    config = make(size=12 if "vit" in name else 32, backbone=backbone, **fields)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "model": 2})
    fresh, origin = first_state(config, tmp_path / "fresh", mesh)
    assert origin == run_start.FROM_SCRATCH
    config.init_encoder = path
    caplog.set_level("INFO", logger="pix2seq_jax")
    log.addHandler(caplog.handler)
    try:
        state, origin = first_state(config, tmp_path / "run", mesh)
    finally:
        log.removeHandler(caplog.handler)
    assert origin.startswith(f"encoder from {path} (") and "not simply copied" in caplog.text
    model = resolve.make_model(config)
    parts = pretrained.plan(model, path)[1]
    assert state.keys() == fresh.keys() == parts.keys()
    for key, part in parts.items():
        assert state[key].sharding == fresh[key].sharding
        expected = fresh[key] if part.values is None else part.values
        np.testing.assert_array_equal(state[key], expected)
    text = (tmp_path / "run" / start.REPORT).read_text()
    assert "numbers come from" in text and path in text


def test_two_origins_are_refused(golden_dir, tmp_path):
    config = fill(small.config("detection.py:shapes", tmp_path))
    config.init_encoder = str(tmp_path / "gone.safetensors")
    with pytest.raises(ValueError, match=r"gone.safetensors' does not exist"):
        checks.check(config, tmp_path / "run", training=True)
    config.init_encoder = str(pretrained.recorded(golden_dir, "timm/vit_tiny"))
    checks.check(config, tmp_path / "run", training=True)
    config.init_from = str(tmp_path)
    with pytest.raises(ValueError, match="has an encoder of its own"):
        checks.check(config, tmp_path / "run", training=True)
    config.init_from, config.init_encoder_pixels = "", "gray"
    with pytest.raises(ValueError, match=r"init_encoder_pixels='gray'"):
        checks.check(config, tmp_path / "run", training=True)


def test_a_workdir_with_weights_ignores_it():
    config = small.load("detection.py:shapes")
    config.init_encoder = "a.npz"
    assert "config.init_encoder='a.npz' is ignored" in run_start.passed_over(config)
