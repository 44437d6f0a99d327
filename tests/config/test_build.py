"""The text after a config's colon, and what the shipped configs hold."""

import pytest

from pix2seq_jax.config import architectures, build, recipes, shapes
from pix2seq_jax.config.fill import fill
from pix2seq_jax.models import pix2seq
from pix2seq_jax.models.backbones import BACKBONES
from pix2seq_jax.models.pix2seq import Pix2Seq
from tests.helpers import small


def test_variants_are_read_over_the_defaults_of_a_recipe():
    chosen = build.parse("arch=tiny,size=128", recipe="scratch")
    assert chosen.to_dict() == {
        "recipe": "scratch",
        "data": "coco",
        "arch": "tiny",
        "size": 128,
        "slots": 100,
    }
    assert build.parse("recipe=pretrain", recipe="finetune").data == "objects365"
    shapes = build.parse("shapes,slots=6", recipe="finetune")
    assert (shapes.data, shapes.arch, shapes.size, shapes.slots) == ("shapes", "tiny", 48, 6)


@pytest.mark.parametrize(
    "arg,part",
    [
        ("sizes=3", "'sizes'"),
        ("size=big", "'big'"),
        ("arch=vgg", "resnet50"),
        ("slots=0", "at least 1"),
    ],
)
def test_variants_that_do_not_fit_are_named(arg, part):
    with pytest.raises(ValueError, match=part):
        build.parse(arg, recipe="finetune")


def test_images_are_padded_to_whole_patches():
    config = fill(small.load("detection.py:arch=vit-b,size=1333"))
    assert config.model.image_size == (1344, 1344)
    assert (
        "pad_image(1344)" in config.tasks.detection.eval_ops
        and "resize(1333" in config.tasks.detection.eval_ops
    )
    resnet = fill(small.load("detection.py:arch=resnet50,size=1333"))
    assert resnet.model.image_size == (1333, 1333)


@pytest.mark.parametrize("arch", architectures.ARCHITECTURES)
def test_presets_name_every_field_of_the_model(arch):
    config = fill(small.load(f"detection.py:arch={arch},size=64"))
    config.model.vocab_size = config.vocab.size
    model = Pix2Seq.from_config(config.model)
    differences = dict(architectures.ARCHITECTURES[arch])
    backbone = dict(differences.pop("backbone"))
    default = Pix2Seq(image_size=(64, 64), vocab_size=1)
    for name in pix2seq.field_names():
        if name not in ("image_size", "vocab_size", "backbone"):
            expected = differences[name] if name in differences else getattr(default, name)
            assert getattr(model, name) == expected, name
    assert type(model.backbone) is BACKBONES[backbone.pop("name")]
    assert model.backbone == type(model.backbone)(**backbone)


def test_data_is_a_known_set_or_a_folder():
    assert build.data("coco").train_annotations == "data/coco/annotations/instances_train2017.json"
    assert build.data("/my/data").val_images == "/my/data/val"


@pytest.mark.parametrize("arg", ["", "shapes"])
def test_some_tasks_share_the_weight_of_all(arg):
    names = ("detection", "keypoints")
    config = build.build(arg, recipe="multitask", tasks=names)
    mix = shapes.SHAPES_MIX if arg else recipes.TASK_MIX
    weights = [config.tasks[name].weight for name in names]
    assert sum(weights) == pytest.approx(1) and weights[0] / weights[1] == pytest.approx(
        mix[names[0]] / mix[names[1]]
    )


def test_task_mix_is_the_published_one():
    config = small.load("multitask.py")
    assert {name: section.weight for name, section in config.tasks.items()} == recipes.TASK_MIX
    assert sum(recipes.TASK_MIX.values()) == pytest.approx(1.0)
    assert sum(
        section.weight for section in small.load("multitask.py:shapes").tasks.values()
    ) == pytest.approx(1.0)
    # The only task has the whole of the loss.
    assert small.load("segmentation.py").tasks.segmentation.weight == 1.0
    assert config.schedule.warmup == 0.1


@pytest.mark.parametrize("file", ["detection.py", "multitask.py"])
def test_the_vocabulary_of_a_folder_is_as_small_as_its_data_allow(file, tmp_path):
    sizes = ("size", "coord_shift", "text_shift")
    own = small.load(f"{file}:data={tmp_path}").vocab
    assert [own[name] for name in sizes] == [0, 0, 0]
    # Published recipes keep theirs.
    for data in ("coco", "objects365"):
        fixed = small.load(f"{file}:data={data}").vocab
        assert [fixed[name] for name in sizes] == [35_000 if "multi" in file else 3000, 1000, 3000]
