"""Object detection (Pix2Seq). `configs/detection.py:shapes` is the smallest thing that learns."""

from pix2seq_jax.config import build


def get_config(arg: str = ""):
    """`shapes`, or key=value pairs:

    recipe: finetune (default; COCO), pretrain (Objects365), scratch (COCO) or multitask, as
    published. data: coco, objects365, shapes, or a folder (docs/data.md). arch: one of
    config.architectures.ARCHITECTURES. size: longer side of the images in pixels. slots: objects
    per image, 100.
    """
    return build.build(arg, recipe="finetune", tasks=("detection",))
