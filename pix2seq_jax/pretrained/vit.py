"""A vision transformer of another library as parameters of our encoder."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import numpy as np

from pix2seq_jax.experiment.logs import log
from pix2seq_jax.models.layers import NORM_EPSILON
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.official.transfer import Part
from pix2seq_jax.pretrained import pixels, resizing
from pix2seq_jax.pretrained.mapping import Arrays, Notes, Taken, VitSource, matrix

ENCODER, LAYERS = "params/image_encoder", "params/image_encoder/layers"
BIASES = ("query", "key", "value", "out", "dense1", "dense2")
LAST_NORM = {"norm.scale", "norm.bias"}
NO_FINAL_NORM = "the file has no norm of the tokens after the last layer; ours starts fresh"


def convert(
    arrays: Arrays, source: VitSource, beside: Mapping[str, Any], model: Pix2Seq, pixels_name: str
) -> tuple[dict[str, Part], Notes]:
    """(our parameters by name, for the report what became of the rest).

    Args:
        arrays: of the file.
        source: its names.
        beside: of `files.File`.
        model: that takes them.
        pixels_name: how images are normalised there, one of pixels.NORMALISATIONS.

    Raises:
        ValueError: the architecture is another one; the text has no file name yet.
    """
    taken = Taken(source, source.prepare(arrays))
    taken.refuse()
    weights, lines = _collect(taken), list(source.facts)
    lines += check(weights, beside, source, model)
    parts = _layers(weights, model, lines)
    kernel, detail = weights["patch.kernel"], ""
    side = model.backbone.patch_size
    if kernel.shape[0] != side:
        detail = f"patches of {kernel.shape[0]} pixels -> {side}"
        kernel = resizing.resize_patches(kernel, side)
    kernel, shift = pixels.fold(kernel, pixels_name)
    lines.append(f"pixels: normalisation {pixels_name!r} folded into params/stem")
    bias = weights["patch.bias"] if "patch.bias" in weights else np.zeros_like(shift)
    parts["params/stem/kernel"] = Part("resized" if detail else "copied", detail, kernel)
    parts["params/stem/bias"] = Part("copied", "", bias + shift)
    parts |= _tokens(weights, model, lines)
    if "norm.scale" in weights:
        for what in ("scale", "bias"):
            parts[f"{ENCODER}/norm/{what}"] = Part("copied", "", weights[f"norm.{what}"])
    else:
        lines.append(NO_FINAL_NORM)
    return parts, Notes(lines, taken.rest())


def check(
    weights: Arrays, beside: Mapping[str, Any], source: VitSource, model: Pix2Seq
) -> list[str]:
    """What the report says of sizes that the weights do not show.

    Raises:
        ValueError: names the fields of config.model that must be others.
    """
    layers, dim, mlp = weights["dense1.kernel"].shape
    there = {"enc_layers": layers, "enc_dim": dim, "enc_mlp": mlp, "stem_norm": False}
    heads = beside.get("num_attention_heads")
    lines = []
    if "query.heads" in weights:
        heads = int(weights["query.heads"])
    if heads:
        there["enc_heads"] = heads
    else:
        lines.append(
            f"heads: the file does not say how many; taken for model.enc_heads={model.enc_heads}, "
            f"{dim // model.enc_heads} wide (the usual ones are 64 wide)"
        )
    wrong = {name: value for name, value in there.items() if getattr(model, name) != value}
    if wrong:
        wrong |= _of_tokens(weights, model)
        flags = [f"--config.model.{name}={str(value).lower()}" for name, value in wrong.items()]
        raise ValueError(
            f"its encoder differs from the model's (a ViT has no norm before the positions); give "
            f"{' '.join(flags)}, or another file"
        )
    activation = beside.get("hidden_act", "gelu")
    if activation != "gelu":
        raise ValueError(
            f"its config.json has hidden_act={activation!r} and our encoder the exact GELU; give "
            "an encoder with 'gelu'"
        )
    eps = beside.get("layer_norm_eps", source.eps)
    lines.append(
        f"eps of the norms: {eps:g} there, {NORM_EPSILON:g} here"
        + ("" if eps == NORM_EPSILON else "; features differ where the variance is near these")
    )
    return lines


def _of_tokens(weights: Arrays, model: Pix2Seq) -> dict[str, Any]:
    """The fields of config.model with which positions and class token of the file are taken, where
    they have other values."""
    wanted = {}
    if "positions" in weights and model.pos_encoding != "learned":
        wanted["pos_encoding"] = "learned"
    if "cls" in weights and not model.use_cls_token:
        wanted["use_cls_token"] = True
    return wanted


def _collect(taken: Taken) -> Arrays:
    """The weights by what they are, those of layers stacked on a leading axis; kernels are
    [inputs,outputs], patches [p,p,3,D], positions [rows,D], the class token [D].

    `query.heads` is a number, where the layout of the file shows it.
    """
    source, weights = taken.source, {}
    for what, name in source.table.items():
        if "{layer}" in name:
            layers = []
            while (array := taken.take(name.format(layer=len(layers)))) is not None:
                layers.append(matrix(array, source.layout) if _is_kernel(what, array) else array)
            if layers:
                weights[what] = np.stack(layers)
        elif (array := taken.take(name)) is not None:
            weights[what] = matrix(array, source.layout) if array.ndim == 4 else array
    _check_whole(weights)
    _split_and_flatten(weights)
    return weights


def _is_kernel(what: str, array: np.ndarray) -> bool:
    return what.endswith("kernel") and array.ndim == 2


def _check_whole(weights: Arrays) -> None:
    """Raises ValueError where a part that every ViT has is missing, or is not in all layers."""
    needed = ["patch.kernel", "norm1.scale", "norm1.bias", "norm2.scale", "norm2.bias"]
    needed += ["out.kernel", "dense1.kernel", "dense2.kernel"]
    if "qkv.kernel" not in weights:
        needed += ["query.kernel", "key.kernel", "value.kernel"]
    if LAST_NORM & weights.keys():
        needed += sorted(LAST_NORM)
    missing = [what for what in needed if what not in weights]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}; get the file again, it is not whole")
    layers = len(weights["norm1.scale"])
    for what, array in weights.items():
        alone = what.startswith(("patch.", "norm.")) or what in ("cls", "positions")
        if not alone and len(array) != layers:
            raise ValueError(
                f"{what} is there for {len(array)} layers and norm1.scale for {layers}; get the "
                "file again, it is not whole"
            )


def _split_and_flatten(weights: Arrays) -> None:
    """Queries, keys and values become three; axes of heads and axes of length 1 go away."""
    for what in ("kernel", "bias"):
        if f"qkv.{what}" in weights:
            thirds = np.split(weights.pop(f"qkv.{what}"), 3, axis=-1)
            for part, third in zip(("query", "key", "value"), thirds, strict=True):
                weights[f"{part}.{what}"] = third
    layers, dim = weights["norm1.scale"].shape
    if weights["query.kernel"].ndim == 4:
        weights["query.heads"] = np.asarray(weights["query.kernel"].shape[2])
    for part in ("query", "key", "value", "out"):
        weights[f"{part}.kernel"] = weights[f"{part}.kernel"].reshape(layers, dim, dim)
        if f"{part}.bias" in weights:
            weights[f"{part}.bias"] = weights[f"{part}.bias"].reshape(layers, dim)
    if "positions" in weights:
        weights["positions"] = weights["positions"].reshape(-1, dim)
    if "cls" in weights:
        weights["cls"] = weights["cls"].reshape(dim)


def _layers(weights: Arrays, model: Pix2Seq, lines: list[str]) -> dict[str, Part]:
    """The transformer layers."""
    layers, dim = weights["norm1.scale"].shape
    _complete(weights, lines)
    heads = (model.enc_heads, dim // model.enc_heads)
    parts = {}
    for what in ("scale", "bias"):
        parts[f"{LAYERS}/norm/{what}"] = weights[f"norm1.{what}"]
        parts[f"{LAYERS}/mlp/norm/{what}"] = weights[f"norm2.{what}"]
    for name in ("query", "key", "value"):
        kernel, bias = weights[f"{name}.kernel"], weights[f"{name}.bias"]
        parts[f"{LAYERS}/attention/{name}/kernel"] = kernel.reshape(layers, dim, *heads)
        parts[f"{LAYERS}/attention/{name}/bias"] = bias.reshape(layers, *heads)
    out = weights["out.kernel"].reshape(layers, *heads, dim)
    parts[f"{LAYERS}/attention/out/kernel"] = out
    parts[f"{LAYERS}/attention/out/bias"] = weights["out.bias"]
    for name in ("dense1", "dense2"):
        for what in ("kernel", "bias"):
            parts[f"{LAYERS}/mlp/{name}/{what}"] = weights[f"{name}.{what}"]
    return {name: Part("copied", "", values) for name, values in parts.items()}


def _complete(weights: Arrays, lines: list[str]) -> None:
    """Biases that are not there are 0, scales of branches are folded into the last kernels."""
    layers, _ = weights["norm1.scale"].shape
    none = []
    for name in BIASES:
        if f"{name}.bias" not in weights:
            none.append(name)
            width = weights[f"{name}.kernel"].shape[-1]
            weights[f"{name}.bias"] = np.zeros((layers, width), np.float32)
    if none:
        lines.append(
            f"the file has no biases of {', '.join(none)}; ours start at 0, which is equal"
        )
    for scale, last in (("scale1", "out"), ("scale2", "dense2")):
        if scale in weights:
            factor = weights[scale]
            weights[f"{last}.kernel"] = weights[f"{last}.kernel"] * factor[:, None]
            weights[f"{last}.bias"] = weights[f"{last}.bias"] * factor
            lines.append(f"layer scale {scale[-1]} folded into {last}, which is equal")


def _tokens(weights: Arrays, model: Pix2Seq, lines: list[str]) -> dict[str, Part]:
    """The class token and the positions."""
    parts, cls, table = {}, weights.get("cls"), weights.get("positions")
    if table is not None and cls is not None and isqrt(len(table) - 1) ** 2 == len(table) - 1:
        cls, table = cls + table[0], table[1:]  # ours has no position
    if cls is None and model.use_cls_token:
        lines.append("class token: the file has none; ours starts fresh")
    elif model.use_cls_token:
        parts[f"{ENCODER}/cls_token"] = Part("copied", "with its position", cls[None])
    elif cls is not None:
        lines.append(
            "class token: left out, as config.model.use_cls_token is false; the layers there saw "
            "it, so features differ from theirs"
        )
    if table is None:
        lines.append("positions: the file has none")
    elif model.pos_encoding != "learned":
        left_out = (
            f"positions: left out, as config.model.pos_encoding={model.pos_encoding!r} has no "
            "table; --config.model.pos_encoding=learned takes them"
        )
        lines.append(left_out)
        log.warning("config.init_encoder: %s", left_out)
    else:
        parts[f"{ENCODER}/positions"] = _positions(table, model)
    return parts


def _positions(table: np.ndarray, model: Pix2Seq) -> Part:
    side, here = isqrt(len(table)), model.backbone.grid(model.image_size)
    if side * side != len(table):
        raise ValueError(
            f"its {len(table)} positions are not those of a square of patches; give an encoder "
            "that was trained on square images, or set config.model.pos_encoding='sin_cos'"
        )
    if (side, side) == here:
        return Part("copied", "", table)
    detail = "{} x {} -> {} x {} image tokens, bicubic".format(side, side, *here)
    return Part("resized", detail, resizing.resize_positions(table, (side, side), here))
