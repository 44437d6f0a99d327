"""How libraries normalise images before their encoders. Ours take RGB in [0,1], so this goes into
the first kernel."""

from typing import NamedTuple

import numpy as np

from pix2seq_jax.models.backbones.resnet import CONVENTIONS


class Normalisation(NamedTuple):
    """(x - mean) / std of an image x in [0,1].

    Attributes:
        mean, std: of the channels, in the order RGB.
        bgr: whether the library turns RGB into BGR.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False


NORMALISATIONS = {
    "imagenet": Normalisation(CONVENTIONS["torch"], (0.229, 0.224, 0.225)),
    "half": Normalisation((0.5,) * 3, (0.5,) * 3),
    "unit": Normalisation((0.0,) * 3, (1.0,) * 3),
    "caffe": Normalisation(CONVENTIONS["keras"], (1 / 255,) * 3, bgr=True),
}


def name_of(mean: tuple[float, ...], std: tuple[float, ...]) -> str | None:
    """The normalisation with this mean and deviation, or None."""
    for name, normalisation in NORMALISATIONS.items():
        if np.allclose((mean, std), normalisation[:2], rtol=0, atol=1e-3):
            return name
    return None


def fold(kernel: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A first kernel f32[h,w,3,D] for normalised images -> (the kernel for RGB in [0,1], what to
    add to the bias f32[D] where the mean is not subtracted from the pixels)."""
    mean, std, bgr = NORMALISATIONS[name]
    rgb = kernel[:, :, ::-1] if bgr else kernel
    scaled = rgb / np.asarray(std, np.float64)[:, None]
    shift = -np.einsum("hwcd,c->d", scaled, np.asarray(mean, np.float64))
    return scaled.astype(np.float32), shift.astype(np.float32)
