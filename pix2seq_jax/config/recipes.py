"""How the published models were trained, what they reach, and their preprocessing."""

# How the published models were trained. `batch_size` counts rows, `repeats` of each image; an epoch
# of COCO 2017 is all of its training images once. `warmup` is a share of the steps, so that it is
# shorter in a shorter run.
COCO_IMAGES = 118_287
SCRATCH_EPOCHS, FINETUNE_EPOCHS = 300, 40
RECIPES = {
    # Pix2Seq, section 4.1 and appendix: 300 epochs, every image twice in a batch, 2000 bins. The
    # learning rate is quoted as 3e-3; those who reproduced it needed 1e-3 or less.
    "scratch": {
        "data": "coco",
        "arch": "resnet50",
        "size": 1333,
        "num_bins": 2000,
        "batch_size": 256,  # 128 images
        "repeats": 2,
        "base": 1e-3,
        "steps": SCRATCH_EPOCHS * COCO_IMAGES // 128,
        "warmup": 10 / SCRATCH_EPOCHS,
    },
    # 400k steps of 256 images; the warm-up is not published.
    "pretrain": {
        "data": "objects365",
        "arch": "vit-b",
        "size": 640,
        "num_bins": 1000,
        "batch_size": 256,
        "repeats": 1,
        "base": 1e-3,
        "steps": 400_000,
        "warmup": 20 / 400,
    },
    # 20 to 60 epochs at 3e-5 to 1e-4; the release's config has 40, the first two of them warm-up.
    "finetune": {
        "data": "coco",
        "arch": "vit-b",
        "size": 640,
        "num_bins": 1000,
        "batch_size": 128,
        "repeats": 1,
        "base": 1e-4,
        "steps": FINETUNE_EPOCHS * COCO_IMAGES // 128,
        "warmup": 2 / FINETUNE_EPOCHS,
    },
    # Pix2Seq v2, section 4.1: 100 epochs, the first 10 of them warm-up.
    "multitask": {
        "data": "coco",
        "arch": "vit-b",
        "size": 640,
        "num_bins": 1000,
        "batch_size": 128,
        "repeats": 1,
        "base": 1e-4,
        "steps": 100 * COCO_IMAGES // 128,
        "warmup": 10 / 100,
    },
}
# What the papers report on COCO's validation images, by recipe, architecture and image size.
_BOX_AP = {
    ("scratch", "resnet50"): {1333: 43.0},
    ("scratch", "resnet101"): {1333: 44.5},
    ("scratch", "resnet50-dc5"): {1333: 43.2},
    ("scratch", "resnet101-dc5"): {1333: 45.0},
    ("finetune", "resnet50"): {640: 39.1, 1024: 41.7, 1333: 42.6},
    ("finetune", "resnet50-c4"): {640: 44.7, 1024: 46.9, 1333: 47.3},
    ("finetune", "vit-b"): {640: 44.2, 1024: 46.5, 1333: 47.1},
    ("finetune", "vit-l"): {640: 47.6, 1024: 49.0, 1333: 50.0},
}
PUBLISHED = {
    **{(*key, size): f"box AP {ap}" for key, row in _BOX_AP.items() for size, ap in row.items()},
    **{
        (
            "pretrain",
            arch,
            640,
        ): f"box AP {_BOX_AP['finetune', arch][640]} on COCO after fine-tuning"
        for arch in ("resnet50", "resnet50-c4", "vit-b", "vit-l")
    },
    ("multitask", "vit-b", 640): "box AP 44.2, mask AP 36.9, keypoint AP 65.0, BLEU-4 34.3",
    ("multitask", "vit-b", 1024): "box AP 46.5, mask AP 38.2, keypoint AP 64.8, BLEU-4 34.9",
}

# `size` is the longer side of the resized image in pixels, `side` that of the padded one, whole
# patches; see config.sections. Pix2Seq, appendix B: scale jitter from 0.3 to 2, random crop and
# flip; noise boxes fill up the instances.
DETECTION_TRAIN = (
    "decode|scale_jitter({size}, 0.3, 2.0)|fixed_crop({size})|flip_lr|filter_objects|order(random)|"
    "truncate({max_instances})|noise_boxes({max_instances})|"
    "pad_image({side})|pad_objects({max_instances})"
)
DETECTION_EVAL = (
    "decode|resize({size}, antialias=True)|pad_image({side})|pad_objects({max_instances})"
)
# Pix2Seq v2, section 3.3 and appendix: smaller jitter for points; keypoints in a crop of twice the
# person's box; colour jitter for captions. These do not flip: a caption may say left.
SEGMENTATION_TRAIN = (
    "decode|scale_jitter({size}, 0.3, 1.0)|fixed_crop({size})|flip_lr|filter_objects|order(random)|"
    "pad_image({side})|pad_objects({max_instances})"
)
SEGMENTATION_EVAL = "decode|resize({size}, antialias=True)|pad_image({side})|pad_objects({objects})"
KEYPOINTS_TRAIN = (
    "decode|crop_to_box(2.0)|scale_jitter({size}, 0.3, 1.0)|flip_lr|pad_image({side})|"
    "pad_objects(1)"
)
KEYPOINTS_EVAL = (
    "decode|crop_to_box(2.0)|resize({size}, antialias=True)|pad_image({side})|pad_objects(1)"
)
CAPTIONING_TRAIN = (
    "decode|scale_jitter({size}, 0.3, 2.0)|fixed_crop({size})|color_jitter(0.5)|pad_image({side})"
)
CAPTIONING_EVAL = "decode|resize({size}, antialias=True)|pad_image({side})"

# Share of each task in the loss (Pix2Seq v2, section 4.1).
TASK_MIX = {"detection": 0.1782, "segmentation": 0.7128, "captioning": 0.099, "keypoints": 0.01}
