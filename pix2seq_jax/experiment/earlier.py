"""Configs of earlier versions, turned into today's."""

from collections.abc import Mapping
from typing import Any

# Before backbones had a section of their own, `config.model` had the fields of all of them, and
# `encoder` said which one counts.
BACKBONE_FIELDS = {  # today's name -> the earlier one, by the name of the backbone
    "vit": {"patch_size": "patch_size"},
    "vit_crop": {"patch_size": "patch_size"},
    "resnet": {
        "depth": "resnet_depth",
        "variant": "resnet_variant",
        "width": "resnet_width",
        "frozen_bn": "frozen_bn",
    },
}


def upgrade_model(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section `config.model` of any version as today's; values are neither checked nor added.

    A section of today's form is returned as it is.
    """
    if "encoder" not in section or "backbone" in section:
        return dict(section)
    name = section["encoder"]
    own = BACKBONE_FIELDS[name] if name in tuple(BACKBONE_FIELDS) else {}
    moved = {"encoder", *(old for fields in BACKBONE_FIELDS.values() for old in fields.values())}
    backbone = {new: section[old] for new, old in own.items() if old in section}
    rest = {field: value for field, value in section.items() if field not in moved}
    return rest | {"backbone": {"name": name} | backbone}
