"""Variants as data: encoders, data layouts, preprocessing strings. Plain dicts, no logic.

Sizes are those of the released models (Pix2Seq, section 3.2; Pix2Seq v2, section 4); `tiny` and `small` are ours, for
machines without an accelerator and for smoke tests.
"""

# Every field of models.pix2seq.Pix2Seq but image_size, vocab_size and max_seq_len, which depend on data and tasks.
MODEL = {
    "encoder": "vit",
    "patch_size": 16,
    "resnet_depth": 50,
    "resnet_variant": "standard",
    "resnet_width": 1.0,
    "frozen_bn": False,
    "enc_layers": 12,
    "enc_dim": 768,
    "enc_mlp": 3072,
    "enc_heads": 12,
    "dec_layers": 6,
    "dec_dim": 512,
    "dec_mlp": 2048,
    "dec_heads": 16,
    "pos_encoding": "sin_cos",
    "dec_pos_encoding": "learned",
    "use_cls_token": False,
    "proj_mode": "mlp",
    "shared_embedding": True,
    "output_bias": True,
    "drop_path": 0.1,
    "drop_units": 0.1,
    "drop_att": 0.0,
    "attention_init": "keras",
    "dtype": "float32",
    "remat": False,
}

_RESNET = {
    "encoder": "resnet",
    "enc_layers": 6,
    "enc_dim": 256,
    "enc_mlp": 1024,
    "enc_heads": 8,
    "dec_layers": 6,
    "dec_dim": 256,
    "dec_mlp": 1024,
    "dec_heads": 8,
}
_RESNET_C = {
    "encoder": "resnet",
    "resnet_variant": "c4",
    "enc_layers": 12,
    "enc_dim": 512,
    "enc_mlp": 2048,
    "enc_heads": 16,
    "dec_layers": 8,
    "dec_dim": 512,
    "dec_mlp": 2048,
    "dec_heads": 16,
}
ARCHITECTURES = {
    "vit-b": {},
    "vit-l": {"enc_layers": 24, "enc_dim": 1024, "enc_mlp": 4096, "enc_heads": 16, "dec_layers": 8},
    "resnet50": _RESNET,
    "resnet18": _RESNET | {"resnet_depth": 18},
    "resnet34": _RESNET | {"resnet_depth": 34},
    "resnet101": _RESNET | {"resnet_depth": 101},
    "resnet152": _RESNET | {"resnet_depth": 152},
    "resnet50-dc5": _RESNET | {"resnet_variant": "dc5"},
    "resnet101-dc5": _RESNET | {"resnet_variant": "dc5", "resnet_depth": 101},
    "resnet50-c4": _RESNET_C,
    "small": {
        "patch_size": 8,
        "enc_layers": 6,
        "enc_dim": 256,
        "enc_mlp": 1024,
        "enc_heads": 8,
        "dec_layers": 4,
        "dec_dim": 256,
        "dec_mlp": 1024,
        "dec_heads": 8,
        "drop_path": 0.0,
        "drop_units": 0.0,
        "attention_init": "matrix",
    },
    "tiny": {
        "patch_size": 8,
        "enc_layers": 2,
        "enc_dim": 128,
        "enc_mlp": 512,
        "enc_heads": 4,
        "dec_layers": 2,
        "dec_dim": 128,
        "dec_mlp": 512,
        "dec_heads": 4,
        "drop_path": 0.0,
        "drop_units": 0.0,
        "attention_init": "matrix",
    },
}

# Where a COCO-format folder keeps its parts; `{split}` is one of "splits". "hint" says how to get it.
_DRAW = "python -m pix2seq_jax.data.shapes --out=data/shapes"
LAYOUTS = {
    "coco": {
        "root": "data/coco",
        "splits": ("train2017", "val2017"),
        "hint": (
            "put COCO 2017 (cocodataset.org) there: data/coco/train2017/*.jpg, data/coco/val2017/*.jpg and "
            "data/coco/annotations/instances_{train,val}2017.json; or run on the embedded data: "
            f"`{_DRAW}`, then the same config with :shapes"
        ),
    },
    "objects365": {
        "root": "data/objects365",
        "splits": ("train", "val"),
        "hint": (
            "put Objects365 (objects365.org) there: its patches of images in data/objects365/{train,val}, its "
            "annotations as data/objects365/annotations/zhiyuan_objv2_{train,val}.json (or instances_{train,val}.json)"
        ),
    },
    "shapes": {"root": "data/shapes", "splits": ("train", "val"), "hint": f"draw it first: `{_DRAW}`"},
    "folder": {
        "splits": ("train", "val"),
        "hint": "a data folder holds train/, val/ and annotations/instances_{train,val}.json; see the README",
    },
}
# How annotation files are called otherwise: Objects365 is distributed as zhiyuan_objv2_train.json.
OTHER_NAMES = {"instances_": "zhiyuan_objv2_"}
# COCO's 80 classes by category id; some ids up to 90 are not used.
# fmt: off
COCO_CATEGORIES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe",
    27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove", 41: "skateboard",
    42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife",
    50: "spoon", 51: "bowl", 52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot",
    58: "hot dog", 59: "pizza", 60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard",
    77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book",
    85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}
# fmt: on

