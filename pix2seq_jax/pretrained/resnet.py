"""A residual network of another library as parameters of our backbone."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pix2seq_jax.models.backbones.resnet import (
    BASIC_DEPTHS,
    BLOCKS,
    GROUPS,
    NORM_EPSILON,
    ResNetBackbone,
)
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.official.transfer import Part
from pix2seq_jax.pretrained import pixels
from pix2seq_jax.pretrained.mapping import Arrays, Notes, ResNetSource, Taken, matrix

IDENTITY = "identity: the file has no projection there"


class Place(NamedTuple):
    """A convolution with its norm: our name, and the source's names of both."""

    ours: str
    convolution: str
    norm: str


def convert(
    arrays: Arrays,
    source: ResNetSource,
    beside: Mapping[str, Any],
    model: Pix2Seq,
    pixels_name: str,
) -> tuple[dict[str, Part], Notes]:
    """As `vit.convert`.

    Raises:
        ValueError: the architecture is another one; the text has no file name yet.
    """
    taken, backbone = Taken(source, arrays), model.backbone
    taken.refuse()
    check(taken, source, beside, backbone, pixels_name)
    parts, lines = {}, list(source.facts)
    for part in places(source, backbone):
        kernel = taken.take(f"{part.convolution}{source.kernel}")
        if kernel is None and part.ours == "group1_basic1/shortcut":
            parts |= _identity(part.ours, backbone)
            continue
        if kernel is None:
            raise ValueError(
                f"it lacks {part.convolution}{source.kernel}; get the file again, or give one of "
                f"depth {backbone.depth}"
            )
        kernel = matrix(kernel, source.layout)
        if part.ours == "stem1":
            kernel, _ = pixels.fold(kernel, pixels_name)
        parts |= _layer(part, kernel, taken, source)
    lines.append(
        f"pixels: deviation of {pixels_name!r} folded into stem1; the model subtracts the "
        f"mean, as config.model.backbone.convention={backbone.convention!r}"
    )
    lines.append(
        f"eps of the norms: {source.eps:g} there, {NORM_EPSILON:g} here"
        + ("" if source.eps == NORM_EPSILON else "; folded into the variances")
    )
    if f"{source.stem[0]}{source.bias}" in taken.names:
        lines.append("biases of convolutions are folded into the means, which is equal")
    lines.append("the transformer and its input layer (params/stem/dense) have no counterpart")
    groups = range(GROUPS[backbone.variant], 4)
    also = [source.block[0].partition("{index")[0].format(**_counts(g, 0, 0)) for g in groups]
    return parts, Notes(lines, taken.rest(also))


def check(
    taken: Taken,
    source: ResNetSource,
    beside: Mapping[str, Any],
    backbone: ResNetBackbone,
    pixels_name: str,
) -> None:
    """Raises ValueError that names the fields of config.model.backbone that must be others, or
    what cannot be."""
    depth = _depth(taken, source)
    flags = []
    if backbone.convention != source.convention:
        flags.append(f"--config.model.backbone.convention={source.convention}")
    if backbone.depth != depth:
        flags.append(f"--config.model.backbone.depth={depth}")
    if backbone.variant == "c3":
        flags.append("--config.model.backbone.variant=standard")  # c3 has another stem
    if depth in BASIC_DEPTHS and not backbone.frozen_bn:
        # Ours projects in the first block. Only with recorded statistics that can be the identity.
        flags.append("--config.model.backbone.frozen_bn=true")
    if flags:
        raise ValueError(
            f"its encoder differs from the model's; give {' '.join(flags)}, or another file"
        )
    if beside.get("downsample_in_bottleneck") or beside.get("downsample_in_first_stage"):
        raise ValueError(
            "its config.json has the stride in the first convolution of a block, or in the first "
            "group, and its names stand for version 1.5; give an encoder of version 1.5"
        )
    means = {"torch": "imagenet", "keras": "caffe"}
    if pixels_name != means[source.convention]:
        raise ValueError(
            f"images of normalisation {pixels_name!r} do not go with the zeros around them, which "
            f"are the mean of {means[source.convention]!r} here; give an encoder trained with that"
        )


