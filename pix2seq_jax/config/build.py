"""What all shipped configs have in common. A config is complete: every value that a run reads is in
it.

The text after the colon of `--config=configs/detection.py:data=coco,arch=vit-b,size=640` selects a
variant; single values are changed by flags such as `--config.train.steps=1000`.
"""

from collections.abc import Sequence

import ml_collections

from pix2seq_jax.config import architectures, by_data, folders, recipes, shapes
from pix2seq_jax.config.sections import SECTIONS, share_out


def parse(arg: str, *, recipe: str) -> ml_collections.ConfigDict:
    """Reads "key=value,key=value" over the defaults of a recipe; "shapes" means "data=shapes".

    Args:
        arg: keys are recipe, data, arch, size (pixels) and slots (objects per image).
        recipe: of recipes.RECIPES, unless `arg` names one.

    Raises:
        ValueError: unknown key, recipe or architecture, or a number that is none.
    """
    pairs = _pairs(arg)
    if blank := [key for key, value in pairs.items() if not value.strip()]:
        raise ValueError(
            f"config variant {arg!r}: {blank[0]}= has no value; write {blank[0]}=VALUE or "
            "leave it out"
        )
    recipe = pairs.get("recipe", recipe)
    if recipe not in recipes.RECIPES:
        raise ValueError(
            f"config variant {arg!r}: recipe={recipe!r}; use one of {sorted(recipes.RECIPES)}"
        )
    defaults = {name: recipes.RECIPES[recipe][name] for name in ("data", "arch", "size")}
    defaults |= {"recipe": recipe, "slots": 100}
    if pairs.get("data") == "shapes":
        defaults |= {"arch": "tiny", "size": 48, "slots": 4}  # it draws no more objects
    chosen = ml_collections.ConfigDict(defaults)
    for key, value in pairs.items():
        if key not in chosen:
            raise ValueError(
                f"config variant {arg!r}: unknown key {key!r}; write key=value with "
                f"{sorted(defaults)}"
            )
        try:
            chosen[key] = type(defaults[key])(value)
        except ValueError as error:
            raise ValueError(
                f"config variant {arg!r}: {key}={value!r} is not of the form {defaults[key]!r}"
            ) from error
    if chosen.arch not in architectures.ARCHITECTURES:
        raise ValueError(
            f"config variant {arg!r}: arch={chosen.arch!r}; use one of "
            f"{sorted(architectures.ARCHITECTURES)}"
        )
    for key in ("size", "slots"):
        if chosen[key] < 1:
            raise ValueError(f"config variant {arg!r}: {key}={chosen[key]}; it must be at least 1")
    return chosen


def _pairs(arg: str) -> dict[str, str]:
    """The values of a variant by key."""
    parts = [part.strip() for part in arg.split(",")] if arg else []
    if "" in parts:
        raise ValueError(
            f"config variant {arg!r}: a part is blank; write key=value,key=value without spaces"
        )
    return dict(part.split("=", 1) if "=" in part else ("data", part) for part in parts)


def about(variant: ml_collections.ConfigDict, tasks: Sequence[str]) -> str:
    """What a recipe aims at with these tasks, for the log."""
    aim = recipes.PUBLISHED.get((variant.recipe, variant.arch, variant.size))
    wanted = tuple(recipes.TASK_MIX) if variant.recipe == "multitask" else ("detection",)
    if (
        aim is None
        or variant.data != recipes.RECIPES[variant.recipe]["data"]
        or set(tasks) != set(wanted)
    ):
        return (
            f"settings of the recipe {variant.recipe!r}; nothing is published for this combination"
        )
    start = (
        ""
        if variant.recipe in ("scratch", "pretrain")
        else ", starting from the Objects365 model (config.init_from)"
    )
    return (
        f"recipe {variant.recipe!r} of {variant.arch} at {variant.size} pixels: the paper reports "
        f"{aim}{start}; the authors of this library have not run it at full size"
    )


def data(name: str, *, size: int = 0, slots: int = 0) -> ml_collections.ConfigDict:
    """The section of a data set: coco, objects365, shapes, or a folder in any layout that
    `folders.recognise` knows; one that it does not know gets the paths of the usual layout.

    Args:
        name: of the data set, or the path of the folder.
        size: longer side of the resized images in pixels.
        slots: objects per image.
    """
    folder = folders.of(name)
    # source: "coco_dir" for images as files, "array_record" for the shards of `prepare`.
    source = "array_record" if folder.kind == "array_record" else "coco_dir"
    config = ml_collections.ConfigDict({"source": source, "size": size, "slots": slots})
    config.layout = folder.words  # what the folder was recognised as, for the log
    config.hint = folder.hint  # is shown where the data are missing
    # Where train and val are the same file, this share of its images is val, chosen by the seed.
    config.val_share, config.split_seed = folder.val_share, 0
    # Category id of label 1, 2, …; (): as the training annotations list them.
    config.label_ids = ()
    # Names of keypoints that change places in a mirror image, as in (("wing_l", "wing_r"),); ():
    # where the words left and right in the names say so.
    config.flip_pairs = ()
    # SentencePiece model for captions; "": one is trained from the training captions.
    config.text_model = ""
    config.text_pieces = 0  # size of that one; 0: by the number of captions
    config.check_images = True  # look at the ends of all files before the first step
    # An image that cannot be decoded: "replace" counts and names it and reads another one in its
    # place, "error" ends the run.
    config.bad_images = "replace"
    # An annotation that breaks COCO's format: "error" refuses it before the first step, "drop"
    # counts and names it.
    config.bad_annotations = "error"
    # An image of the JSON that is not in the folder: the same choice.
    config.missing_images = "error"
    config.workers = 0  # threads that prepare the images of a task; 0: as many as the cores suit
    # Processes that prepare images: 1 is this one; 0: as many as suit the cores and the devices.
    config.worker_processes = 0
    # GiB of decoded images that stay in memory, shared out to these processes; 0: none.
    config.cache = 0.0
    for split, images in folder.images.items():
        config[f"{split}_images"] = images
        for kind, file in folder.annotations[split].items():
            config[f"{split}_{kind}"] = file
    return config


