"""What all shipped configs have in common. A config is complete: every value that a run reads is in it.

The text after the colon of `--config=configs/detection.py:data=coco,arch=vit-b,size=640` selects a variant; single
values are changed by flags such as `--config.train.steps=1000`.
"""

import math
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
    parts = [part.strip() for part in arg.split(",")] if arg else []
    if "" in parts:
        raise ValueError(f"config variant {arg!r}: a part is blank; write key=value,key=value without spaces")
    pairs = dict(part.split("=", 1) if "=" in part else ("data", part) for part in parts)
    if blank := [key for key, value in pairs.items() if not value.strip()]:
        raise ValueError(f"config variant {arg!r}: {blank[0]}= has no value; write {blank[0]}=VALUE or leave it out")
    recipe = pairs.get("recipe", recipe)
    if recipe not in presets.RECIPES:
        raise ValueError(f"config variant {arg!r}: recipe={recipe!r}; use one of {sorted(presets.RECIPES)}")
    defaults = {name: presets.RECIPES[recipe][name] for name in ("data", "arch", "size")}
    defaults |= {"recipe": recipe, "slots": 100}
    if pairs.get("data") == "shapes":
        defaults |= {"arch": "tiny", "size": 48, "slots": 4}  # it draws no more objects
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


def about(variant: ml_collections.ConfigDict, tasks: Sequence[str]) -> str:
    """What a recipe aims at with these tasks, for the log."""
    aim = presets.PUBLISHED.get((variant.recipe, variant.arch, variant.size))
    wanted = tuple(presets.TASK_MIX) if variant.recipe == "multitask" else ("detection",)
    if aim is None or variant.data != presets.RECIPES[variant.recipe]["data"] or set(tasks) != set(wanted):
        return f"settings of the recipe {variant.recipe!r}; nothing is published for this combination"
    start = (
        "" if variant.recipe in ("scratch", "pretrain") else ", starting from the Objects365 model (config.init_from)"
    )
    return (
        f"recipe {variant.recipe!r} of {variant.arch} at {variant.size} pixels: the paper reports {aim}{start}; "
        "the authors of this library have not run it at full size"
    )


def data(name: str) -> ml_collections.ConfigDict:
    """Paths of a data set: coco, objects365, shapes, or a folder with train/, val/ and annotations/.

    In annotations/ are instances_{train,val}.json for boxes and masks, person_keypoints_* and captions_* for the tasks
    that read them.
    """
    layout = presets.LAYOUTS.get(name, presets.LAYOUTS["folder"] | {"root": name})
    config = ml_collections.ConfigDict(
        {"source": "coco_dir", "hint": layout["hint"]}
    )  # the hint is shown if it is missing
    config.label_ids = ()  # category id of label 1, 2, …; (): as the training annotations list them
    # Names of keypoints that change places in a mirror image, as in (("wing_l", "wing_r"),); (): where the words left
    # and right in the names say so.
    config.flip_pairs = ()
    config.text_model = ""  # SentencePiece model for captions; "": one is trained from the training captions
    config.text_pieces = 8_000  # size of that one
    config.check_images = True  # look at the ends of all files before the first step
    # An image that cannot be decoded: "replace" counts and names it and reads another one in its place, "error" ends
    # the run.
    config.bad_images = "replace"
    # An annotation that breaks COCO's format: "error" refuses it before the first step, "drop" counts and names it.
    config.bad_annotations = "error"
    # An image of the JSON that is not in the folder: the same choice.
    config.missing_images = "error"
    config.workers = 0  # images prepared at a time; 0: as many as there are cores
    for split, folder in zip(("train", "val"), layout["splits"], strict=True):
        config[f"{split}_images"] = presets.IMAGES.format(root=layout["root"], split=folder)
        for name, file in presets.ANNOTATIONS.items():
            config[f"{split}_{name}"] = file.format(root=layout["root"], split=folder)
    return config


def padded(arch: str, size: int) -> int:
    """Side in pixels of the padded images: whole patches of a ViT."""
    model = presets.MODEL | presets.ARCHITECTURES[arch]
    return -(-size // model["patch_size"]) * model["patch_size"] if model["encoder"] == "vit" else size


def _training(recipe: dict) -> dict:
    """The sections on learning: schedule, optimizer, steps and intervals."""
    return {
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
            "mixing": "batch",  # a batch of every task each step; "data": one batch of examples of all tasks
            "loss": "xent",
            "log_steps": 100,
            "eval_steps": 5_000,
            "checkpoint_steps": 1_000,
            "keep_latest": 2,
            "best_metric": "",  # "detection/AP" and the like; "": that of the first task
            "profile_at": 0,  # step at which a trace is recorded; 0: none
        },
    }


