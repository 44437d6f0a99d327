"""description.json of an export: all that a caller of its functions must know, in words of JSON."""

import dataclasses
from typing import Any

import ml_collections
import sentencepiece

from pix2seq_jax import vocab as tokens
from pix2seq_jax.data.ops import geometry, image
from pix2seq_jax.data.ops.chain import OPS, Chain, read_chain
from pix2seq_jax.evaluation import make_host_tasks
from pix2seq_jax.tasks import Task

FILE = "description.json"
VERSION = 1
# Of ops on images, what the loader can do.
PORTABLE = {image.Resize: "resize", image.CropToBox: "crop_to_box", image.PadImage: "pad_image"}


def describe(
    config: ml_collections.ConfigDict, model, made: dict[str, Task], *, step: int, text
) -> dict[str, Any]:
    """The content of description.json.

    Args:
        config: resolved.
        model: that is exported.
        made: its tasks by name.
        step: of the weights.
        text: of the captions (data.text.Text), or None.

    Raises:
        ValueError: preprocessing that the loader cannot do.
    """
    return {
        "version": VERSION,
        "step": step,
        "image": {
            "size": list(model.image_size),
            "layout": "f32[B,H,W,3], RGB, from 0 to 1",
            "range": "resized pixels are rounded to bytes; byte v becomes v / 255",
        },
        "coordinates": "yxyx and yx, in pixels of the image with its EXIF orientation applied",
        "classes": {
            "names": list(config.data.category_names),  # of labels 1, 2, ...
            "ids": list(config.data.category_ids),
        },
        "keypoints": {
            "names": list(config.data.keypoint_names),
            "skeleton": [list(pair) for pair in config.data.skeleton],
        },
        "vocabulary": _vocabulary(next(iter(made.values())).vocab),
        "tasks": {name: _task(config, name, task) for name, task in made.items()},
        "pieces": _pieces(text),
    }


def check_portable(chain: Chain, field: str) -> None:
    """Raises ValueError for an op on images that the loader cannot do; `field` names the chain."""
    for op in chain.image_ops:
        if type(op) not in PORTABLE:
            names = {kind: name for name, kind in OPS.items()}
            raise ValueError(
                f"{field}: {names[type(op)]} cannot be exported, only "
                f"{', '.join(PORTABLE.values())} can; evaluate with these"
            )


def _task(config: ml_collections.ConfigDict, name: str, task: Task) -> dict[str, Any]:
    """A task: how its images are prepared, what prompts it, how tokens are drawn."""
    section, host_task = config.tasks[name], make_host_tasks(config)[name]
    chain, field = read_chain(section.eval_ops), f"config.tasks.{name}.eval_ops"
    check_portable(chain, field)
    prompting = host_task.prompting(config.data, list(config.data.category_ids))
    return {
        "file": f"decode_{name}.jax_export",
        "prompted": task.prompted,
        "finds_boxes": host_task.finds_boxes,
        "windows": task.prompted and not chain.keeps_whole,  # an image of its own for each box
        "preprocessing": [_op(op) for op in chain.image_ops],
        "prompt_labels": prompting,  # null: all
        "most_objects": host_task.most_objects(final=True),  # 0: all
        "mask_threshold": dict(section).get("mask_threshold"),
        "sampler": section.sampler,
        "samples": section.num_samples,
        "max_len": task.max_len,  # prompt and response
        "end_token": task.eos_token,
        "class_positions": task.class_positions,  # start, stop, first, every
    }


def _op(op) -> dict[str, Any]:
    fields = dataclasses.asdict(op)
    if "size" in fields:
        fields["size"] = list(geometry.height_width(op.size))
    return {"op": PORTABLE[type(op)]} | fields


def _vocabulary(vocab: tokens.Vocab) -> dict[str, Any]:
    """Half-open ranges of tokens, and the special ones."""
    names = ("PADDING", "FAKE", "SEPARATOR", "INVISIBLE")
    names += tuple(name for name in vars(tokens) if name.startswith("PROMPT_"))
    points = ("POINT_PADDING", "POINT_SEPARATOR", "POINT_INVISIBLE")
    return {
        "size": vocab.size,
        "classes": list(vocab.class_range),
        "coordinates": list(vocab.coord_range),
        "text": list(vocab.text_range),
        "special": {name.lower(): getattr(tokens, name) for name in names},
        "points": {name.removeprefix("POINT_").lower(): getattr(tokens, name) for name in points},
    }


def _pieces(text) -> list[str] | None:
    """The text pieces by their number, as SentencePiece writes them ("▁" is a space)."""
    if text is None:
        return None
    processor = sentencepiece.SentencePieceProcessor(model_proto=text.to_bytes())
    return [processor.id_to_piece(number) for number in range(processor.get_piece_size())]
