"""The embedded data with other classes than the usual ones."""

import json

import pytest
from pycocotools.coco import COCO

from pix2seq_jax.data.shapes import dataset


def test_only_the_classes_that_are_named_are_drawn(tmp_path):
    spec = dataset.Spec(train=20, val=1, classes=("moon", "arrow"))
    dataset.generate(tmp_path / "new", spec, workers=1)
    files = sorted(path.name for path in (tmp_path / "new" / "annotations").glob("*_train.json"))
    assert files == ["captions_train.json", "instances_train.json"]  # nobody has keypoints
    coco = COCO(str(tmp_path / "new" / "annotations" / "instances_train.json"))
    assert [entry["name"] for entry in coco.dataset["categories"]] == ["arrow", "moon"]
    assert {entry["category_id"] for entry in coco.anns.values()} == {70, 85}
    texts = COCO(str(tmp_path / "new" / "annotations" / "captions_train.json")).anns.values()
    assert any("moon" in entry["caption"] for entry in texts)
    assert not dataset.generate(tmp_path / "new", spec, workers=1)
    with pytest.raises(ValueError, match="another shapes set"):
        dataset.generate(tmp_path / "new", dataset.Spec(train=20, val=1), workers=1)
    for classes in ((), ("moon", "moon"), ("sun",)):
        with pytest.raises(ValueError, match="name each class once, of person, circle"):
            dataset.Spec(classes=classes)


def test_a_set_of_before_classes_could_be_chosen_is_kept(tmp_path):
    spec = dataset.Spec(train=2, val=1)
    dataset.generate(tmp_path / "set", spec, workers=1)
    manifest = tmp_path / "set" / "shapes.json"
    drawn = json.loads(manifest.read_text())
    del drawn["classes"]
    manifest.write_text(json.dumps(drawn))
    assert not dataset.generate(tmp_path / "set", spec, workers=1)
