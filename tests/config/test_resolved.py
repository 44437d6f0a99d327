"""configs/resolved holds the complete config of every shipped variant.

`python -m tests.config.test_resolved` writes the files again; a change of them shows what a change
of the code means for users.
"""

import json
from pathlib import Path

import pytest

from pix2seq_jax.config.fill import fill
from tests.helpers import small

FOLDER = small.ROOT / "configs" / "resolved"
NAMES = ("multitask", "detection", "segmentation", "keypoints", "captioning")
VARIANTS = [f"{name}.py{variant}" for name in NAMES for variant in ("", ":shapes")]


def path_of(variant: str) -> Path:
    return FOLDER / (variant.replace(".py", "").replace(":", "_") + ".json")


def content_of(variant: str) -> str:
    return fill(small.load(variant)).to_json(indent=1, sort_keys=True) + "\n"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_recorded_config_is_the_shipped_one(variant):
    assert json.loads(path_of(variant).read_text()) == json.loads(content_of(variant))


def test_there_is_no_other_file():
    assert {path.name for path in FOLDER.iterdir()} == {path_of(v).name for v in VARIANTS}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for variant in VARIANTS:
        path_of(variant).write_text(content_of(variant))
