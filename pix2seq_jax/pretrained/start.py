"""Starts a model from an encoder that another library trained (`config.init_encoder`).

The format of the file and the source are recognised by their names. What the file has no
counterpart for (the projection, the decoder) keeps its fresh initialisation, and a report (REPORT
in the workdir, its main lines in the log) accounts for every array of the file and every parameter
of the encoder.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import jax
import ml_collections

from pix2seq_jax.experiment import resolve
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.files.whole import write_whole
from pix2seq_jax.models.backbones.resnet import ResNetBackbone
from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.official.transfer import Part, with_part
from pix2seq_jax.pretrained import (
    files,
    pixels,
    resnet,
    resnet_huggingface,
    resnet_keras,
    resnet_torch,
    vit,
    vit_augreg,
    vit_big_vision,
    vit_huggingface,
    vit_timm,
    vit_torchvision,
)
from pix2seq_jax.pretrained.mapping import Notes, ResNetSource, Source, VitSource
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import trees

KINDS = {
    VitSource: (VitBackbone, vit.convert, "vit-b or vit-l"),
    ResNetSource: (ResNetBackbone, resnet.convert, "resnet50 or resnet101"),
}
REPORT = "init_encoder.txt"  # in the workdir
SOURCES: tuple[Source, ...] = (
    vit_timm.SOURCE,
    vit_torchvision.SOURCE,
    vit_huggingface.SOURCE,
    vit_augreg.SOURCE,
    vit_big_vision.SOURCE,
    resnet_torch.SOURCE,
    resnet_huggingface.SOURCE,
    resnet_keras.SOURCE,
)
# Of other architectures, which are named before anything else: a name of theirs, and what it is.
OTHERS = {
    r"^vision_model\.|visual\.transformer\.": "CLIP or SigLIP, with another block or activation",
    r"^(conv_root|gn_root|block\d+/unit)": "a ResNet with group norms (BiT), or a hybrid",
    r"^(conv1|stem)\.\d\.|\.downsample\.2\.": "a ResNet with a stem of several convolutions",
    r"_preact_bn/|^post_bn/": "a ResNet of version 2, with norms before the convolutions",
    r"(^|/)vars/\d+$": (
        "a .weights.h5 of Keras 3, which has no names of layers (model.save('FILE.h5') writes them)"
    ),
    r"relative_position_bias": "a transformer with relative positions (Swin, BEiT)",
}


def start(
    state: train_state.TrainState,
    config: ml_collections.ConfigDict,
    workdir: str | Path,
) -> tuple[train_state.TrainState, str]:
    """(the fresh state with the encoder of config.init_encoder, where it comes from); writes and
    logs the report.

    Raises:
        ValueError: the file cannot be read, is of an unknown source, or of another architecture.
    """
    model = resolve.make_model(config)
    fresh = train_state.variables(state)
    named = trees.flatten_names(fresh)
    source, parts, notes = plan(
        config.init_encoder,
        config.init_encoder_pixels,
        model,
        {name: leaf.shape for name, leaf in named.items()},
    )
    leaves = [with_part(leaf, parts[name]) for name, leaf in named.items()]
    variables = jax.tree.unflatten(jax.tree.structure(fresh), leaves)
    text = report(config.init_encoder, source, parts, notes)
    if jax.process_index() == 0:
        write_whole(path_of(workdir) / REPORT, text + "\n")
    short = report(config.init_encoder, source, parts, notes, every=False)
    log.info("encoder, all arrays in %s; not simply copied:\n%s", REPORT, short)
    state = state.replace(params=variables["params"], batch_stats=variables.get("batch_stats", {}))
    return state, f"encoder from {config.init_encoder} ({source.title}), the rest from scratch"


def plan(
    path: str, pixels_name: str, model: Pix2Seq, wanted: Mapping[str, tuple[int, ...]]
) -> tuple[Source, dict[str, Part], Notes]:
    """What becomes of every parameter of the model.

    Args:
        path: of the file.
        pixels_name: how images were normalised, one of pixels.NORMALISATIONS, or '' for what the
            source or the JSON files beside the file say.
        model: that takes the weights.
        wanted: shapes of its variables by name.

    Raises:
        ValueError: see `start`.
    """
    file = files.read(path)
    source = recognise(file)
    kind, convert, variants = KINDS[type(source)]
    where = f"config.init_encoder={path!r} ({source.title})"
    if not isinstance(model.backbone, kind):
        raise ValueError(
            f"{where}: config.model.backbone is {type(model.backbone).__name__}; choose the "
            f"variant of the config with arch={variants}, or give an encoder of that kind"
        )
    try:
        chosen = _pixels(pixels_name, source, file)
        parts, notes = convert(file.arrays, source, file.beside, model, chosen)
        _check_shapes(parts, wanted)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return source, {name: parts.get(name, Part("new")) for name in wanted}, notes


def recognise(file: files.File) -> Source:
    """The source whose names a file has.

    Raises:
        ValueError: it is of none, or of another architecture by its names.
    """
    for pattern, what in OTHERS.items():
        for name in file.arrays:
            if re.search(pattern, name):
                raise ValueError(
                    f"config.init_encoder={file.path!r}: {name} shows that it is {what}; give a "
                    "plain ViT or a ResNet of version 1 or 1.5"
                )
    for source in SOURCES:
        if any(re.fullmatch(source.mark, name) for name in file.arrays):
            return source
    first = ", ".join(list(file.arrays)[:3])
    raise ValueError(
        f"config.init_encoder={file.path!r} has names of no source that is read ({first}, ...); "
        f"give {'; '.join(source.title for source in SOURCES)}"
    )


def _pixels(chosen: str, source: Source, file: files.File) -> str:
    """How images were normalised: as the config, the JSON beside the file or the source says."""
    beside = file.beside
    section = beside.get("pretrained_cfg", beside)  # timm's; else transformers'
    mean = section.get("mean", section.get("image_mean"))
    std = section.get("std", section.get("image_std"))
    said = source.pixels
    if mean and std:
        said = pixels.name_of(tuple(mean), tuple(std))
        if said is None:
            raise ValueError(
                f"the JSON beside the file has mean {mean} and std {std} of images, which is none "
                f"of {list(pixels.NORMALISATIONS)}; give config.init_encoder_pixels"
            )
    name = said if chosen == "" else chosen
    if name is None:
        raise ValueError(
            "models of these names differ in how images are normalised, and no config.json or "
            "preprocessor_config.json beside the file says it; give "
            "--config.init_encoder_pixels=imagenet (DeiT, MAE, DINO) or half (google/vit, AugReg)"
        )
    return name


def _check_shapes(parts: Mapping[str, Part], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError for the first parameter whose shape differs, or that is none of ours."""
    for name, part in parts.items():
        if wanted.get(name) != part.values.shape:
            here = list(wanted[name]) if name in wanted else "missing"
            raise ValueError(
                f"{name} is {list(part.values.shape)} there and {here} in the model; set the "
                "sizes of config.model and config.model.backbone as there, or give another file"
            )


