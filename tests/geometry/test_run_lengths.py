"""Run lengths against pycocotools, in both directions and both forms."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pix2seq_jax.geometry.run_lengths import (
    mask_of_runs,
    read_runs,
    runs_of_mask,
    runs_of_text,
    text_of_runs,
)


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    noise = [rng.random((37, 53)) < share for share in (0.01, 0.5, 0.99)]
    wide = np.zeros((3000, 4000), bool)
    wide[1500:1502, 3000] = True  # runs of many characters
    wide[10, :2000] = True
    plain = [np.zeros((4, 5), bool), np.ones((300, 400), bool), np.eye(90, dtype=bool)]
    return [*noise, wide, *plain, np.ones((1, 1), bool), np.zeros((1, 1), bool)]


def test_run_lengths_equal_pycocotools():
    for mask in masks():
        text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        runs = runs_of_mask(mask)
        assert runs_of_text(text.decode()) == runs.tolist()
        assert text_of_runs(runs) == text.decode()
        for counts in (text, text.decode(), runs.tolist()):
            back = mask_of_runs(read_runs(counts, mask.shape), mask.shape)
            np.testing.assert_array_equal(back, mask)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([], "it has no run lengths `counts`"),
        (72, "it has no run lengths `counts`"),
        ([71], "the run lengths fill 71 of 8 x 9 pixels"),
        ([10, 70], "the run lengths fill 80 of 8 x 9 pixels"),
        ([80, -8], "no list of whole numbers from 0 on"),
        (["a"], "no list of whole numbers from 0 on"),
        ("P", "the run lengths are broken"),
        (b"P", "the run lengths are broken"),
        (b"\xff", "the run lengths"),
    ],
)
def test_what_fills_no_mask_is_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        read_runs(counts, (8, 9))
