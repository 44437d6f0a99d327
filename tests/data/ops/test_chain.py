"""Preprocessing strings."""

from dataclasses import dataclass

import pytest

from pix2seq_jax.data.ops.chain import parse, read_chain


@dataclass(frozen=True)
class Jitter:
    size: int | tuple[int, int]
    low: float = 0.5
    mode: str = "x"


@dataclass(frozen=True)
class Flip:
    pass


TABLE = {"jitter": Jitter, "flip": Flip}


def test_arguments_by_position_name_and_bare_word():
    spec = (
        " jitter((3, 4), low=-1e-2)|flip|flip()|jitter(7, 1.5, random)|jitter(size=1, mode='a|b') "
    )
    assert parse(spec, TABLE) == (
        Jitter((3, 4), -0.01),
        Flip(),
        Flip(),
        Jitter(7, 1.5, "random"),
        Jitter(1, mode="a|b"),
    )


def test_one_op():
    assert parse("flip", TABLE) == (Flip(),)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "not of the form"),
        ("jitter(3", "not of the form"),
        ("flip|", "not of the form"),
        ("jitter(3)+flip", "not of the form"),
        ("a.b(3)", "not of the form"),
        ("turn(3)|flip", "no op 'turn'; the ops are flip, jitter"),
        ("jitter()", r"jitter takes \(size, low, mode\)"),
        ("jitter(1, 2, 3, 4)", r"jitter takes \(size, low, mode\)"),
        ("jitter(1, height=3)", r"jitter takes \(size, low, mode\)"),
        ("jitter(open('x'))", "is no number, word, string or tuple"),
    ],
)
def test_what_cannot_be_read_is_named(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec, TABLE)


WHOLE = "decode|resize(32)|pad_image(32)|pad_objects(2)"
WINDOWS = "decode|crop_to_box(2.0)|resize(32)|pad_image(32)|pad_objects(1)"
TRAINING = "decode|flip_lr|truncate(5)|noise_boxes(7)|pad_image(32)|pad_objects(7)"


def test_a_chain_answers():
    whole, windows, training = map(read_chain, (WHOLE, WINDOWS, TRAINING))
    assert [chain.per_object for chain in (whole, windows, training)] == [False, True, False]
    assert [chain.keeps_whole for chain in (whole, windows, training)] == [True, False, False]
    assert [chain.slots for chain in (whole, windows, training)] == [2, 1, 5]
    assert not read_chain("decode|resize(32)|pad_image(32)|order(area)|pad_objects(1)").keeps_whole
    assert whole.spec == WHOLE
    assert whole.ops == (whole.decode, *whole.tensor_ops)
    assert whole.image_ops == whole.tensor_ops[:2]
    assert whole.image_ops == read_chain("decode|resize(32)|pad_image(32)").image_ops
    assert read_chain(whole.ops).ops == whole.ops


def test_a_chain_without_a_number_of_objects_says_so():
    with pytest.raises(ValueError, match=r"'decode\|flip_lr' sets no number of objects"):
        _ = read_chain("decode|flip_lr").slots


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flip_lr|decode", "must begin with decode"),
        ((), "must begin with decode"),
        ("decode|pad_image(8)|order|flip_lr", "flip_lr stands behind pad_image"),
    ],
)
def test_ops_in_an_order_that_cannot_be_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        read_chain(spec)
