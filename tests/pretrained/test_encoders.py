"""Encoders recorded from the original libraries: features, sizes that differ, what is left out."""

import jax
import numpy as np
import pytest

from pix2seq_jax.experiment.logs import log
from pix2seq_jax.models.backbones.resnet import NORM_EPSILON
from pix2seq_jax.pretrained import pixels, resizing, start
from tests.helpers import pretrained
from tests.helpers.pretrained import NARROW, TINY

pytestmark = pytest.mark.usefixtures("optimised")
POSITIONS, CLS = "params/image_encoder/positions", "params/image_encoder/cls_token"


@pytest.mark.parametrize("name", list(pretrained.RECORDED))
def test_features_are_those_of_the_library(name, golden_dir):
    make, pixels_name = pretrained.RECORDED[name]
    path = pretrained.recorded(golden_dir, name)
    with np.load(path.parent / "io.npz") as io:
        worst, largest, _ = pretrained.compare(make(), path, io, pixels_name)
    assert worst < 1e-4 and largest > 2


@pytest.mark.parametrize("name", list(pretrained.RECORDED))
def test_the_report_accounts_for_everything(name, golden_dir):
    """The encoder is new nowhere, and every array of the file is taken or dropped."""
    make, pixels_name = pretrained.RECORDED[name]
    path = pretrained.recorded(golden_dir, name)
    source, parts, notes = pretrained.plan(make(), path, pixels_name)
    encoder = "params/image_encoder" if "vit" in name else "params/stem/resnet"
    new = {key for key, part in parts.items() if part.what == "new"}
    assert new and not any(key.startswith((encoder, "batch_stats")) for key in new)
    if "vit" in name:
        assert all(key.startswith(("params/projection", "params/decoder")) for key in new)
    text = start.report(str(path), source, parts, notes)
    for key in (*parts, *(dropped for dropped, _, _ in notes.dropped)):
        assert f"\n{key} " in text
    assert f"{len(new)} new" in text and "eps of the norms" in text and "pixels: " in text
    short = start.report(str(path), source, parts, notes, every=False)
    assert len(short.splitlines()) < 20 and short.splitlines()[-1] == text.splitlines()[-1]


def tiny(golden_dir, name="torchvision/vit_tiny", pixels_name="", **fields):
    """(plan of a recorded ViT, text of the report) with other fields of our model."""
    path = pretrained.recorded(golden_dir, name)
    source, parts, notes = pretrained.plan(pretrained.vit(**TINY | fields), path, pixels_name)
    return parts, start.report(str(path), source, parts, notes)


def test_positions_of_a_larger_image_are_resized(golden_dir):
    whole, larger = tiny(golden_dir)[0], tiny(golden_dir, side=24)[0]
    assert larger[POSITIONS].what == "resized"
    assert "3 x 3 -> 6 x 6 image tokens, bicubic" in larger[POSITIONS].detail
    expected = resizing.resize_positions(whole[POSITIONS].values, (3, 3), (6, 6))
    np.testing.assert_array_equal(larger[POSITIONS].values, expected)
    np.testing.assert_array_equal(larger[CLS].values, whole[CLS].values)


def test_resized_positions_keep_a_slope():
    """Rows and columns stay what they are; bicubic interpolation is exact for a plane inside."""
    y, x = np.mgrid[:8, :8].astype(np.float32)
    table = np.stack([y, x], axis=-1).reshape(64, 2)
    out = resizing.resize_positions(table, (8, 8), (16, 16)).reshape(16, 16, 2)
    exact = (np.arange(16) + 0.5) / 2 - 0.5
    inside = slice(4, 12)
    np.testing.assert_allclose(out[inside, 3, 0], exact[inside], atol=1e-5)
    np.testing.assert_allclose(out[3, inside, 1], exact[inside], atol=1e-5)