def training(recipe: dict) -> dict:
    """The sections on learning: schedule, optimizer, steps and intervals."""
    return {
        "schedule": {
            "name": "linear",
            "base": recipe["base"],
            "scaling": "none",
            "warmup": recipe["warmup"],  # steps; below 1: a share of train.steps
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
            # Regex over names in parameters.txt: these are not trained, as in "^image_encoder/".
            "frozen": "",
            # Each encoder layer below the last learns at this times the rate of the next, as in
            # BEiT; 1: all alike.
            "layer_decay": 1.0,
            # rate of what `init_encoder` brings (of a ResNet not the transformer) as a part of that
            # of the rest
            "encoder_rate": 1.0,
        },
        "train": {
            # Whether fields of config.by_data.FIELDS that are 0 follow from the number of training
            # images and the devices.
            "by_data": False,
            "batch_size": recipe["batch_size"],
            "steps": recipe["steps"],
            "accumulate": 1,
            "repeats": recipe["repeats"],
            # a batch of every task each step; "data": one batch of examples of all tasks
            "mixing": "batch",
            "loss": "xent",
            # decay of an average of the weights over the steps, which is evaluated; 0: none
            "ema": 0.0,
            "log_steps": 100,
            "eval_steps": 5_000,
            "checkpoint_steps": 1_000,
            "keep_latest": 2,
            "best_metric": "",  # "detection/AP" and the like; "": that of the first task
            "trackers": "",  # "wandb", "mlflow", or both joined by +
            "profile_at": 0,  # step at which a trace is recorded; 0: none
        },
    }


def base(variant: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A config without tasks: data, model, vocabulary, optimizer and intervals of a recipe."""
    recipe = recipes.RECIPES[variant.recipe]
    model = architectures.section(variant.arch)
    return ml_collections.ConfigDict(
        {
            "about": "",  # what the recipe aims at
            "seed": 0,
            "init_from": "",  # workdir or official checkpoint to take weights from where they fit
            "init_encoder": "",  # file of an encoder that another library trained
            "init_encoder_pixels": "",  # how that library normalises images; "": as the file says
            "data": data(variant.data, size=variant.size, slots=variant.slots),
            "more_data": {},  # name -> section like `data`, for tasks.NAME.mix
            # vocab_size and max_seq_len grow with what the data and the tasks need.
            "model": model | {"image_size": (), "vocab_size": 0},  # (): data.size in whole patches
            "vocab": {
                "size": 3000,
                "num_bins": recipe["num_bins"],
                "num_classes": 0,  # grows with the classes of the data
                "coord_shift": 1000,
                "text_shift": 3000,
                "text_size": 0,
            },
            "tasks": {},
            **training(recipe),
            "eval": {
                "batch_size": 32,
                "step": 0,  # of the checkpoint that --mode=eval uses; 0: the newest
                "images": 0,  # of the last evaluation and of --mode=eval; 0: all
                "images_in_training": 500,
                "pictures": 16,
                "score_threshold": 0.3,  # boxes below are not drawn; they still count in AP
                # What prompts masks and keypoints: "predicted" boxes of the detection task,
                # "ground_truth" (then the metrics' names say so), or the path of a
                # results/detection.json.
                "boxes": "predicted",
            },
            # Devices on each axis, -1 for the rest: `data` cuts the batch, `fsdp` that and the
            # parameters, `model` wide dimensions.
            # allow_whole: a size that its axis does not divide stays whole on every device.
            "mesh": {"data": -1, "fsdp": 1, "model": 1, "allow_whole": False},
        }
    )


def build(arg: str, *, recipe: str, tasks: Sequence[str]) -> ml_collections.ConfigDict:
    """The config of a variant for these tasks; `configs/` say which.

    Raises:
        ValueError: see `parse`.
    """
    variant = parse(arg, recipe=recipe)
    config = base(variant)
    config.about = about(variant, tasks)
    for name in tasks:
        config.tasks[name] = SECTIONS[name](slots=variant.slots)
    if "captioning" in tasks:
        config.vocab.size = 35_000  # room for the 32,000 pieces of the published text model
    if variant.data not in [recipe["data"] for recipe in recipes.RECIPES.values()]:
        # Nothing was published for these data: as small as they allow.
        config.vocab.update({"size": 0, "coord_shift": 0, "text_shift": 0})
        if "recipe" not in _pairs(arg) and variant.data != "shapes":
            config.train.by_data = True
            config.about = (
                "nothing is published for these data: batch, steps, rate and evaluations follow "
                f"from their size, the rest is of the recipe {variant.recipe!r}"
            )
            config.update_from_flattened_dict(by_data.FIELDS)
    if "detection" not in tasks:
        config.eval.boxes = "ground_truth"
    share_out(config, recipes.TASK_MIX)
    if variant.data == "shapes":
        shapes.change(config, variant.slots)
    return config
