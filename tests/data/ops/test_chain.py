"""Preprocessing strings."""

from dataclasses import dataclass

import pytest

from pix2seq_jax.data.ops.chain import parse


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
