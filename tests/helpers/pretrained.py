"""Our encoder with the weights of another library, and its features."""

import time
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from pix2seq_jax.models.backbones.resnet import ResNet, ResNetBackbone
from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.official import reader
from pix2seq_jax.pretrained import start

VIT_SIZES = {"enc_layers": 12, "enc_dim": 768, "enc_mlp": 3072, "enc_heads": 12}


def vit(side: int = 224, patch: int = 16, **fields) -> Pix2Seq:
    """Our model with the encoder of a ViT as others have it, ViT-B unless told otherwise."""
    options = {"stem_norm": False, "use_cls_token": True, "pos_encoding": "learned"}
    return small_decoder(side, VitBackbone(patch), VIT_SIZES | options | fields)


def resnet(side: int = 224, **fields) -> Pix2Seq:
    """Our model with a ResNet."""
    transformer = {"enc_layers": 1, "enc_dim": 16, "enc_mlp": 32, "enc_heads": 2}
    return small_decoder(side, ResNetBackbone(**fields), transformer)


def small_decoder(side: int, backbone, fields: dict) -> Pix2Seq:
    decoder = {"dec_layers": 1, "dec_dim": 16, "dec_mlp": 32, "dec_heads": 2, "max_seq_len": 8}
    return Pix2Seq((side, side), 16, backbone, **fields, **decoder)


TINY = {"side": 12, "patch": 4, "enc_layers": 2, "enc_dim": 16, "enc_mlp": 32, "enc_heads": 2}
NARROW = {"side": 32, "variant": "c4", "width": 1 / 32}
RECORDED = {  # name: (our model, config.init_encoder_pixels)
    "timm/vit_tiny": (lambda: vit(**TINY), "half"),
    "torchvision/vit_tiny": (lambda: vit(**TINY), ""),
    "transformers/vit-tiny": (lambda: vit(**TINY), "half"),
    "augreg/vit_tiny": (lambda: vit(**TINY), ""),
    "torchvision/resnet_tiny": (lambda: resnet(convention="torch", **NARROW), ""),
    "transformers/resnet-tiny": (
        lambda: resnet(convention="torch", depth=18, frozen_bn=True, **NARROW),
        "",
    ),
    "keras/resnet_tiny": (lambda: resnet(convention="keras", **NARROW), ""),
}


def recorded(golden_dir: Path, name: str) -> Path:
    """The file of weights of a recorded small model; io.npz is beside it."""
    return next((golden_dir / "pretrained" / name.replace("/", "_")).glob("weights.*"))


def plan(model: Pix2Seq, path, pixels: str = ""):
    """(source, what becomes of every parameter, notes)."""
    wanted = {name: shape for name, (shape, _) in reader.wanted_variables(model).items()}
    return start.plan(str(path), pixels, model, wanted)


def features(model: Pix2Seq, parts, images: np.ndarray) -> np.ndarray:
    """[B,S,D] after the last norm of a ViT, or the last map [B,h,w,C] of a ResNet."""
    arrays = {name: part.values for name, part in parts.items() if part.values is not None}
    tree = traverse_util.unflatten_dict(arrays, sep="/")
    if isinstance(model.backbone, ResNetBackbone):
        backbone = model.backbone
        net = ResNet(
            *(backbone.depth, backbone.variant, backbone.width, False, "float32", False),
            convention=backbone.convention,
        )
        tree = {kind: tree[kind]["stem"]["resnet"] for kind in tree}
        return np.asarray(jax.jit(net.apply)(tree, images))

    def encoded(variables, x):
        return model.apply(
            variables, x, method=lambda m, x: m.image_encoder(m.stem(x, False), False)
        )

    return np.asarray(jax.jit(encoded)(tree, images))


def compare(model: Pix2Seq, path, io, pixels: str = "") -> tuple[float, float, float]:
    """(largest difference, largest feature, seconds) of our features and the recorded ones."""
    begin = time.monotonic()
    _, parts, _ = plan(model, path, pixels)
    ours = features(model, parts, (io["images"] / 255).astype(np.float32))
    assert ours.shape == io["features"].shape
    worst = float(np.abs(ours - io["features"]).max())
    return worst, float(np.abs(io["features"]).max()), time.monotonic() - begin