def base(variant: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A config without tasks: data, model, vocabulary, optimizer and intervals of a recipe."""
    recipe = presets.RECIPES[variant.recipe]
    model = presets.MODEL | presets.ARCHITECTURES[variant.arch]
    side = padded(variant.arch, variant.size)
    return ml_collections.ConfigDict(
        {
            "about": "",  # what the recipe aims at
            "seed": 0,
            "init_from": "",  # workdir or official checkpoint to take weights from where they fit
            "data": data(variant.data),
            "more_data": {},  # name -> section like `data`, for tasks.NAME.mix
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
            **_training(recipe),
            "eval": {
                "batch_size": 32,
                "step": 0,  # of the checkpoint that --mode=eval uses; 0: the newest
                "images": 0,  # of the last evaluation and of --mode=eval; 0: all
                "images_in_training": 500,
                "pictures": 16,
                "score_threshold": 0.3,  # boxes below are not drawn; they still count in AP
                # What prompts masks and keypoints: "predicted" boxes of the detection task, "ground_truth" (then the
                # metrics' names say so), or the path of a results/detection.json.
                "boxes": "predicted",
            },
            # Devices on each axis, -1 for the rest: `data` cuts the batch, `fsdp` that and the parameters, `model` wide
            # dimensions.
            "mesh": {"data": -1, "fsdp": 1, "model": 1},
        }
    )


def _task(*, train_ops: str, eval_ops: str, sampler: str, **fields) -> dict:
    """What the sections of all tasks have; `fields` are those of the task's class and of its evaluation."""
    return {
        "weight": 1.0,
        "batch_size": 0,  # images in a training batch; 0: train.batch_size
        "mix": {"data": 1.0},  # data sets ("data", or of config.more_data) and their shares
        "train_ops": train_ops,
        "eval_ops": eval_ops,
        "eval_batch_size": 0,  # 0: eval.batch_size
        "sampler": sampler,
        "num_samples": 1,  # drawn for each prompt
        "eos_bias": 0.0,
        "grammar": False,
        **fields,
    }


def detection(*, slots: int, **sizes) -> dict:
    """The section of the detection task, as published.

    Args:
        slots: objects per image.
        sizes: `size`, longer side of the resized images in pixels, and `side` of the padded ones.
    """
    return _task(
        train_ops=presets.DETECTION_TRAIN.format(slots=slots, **sizes),
        eval_ops=presets.DETECTION_EVAL.format(slots=slots, **sizes),
        sampler="nucleus(0.4)",
        **{"max_instances": slots, "class_corruption": "rand_n_fake_cls", "noise_weight": 1.0, "eos_weight": 0.1},
    )


def segmentation(*, slots: int, **sizes) -> dict:
    """The section of instance segmentation: 10 objects an image in training, 8 samples of each box in evaluation."""
    prompted = min(slots, 20)
    return _task(
        train_ops=presets.SEGMENTATION_TRAIN.format(objects=min(slots, 10), **sizes),
        eval_ops=presets.SEGMENTATION_EVAL.format(objects=prompted, **sizes),
        sampler="nucleus(0.8)",
        **{"max_instances": min(slots, 10), "max_points": 128, "random_start": True, "eos_weight": 1.0},
        padding_weight=1.0,  # as published; the weights of the tasks belong to it
    ) | {
        "eval_batch_size": 4,  # times `objects` times `num_samples` sequences at a time
        "num_samples": 8,
        "mask_threshold": 0.5,  # share of the samples that must cover a pixel
        # Best-scored predicted boxes of an image that get a mask: while training; in the last evaluation, --mode=eval
        # and prediction (COCO counts 100). Annotated boxes all do.
        "objects": prompted,
        "objects_final": min(slots, 100),
    }


def keypoints(*, slots: int, **sizes) -> dict:
    """The section of keypoints: a crop of twice the box for each object."""
    return _task(
        train_ops=presets.KEYPOINTS_TRAIN.format(**sizes),
        eval_ops=presets.KEYPOINTS_EVAL.format(**sizes),
        sampler="nucleus(0.1)",
        **{"max_instances": 1, "num_keypoints": 0, "invisible_weight": 0.1, "mask_inputs": True},
    ) | {
        "points_score_weight": 1.0,  # of the tokens' likelihood, the rest is the box's score
        "grammar": True,  # coordinates only: the invisible token is suppressed
        "objects": min(slots, 20),  # the same for keypoints; COCO counts 20
        # Standard deviation of each keypoint in OKS, relative to the object's size; (): COCO's for its 17, by name.
        "sigmas": (),
    }


def captioning(*, slots: int, **sizes) -> dict:
    """The section of captioning: five captions of an image at once; greedy decoding."""
    del slots
    return _task(
        train_ops=presets.CAPTIONING_TRAIN.format(**sizes),
        eval_ops=presets.CAPTIONING_EVAL.format(**sizes),
        sampler="greedy",
        **{"captions_per_image": 5, "max_tokens": 128, "input_drop": 0.5, "eos_weight": 0.1},
        padding_weight=1.0,  # as published; the weights of the tasks belong to it
    ) | {"grammar": True}


SECTIONS = {
    "detection": detection,
    "segmentation": segmentation,
    "keypoints": keypoints,
    "captioning": captioning,
}


def share_out(config: ml_collections.ConfigDict, mix: dict[str, float]) -> None:
    """Sets the weights of the tasks in the proportions of a mix, so that they sum to one."""
    total = math.fsum(mix[name] for name in config.tasks)
    for name, section in config.tasks.items():
        section.weight = mix[name] / total


def shapes(config: ml_collections.ConfigDict, size: int, slots: int) -> None:
    """Changes a config to the embedded data and to what learns on two cores within the hour.

    What the paper's settings would learn in days has to be learned in some 460,000 images here: objects in the order of
    their place instead of a random one, no jitter, no noise boxes, coarse bins, the largest learning rate that still
    helps, short captions, and short outlines of objects in crops.
    """
    sizes = {"size": size, "side": config.model.image_size[0], "slots": slots, "objects": slots}
    changes = {
        "detection": {"max_instances": slots, "eval_ops": presets.DETECTION_EVAL.format(**sizes)},
        "segmentation": {
            **{"max_instances": 1, "max_points": 24, "objects": slots, "objects_final": slots, "batch_size": 16},
            **{"eval_ops": presets.SHAPES_SEGMENTATION_EVAL.format(**sizes), "eval_batch_size": 200},
            "padding_weight": 0.0,
        },
        "keypoints": {"batch_size": 8, "objects": slots},
        "captioning": {"batch_size": 8, "max_tokens": 32, "padding_weight": 0.0},
    }
    for name, section in config.tasks.items():
        section.update(changes[name] | {"train_ops": presets.SHAPES_TRAIN[name].format(**sizes)})
    share_out(config, presets.SHAPES_MIX)
    config.data.text_pieces = 256
    config.vocab.update({"size": 0, "coord_shift": 0, "text_shift": 0, "num_bins": 48})
    config.model.max_seq_len = 0
    config.train.update({"batch_size": 48, "steps": 9_600, "log_steps": 100, "eval_steps": 4_800})
    config.schedule.update({"name": "cosine", "base": 1e-3, "warmup": 300})
    config.optim.clip = 1.0
    config.eval.update({"batch_size": 100, "images_in_training": 100})


def build(arg: str, *, recipe: str, tasks: Sequence[str]) -> ml_collections.ConfigDict:
    """The config of a variant for these tasks; `configs/` say which.

    Raises:
        ValueError: see `parse`.
    """
    variant = parse(arg, recipe=recipe)
    config = base(variant)
    config.about = about(variant, tasks)
    side = padded(variant.arch, variant.size)
    for name in tasks:
        config.tasks[name] = SECTIONS[name](slots=variant.slots, size=variant.size, side=side)
    if "captioning" in tasks:
        config.vocab.size = 35_000  # room for the 32,000 pieces of the published text model
    if "detection" not in tasks:
        config.eval.boxes = "ground_truth"
    share_out(config, presets.TASK_MIX)
    if variant.data == "shapes":
        shapes(config, variant.size, variant.slots)
    return config
