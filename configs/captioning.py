"""Image captioning alone (Pix2Seq v2)."""

from pix2seq_jax import base_config


def get_config(arg: str = ""):
    """`shapes`, or key=value pairs as in configs/detection.py."""
    return base_config.build(arg, recipe="multitask", tasks=("captioning",))
