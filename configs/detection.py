"""Object detection (Pix2Seq). `configs/detection.py:shapes` is the demo."""

from pix2seq_jax import base_config


def get_config(arg: str = ""):
    """`shapes`, or key=value pairs: data (coco, shapes, or a folder), arch (presets.ARCHITECTURES), size in pixels,
    slots (objects per image, 100).

    A folder holds train/, val/ and annotations/instances_{train,val}.json in COCO's format.
    """
    small = "shapes" in arg.replace("=", ",").split(",")
    variant = base_config.parse(
        arg, data="coco", arch="tiny" if small else "vit-b", size=48 if small else 640, slots=100
    )
    config = base_config.base(data_name=variant.data, arch=variant.arch, size=variant.size)
    config.tasks.detection = base_config.detection(size=variant.size, slots=variant.slots)
    if small:
        base_config.shapes(config, variant.size)
    return config
