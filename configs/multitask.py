"""Pix2Seq v2: several tasks in one model, mixed by the published weights; trains those of the four that exist.

On COCO; `configs/multitask.py:shapes` trains on the embedded data.
"""

from pix2seq_jax import base_config, presets


def get_config(arg: str = ""):
    """`shapes`, or key=value pairs: data (coco, shapes, or a folder), arch (presets.ARCHITECTURES), size in pixels,
    slots (objects per image, 100)."""
    small = "shapes" in arg.replace("=", ",").split(",")
    variant = base_config.parse(
        arg, data="coco", arch="tiny" if small else "vit-b", size=48 if small else 640, slots=100
    )
    config = base_config.base(data_name=variant.data, arch=variant.arch, size=variant.size)
    config.tasks.detection = base_config.detection(size=variant.size, slots=variant.slots)
    # Pix2Seq v2, section 4.1: 100 epochs of 118,287 images, the first 10 of them warm-up.
    config.vocab.size = 35_000
    config.train.steps = 100 * 118_287 // config.train.batch_size
    config.schedule.warmup = config.train.steps // 10
    if small:
        base_config.shapes(config, variant.size)
    mix = {name: presets.TASK_MIX[name] for name in config.tasks}
    for name, section in config.tasks.items():
        section.weight = mix[name] / sum(mix.values())
    return config
