"""Formats and names of files of encoders: other forms of the same weights, and refusals."""

import json
import shutil

import h5py
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pix2seq_jax.pretrained import files
from tests.helpers import pretrained
from tests.helpers.pretrained import NARROW, TINY

KERNEL = "params/image_encoder/layers/attention/{}/bias"


def vit_tiny(**fields):
    return pretrained.vit(**TINY | fields)


def narrow(**fields):
    return pretrained.resnet(**{"convention": "torch"} | NARROW | fields)


def same(parts, others, atol=0.0):
    assert parts.keys() == others.keys()
    for name, part in parts.items():
        if part.values is None:
            assert others[name].values is None
        else:
            np.testing.assert_allclose(part.values, others[name].values, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def timm(golden_dir):
    """The weights of timm/vit_tiny by name."""
    return load_file(pretrained.recorded(golden_dir, "timm/vit_tiny"))


def test_keras_writes_h5_as_well(golden_dir, tmp_path):
    """The groups are those of `model.save("x.h5")` of Keras 3, and of the published files."""
    path = pretrained.recorded(golden_dir, "keras/resnet_tiny")
    model = narrow(convention="keras")
    for number, (group, end) in enumerate((("model_weights/", ""), ("", ":0"))):
        with np.load(path) as archive, h5py.File(tmp_path / f"{number}.h5", "w") as file:
            for name in archive:
                layer, field = name.split("/")
                file[f"{group}{layer}/{layer}/{field}{end}"] = archive[name].astype(np.float32)
            file["optimizer_weights/adam/iteration"] = np.zeros(())
        parts = pretrained.plan(model, tmp_path / f"{number}.h5")[1]
        same(parts, pretrained.plan(model, path)[1])


@pytest.mark.parametrize("stacked", [False, True])
def test_big_vision_has_other_names_for_the_same(golden_dir, tmp_path, stacked):
    path, new = pretrained.recorded(golden_dir, "augreg/vit_tiny"), {}
    with np.load(path) as archive:
        for name in archive:
            changed = name.replace("Transformer/posembed_input/", "")
            for theirs, there in (("LayerNorm_2", "LayerNorm_1"), ("MlpBlock_3", "MlpBlock_0")):
                changed = changed.replace(theirs, there)
            new["params/" + changed.replace("Attention_1", "Attention_0")] = archive[name]
    if stacked:
        first = [name for name in new if "encoderblock_0" in name]
        for name in first:
            pair = [new.pop(name), new.pop(name.replace("block_0", "block_1"))]
            new[name.replace("encoderblock_0", "encoderblock")] = np.stack(pair)
    np.savez(tmp_path / "big_vision.npz", **new)
    source, parts, notes = pretrained.plan(vit_tiny(), tmp_path / "big_vision.npz")
    assert "big_vision" in source.title and any("tanh" in line for line in notes.lines)
    same(parts, pretrained.plan(vit_tiny(), path)[1])


def test_names_with_a_prefix_and_bfloat16(timm, golden_dir, tmp_path):
    changed = {f"module.{name}": array.astype(ml_dtypes.bfloat16) for name, array in timm.items()}
    save_file(changed, tmp_path / "a.safetensors")
    parts = pretrained.plan(vit_tiny(), tmp_path / "a.safetensors", "half")[1]
    path = pretrained.recorded(golden_dir, "timm/vit_tiny")
    same(parts, pretrained.plan(vit_tiny(), path, "half")[1], atol=0.03)


def test_an_npz_may_hold_bfloat16(golden_dir, tmp_path):
    """NumPy writes two bytes without a type."""
    path = pretrained.recorded(golden_dir, "augreg/vit_tiny")
    with np.load(path) as archive:
        halved = {name: archive[name].astype(ml_dtypes.bfloat16) for name in archive}
    np.savez(tmp_path / "a.npz", **halved)
    with np.load(tmp_path / "a.npz") as archive:
        assert {archive[name].dtype for name in archive} == {np.dtype("V2")}
    np.savez(tmp_path / "b.npz", **{name: x.astype(np.float32) for name, x in halved.items()})
    parts = pretrained.plan(vit_tiny(), tmp_path / "a.npz")[1]
    same(parts, pretrained.plan(vit_tiny(), tmp_path / "b.npz")[1])
    same(parts, pretrained.plan(vit_tiny(), path)[1], atol=0.03)
    np.savez(tmp_path / "c.npz", a=np.zeros(3, "V1"))
    refused(vit_tiny(), tmp_path / "c.npz", "", "a holds 1 bytes a number", "convert it")


def test_biases_that_are_not_there_are_zero(timm, tmp_path):
    """BEiT's and MAE's early form has those of queries and values only, other models none."""
    bare = {name: array for name, array in timm.items() if "qkv.bias" not in name}
    save_file(bare, tmp_path / "none.safetensors")
    parts, notes = pretrained.plan(vit_tiny(), tmp_path / "none.safetensors", "half")[1:]
    assert any("no biases of query, key, value" in line for line in notes.lines)
    assert not parts[KERNEL.format("query")].values.any()
    for layer in range(2):
        for part in ("q", "v"):
            bare[f"blocks.{layer}.attn.{part}_bias"] = np.full(16, 3.0, np.float32)
    save_file(bare, tmp_path / "two.safetensors")
    parts = pretrained.plan(vit_tiny(), tmp_path / "two.safetensors", "half")[1]
    assert (parts[KERNEL.format("query")].values == 3).all()
    assert not parts[KERNEL.format("key")].values.any()


def test_a_norm_of_the_average_is_dropped(timm, tmp_path):
    changed = {
        name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: array
        for name, array in timm.items()
    }
    save_file(changed, tmp_path / "a.safetensors")
    parts, notes = pretrained.plan(vit_tiny(), tmp_path / "a.safetensors", "half")[1:]
    assert parts["params/image_encoder/norm/scale"].what == "new"
    assert {name for name, _, _ in notes.dropped} == {"fc_norm.weight", "fc_norm.bias"}
    assert any("no norm of the tokens" in line for line in notes.lines)


def test_the_json_beside_the_file_says_how_images_are_normalised(timm, tmp_path):
    save_file(timm, tmp_path / "a.safetensors")
    plan = lambda chosen: pretrained.plan(vit_tiny(), tmp_path / "a.safetensors", chosen)[1]  # noqa: E731
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": half}))
    same(plan(""), plan("half"))
    (tmp_path / "config.json").unlink()
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(imagenet))
    same(plan(""), plan("imagenet"))
    imagenet["image_mean"][0] = 0.1
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(imagenet))
    refused(vit_tiny(), tmp_path / "a.safetensors", "", "mean [0.1, 0.456", "init_encoder_pixels")
    (tmp_path / "preprocessor_config.json").write_text("{")
    refused(vit_tiny(), tmp_path / "a.safetensors", "", "preprocessor_config.json", "mend it")


