"""The text after a config's colon, and what the shipped configs hold."""

import pytest

from pix2seq_jax import base_config, presets
from pix2seq_jax.models.pix2seq import Pix2Seq
from tests import small


def test_variants_are_read_over_the_defaults():
    chosen = base_config.parse("arch=tiny,size=128", data="coco", arch="vit-b", size=640)
    assert chosen.to_dict() == {"data": "coco", "arch": "tiny", "size": 128}
    assert base_config.parse("shapes", data="coco", arch="vit-b", size=640).data == "shapes"


@pytest.mark.parametrize("arg,part", [("sizes=3", "'sizes'"), ("size=big", "'big'"), ("arch=vgg", "resnet50")])
def test_variants_that_do_not_fit_are_named(arg, part):
    with pytest.raises(ValueError, match=part):
        base_config.parse(arg, data="coco", arch="vit-b", size=640)


@pytest.mark.parametrize("arch", presets.ARCHITECTURES)
def test_presets_name_every_field_of_the_model(arch):
    config = small.load(f"detection.py:arch={arch},size=64")
    config.model.vocab_size = config.vocab.size
    model = Pix2Seq.from_config(config.model)
    assert model.enc_dim == presets.ARCHITECTURES[arch].get("enc_dim", presets.MODEL["enc_dim"])


def test_data_is_a_known_set_or_a_folder():
    assert base_config.data("coco").train_annotations == "data/coco/annotations/instances_train2017.json"
    assert base_config.data("/my/data").val_images == "/my/data/val"


def test_task_mix_is_the_published_one():
    config = small.load("multitask.py")
    assert config.tasks.detection.weight == 1.0  # the only task there is has the whole of the loss
    assert sum(presets.TASK_MIX.values()) == pytest.approx(1.0)
    assert config.schedule.warmup * 10 == pytest.approx(config.train.steps, abs=10)
