"""The rules for a run on one's own data, and which configs they are for."""

import re

import pytest

from pix2seq_jax.config import build, by_data, ranges, recipes
from pix2seq_jax.config.by_data import Devices, Evaluated
from tests.helpers import small

CPU, ONE, EIGHT = Devices(1, False, 1), Devices(1, True, 1), Devices(8, True, 8)


FEW, UNKNOWN = Evaluated(40, 40), Evaluated(0, 0)


def chosen(images, devices, *, pretrained, repeats=1, evaluated=FEW, **given):
    """The values by the last part of their names."""
    values = by_data.FIELDS | {name.replace("__", "."): value for name, value in given.items()}
    choices = by_data.choose(
        values, images, devices, repeats=repeats, pretrained=pretrained, evaluated=evaluated
    )
    assert all(choice.reason for choice in choices)
    return {choice.field.split(".")[1]: choice.value for choice in choices}


@pytest.mark.parametrize(
    "images,devices,pretrained,expected",
    [
        # The table of docs/configs.md: batch, steps, rate, steps between evaluations.
        (200, CPU, True, (8, 1_000, 2.5e-5, 100)),
        (200, CPU, False, (8, 7_500, 1.8e-4, 750)),
        (200, ONE, True, (16, 1_000, 3.5e-5, 100)),
        (200, ONE, False, (16, 5_000, 2.5e-4, 500)),
        (5_000, ONE, True, (16, 12_500, 3.5e-5, 1_250)),
        (5_000, ONE, False, (16, 93_800, 2.5e-4, 5_000)),
        (5_000, EIGHT, True, (128, 1_600, 1e-4, 160)),
        (5_000, EIGHT, False, (128, 11_800, 7.1e-4, 1_180)),
        (2_000_000, EIGHT, True, (128, 36_964, 1e-4, 3_697)),
    ],
)
def test_the_rules(images, devices, pretrained, expected):
    values = chosen(images, devices, pretrained=pretrained)
    assert tuple(values.values()) == expected
    assert list(values) == ["batch_size", "steps", "base", "eval_steps"]


def test_as_many_images_as_coco_and_the_published_devices_give_the_recipe():
    recipe = recipes.RECIPES["finetune"]
    values = chosen(recipes.COCO_IMAGES, EIGHT, pretrained=True)
    assert {name: values[name] for name in ("batch_size", "steps", "base")} == {
        name: recipe[name] for name in ("batch_size", "steps", "base")
    }


@pytest.mark.parametrize("images", [1, 3, 7, 30, 200])
@pytest.mark.parametrize("multiple", [1, 4, 6, 256])
def test_devices_share_the_batch_evenly(images, multiple):
    batch = chosen(images, Devices(multiple, True, multiple), pretrained=True)["batch_size"]
    assert batch % multiple == 0 and batch >= multiple
    assert batch <= max(multiple, min(images, 128))


def test_an_epoch_has_each_image_as_often_as_it_is_repeated():
    once = chosen(2_000, EIGHT, pretrained=True, train__batch_size=64)
    twice = chosen(2_000, EIGHT, pretrained=True, train__batch_size=64, repeats=2)
    assert (once["steps"], twice["steps"]) == (1_300, 2_500)


def test_what_is_given_stays_and_the_rest_follows_from_it():
    values = chosen(5_000, ONE, pretrained=True, train__batch_size=32, train__steps=70)
    assert values == {"base": 5e-5, "eval_steps": 14}
    given = {"train__batch_size": 4, "train__steps": 3, "schedule__base": 1.0}
    assert chosen(5_000, ONE, pretrained=True, **given, train__eval_steps=2) == {}


@pytest.mark.parametrize(
    "steps,batch,evaluated,expected",
    [
        # The last takes 72 of the 160 images that a tenth of 200 x 8 rows is; one more has room.
        (200, 8, Evaluated(72, 72), 2),
        (200, 8, Evaluated(81, 81), 1),
        (200, 8, Evaluated(16, 16), 10),
        (200, 8, UNKNOWN, 10),
        (1_000, 8, Evaluated(500, 5_000), 1),
        (8_000, 8, Evaluated(500, 5_000), 3),  # 5,000 + 2 x 500 of 6,400
        (277_235, 256, Evaluated(500, 5_000), 56),  # one every 5,000 steps
        (1, 1, Evaluated(3, 3), 1),
    ],
)
def test_evaluated_images_are_at_most_a_tenth_of_the_trained_rows(
    steps, batch, evaluated, expected
):
    given = {"train__batch_size": batch, "train__steps": steps, "schedule__base": 1.0}
    every = chosen(500, CPU, pretrained=True, evaluated=evaluated, **given)["eval_steps"]
    number = -(-steps // every)  # the last is at the end, whatever `every` is
    assert number == expected and every >= 1
    if number > 1:
        assert (number - 1) * evaluated.each + evaluated.last <= steps * batch / 10


@pytest.mark.parametrize(
    "evaluated,words",
    [
        (FEW, "4 evaluations of 40 images, the last of 40, not 10: .* 0.1 of the 1,600 rows"),
        (Evaluated(500, 900), "one evaluation, at the end, of 900 images; .* 0.1 of the 1,600 "),
        (UNKNOWN, "10 evaluations in 200 steps, one at least every 5,000"),
    ],
)
def test_the_reason_has_the_images_of_an_evaluation(evaluated, words):
    values = by_data.FIELDS | {"train.steps": 200, "train.batch_size": 8}
    *_, choice = by_data.choose(values, 292, CPU, repeats=1, pretrained=True, evaluated=evaluated)
    assert choice.field == "train.eval_steps" and re.match(words, choice.reason)


@pytest.mark.parametrize("file", ["detection.py", "multitask.py"])
def test_they_are_for_a_folder_without_a_recipe(file):
    def values(variant):
        content = small.load(f"{file}:{variant}").to_dict()
        fields = [field.split(".") for field in by_data.FIELDS]
        return content["train"]["by_data"], [content[part][name] for part, name in fields]

    assert values("data=mine") == (True, [0, 0, 0.0, 0])
    for variant in ("", "data=objects365", "shapes", "data=mine,recipe=finetune"):
        chosen_by_data, numbers = values(variant)
        assert not chosen_by_data and all(numbers)
    ranges.check(small.load(f"{file}:data=mine"))


@pytest.mark.parametrize("field", ["train.batch_size", "train.steps", "train.eval_steps"])
def test_zeros_elsewhere_are_refused_with_the_reason(field):
    config = build.build("data=coco", recipe="finetune", tasks=("detection",))
    config.update_from_flattened_dict({field: 0})
    with pytest.raises(ValueError, match=f"{field}=0: give a whole number of at least 1.*own"):
        ranges.check(config)
    config.train.by_data = True
    ranges.check(config)
    config.update_from_flattened_dict({field: -1})
    with pytest.raises(ValueError, match=f"{field}=-1: give a whole number of at least 1"):
        ranges.check(config)