def test_patches_of_an_enlarged_image_give_the_same_tokens():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(4, 4, 3, 5)).astype(np.float32)
    patch = rng.normal(size=(4, 4, 3)).astype(np.float32)
    large = np.asarray(jax.image.resize(patch, (6, 6, 3), "bicubic"))
    resized = resizing.resize_patches(kernel, 6)
    expected = np.einsum("yxc,yxcd->d", patch, kernel)
    np.testing.assert_allclose(np.einsum("yxc,yxcd->d", large, resized), expected, atol=1e-4)


def test_patches_of_another_size(golden_dir):
    parts, text = tiny(golden_dir, patch=6)
    assert parts["params/stem/kernel"].values.shape == (6, 6, 3, 16)
    assert "patches of 4 pixels -> 6" in text and parts[POSITIONS].what == "resized"


def test_what_is_left_out_is_said(golden_dir, caplog):
    log.addHandler(caplog.handler)
    try:
        parts, text = tiny(golden_dir, use_cls_token=False, pos_encoding="sin_cos")
    finally:
        log.removeHandler(caplog.handler)
    assert POSITIONS not in parts and CLS not in parts
    assert "class token: left out" in text and "positions: left out" in text
    assert "heads: the file does not say" in text and "2 arrays of the file" in text
    (warned,) = {line.getMessage() for line in caplog.records if line.levelname == "WARNING"}
    assert "--config.model.pos_encoding=learned takes them" in warned
    whole = tiny(golden_dir)[1]
    assert "left out" not in whole
    assert "layer scale 1 folded" in tiny(golden_dir, "timm/vit_tiny", "half")[1]


def test_a_last_group_that_ours_lacks_is_dropped(golden_dir, tmp_path):
    """The variant c4 takes a whole ResNet; its last group is named."""
    path = pretrained.recorded(golden_dir, "keras/resnet_tiny")
    with np.load(path) as archive:
        arrays = dict(archive)
    for block in (1, 2, 3):
        arrays[f"conv5_block{block}_1_conv/kernel"] = np.zeros((1, 1, 32, 16), np.float32)
    np.savez(tmp_path / "whole.npz", **arrays)
    model = pretrained.resnet(convention="keras", **NARROW)
    notes = pretrained.plan(model, tmp_path / "whole.npz")[2]
    assert [name[:12] for name, _, _ in notes.dropped] == [f"conv5_block{n}" for n in (1, 2, 3)]
    assert "of a group" in notes.dropped[0][2]


def test_biases_and_eps_of_keras_are_folded(golden_dir):
    path = pretrained.recorded(golden_dir, "keras/resnet_tiny")
    parts = pretrained.plan(pretrained.resnet(convention="keras", **NARROW), path)[1]
    with np.load(path) as archive:
        mean, bias, var = (
            archive[name].astype(np.float64)
            for name in ("conv1_bn/moving_mean", "conv1_conv/bias", "conv1_bn/moving_variance")
        )
    ours = {
        what: parts[f"batch_stats/stem/resnet/stem1/norm/{what}"].values for what in ("mean", "var")
    }
    np.testing.assert_allclose(ours["mean"], mean - bias, atol=1e-6)
    np.testing.assert_allclose(ours["var"] + NORM_EPSILON, var + 1.001e-5, rtol=1e-6)


@pytest.mark.parametrize("name", list(pixels.NORMALISATIONS))
def test_normalisation_goes_into_the_kernel(name):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
    image = rng.uniform(size=(2, 2, 3))
    mean, std, bgr = pixels.NORMALISATIONS[name]
    theirs = (image - np.asarray(mean)) / np.asarray(std)
    theirs = theirs[..., ::-1] if bgr else theirs
    folded, shift = pixels.fold(kernel, name)
    expected = np.einsum("yxc,yxcd->d", theirs, kernel)
    got = np.einsum("yxc,yxcd->d", image, folded) + shift
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert pixels.name_of(mean, std) == name
