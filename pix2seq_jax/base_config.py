"""What all shipped configs have in common. A config is complete: every value that a run reads is in it.

The text after the colon of `--config=configs/detection.py:data=coco,arch=vit-b,size=640` selects a variant; single
values are changed by flags such as `--config.train.steps=1000`.
"""

from collections.abc import Sequence

import ml_collections

from pix2seq_jax import presets


def parse(arg: str, *, recipe: str) -> ml_collections.ConfigDict:
    """Reads "key=value,key=value" over the defaults of a recipe; "shapes" means "data=shapes".

    Args:
        arg: keys are recipe, data, arch, size (pixels) and slots (objects per image).
        recipe: of presets.RECIPES, unless `arg` names one.

    Raises:
        ValueError: unknown key, recipe or architecture, or a number that is none.
    """
    pairs = dict(part.split("=", 1) if "=" in part else ("data", part) for part in filter(None, arg.split(",")))
    recipe = pairs.get("recipe", recipe)
    if recipe not in presets.RECIPES:
        raise ValueError(f"config variant {arg!r}: recipe={recipe!r}; use one of {sorted(presets.RECIPES)}")
    defaults = {name: presets.RECIPES[recipe][name] for name in ("data", "arch", "size")}
    defaults |= {"recipe": recipe, "slots": 100}
    if pairs.get("data") == "shapes":
        defaults |= {"arch": "tiny", "size": 48}
    chosen = ml_collections.ConfigDict(defaults)
    for key, value in pairs.items():
        if key not in chosen:
            raise ValueError(f"config variant {arg!r}: unknown key {key!r}; write key=value with {sorted(defaults)}")
        try:
            chosen[key] = type(defaults[key])(value)
        except ValueError as error:
            raise ValueError(f"config variant {arg!r}: {key}={value!r} is not of the form {defaults[key]!r}") from error
    if chosen.arch not in presets.ARCHITECTURES:
        raise ValueError(f"config variant {arg!r}: arch={chosen.arch!r}; use one of {sorted(presets.ARCHITECTURES)}")
    for key in ("size", "slots"):
        if chosen[key] < 1:
            raise ValueError(f"config variant {arg!r}: {key}={chosen[key]}; it must be at least 1")
    return chosen


def about(variant: ml_collections.ConfigDict) -> str:
    """What a recipe aims at, for the log."""
    aim = presets.PUBLISHED.get((variant.recipe, variant.arch, variant.size))
    if aim is None or variant.data != presets.RECIPES[variant.recipe]["data"]:
        return f"settings of the recipe {variant.recipe!r}; nothing is published for this combination"
    start = (
        "" if variant.recipe in ("scratch", "pretrain") else ", starting from the Objects365 model (config.init_from)"
    )
    return (
        f"recipe {variant.recipe!r} of {variant.arch} at {variant.size} pixels: the paper reports {aim}{start}; "
        "the authors of this library have not run it at full size"
    )


def data(name: str) -> ml_collections.ConfigDict:
    """Paths of a data set: coco, shapes, or a folder with train/, val/, annotations/instances_{train,val}.json."""
    layout = presets.LAYOUTS.get(name, presets.LAYOUTS["folder"] | {"root": name})
    config = ml_collections.ConfigDict(
        {"source": "coco_dir", "hint": layout["hint"]}
    )  # the hint is shown if it is missing
    config.label_ids = ()  # category id of label 1, 2, …; (): as the training annotations list them
    config.check_images = True  # look at the ends of all files before the first step
    config.workers = 0  # images prepared at a time; 0: as many as there are cores
    for split, folder in zip(("train", "val"), layout["splits"], strict=True):
        config[f"{split}_images"] = presets.IMAGES.format(root=layout["root"], split=folder)
        config[f"{split}_annotations"] = presets.INSTANCES.format(root=layout["root"], split=folder)
    return config


