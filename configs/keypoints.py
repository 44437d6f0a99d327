"""Keypoints alone (Pix2Seq v2): the joints of people whose boxes are given.

Boxes are those of the annotations, and the names of the metrics say so;
`--config.eval.boxes=results/detection.json` takes those of a detection model instead.
"""

from pix2seq_jax.config import build


def get_config(arg: str = ""):
    """`shapes`, or key=value pairs as in configs/detection.py."""
    return build.build(arg, recipe="multitask", tasks=("keypoints",))
