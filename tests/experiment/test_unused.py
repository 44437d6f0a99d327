"""Settings that are given and change nothing are named, with the reason."""

import pytest

from pix2seq_jax.config.fill import fill
from pix2seq_jax.experiment import resolve, unused
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.experiment.opened import open_run
from pix2seq_jax.training import optim
from tests.helpers import small

ENCODER = "^(stem|image_encoder)/"


@pytest.mark.parametrize("variant", ["detection.py", "detection.py:shapes", "multitask.py"])
@pytest.mark.parametrize("optimizer", optim.OPTIMIZERS)
def test_shipped_settings_count_as_not_given(variant, optimizer):
    config = small.load(variant)
    config.optim.name = optimizer
    assert not list(unused.settings(config))


@pytest.mark.parametrize(
    "flags,line",
    [
        ({"optim.momentum": 0.5}, "optim.momentum=0.5 is not used: config.optim.name='muon'"),
        ({"optim.name": "momentum", "optim.weight_decay": 0.1}, "optim.weight_decay=0.1 is not"),
        ({"optim.name": "momentum", "optim.eps": 1e-6}, "optim.eps=1e-06 is not used"),
        ({"optim.weight_decay": 0.0, "optim.decay": "all"}, "config.optim.weight_decay is 0"),
        ({"schedule.name": "exp@0.1", "schedule.end_factor": 0.5}, "has no lowest rate"),
        ({"model.remat": False, "model.remat_policy": "elementwise"}, "config.model.remat is"),
        ({"init_encoder_pixels": "half"}, "init_encoder_pixels='half' is not used"),
        (
            {"data.text_model": "a.model", "data.text_pieces": 500},
            "data.text_pieces=500 is not used: config.data.text_model='a.model'",
        ),
        (
            {"tasks.detection.sampler": "beam(4)", "tasks.detection.eos_bias": -1.0},
            "tasks.detection.eos_bias=-1.0 is not used: beam(4) has none",
        ),
    ],
)
def test_what_is_given_in_vain_is_named(flags, line):
    config = small.load("detection.py:shapes")
    config.update_from_flattened_dict(flags)
    (told,) = unused.settings(config)
    assert line in told


def test_the_same_settings_are_used_elsewhere():
    config = small.load("detection.py:shapes")
    config.update_from_flattened_dict({"optim.name": "momentum", "optim.momentum": 0.5})
    assert not list(unused.settings(config))


@pytest.mark.parametrize(
    "variant,frozen,rates,lines",
    [
        ("shapes", ENCODER, {"layer_decay": 0.5, "encoder_rate": 0.5}, 2),
        ("shapes", ENCODER, {}, 0),
        ("shapes", "^stem/", {"layer_decay": 0.5, "encoder_rate": 0.5}, 0),
        ("shapes", "^decoder/", {"layer_decay": 0.5}, 0),
        ("shapes", "", {"layer_decay": 0.5}, 0),
        # Of a ResNet encoder_rate is for that alone.
        ("arch=resnet50,size=64", "^stem/resnet/", {"layer_decay": 0.5, "encoder_rate": 0.5}, 1),
    ],
)
def test_rates_of_a_frozen_encoder_are_named(variant, frozen, rates, lines):
    config = small.load(f"detection.py:{variant}")
    config.update_from_flattened_dict(small.shrunk(config))
    config = fill(config)
    config.model.update({"vocab_size": 64, "max_seq_len": 16})
    config.optim.update(rates | {"frozen": frozen})
    told = list(unused.settings(config))
    assert len(told) == lines
    if lines:
        assert "optim.encoder_rate=0.5 is not used: config.optim.frozen=" in told[-1]


@pytest.mark.parametrize(
    "fields,told",
    [
        ({}, False),
        ({"mask_inputs": False}, True),
        ({"mask_inputs": False, "grammar": False}, False),
    ],
)
def test_a_grammar_that_training_does_not_suit_is_named(fields, told):
    config = fill(small.load("keypoints.py:shapes"))
    config.tasks.keypoints.update(fields | {"num_keypoints": 17})
    config.vocab.update(resolve.laid_out(config.vocab))
    lines = list(unused.opposed(config, resolve.make_tasks(config)))
    assert len(lines) == told
    if told:
        assert lines[0].endswith("give --config.tasks.keypoints.grammar=False")


def test_a_run_says_it_before_training(tmp_path, caplog):
    folder = small.make_shapes(tmp_path / "shapes")
    config = small.config("keypoints.py:shapes", folder, tasks__keypoints__mask_inputs=False)
    log.addHandler(caplog.handler)
    try:
        open_run(fill(config), tmp_path / "run", resolve.make_mesh(config), evaluate_too=False)
    finally:
        log.removeHandler(caplog.handler)
    assert "give --config.tasks.keypoints.grammar=False" in caplog.text
