"""The section of each task in a config, with the published settings."""

import math

import ml_collections

from pix2seq_jax.config import recipes


def _task(*, train_ops: str, eval_ops: str, sampler: str, **fields) -> dict:
    """What the sections of all tasks have; `fields` are those of the task's class and of its
    evaluation."""
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
        train_ops=recipes.DETECTION_TRAIN.format(slots=slots, **sizes),
        eval_ops=recipes.DETECTION_EVAL.format(slots=slots, **sizes),
        sampler="nucleus(0.4)",
        **{
            "max_instances": slots,
            "class_corruption": "rand_n_fake_cls",
            "noise_weight": 1.0,
            "eos_weight": 0.1,
        },
    )


def segmentation(*, slots: int, **sizes) -> dict:
    """The section of instance segmentation: 10 objects an image in training, 8 samples of each box
    in evaluation."""
    prompted = min(slots, 20)
    return _task(
        train_ops=recipes.SEGMENTATION_TRAIN.format(objects=min(slots, 10), **sizes),
        eval_ops=recipes.SEGMENTATION_EVAL.format(objects=prompted, **sizes),
        sampler="nucleus(0.8)",
        **{
            "max_instances": min(slots, 10),
            "max_points": 128,
            "random_start": True,
            "eos_weight": 1.0,
        },
        padding_weight=1.0,  # as published; the weights of the tasks belong to it
    ) | {
        "eval_batch_size": 4,  # times `objects` times `num_samples` sequences at a time
        "num_samples": 8,
        "mask_threshold": 0.5,  # share of the samples that must cover a pixel
        # Best-scored predicted boxes of an image that get a mask: while training; in the last
        # evaluation, --mode=eval and prediction (COCO counts 100). Annotated boxes all do.
        "objects": prompted,
        "objects_final": min(slots, 100),
    }


def keypoints(*, slots: int, **sizes) -> dict:
    """The section of keypoints: a crop of twice the box for each object."""
    return _task(
        train_ops=recipes.KEYPOINTS_TRAIN.format(**sizes),
        eval_ops=recipes.KEYPOINTS_EVAL.format(**sizes),
        sampler="nucleus(0.1)",
        **{"max_instances": 1, "num_keypoints": 0, "invisible_weight": 0.1, "mask_inputs": True},
    ) | {
        "points_score_weight": 1.0,  # of the tokens' likelihood, the rest is the box's score
        "grammar": True,  # coordinates only: the invisible token is suppressed
        "objects": min(slots, 20),  # the same for keypoints; COCO counts 20
        # Standard deviation of each keypoint in OKS, relative to the object's size; (): COCO's for
        # its 17, by name.
        "sigmas": (),
    }


def captioning(*, slots: int, **sizes) -> dict:
    """The section of captioning: five captions of an image at once; greedy decoding."""
    del slots
    return _task(
        train_ops=recipes.CAPTIONING_TRAIN.format(**sizes),
        eval_ops=recipes.CAPTIONING_EVAL.format(**sizes),
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