def padded(arch: str, size: int) -> int:
    """Side in pixels of the padded images: whole patches of a ViT."""
    model = presets.MODEL | presets.ARCHITECTURES[arch]
    return -(-size // model["patch_size"]) * model["patch_size"] if model["encoder"] == "vit" else size


def base(variant: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A config without tasks: data, model, vocabulary, optimizer and intervals of a recipe."""
    recipe = presets.RECIPES[variant.recipe]
    model = presets.MODEL | presets.ARCHITECTURES[variant.arch]
    side = padded(variant.arch, variant.size)
    return ml_collections.ConfigDict(
        {
            "about": about(variant),
            "seed": 0,
            "init_from": "",  # workdir or official checkpoint to take weights from where they fit
            "data": data(variant.data),
            # vocab_size and max_seq_len grow with what the data and the tasks need.
            "model": model | {"image_size": (side, side), "vocab_size": 0, "max_seq_len": 512},
            "vocab": {
                "size": 3000,
                "num_bins": recipe["num_bins"],
                "num_classes": 0,  # grows with the classes of the data
                "coord_shift": 1000,
                "text_shift": 3000,
                "text_size": 0,
            },
            "tasks": {},
            "schedule": {
                "name": "linear",
                "base": recipe["base"],
                "scaling": "none",
                "warmup": recipe["warmup"],
                "tail": 0,
                "end_factor": 0.01,
            },
            "optim": {
                "name": "adamw",
                "beta1": 0.9,
                "beta2": 0.95,
                "eps": 1e-8,
                "weight_decay": 0.05,
                "decay": "kernels",
                "momentum": 0.9,
                "clip": 0.0,
            },
            "train": {
                "batch_size": recipe["batch_size"],
                "steps": recipe["steps"],
                "accumulate": 1,
                "repeats": recipe["repeats"],
                "loss": "xent",
                "log_steps": 100,
                "eval_steps": 5_000,
                "checkpoint_steps": 1_000,
                "keep_latest": 2,
                "best_metric": "AP",
                "profile_at": 0,  # step at which a trace is recorded; 0: none
            },
            "eval": {
                "batch_size": 32,
                "step": 0,  # of the checkpoint that --mode=eval uses; 0: the newest
                "images": 0,  # of the last evaluation and of --mode=eval; 0: all
                "images_in_training": 500,
                "pictures": 16,
                "score_threshold": 0.3,  # boxes below are not drawn; they still count in AP
            },
            "mesh": {"data": -1},
        }
    )


def detection(*, size: int, side: int, slots: int) -> dict:
    """The section of the detection task, as published.

    Args:
        size: longer side of the resized images in pixels.
        side: of the padded images.
        slots: objects per image.
    """
    sizes = {"size": size, "side": side, "slots": slots}
    return {
        "weight": 1.0,
        "max_instances": slots,
        "class_corruption": "rand_n_fake_cls",
        "noise_weight": 1.0,
        "eos_weight": 0.1,
        "train_ops": presets.DETECTION_TRAIN.format(**sizes),
        "eval_ops": presets.DETECTION_EVAL.format(**sizes),
        "sampler": "nucleus(0.4)",
        "eos_bias": 0.0,
        "grammar": False,
    }


def shapes(config: ml_collections.ConfigDict, size: int) -> None:
    """Changes a config to the demo: the embedded data, fifteen minutes on two cores.

    What the paper's settings would learn in days has to be learned in 256,000 images here: objects in the order of
    their place instead of a random one, no noise boxes, coarse bins, the largest learning rate that still helps.
    """
    slots = 4  # shapes draws no more
    side = config.model.image_size[0]
    config.tasks.detection = detection(size=size, side=side, slots=slots)
    config.tasks.detection.train_ops = presets.SHAPES_TRAIN.format(size=size, side=side, slots=slots)
    config.vocab.update({"size": 0, "coord_shift": 0, "num_bins": 48})
    config.model.max_seq_len = 0
    config.train.update({"batch_size": 32, "steps": 8_000, "log_steps": 100, "eval_steps": 4_000})
    config.schedule.update({"name": "cosine", "base": 1e-3, "warmup": 300})
    config.optim.clip = 1.0
    config.eval.update({"batch_size": 100, "images_in_training": 100})


SECTIONS = {"detection": detection}


def build(arg: str, *, recipe: str, tasks: Sequence[str]) -> ml_collections.ConfigDict:
    """The config of a variant for these tasks; `configs/` say which.

    Raises:
        ValueError: see `parse`.
    """
    variant = parse(arg, recipe=recipe)
    config = base(variant)
    side = padded(variant.arch, variant.size)
    for name in tasks:
        config.tasks[name] = SECTIONS[name](size=variant.size, side=side, slots=variant.slots)
    if variant.data == "shapes":
        shapes(config, variant.size)
    return config
