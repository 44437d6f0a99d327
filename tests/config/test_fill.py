"""Sizes are written once: every flag works alone."""

import pytest

from pix2seq_jax.config.fill import fill
from tests.helpers import small


def filled(name: str, **flags):
    config = small.load(name)
    config.update_from_flattened_dict({key.replace("__", "."): v for key, v in flags.items()})
    return fill(config)


def test_a_size_alone():
    config = filled("multitask.py:shapes", data__size=64)
    assert config.model.image_size == (64, 64)
    for section in config.tasks.values():
        for ops in (section.train_ops, section.eval_ops):
            assert "resize(64" in ops and "pad_image(64)" in ops


def test_slots_alone():
    section = filled("detection.py", data__slots=30).tasks.detection
    assert section.max_instances == 30
    assert "truncate(30)|noise_boxes(30)" in section.train_ops
    assert section.train_ops.endswith("pad_objects(30)")
    assert section.eval_ops.endswith("pad_objects(30)")


def test_the_instances_of_a_task_alone():
    section = filled("detection.py", tasks__detection__max_instances=7).tasks.detection
    assert section.train_ops.endswith("pad_objects(7)")
    section = filled("segmentation.py", tasks__segmentation__objects=3).tasks.segmentation
    assert section.eval_ops.endswith("pad_objects(3)") and section.max_instances == 10


def test_patches_alone():
    assert filled("detection.py:size=100").model.image_size == (112, 112)
    config = filled("detection.py:size=100", model__backbone__patch_size=20)
    assert config.model.image_size == (100, 100)


def test_a_filled_config_stays():
    config = filled("multitask.py")
    assert fill(config).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("ops", "message"),
    [("decode|resize({width})", "'width' cannot be filled in"), ("decode|resize({)", "braces")],
)
def test_placeholders_that_do_not_exist_are_named(ops, message):
    with pytest.raises(ValueError, match=f"config.tasks.detection.eval_ops.*{message}"):
        filled("detection.py", tasks__detection__eval_ops=ops)


def test_a_size_that_is_needed_and_missing_is_named():
    with pytest.raises(ValueError, match=r"needs size, which is 0; set config\.data\.size"):
        filled("detection.py", data__size=0, model__image_size=(64, 64))


@pytest.mark.parametrize(
    "name,published",
    [
        ("detection.py:recipe=scratch", 10 * 118_287 // 128),
        ("detection.py:recipe=pretrain", 20_000),
        ("detection.py", 2 * 118_287 // 128),
        ("multitask.py", 10 * 118_287 // 128),
        ("detection.py:shapes", 69),
    ],
)
def test_the_warm_up_follows_the_steps(name, published):
    """At the length of the recipe it is the published one."""
    assert filled(name).schedule.warmup == published
    steps = small.load(name).train.steps
    short = filled(name, train__steps=steps // 10).schedule.warmup
    assert isinstance(short, int) and short == pytest.approx(published / 10, abs=1)
    assert filled(name, train__steps=20).schedule.warmup < 20


def test_a_warm_up_that_is_given_stays():
    for given in (0, 1, 7):
        config = filled("detection.py:shapes", schedule__warmup=given, train__steps=20)
        assert config.schedule.warmup == given and fill(config) == config
    assert filled("detection.py", schedule__warmup=0.25, train__steps=20).schedule.warmup == 5
