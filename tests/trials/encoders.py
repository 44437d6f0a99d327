"""Compares our encoders with those of the original libraries, at full size and random weights.

    python -m tests.trials.encoders --libraries=FOLDER timm/vit_base_patch16_224 ...

FOLDER is where `pip install --target FOLDER torch torchvision timm transformers` went; '' if they
are installed beside pix2seq_jax (`pip install -e .[pretrained_check]`). Without names all of MODELS
are compared, one at a time; ViT-L needs 5 GB of memory. Not part of the test suite, because it
takes minutes and the libraries. `--record` writes tests/golden/pretrained anew instead.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.helpers import pretrained

ROOT = Path(__file__).parents[2]
LARGE = {"enc_layers": 24, "enc_dim": 1024, "enc_mlp": 4096, "enc_heads": 16}
LIMIT = 1e-4


def _resnet(depth: int, convention: str = "torch"):
    return lambda: pretrained.resnet(depth=depth, convention=convention)


def _vit(**fields):
    return lambda: pretrained.vit(**fields)


MODELS = {  # name: (our model, config.init_encoder_pixels)
    "timm/vit_base_patch16_224": (_vit(), "half"),
    "timm/vit_large_patch16_224": (_vit(**LARGE), "half"),
    "timm/deit_base_patch16_224": (_vit(), "imagenet"),
    "torchvision/vit_b_16": (_vit(), ""),
    "torchvision/vit_l_16": (_vit(**LARGE), ""),
    "transformers/vit-base": (_vit(), "half"),
    "transformers/vit-large": (_vit(**LARGE), "half"),
    "transformers/mae-base": (_vit(), "imagenet"),
    "transformers/dinov2-base": (_vit(patch=14), "imagenet"),
    "augreg/vit_base_patch16_224": (_vit(), ""),
    "timm/resnet50": (_resnet(50), ""),
    "timm/resnet101": (_resnet(101), ""),
    "torchvision/resnet50": (_resnet(50), ""),
    "torchvision/resnet101": (_resnet(101), ""),
    "transformers/resnet-50": (_resnet(50), ""),
    "transformers/resnet-101": (_resnet(101), ""),
    "keras/resnet50": (_resnet(50, "keras"), ""),
    "keras/resnet101": (_resnet(101, "keras"), ""),
}


RECORDED = ROOT / "tests" / "golden" / "pretrained"


def main() -> None:
    """Prints a row for each model; the exit code is 1 where one differs by more than LIMIT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(MODELS))
    parser.add_argument("--libraries", default="", help="folder with the libraries")
    parser.add_argument("--record", action="store_true", help="write the small models anew")
    options = parser.parse_args()
    if options.record:
        for name in pretrained.RECORDED:
            folder = RECORDED / name.replace("/", "_")
            folder.mkdir(parents=True, exist_ok=True)
            record(name, folder, options.libraries)
        return
    bad = 0
    print("library/model                     largest difference  largest feature  seconds")
    for name in options.names:
        make, pixels = MODELS[name]
        with tempfile.TemporaryDirectory() as folder:
            path = record(name, Path(folder), options.libraries)
            with np.load(Path(folder) / "io.npz") as io:
                worst, largest, seconds = pretrained.compare(make(), path, io, pixels)
        bad += worst > LIMIT
        print(f"{name:32}  {worst:18.2e}  {largest:15.2f}  {seconds:7.1f}", flush=True)
    sys.exit(1 if bad else 0)


def record(name: str, folder: Path, libraries: str) -> Path:
    """Runs the original library; the file of weights that it wrote into the folder."""
    # Keras is there by TensorFlow, which the folder of the others does not have.
    libraries = "" if name.startswith("keras/") else libraries
    path = os.pathsep.join(filter(None, (libraries, str(ROOT))))
    command = [sys.executable, "-m", "tests.trials.original_encoders", name, str(folder)]
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    result = subprocess.run(command, env=os.environ | hidden, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{name}: {result.stderr[-2000:]}")
    return next(folder.glob("weights.*"))


if __name__ == "__main__":
    main()