def _depth(taken: Taken, source: ResNetSource) -> int:
    """The depth of the network in the file."""
    counts = []
    for group in range(4):
        index = 0
        while _name(source, group, index, 0) in taken.arrays:
            index += 1
        counts.append(index)
    bottleneck = _name(source, 0, 0, 2) in taken.arrays
    for depth, blocks in BLOCKS.items():
        # A file may hold the first groups only.
        whole = [count for count in counts if count]
        if tuple(whole) == blocks[: len(whole)] and bottleneck == (depth not in BASIC_DEPTHS):
            return depth
    raise ValueError(
        f"its groups have {counts} blocks, {'with' if bottleneck else 'without'} bottlenecks; "
        f"depths {list(BLOCKS)} are read"
    )


def _name(source: ResNetSource, group: int, index: int, conv: int) -> str:
    return source.block[0].format(**_counts(group, index, conv)) + source.kernel


def _counts(group: int, index: int, conv: int) -> dict[str, int]:
    return {
        "stage": group,
        "stage1": group + 1,
        "stage2": group + 2,
        "index": index,
        "index1": index + 1,
        "conv": conv,
        "conv1": conv + 1,
    }


def places(source: ResNetSource, backbone: ResNetBackbone) -> Iterator[Place]:
    """Every convolution of our backbone."""
    yield Place("stem1", *source.stem)
    basic = backbone.depth in BASIC_DEPTHS
    for group in range(GROUPS[backbone.variant]):
        for index in range(BLOCKS[backbone.depth][group]):
            ours = f"group{group + 1}_{'basic' if basic else 'block'}{index + 1}"
            if index == 0:
                names = [name.format(**_counts(group, index, 0)) for name in source.shortcut]
                yield Place(f"{ours}/shortcut", *names)
            for conv in range(2 if basic else 3):
                names = [name.format(**_counts(group, index, conv)) for name in source.block]
                yield Place(f"{ours}/conv{conv + 1}", *names)


def _layer(part: Place, kernel: np.ndarray, taken: Taken, source: ResNetSource) -> dict[str, Part]:
    """A convolution and its norm; a bias goes into the mean, the difference of eps into the
    variance."""
    fields = [taken.take(part.norm + name) for name in source.norm]
    for name, field in zip(source.norm, fields, strict=True):
        if field is None:
            raise ValueError(
                f"it lacks {part.norm}{name}; get the file again, it is not a whole ResNet with "
                "batch norms"
            )
    scale, bias, mean, var = fields
    shift = taken.take(f"{part.convolution}{source.bias}")
    if shift is not None:
        mean = mean - shift
    var = var + np.float32(source.eps - NORM_EPSILON)
    layer = f"stem/resnet/{part.ours}"
    return {
        f"params/{layer}/conv/kernel": Part("copied", "", kernel),
        f"params/{layer}/norm/scale": Part("copied", "", scale),
        f"params/{layer}/norm/bias": Part("copied", "", bias),
        f"batch_stats/{layer}/norm/mean": Part("copied", "", mean),
        f"batch_stats/{layer}/norm/var": Part("copied", "", var),
    }


def _identity(ours: str, backbone: ResNetBackbone) -> dict[str, Part]:
    """A projection that changes nothing, while its norm uses the recorded statistics."""
    channels = int(64 * backbone.width)
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    layer = f"stem/resnet/{ours}"
    arrays = {
        f"params/{layer}/conv/kernel": np.eye(channels, dtype=np.float32)[None, None],
        f"params/{layer}/norm/scale": ones,
        f"params/{layer}/norm/bias": zeros,
        f"batch_stats/{layer}/norm/mean": zeros,
        f"batch_stats/{layer}/norm/var": ones - np.float32(NORM_EPSILON),
    }
    return {name: Part("copied", IDENTITY, values) for name, values in arrays.items()}
