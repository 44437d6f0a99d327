"""Position codes against the recorded ones."""

import numpy as np
import pytest

from pix2seq_jax.models.positions import sin_cos_1d, sin_cos_2d


def test_recorded_codes(ops_golden):
    names = [name for name in ops_golden if name.startswith(("pos1d/", "pos2d/"))]
    assert len(names) >= 5
    for name in names:
        sizes = [int(n) for n in name.split("/")[1].split("x")]
        code = (sin_cos_1d if name.startswith("pos1d/") else sin_cos_2d)(*sizes)
        recorded = ops_golden[name].reshape(code.shape)
        np.testing.assert_allclose(code, recorded, atol=2e-6, rtol=0, err_msg=name)


def test_a_single_token_has_a_finite_code():
    assert np.isfinite(sin_cos_2d(1, 1, 8)).all()


def test_a_grid_has_no_code_of_odd_width():
    with pytest.raises(ValueError, match=r"'sin_cos' .* 5 is odd: change model.enc_dim"):
        sin_cos_2d(2, 2, 5)
    assert sin_cos_2d(4, 1, 5).shape == (4, 5)  # a sequence


def test_a_larger_grid_covers_the_same_range():
    small, large = sin_cos_2d(3, 5, 16).reshape(3, 5, 16), sin_cos_2d(5, 9, 16).reshape(5, 9, 16)
    np.testing.assert_allclose(large[::2, ::2], small, atol=1e-6)
