"""Rows of token tables are matched by what the tokens stand for."""

import numpy as np
import pytest

from pix2seq_jax.data.coco.classes import UNNAMED
from pix2seq_jax.official import transfer
from pix2seq_jax.official.token_rows import match_tokens
from tests.helpers.warm_start import BIAS, EMBEDDING, make, plan, shapes, source


def test_classes_are_matched_by_name():
    arrays, parts, text = plan(make(), make(("kite", "polar bear", "CAT")))
    part = parts[EMBEDDING]
    assert part.what == "rows" and not part.taken[101] and part.taken[102:104].all()
    for table in (EMBEDDING, BIAS):
        values = parts[table].values
        np.testing.assert_array_equal(values[[103, 102]], arrays[table][[101, 103]])
        np.testing.assert_array_equal(values[:101], arrays[table][:101])
        np.testing.assert_array_equal(values[104:], arrays[table][104:])
    assert (
        "copied special 101, class 2, coordinate 16, unused 80; new class 1; dropped class 1"
        in text
    )
    for line in (
        "classes copied: 2 (polar bear, CAT)",
        "classes new: 1 (kite)",
        "classes dropped: 1 (dog)",
    ):
        assert line in text


def test_rows_follow_a_vocabulary_that_is_laid_out_anew():
    ours = make(text=9)
    ours.vocab.update({"coord_shift": 110, "text_shift": 300, "size": 320})
    ours.model.vocab_size = 320
    arrays, parts, _ = plan(make(text=9), ours)
    values, taken = parts[EMBEDDING].values, parts[EMBEDDING].taken
    np.testing.assert_array_equal(values[110:126], arrays[EMBEDDING][120:136])
    np.testing.assert_array_equal(values[300:309], arrays[EMBEDDING][200:209])
    # These stand for nothing on either side.
    np.testing.assert_array_equal(values[150:200], arrays[EMBEDDING][150:200])
    assert not taken[126:136].any() and not taken[309:].any()


def test_labels_without_a_name():
    """They are the same only in the same list of categories."""
    names = ("person", UNNAMED.format(2), "bus")
    rows = match_tokens(make(names, ids=(1, 2, 6)), make(names, ids=(1, 2, 6)))
    assert rows.matched["class"] == 3 and not rows.new and not rows.dropped
    rows = match_tokens(make(names, ids=(1, 2, 6)), make(names, ids=(1, 3, 6)))
    assert (rows.matched["class"], rows.new["class"], rows.dropped["class"]) == (2, 1, 1)
    others = ("person", "class 3", "class 2")  # by chance "class 3" is the name of label 2
    rows = match_tokens(make(names, ids=(1, 2, 6)), make(others, ids=(1, 2, 6)))
    assert rows.low[102] == -1 and rows.low[103] == -1


def test_a_name_that_two_classes_bear():
    rows = match_tokens(make(("cat", "dog", "Cat")), make(("cat", "dog", "Cat")))
    np.testing.assert_array_equal(rows.low, np.arange(200))
    rows = match_tokens(make(("cat", "dog")), make(("cat", "cat")))
    np.testing.assert_array_equal(rows.low[101:103], [101, -1])


@pytest.mark.parametrize(("there", "here"), [(16, 31), (31, 16), (16, 50), (3, 2)])
def test_bins_are_interpolated(there, here):
    arrays, parts, text = plan(make(bins=there), make(bins=here))
    positions = np.linspace(0, 1, here), np.linspace(0, 1, there)
    for table in (EMBEDDING, BIAS):
        old = arrays[table][120 : 120 + there].reshape(there, -1)
        new = parts[table].values[120 : 120 + here].reshape(here, -1)
        expected = np.stack([np.interp(*positions, column) for column in old.T], axis=1)
        np.testing.assert_allclose(new, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(new[[0, -1]], old[[0, -1]])
    assert parts[EMBEDDING].taken[120 : 120 + here].all()
    assert f"resized coordinate {there} -> {here}" in text


def test_text_is_matched_by_piece_in_equal_text_models():
    same = match_tokens(make(text=12), make(text=12))
    assert same.matched["text"] == 12
    other = match_tokens(make(text=12), make(text=13))
    assert (other.matched["text"], other.new["text"], other.dropped["text"]) == (0, 13, 12)
    model, config = source(make(text=12)), make(text=12)
    for there, here, what in (
        ("a", "a", "copied"),
        ("a", None, "copied"),
        (None, "a", "copied"),
        ("a", "b", "rows"),
    ):
        parts = transfer.plan(model._replace(text=there), config, shapes(config), here)
        assert parts[EMBEDDING].what == what
    np.testing.assert_array_equal(parts[EMBEDDING].taken, np.arange(212) < 200)
