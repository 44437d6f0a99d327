"""Where data sets keep their files, and the classes and keypoints of COCO."""

from pix2seq_jax.files.locations import path_of

# Where a COCO-format folder keeps its parts; `{split}` is one of "splits". "hint" says how to get
# it.
_DRAW = "python -m pix2seq_jax.data.shapes --out=data/shapes"

LAYOUTS = {
    "coco": {
        "root": "data/coco",
        "splits": ("train2017", "val2017"),
        "hint": (
            "put COCO 2017 (cocodataset.org) there: data/coco/train2017/*.jpg, "
            "data/coco/val2017/*.jpg and data/coco/annotations/instances_{train,val}2017.json; "
            f"or run on the embedded data: `{_DRAW}`, then the same config with :shapes"
        ),
    },
    "objects365": {
        "root": "data/objects365",
        "splits": ("train", "val"),
        "hint": (
            "put Objects365 (objects365.org) there: its patches of images in "
            "data/objects365/{train,val}, its annotations as "
            "data/objects365/annotations/zhiyuan_objv2_{train,val}.json (or "
            "instances_{train,val}.json)"
        ),
    },
    "shapes": {
        "root": "data/shapes",
        "splits": ("train", "val"),
        "hint": f"draw it first: `{_DRAW}`",
    },
    "folder": {
        "splits": ("train", "val"),
        ("hint"): (
            "a data folder holds train/, val/ and annotations/instances_{train,val}.json; see "
            "the README"
        ),
    },
}

# How annotation files are called otherwise: Objects365 is distributed as zhiyuan_objv2_train.json.
OTHER_NAMES = {"instances_": "zhiyuan_objv2_"}

# COCO's 80 classes by category id; some ids up to 90 are not used.
# fmt: off
COCO_CATEGORIES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train",
    8: "truck", 9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign",
    14: "parking meter", 15: "bench", 16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep",
    21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe", 27: "backpack",
    28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove",
    41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass",
    47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple",
    54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza",
    60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote",
    76: "keyboard", 77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink",
    82: "refrigerator", 84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear",
    89: "hair drier", 90: "toothbrush",
}
# fmt: on

IMAGES = "{root}/{split}"

ANNOTATIONS = {  # by the name of their paths in a config's data section
    "annotations": "{root}/annotations/instances_{split}.json",
    "keypoints": "{root}/annotations/person_keypoints_{split}.json",
    "captions": "{root}/annotations/captions_{split}.json",
}


def existing(annotations: str) -> str:
    """The annotation file, or the one under another name that the data set is distributed with,
    where only that exists."""
    path = path_of(annotations)
    for usual, other in OTHER_NAMES.items():
        renamed = path.with_name(path.name.replace(usual, other))
        if not path.exists() and renamed.exists():
            return str(renamed)
    return annotations
