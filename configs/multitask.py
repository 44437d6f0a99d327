"""Pix2Seq v2: detection, segmentation, keypoints and captions in one model, mixed by the published
weights.

`configs/multitask.py:shapes` is the demo, on the embedded data.
"""

from pix2seq_jax.config import build


def get_config(arg: str = ""):
    """`shapes`, or key=value pairs as in configs/detection.py.

    `--config.tasks.NAME.weight` changes the mix; weights sum to one.
    """
    return build.build(
        arg, recipe="multitask", tasks=("detection", "segmentation", "keypoints", "captioning")
    )
