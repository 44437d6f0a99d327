"""The released models (Pix2Seq, section 3.2; Pix2Seq v2, section 4), and two for machines without
accelerators: each holds what differs from the defaults of the model."""

from typing import Any

from pix2seq_jax.models import pix2seq

_RESNET = {
    "backbone": {"name": "resnet"},
    "enc_layers": 6,
    "enc_dim": 256,
    "enc_mlp": 1024,
    "enc_heads": 8,
    "dec_dim": 256,
    "dec_mlp": 1024,
    "dec_heads": 8,
}

_RESNET_C = {
    "backbone": {"name": "resnet", "variant": "c4"},
    "enc_dim": 512,
    "enc_mlp": 2048,
    "enc_heads": 16,
    "dec_layers": 8,
}

_SMALL = {
    "backbone": {"name": "vit", "patch_size": 8},
    "enc_layers": 6,
    "enc_dim": 256,
    "enc_mlp": 1024,
    "enc_heads": 8,
    "dec_layers": 4,
    "dec_dim": 256,
    "dec_mlp": 1024,
    "dec_heads": 8,
    "drop_path": 0.0,
    "drop_units": 0.0,
    "attention_init": "matrix",
}

_TINY = _SMALL | {
    "enc_layers": 2,
    "enc_dim": 128,
    "enc_mlp": 512,
    "enc_heads": 4,
    "dec_layers": 2,
    "dec_dim": 128,
    "dec_mlp": 512,
    "dec_heads": 4,
}

ARCHITECTURES = {
    "vit-b": {"backbone": {"name": "vit"}},
    "vit-l": {
        "backbone": {"name": "vit"},
        "enc_layers": 24,
        "enc_dim": 1024,
        "enc_mlp": 4096,
        "enc_heads": 16,
        "dec_layers": 8,
    },
    "resnet50": _RESNET,
    "resnet18": _RESNET | {"backbone": {"name": "resnet", "depth": 18}},
    "resnet34": _RESNET | {"backbone": {"name": "resnet", "depth": 34}},
    "resnet101": _RESNET | {"backbone": {"name": "resnet", "depth": 101}},
    "resnet152": _RESNET | {"backbone": {"name": "resnet", "depth": 152}},
    "resnet50-dc5": _RESNET | {"backbone": {"name": "resnet", "variant": "dc5"}},
    "resnet101-dc5": _RESNET | {"backbone": {"name": "resnet", "variant": "dc5", "depth": 101}},
    "resnet50-c4": _RESNET_C,
    "small": _SMALL,
    "tiny": _TINY,
}


def section(arch: str) -> dict[str, Any]:
    """The section `config.model` of an architecture, complete but for image_size and vocab_size,
    which depend on data and tasks."""
    return pix2seq.complete(ARCHITECTURES[arch])
