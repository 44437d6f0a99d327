"""The text model of a run, learned from captions with defects."""

import json

import pytest

from pix2seq_jax.experiment import inputs, text_model
from tests.helpers import small


def test_what_is_no_caption_is_refused_or_counted_by_the_source(tmp_path):
    """The text model is learned first, and from the others."""
    folder = small.make_shapes(tmp_path / "shapes")
    path = folder / "annotations" / "captions_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0].pop("caption")
    content["annotations"][1]["caption"] = None
    content["annotations"][2]["caption"] = "half an emoji \ud83d"
    path.write_text(json.dumps(content))
    config = small.config("captioning.py:shapes", folder)
    text = text_model.open_text(config, tmp_path / "run")
    with pytest.raises(ValueError, match="2 annotations with captions that are not text, first: "):
        inputs.open_sources(config, "train", text)
    config.data.bad_annotations = "drop"
    content["annotations"].append("no object")
    path.write_text(json.dumps(content))
    assert text_model.open_text(config, tmp_path / "run") == text
    described = inputs.describe(inputs.open_sources(config, "train", text))
    assert "2 annotations with captions that are not text, left out" in described
    assert "1 annotations with no keys, left out" in described
    assert "1 captions with half a character" in described
