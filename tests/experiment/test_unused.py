"""Settings that are given and change nothing are named, with the reason."""

import pytest

from pix2seq_jax.experiment import unused
from pix2seq_jax.training import optim
from tests.helpers import small


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