def refused(model, path, pixels, *parts):
    with pytest.raises(ValueError) as caught:
        pretrained.plan(model, path, pixels)
    assert "\n" not in str(caught.value)
    for part in ("config.init_encoder", *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"stem_norm": True}, ("--config.model.stem_norm=false",)),
        ({"enc_layers": 3, "enc_mlp": 64}, ("enc_layers=2", "enc_mlp=32")),
        ({"enc_dim": 32, "enc_mlp": 64}, ("--config.model.enc_dim=16 --config.model.enc_mlp=32",)),
        ({"enc_heads": 4}, ("--config.model.enc_heads=2",)),
        (
            {"stem_norm": True, "pos_encoding": "sin_cos", "use_cls_token": False},
            (
                "stem_norm=false --config.model.pos_encoding=learned "
                "--config.model.use_cls_token=true,",
            ),
        ),
    ],
)
def test_another_size_is_refused_with_the_flags(golden_dir, fields, parts):
    path = pretrained.recorded(golden_dir, "transformers/vit-tiny")
    refused(vit_tiny(**fields), path, "half", "Hugging Face", *parts)
    if "enc_heads" in fields:  # npz files show it by themselves
        refused(vit_tiny(**fields), pretrained.recorded(golden_dir, "augreg/vit_tiny"), "", *parts)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"reg_token": (1, 4, 16)}, ("reg_token belongs to further tokens",)),
        ({"blocks.0.attn.q_norm.weight": (8,)}, ("q_norm", "norms of queries and keys")),
        ({"blocks.1.mlp.w12.weight": (8, 8), "blocks.1.mlp.fc1.weight": None}, ("a gated MLP",)),
        ({"norm_pre.weight": (16,)}, ("a norm before the first layer",)),
        ({"neck.weight": (3,)}, ("neck.weight [3] has no counterpart",)),
        ({"blocks.1.norm2.bias": None}, ("norm2.bias is there for 1 layers", "not whole")),
        ({"patch_embed.proj.weight": None}, ("lacks patch.kernel", "not whole")),
        ({"norm.bias": None}, ("lacks norm.bias", "not whole")),
        ({"norm.weight": None}, ("lacks norm.scale", "not whole")),
        (
            {f"blocks.{layer}.norm{n}.bias": None for layer in (0, 1) for n in (1, 2)},
            ("lacks norm1.bias, norm2.bias", "not whole"),
        ),
        ({"norm1.relative_position_bias": (3,)}, ("relative positions", "give a plain ViT")),
        ({"pos_embed": (1, 8, 16)}, ("8 positions are not", "pos_encoding='sin_cos'")),
        ({"blocks.0.attn.qkv.weight": None}, ("names of no source",)),
    ],
)
def test_another_vit_is_refused_by_name(timm, tmp_path, changes, parts):
    arrays = dict(timm)
    for name, shape in changes.items():
        arrays.pop(name, None)
        if shape is not None:
            arrays[name] = np.zeros(shape, np.float32)
    save_file(arrays, tmp_path / "a.safetensors")
    refused(vit_tiny(), tmp_path / "a.safetensors", "half", *parts)


