"""Pix2Seq v2: several tasks in one model, mixed by the published weights; trains those of the four that exist.

On COCO; `configs/multitask.py:shapes` trains on the embedded data.
"""

from pix2seq_jax import base_config, presets


def get_config(arg: str = ""):
    """`shapes`, or key=value pairs: data (coco, shapes, or a folder), arch (presets.ARCHITECTURES), size in pixels,
    slots (objects per image, 100)."""
    config = base_config.build(arg, recipe="multitask", tasks=("detection",))
    config.vocab.size = config.vocab.size and 35_000
    mix = {name: presets.TASK_MIX[name] for name in config.tasks}
    for name, section in config.tasks.items():
        section.weight = mix[name] / sum(mix.values())
    return config
