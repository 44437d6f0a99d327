"""What the official TF2 release calls things: the variables of its checkpoints, the fields of its
config.json.

Facts of github.com/google-research/pix2seq (architectures/, models/ar_model.py, configs/), in its
words on the right of each table and in ours on the left. A checkpoint names a variable by the way
to it through the objects of the model.
"""

import re
from collections.abc import Mapping
from typing import Any

from pix2seq_jax.models import pix2seq

# Config fields that configs before the one that brought them lack, with the value that the release
# had without them (configs/config_det_finetune.py and config_base.py). The sizes of the
# transformers have no default.
MODEL_DEFAULTS = {
    "name": "encoder_ar_decoder",
    "resnet_variant": "c1",  # that is, a ViT
    "resnet_depth": 50,
    "resnet_width_multiplier": 1.0,
    "resnet_sk_ratio": 0.0,
    "image_size": 640,
    "patch_size": 16,
    "max_seq_len": 512,
    "vocab_size": 3000,
    "coord_vocab_shift": 1000,
    "text_vocab_shift": 3000,
    "use_cls_token": False,
    "shared_decoder_embedding": True,
    "decoder_output_bias": True,
    "drop_path": 0.1,
    "drop_units": 0.1,
    "drop_att": 0.0,
    "dec_proj_mode": "mlp",
    "pos_encoding": "sin_cos",
    "pos_encoding_dec": "learned",
}
TASKS = {  # our names
    "object_detection": "detection",
    "instance_segmentation": "segmentation",
    "keypoint_detection": "keypoints",
    "captioning": "captioning",
}
_ALL_TASKS = {"weight": 1.0, "top_k": 0, "temperature": 1.0}
TASK_DEFAULTS = {  # of a task's section, by our name (configs/config_multi_task.py)
    "detection": _ALL_TASKS
    | {
        "quantization_bins": 1000,
        "max_instances_per_image": 100,
        "class_label_corruption": "rand_n_fake_cls",
        "noise_bbox_weight": 1.0,
        "eos_token_weight": 0.1,
        "top_p": 0.4,
    },
    "segmentation": _ALL_TASKS
    | {
        "quantization_bins": 1000,
        "max_instances_per_image": 10,
        "max_instances_per_image_test": 10,
        "max_points_per_object": 128,
        "shuffle_polygon_start_point": False,
        "eos_token_weight": 1.0,
        "top_p": 0.8,
        "ensemble_num_samples": 8,
        "ensemble_threshold": 0.5,
        "unbatch": False,
        "crop_to_bbox": False,
        "crop_to_bbox_pad_scale": 0.0,
    },
    "keypoints": _ALL_TASKS
    | {
        "quantization_bins": 1000,
        "max_instances_per_image": 1,
        "max_instances_per_image_test": 1,
        "max_points_per_object": 17,
        "invisible_token_weight": 0.1,
        "points_score_weight": 1.0,
        "eval_suppress_invisible_token": True,
        "top_p": 0.1,
        "unbatch": True,
        "crop_to_bbox": True,
        "crop_to_bbox_pad_scale": 0.5,
    },
    "captioning": _ALL_TASKS
    | {
        "captions_per_image": 5,
        "max_seq_len": 128,
        "eos_token_weight": 0.1,
        "input_seq_drop_rate": 0.5,
        "top_p": 1.0,
    },
}
MODEL_FIELDS = {
    "max_seq_len": "max_seq_len",
    "vocab_size": "vocab_size",
    "enc_layers": "num_encoder_layers",
    "enc_dim": "dim_att",
    "enc_heads": "num_heads",
    "dec_layers": "num_decoder_layers",
    "dec_dim": "dim_att_dec",
    "dec_heads": "num_heads_dec",
    "pos_encoding": "pos_encoding",
    "dec_pos_encoding": "pos_encoding_dec",
    "use_cls_token": "use_cls_token",
    "proj_mode": "dec_proj_mode",
    "shared_embedding": "shared_decoder_embedding",
    "output_bias": "decoder_output_bias",
    "drop_path": "drop_path",
    "drop_units": "drop_units",
    "drop_att": "drop_att",
}
REQUIRED = (
    *(name for name in MODEL_FIELDS.values() if name not in MODEL_DEFAULTS),
    "dim_mlp",
    "dim_mlp_dec",
)

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
ATTENTIONS = {"attention": "mha", "self_attention": "self_mha", "cross_attention": "cross_mha"}
TRANSFORMER_LAYER = {
    "norm": "mha_ln",
    "self_norm": "self_ln",
    "cross_norm": "cross_ln",
    "mlp/norm": "mlp/layernorms/0",
    "mlp/dense1": "mlp/mlp_layers/0/dense1",
    "mlp/dense2": "mlp/mlp_layers/0/dense2",
    **{
        f"{ours}/{part}": f"{theirs}/_{part.replace('out', 'output')}_dense"
        for ours, theirs in ATTENTIONS.items()
        for part in ("query", "key", "value", "out")
    },
}
STACKS = {
    "image_encoder/layers/": "encoder/transformer_encoder/enc_layers",
    "decoder/body/layers/": "decoder/decoder/dec_layers",
}
# keys and values of the cross-attention of all decoder layers, key_kernel and so on
CROSS = "decoder/cross/"
# The lists count layers without variables too: dropout, padding, identity.
RESNET_BLOCKS = {
    "block": {
        "shortcut/conv": "projection_layers/0/conv2d",
        "shortcut/norm": "projection_layers/1/bn",
        **{f"conv{i + 1}/conv": f"conv_relu_dropblock_layers/{3 * i}/conv2d" for i in range(3)},
        **{f"conv{i + 1}/norm": f"conv_relu_dropblock_layers/{3 * i + 1}/bn" for i in range(3)},
    },
    "basic": {
        "shortcut/conv": "shortcut_layers/0/conv2d",
        "shortcut/norm": "shortcut_layers/1/bn",
        **{f"conv{i + 1}/conv": f"conv2d_bn_layers/{2 * i}/conv2d" for i in range(2)},
        **{f"conv{i + 1}/norm": f"conv2d_bn_layers/{2 * i + 1}/bn" for i in range(2)},
    },
}
# Convolution and its norm.
RESNET_STEMS = {
    1: {"stem1": (0, 2)},
    3: {"stem1": (0, 1), "stem2": (2, 3), "stem3": (4, 6)},
}
MODULES = {
    "stem": "encoder/stem_conv",
    "stem/dense": "encoder/stem_projection",
    "image_encoder/stem_norm": "encoder/stem_ln",
    "image_encoder/norm": "encoder/output_ln",
    "projection/dense": "proj",
    "projection/norm": "proj_ln",
    "projection/mlp/norm": "proj_mlp/layernorms/0",
    "projection/mlp/dense1": "proj_mlp/mlp_layers/0/dense1",
    "projection/mlp/dense2": "proj_mlp/mlp_layers/0/dense2",
    "decoder/body/norm": "decoder/output_ln",
}
ARRAYS = {
    "image_encoder/cls_token": "encoder/cls_token_embedding",
    "image_encoder/positions": "encoder/vis_pos_embedding",
    "projection/positions": "vis_pos_embedding",
    "decoder/positions": "decoder/seq_pos_embedding",
    "decoder/embedding": "decoder/token_embedding",
    "decoder/output_embedding": "decoder/outp_token_embedding",
    "decoder/output_bias": "decoder/outp_bias",
}
UNSHARED_EMBEDDING = "decoder/inp_token_embedding"  # its name beside an output embedding
LEAVES = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"}


