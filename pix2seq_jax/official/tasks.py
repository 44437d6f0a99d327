"""Sections of our config for the tasks of an official one; `official` has its words and defaults.

Preprocessing, and what an official config does not say, is as in `config.sections`.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from pix2seq_jax.config import recipes, sections
from pix2seq_jax.data.coco.person import COCO_KEYPOINTS
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.official import names as official_names
from pix2seq_jax.tasks.base import OBJECT_PROMPT_TOKENS
from pix2seq_jax.tasks.detection import TOKENS_PER_BOX

SLOTS = 100  # objects of an image in the release's evaluation


def sampler(task: Mapping[str, Any]) -> str:
    """The release's sampling settings as text for decoding.sampling; a top_k goes first, 0 is
    none."""
    if task["top_k"] and task["top_p"] < 1:
        log.warning(
            "top_k=%s and top_p=%s together are not known here: top_p is left out",
            task["top_k"],
            task["top_p"],
        )
    if not task["top_k"] and task["top_p"] <= 0:  # only the likeliest token is left
        return "greedy"
    kind, value = "nucleus", float(task["top_p"])
    if task["top_k"]:
        kind, value = "topk", int(task["top_k"])
    if task["temperature"] == 1.0:
        return f"{kind}({value})"
    return f"{kind}({value}, {float(task['temperature'])})"


def _detection(task: Mapping[str, Any], longest: int) -> dict:
    slots = min(task["max_instances_per_image"], (longest - 1) // TOKENS_PER_BOX)
    return sections.detection(slots=slots) | {
        "max_instances": slots,
        "class_corruption": task["class_label_corruption"],
        "noise_weight": float(task["noise_bbox_weight"]),
        "eos_weight": float(task["eos_token_weight"]),
        "sampler": sampler(task),
    }


def _segmentation(task: Mapping[str, Any], longest: int) -> dict:
    section, scale = sections.segmentation(slots=SLOTS), official_names.crop_scale(task)
    trained = task["max_instances_per_image"]
    # The release's number of objects in evaluation is "for debug only".
    prompted = max(section["objects"], task["max_instances_per_image_test"])
    if scale:
        section["eval_ops"] = section["eval_ops"].replace("{objects}", "1")
        for name in ("train_ops", "eval_ops"):
            section[name] = section[name].replace("decode|", f"decode|crop_to_box({scale})|")
    return section | {
        "max_instances": 1 if scale else trained,
        "max_points": min(task["max_points_per_object"], (longest - OBJECT_PROMPT_TOKENS) // 2),
        "random_start": bool(task["shuffle_polygon_start_point"]),
        "eos_weight": float(task["eos_token_weight"]),
        "padding_weight": float(task["eos_token_weight"]),  # the release has one weight for both
        "sampler": sampler(task),
        "num_samples": task["ensemble_num_samples"],
        "mask_threshold": float(task["ensemble_threshold"]),
        "objects": prompted,
        "eval_batch_size": 0 if scale else section["eval_batch_size"],
    }


def _keypoints(task: Mapping[str, Any], longest: int) -> dict:
    section, scale = sections.keypoints(slots=SLOTS), official_names.crop_scale(task)
    count, trained = task["max_points_per_object"], task["max_instances_per_image"]
    if (need := OBJECT_PROMPT_TOKENS + 2 * count) > longest:
        raise ValueError(f"{count} keypoints need {need} positions but model.max_seq_len={longest}")
    prompted = max(section["objects"], task["max_instances_per_image_test"])
    for name in ("train_ops", "eval_ops"):
        section[name] = section[name].replace(
            "crop_to_box(2.0)|", f"crop_to_box({scale})|" if scale else ""
        )
    if not scale:  # all objects look at the same image
        section["train_ops"] = section["train_ops"].replace(
            "pad_image", "filter_objects(min_keypoints=1)|order(random)|pad_image"
        )
        for name, objects in (("train_ops", trained), ("eval_ops", prompted)):
            section[name] = section[name].replace("pad_objects(1)", f"pad_objects({objects})")
    return section | {
        "max_instances": 1 if scale else trained,
        "num_keypoints": count,
        "invisible_weight": float(task["invisible_token_weight"]),
        "points_score_weight": float(task["points_score_weight"]),
        "grammar": bool(task["eval_suppress_invisible_token"]),
        "sampler": sampler(task),
        "objects": prompted,
        "sigmas": COCO_KEYPOINTS["sigmas"] if count == len(COCO_KEYPOINTS["names"]) else (),
    }


def _captioning(task: Mapping[str, Any], longest: int) -> dict:
    section, drawn = sections.captioning(slots=SLOTS), sampler(task)
    if drawn == "nucleus(1.0)":
        log.info(
            "captions: the checkpoint's sampler %s gives BLEU-4 14.1, greedy decoding 35.3: "
            "using greedy",
            drawn,
        )
        drawn = "greedy"
    return section | {
        "captions_per_image": task["captions_per_image"],
        "max_tokens": min(task["max_seq_len"], longest - 1),
        "input_drop": float(task["input_seq_drop_rate"]),
        "eos_weight": float(task["eos_token_weight"]),
        "sampler": drawn,
    }


# (section with defaults, positions of the decoder) -> our section.
SECTIONS = {
    "detection": _detection,
    "segmentation": _segmentation,
    "keypoints": _keypoints,
    "captioning": _captioning,
}


def loss_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights of the tasks in the loss, which sum to one, from the weights in an official config.

    Where every weight is 1, as in the config that the release ships, nobody chose them, and the mix
    of Pix2Seq v2, section 4.1, is taken. Other weights are normalised. Raises ValueError for
    weights that are negative or all 0.
    """
    equal = len(weights) > 1 and set(weights.values()) == {1.0}
    mix = {
        name: recipes.TASK_MIX[name] if equal else float(weight) for name, weight in weights.items()
    }
    total = sum(mix.values())
    if total <= 0 or min(mix.values()) < 0:
        raise ValueError(
            f"weights of its tasks are {dict(weights)}; they must be 0 or more, and not all 0"
        )
    normalised = {name: weight / total for name, weight in mix.items()}
    if abs(sum(weights.values()) - 1) > 1e-6:
        what = "the published mix instead, in training" if equal else "in training they sum to 1"
        log.info(
            "weights of the tasks are %s in the checkpoint; %s: %s", dict(weights), what, normalised
        )
    return normalised


def keypoint_fields(config: ml_collections.ConfigDict) -> dict[str, tuple]:
    """What config.data says of the keypoints: COCO's if there are as many. `config` has its tasks
    and classes."""
    is_named = "keypoints" in config.tasks and len(config.tasks.keypoints.sigmas) > 0
    is_coco = is_named and config.data.category_names[:1] == ("person",)
    return {
        "keypoint_names": COCO_KEYPOINTS["names"] if is_named else (),
        "keypoint_categories": (config.data.category_ids[0],) if is_coco else (),
        "skeleton": COCO_KEYPOINTS["skeleton"] if is_named else (),
    }
