"""Image captioning alone (Pix2Seq v2)."""

from pix2seq_jax.config import build


def get_config(arg: str = ""):
    """`shapes`, or key=value pairs as in configs/detection.py."""
    return build.build(arg, recipe="multitask", tasks=("captioning",))