def is_stacked(name: str) -> bool:
    """Whether our parameter of this name holds one array per layer."""
    return name.startswith((*STACKS, CROSS))


def variable(key: str) -> str | None:
    """Name of the model's variable behind a key of a checkpoint; None for optimizer slots, counters
    and the like.

    Arrays that the release adds to a layer are tracked as attribute and by their own name,
    "ar_decoder/outp_bias" escaped as "ar_decoder.Soutp_bias"; a checkpoint uses either. Both give
    "outp_bias".
    """
    if not key.startswith("model/") or not key.endswith(SUFFIX) or "/.OPTIMIZER_SLOT/" in key:
        return None
    name = re.sub(r"(^|/)\w+\.S", r"\1", key.removeprefix("model/").removesuffix(SUFFIX))
    return re.sub(r"_emb$", "_embedding", name)


def variables(
    name: str, *, layers: int, stem_convolutions: int = 1, shared_embedding: bool = True
) -> list[str]:
    """Names, as `variable` gives them, of one of our parameters: one for each layer if it is
    stacked, else just one.

    Args:
        name: ours, as "decoder/body/layers/self_norm/scale".
        layers: that the parameter is stacked over; is not read for others.
        stem_convolutions: of the ResNet, 1 or 3.
        shared_embedding: whether the logits use the token embedding.
    """
    module, _, leaf = name.rpartition("/")
    leaf = "beta" if module.endswith("norm") and leaf == "bias" else LEAVES.get(leaf, leaf)
    for prefix, theirs in STACKS.items():
        if name.startswith(prefix):
            inner = TRANSFORMER_LAYER[module.removeprefix(prefix)]
            return [f"{theirs}/{i}/{inner}/{leaf}" for i in range(layers)]
    if name.startswith(CROSS):
        part, leaf = leaf.split("_")
        return [
            f"decoder/decoder/dec_layers/{i}/cross_mha/_{part}_dense/{leaf}" for i in range(layers)
        ]
    if match := re.fullmatch(r"stem/resnet/group(\d+)_(block|basic)(\d+)/(.+)", module):
        group, block, part = int(match[1]) - 1, int(match[3]) - 1, RESNET_BLOCKS[match[2]][match[4]]
        return [f"encoder/resnet/block_groups/{group}/layers/{block}/{part}/{leaf}"]
    if match := re.fullmatch(r"stem/resnet/(stem\d)/(conv|norm)", module):
        conv, norm = RESNET_STEMS[stem_convolutions][match[1]]
        part = f"{conv}/conv2d" if match[2] == "conv" else f"{norm}/bn"
        return [f"encoder/resnet/initial_conv_relu_max_pool/{part}/{leaf}"]
    if name == "decoder/embedding" and not shared_embedding:
        return [UNSHARED_EMBEDDING]
    return [ARRAYS[name] if name in ARRAYS else f"{MODULES[module]}/{leaf}"]