@pytest.mark.parametrize("part", ["key", "value"])
def test_a_vit_without_its_attention_is_refused(golden_dir, tmp_path, part):
    with np.load(pretrained.recorded(golden_dir, "augreg/vit_tiny")) as archive:
        arrays = {name: archive[name] for name in archive if not name.endswith(f"{part}/kernel")}
    np.savez(tmp_path / "a.npz", **arrays)
    refused(vit_tiny(), tmp_path / "a.npz", "", f"lacks {part}.kernel", "not whole")


@pytest.mark.parametrize(
    ("fields", "pixels", "parts"),
    [
        ({"convention": "official"}, "", ("--config.model.backbone.convention=torch",)),
        ({"convention": "keras", "depth": 101}, "", ("convention=torch", "depth=50")),
        ({"variant": "c3"}, "", ("--config.model.backbone.variant=standard",)),
        ({"variant": "standard"}, "", ("it lacks layer4.0.downsample.0.weight",)),
        ({"width": 1 / 16}, "", ("stem1/conv/kernel is [7, 7, 3, 2] there and [7, 7, 3, 4]",)),
        ({}, "half", ("images of normalisation 'half'", "'imagenet'")),
    ],
)
def test_another_resnet_is_refused(golden_dir, fields, pixels, parts):
    path = pretrained.recorded(golden_dir, "torchvision/resnet_tiny")
    refused(narrow(**fields), path, pixels, "torchvision or timm", *parts)


def test_a_resnet_18_needs_frozen_statistics(golden_dir):
    path = pretrained.recorded(golden_dir, "transformers/resnet-tiny")
    refused(narrow(depth=18), path, "", "--config.model.backbone.frozen_bn=true")


def test_another_resnet_is_refused_by_name(golden_dir, tmp_path):
    arrays = load_file(pretrained.recorded(golden_dir, "torchvision/resnet_tiny"))
    for name, part in (
        ("conv1.0.weight", "a stem of several convolutions"),
        ("layer1.0.se.fc1.weight", "attention of channels"),
    ):
        save_file(arrays | {name: np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
        refused(narrow(), tmp_path / "a.safetensors", "", name, part)
    del arrays["layer2.3.bn2.running_var"]
    save_file(arrays, tmp_path / "a.safetensors")
    refused(narrow(), tmp_path / "a.safetensors", "", "it lacks layer2.3.bn2.running_var")
    folder = shutil.copytree(
        pretrained.recorded(golden_dir, "transformers/resnet-tiny").parent, tmp_path / "first"
    )
    (folder / "config.json").write_text(json.dumps({"downsample_in_bottleneck": True}))
    model = narrow(depth=18, frozen_bn=True)
    refused(model, folder / "weights.safetensors", "", "version 1.5")


def test_an_encoder_of_the_other_kind_is_refused(golden_dir):
    vit, resnet = (
        pretrained.recorded(golden_dir, f"torchvision/{name}")
        for name in ("vit_tiny", "resnet_tiny")
    )
    refused(narrow(), vit, "", "ResNetBackbone", "arch=vit-b")
    refused(vit_tiny(), resnet, "", "VitBackbone", "arch=resnet50")


def test_files_that_are_not_read(golden_dir, timm, tmp_path):
    for name in ("a.pth", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"\x80\x04")
        refused(vit_tiny(), tmp_path / name, "", "is a pickle", "weights_only=True", "save_file")
    np.savez(tmp_path / "a.npz", a=np.asarray([{}], dtype=object))
    refused(vit_tiny(), tmp_path / "a.npz", "", "cannot be read", "allow_pickle=False")
    refused(vit_tiny(), tmp_path / "gone.npz", "", "does not exist")
    refused(vit_tiny(), tmp_path, "", "is a folder", "as a.npz")
    (tmp_path / "a.onnx").write_text("")
    refused(vit_tiny(), tmp_path / "a.onnx", "", "unknown format '.onnx'")
    (tmp_path / "a.safetensors").write_bytes(b"short")
    refused(vit_tiny(), tmp_path / "a.safetensors", "", "cannot be read", "get the file again")
    with h5py.File(tmp_path / "k.weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros(3)
    refused(vit_tiny(), tmp_path / "k.weights.h5", "", "Keras 3", "model.save('FILE.h5')")
    (tmp_path / "k.keras").write_bytes(b"PK")
    refused(vit_tiny(), tmp_path / "k.keras", "", "Keras 3", "model.save('FILE.h5')")
    save_file(timm, tmp_path / "a.safetensors")
    refused(vit_tiny(), tmp_path / "a.safetensors", "", "init_encoder_pixels=imagenet", "or half")
    assert files.read(str(tmp_path / "a.safetensors")).beside == {}
