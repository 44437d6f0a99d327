"""A run small enough for tests: the demo's config shrunk, on a handful of the embedded images."""

import importlib.util
from pathlib import Path

import ml_collections

from pix2seq_jax.data.shapes import dataset

ROOT = Path(__file__).parents[2]
TRAIN_IMAGES, VAL_IMAGES = 24, 20

# Overrides of any shipped config, as for the command line; `shrunk` adds those of its backbone.
SHRUNK = {
    "data.cache": 0.0,  # files are read at every step
    "model.enc_layers": 1,
    "model.enc_dim": 16,
    "model.enc_mlp": 32,
    "model.enc_heads": 2,
    "model.dec_layers": 1,
    "model.dec_dim": 16,
    "model.dec_mlp": 32,
    "model.dec_heads": 2,
    "train.batch_size": 8,
    "train.log_steps": 1,
    "train.steps": 2,
    "train.eval_steps": 1000,
    "schedule.warmup": 1,
    "eval.batch_size": 8,
    "eval.pictures": 1,
    "data.workers": 1,
}
SHRUNK_BACKBONES = {
    "vit": {"model.backbone.patch_size": 16},
    "resnet": {"model.backbone.width": 0.0625},
}
# In place of the demo's Muon, which takes longer to compile; tests/training/test_muon.py has that.
ADAMW = {"optim.name": "adamw", "schedule.base": 1e-3}


def make_shapes(folder: Path) -> Path:
    """Draws the images once; returns the folder."""
    dataset.generate(folder, dataset.Spec(train=TRAIN_IMAGES, val=VAL_IMAGES, size=64), 1)
    return folder


KINDS = {"annotations": "instances", "keypoints": "person_keypoints", "captions": "captions"}


def on_folder(folder: Path) -> dict:
    """Overrides that point a config's data to a folder of `make_shapes`."""
    paths = {f"data.{split}_images": str(folder / split) for split in ("train", "val")}
    return paths | {
        f"data.{split}_{kind}": str(folder / "annotations" / f"{file}_{split}.json")
        for split in ("train", "val")
        for kind, file in KINDS.items()
    }


def load(name: str) -> ml_collections.ConfigDict:
    """The config of "detection.py:shapes" and the like, as the main command loads it."""
    file, _, arg = name.partition(":")
    spec = importlib.util.spec_from_file_location("shipped_config", ROOT / "configs" / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def shrunk(config: ml_collections.ConfigDict) -> dict:
    """Overrides that make a config's model and run small."""
    optimizer = ADAMW if config.optim.name == "muon" else {}
    return SHRUNK | SHRUNK_BACKBONES[config.model.backbone.name] | optimizer


def config(name: str, folder: Path, **overrides) -> ml_collections.ConfigDict:
    """A shipped config, shrunk, on the folder; keyword `train__steps=3` means train.steps."""
    changed = load(name)
    changed.update_from_flattened_dict(shrunk(changed) | on_folder(folder))
    changed.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in overrides.items()}
    )
    return changed


def flags(folder: Path, name: str = "detection.py:shapes", **overrides) -> list[str]:
    """The same as arguments of the main command."""
    values = (
        shrunk(load(name))
        | on_folder(folder)
        | {key.replace("__", "."): value for key, value in overrides.items()}
    )
    return [f"--config={ROOT}/configs/{name}", *(f"--config.{k}={v}" for k, v in values.items())]