def report(
    path: str, source: Source, parts: Mapping[str, Part], notes: Notes, *, every: bool = True
) -> str:
    """A line per parameter (or only those of the encoder that are not plainly copied) and per array
    that is left out, then conventions and sums."""
    rows = [("parameter", "shape", "what")]
    for name, part in parts.items():
        if every or part.detail:
            shape = "-" if part.values is None else str(list(part.values.shape))
            rows.append((name, shape, f"{part.what}: {part.detail}" if part.detail else part.what))
    reasons = Counter(reason for _, _, reason in notes.dropped)
    if every:
        rows += [(name, str(list(shape)), f"dropped: {why}") for name, shape, why in notes.dropped]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    text = ["  ".join((*map(str.ljust, row[:2], widths), row[2])) for row in rows]
    text += [f"dropped {count} arrays of the file: {why}" for why, count in reasons.items()]
    text += notes.lines
    counts = Counter(part.what for part in parts.values())
    taken = sum(part.values.size for part in parts.values() if part.values is not None)
    sums = ", ".join(f"{counts[what]} {what}" for what in ("copied", "resized", "new"))
    text.append(
        f"parameters: {sums}; {taken:,} numbers come from {path} ({source.title}), "
        f"{len(notes.dropped)} of its arrays are dropped"
    )
    return "\n".join(text)