# How the published models were trained. `batch_size` counts rows, `repeats` of each image; an epoch of COCO 2017 is all
# of its training images once.
_COCO_IMAGES = 118_287
RECIPES = {
    # Pix2Seq, section 4.1 and appendix: 300 epochs, every image twice in a batch, 2000 bins. The learning rate is
    # quoted as 3e-3; those who reproduced it needed 1e-3 or less.
    "scratch": {
        **{"data": "coco", "arch": "resnet50", "size": 1333, "num_bins": 2000},
        **{"batch_size": 256, "repeats": 2, "base": 1e-3},  # 128 images
        **{"steps": 300 * _COCO_IMAGES // 128, "warmup": 10 * _COCO_IMAGES // 128},
    },
    # 400k steps of 256 images; the warm-up is not published.
    "pretrain": {
        **{"data": "objects365", "arch": "vit-b", "size": 640, "num_bins": 1000},
        **{"batch_size": 256, "repeats": 1, "base": 1e-3, "steps": 400_000, "warmup": 20_000},
    },
    # 20 to 60 epochs at 3e-5 to 1e-4; the release's config has 40, the first two of them warm-up.
    "finetune": {
        **{"data": "coco", "arch": "vit-b", "size": 640, "num_bins": 1000},
        **{"batch_size": 128, "repeats": 1, "base": 1e-4},
        **{"steps": 40 * _COCO_IMAGES // 128, "warmup": 2 * _COCO_IMAGES // 128},
    },
    # Pix2Seq v2, section 4.1: 100 epochs, the first 10 of them warm-up.
    "multitask": {
        **{"data": "coco", "arch": "vit-b", "size": 640, "num_bins": 1000},
        **{"batch_size": 128, "repeats": 1, "base": 1e-4},
        **{"steps": 100 * _COCO_IMAGES // 128, "warmup": 10 * _COCO_IMAGES // 128},
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
        ("pretrain", arch, 640): f"box AP {_BOX_AP['finetune', arch][640]} on COCO after fine-tuning"
        for arch in ("resnet50", "resnet50-c4", "vit-b", "vit-l")
    },
    ("multitask", "vit-b", 640): "box AP 44.2, mask AP 36.9, keypoint AP 65.0, BLEU-4 34.3",
    ("multitask", "vit-b", 1024): "box AP 46.5, mask AP 38.2, keypoint AP 64.8, BLEU-4 34.9",
}

IMAGES = "{root}/{split}"
ANNOTATIONS = {  # by the name of their paths in a config's data section
    "annotations": "{root}/annotations/instances_{split}.json",
    "keypoints": "{root}/annotations/person_keypoints_{split}.json",
    "captions": "{root}/annotations/captions_{split}.json",
}

# `size` is the longer side of the resized image in pixels, `side` that of the padded one, whole patches.
# Pix2Seq, appendix B: scale jitter from 0.3 to 2, random crop and flip; noise boxes fill up the instances.
DETECTION_TRAIN = (
    "decode|scale_jitter({size}, 0.3, 2.0)|fixed_crop({size})|flip_lr|filter_objects|order(random)|"
    "truncate({slots})|noise_boxes({slots})|pad_image({side})|pad_objects({slots})"
)
DETECTION_EVAL = "decode|resize({size}, antialias=True)|pad_image({side})|pad_objects({slots})"
# Pix2Seq v2, section 3.3 and appendix: smaller jitter for points; keypoints in a crop of twice the person's box; colour
# jitter for captions. These do not flip: a caption may say left.
SEGMENTATION_TRAIN = (
    "decode|scale_jitter({size}, 0.3, 1.0)|fixed_crop({size})|flip_lr|filter_objects|order(random)|"
    "pad_image({side})|pad_objects({objects})"
)
SEGMENTATION_EVAL = "decode|resize({size}, antialias=True)|pad_image({side})|pad_objects({objects})"
KEYPOINTS_TRAIN = "decode|crop_to_box(2.0)|scale_jitter({size}, 0.3, 1.0)|flip_lr|pad_image({side})|pad_objects(1)"
KEYPOINTS_EVAL = "decode|crop_to_box(2.0)|resize({size}, antialias=True)|pad_image({side})|pad_objects(1)"
CAPTIONING_TRAIN = "decode|scale_jitter({size}, 0.3, 2.0)|fixed_crop({size})|color_jitter(0.5)|pad_image({side})"
CAPTIONING_EVAL = "decode|resize({size}, antialias=True)|pad_image({side})"
# The embedded data: no jitter, objects in the order of their place, outlines in crops.
SHAPES_TRAIN = {
    "detection": (
        "decode|resize({size}, antialias=True)|flip_lr|filter_objects|order(dist2ori)|pad_image({side})|"
        "pad_objects({slots})"
    ),
    "segmentation": "decode|crop_to_box(1.5)|resize({size}, antialias=True)|flip_lr|pad_image({side})|pad_objects(1)",
    "keypoints": "decode|crop_to_box(2.0)|resize({size}, antialias=True)|flip_lr|pad_image({side})|pad_objects(1)",
    "captioning": "decode|resize({size}, antialias=True)|flip_lr|pad_image({side})",
}
SHAPES_SEGMENTATION_EVAL = "decode|crop_to_box(1.5)|resize({size}, antialias=True)|pad_image({side})|pad_objects(1)"

# Share of each task in the loss (Pix2Seq v2, section 4.1).
TASK_MIX = {"detection": 0.1782, "segmentation": 0.7128, "captioning": 0.099, "keypoints": 0.01}

# The 17 joints of a person in COCO's order. OKS allows each joint an error of 2 sigma x the root of the object's area
# (cocodataset.org/#keypoints-eval); limbs are pairs of joints counted from 0, where COCO's files count from 1.
# fmt: off
COCO_KEYPOINTS = {
    "names": (
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    "sigmas": (
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
        0.089,
    ),
    "skeleton": (
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
}
# fmt: on
SHAPES_MIX = {"detection": 0.55, "segmentation": 0.25, "captioning": 0.1, "keypoints": 0.1}  # ours, for the demo
