"""The settings of the embedded data: what learns on two cores in 15 minutes."""

import ml_collections

from pix2seq_jax.config.sections import share_out

# No jitter, objects in the order of their position, outlines and keypoints in crops.
SHAPES_TRAIN = {
    "detection": (
        "decode|resize({size}, antialias=True)|flip_lr|filter_objects|order(dist2ori)|"
        "pad_image({side})|pad_objects({max_instances})"
    ),
    "segmentation": (
        "decode|crop_to_box(1.5)|resize({size}, antialias=True)|flip_lr|pad_image({side})|"
        "pad_objects(1)"
    ),
    "keypoints": (
        "decode|crop_to_box(2.0)|resize({size}, antialias=True)|flip_lr|pad_image({side})|"
        "pad_objects(1)"
    ),
    "captioning": "decode|resize({size}, antialias=True)|flip_lr|pad_image({side})",
}
SHAPES_SEGMENTATION_EVAL = (
    "decode|crop_to_box(1.5)|resize({size}, antialias=True)|pad_image({side})|pad_objects(1)"
)
# Ours, for the demo.
SHAPES_MIX = {"detection": 0.5, "segmentation": 0.25, "captioning": 0.15, "keypoints": 0.1}
TEXT_PIECES = 256


def change(config: ml_collections.ConfigDict, slots: int) -> None:
    """Changes a config to the embedded data and to what learns on two cores in 15 minutes.

    What the paper's settings would learn in days has to be learned in some 100,000 images here:
    objects in the order of their position instead of a random one, no jitter, no noise boxes,
    coarse bins, Muon at the largest rate that still helps, short captions, and short outlines of
    objects in crops.
    """
    changes = {
        "detection": {},
        "segmentation": {
            "max_instances": 1,
            "max_points": 24,
            "objects": slots,
            "objects_final": slots,
            "batch_size": 16,
            "eval_ops": SHAPES_SEGMENTATION_EVAL,
            "eval_batch_size": 200,
            "padding_weight": 0.0,
        },
        "keypoints": {"batch_size": 8, "objects": slots},
        "captioning": {"batch_size": 8, "max_tokens": 32, "padding_weight": 0.0},
    }
    for name, section in config.tasks.items():
        section.update(changes[name] | {"train_ops": SHAPES_TRAIN[name]})
    share_out(config, SHAPES_MIX)
    config.data.text_pieces = TEXT_PIECES
    config.data.cache = 0.5  # GiB: all images and annotations take 0.35
    config.vocab.num_bins = 48
    config.model.max_seq_len = 0
    config.train.update({"batch_size": 48, "steps": 2_300, "log_steps": 100, "eval_steps": 5_000})
    config.schedule.update({"name": "cosine", "base": 4e-3, "warmup": 0.03})
    config.optim.update({"name": "muon", "clip": 1.0})
    config.eval.update({"batch_size": 100, "images_in_training": 100})