def image_size(model: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a config's model section with defaults; early configs give one number."""
    size = model["image_size"]
    if isinstance(size, int):
        size = (size, size)
    if not (
        isinstance(size, list | tuple)
        and len(size) == 2
        and all(isinstance(n, int) and n > 0 for n in size)
    ):
        raise ValueError(
            f"model.image_size={model['image_size']!r}; give a number of pixels or [height, width]"
        )
    return tuple(size)


def model_section(config: Mapping[str, Any]) -> dict[str, Any]:
    """`model` of an official config with the defaults filled in.

    Raises:
        ValueError: it is missing, lacks a size, or is of a model that is no Pix2Seq.
    """
    model = config.get("model")
    if not isinstance(model, dict):
        raise ValueError(
            "it has no section 'model'; give the config.json that the official run wrote"
        )
    if missing := sorted(set(REQUIRED) - set(model)):
        raise ValueError(
            f"its model lacks {missing}; give the config.json that the official run wrote"
        )
    model = MODEL_DEFAULTS | model
    if model["name"] != MODEL_DEFAULTS["name"]:
        raise ValueError(
            f"model.name={model['name']!r}; only {MODEL_DEFAULTS['name']!r} (Pix2Seq) can be "
            "imported"
        )
    if model["resnet_variant"] != "c1" and model["resnet_sk_ratio"]:
        raise ValueError(
            f"model.resnet_sk_ratio={model['resnet_sk_ratio']}: selective kernels are not "
            "built; only 0 is"
        )
    return model


def model_fields(model: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of models.pix2seq.Pix2Seq of a `model_section`."""
    fields = {ours: model[theirs] for ours, theirs in MODEL_FIELDS.items()}
    fields["image_size"] = image_size(model)
    # The release hands on whole ratios of the widths.
    for part, suffix in (("enc", ""), ("dec", "_dec")):
        width = model[f"dim_att{suffix}"]
        fields[f"{part}_mlp"] = width * (model[f"dim_mlp{suffix}"] // width)
    if model["resnet_variant"] == "c1":
        whole = all(side % model["patch_size"] == 0 for side in fields["image_size"])
        name = "vit" if whole else "vit_crop"
        fields["backbone"] = {"name": name, "patch_size": model["patch_size"]}
    else:
        fields["backbone"] = {
            "name": "resnet",
            "variant": model["resnet_variant"],
            "depth": model["resnet_depth"],
            "width": float(model["resnet_width_multiplier"]),
        }
    return pix2seq.complete(fields)


def task_sections(config: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(sections by our names of tasks, with the defaults filled in; official names of the tasks
    that are none of ours).

    Several `tasks` go before `task`, which otherwise is the one that counts. Early configs have
    neither: detection.

    Raises:
        ValueError: there are tasks, but none that is known.
    """
    several, one = config.get("tasks") or [], config.get("task")
    listed = several if len(several) > 1 or not one else [one]
    named = {
        task["name"]: task for task in reversed(listed) if isinstance(task, dict) and "name" in task
    }
    others = sorted(set(named) - set(TASKS))
    if others and len(others) == len(named):
        raise ValueError(
            f"its tasks are {others}; none of them is known here, only {sorted(TASKS)}"
        )
    ours = {TASKS[name]: task for name, task in named.items() if name in TASKS}
    if not ours:
        ours = {"detection": {}}
    sections = {name: TASK_DEFAULTS[name] | ours[name] for name in TASKS.values() if name in ours}
    return sections, others


def num_bins(sections: Mapping[str, Mapping[str, Any]]) -> int:
    """Coordinate bins of `task_sections`; ValueError where tasks differ, because they share the
    tokens."""
    bins = {
        name: section["quantization_bins"]
        for name, section in sections.items()
        if "quantization_bins" in section
    }
    if len(set(bins.values())) > 1:
        raise ValueError(
            f"quantization_bins of its tasks are {bins}; all tasks share the coordinate "
            "tokens, so they must agree"
        )
    return next(iter(bins.values()), TASK_DEFAULTS["detection"]["quantization_bins"])


def crop_scale(section: Mapping[str, Any]) -> float:
    """Size of the crop around an object's box, relative to the box; 0 for none. The release crops
    unbatched objects."""
    if not (section["unbatch"] and section["crop_to_bbox"]):
        return 0.0
    return 1 + 2 * float(section["crop_to_bbox_pad_scale"])  # the padding is that of one side
