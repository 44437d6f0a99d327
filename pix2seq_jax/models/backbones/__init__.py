"""Backbones by the name that `config.model.backbone` gives: a new one is a file and a line here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pix2seq_jax.models.backbones.base import Backbone
from pix2seq_jax.models.backbones.resnet import ResNetBackbone
from pix2seq_jax.models.backbones.vit import VitBackbone, VitCropBackbone

BACKBONES: dict[str, type[Backbone]] = {
    "vit": VitBackbone,
    "vit_crop": VitCropBackbone,
    "resnet": ResNetBackbone,
}


def from_config(section: Mapping[str, Any]) -> Backbone:
    """The backbone of `config.model.backbone`, whose keys are `name` and exactly its fields.

    Raises:
        ValueError: the name is none of BACKBONES, a field is unknown or missing, or has a value
            that is not allowed.
    """
    fields = dict(section)
    name = fields.pop("name", None)
    if name not in BACKBONES:
        raise ValueError(f"model.backbone.name={name!r}; it may be one of {list(BACKBONES)}")
    names = [field.name for field in dataclasses.fields(BACKBONES[name])]
    if set(fields) != set(names):
        raise ValueError(
            f"model.backbone has the fields {sorted(fields)}; a backbone {name!r} has exactly "
            f"{sorted(names)}"
        )
    return BACKBONES[name](**fields)


def complete(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section `config.model.backbone` with the defaults of the fields that it leaves out."""
    fields = dataclasses.fields(BACKBONES[section["name"]])
    return {
        "name": section["name"],
        **{field.name: field.default for field in fields},
        **section,
    }
