"""The classes that a user names."""

import pytest

from pix2seq_jax.evaluation import predictor
from pix2seq_jax.evaluation.classes import labels_of
from tests.helpers import small

RECORDED = small.ROOT / "tests" / "golden" / "workdir_0_1"
NAMES = ("chair", "chair, folding", "table", "chair, folding,red", "red", "folding")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", None),
        ("table", [3]),
        ("table,chair", [3, 1]),
        ("table, chair ,table", [3, 1]),
        ("chair, folding", [2]),
        ("chair,folding", [2]),
        ("chair,folding,red", [4]),
        ("chair,folding,table,red", [2, 3, 5]),
        ("red,chair,folding", [5, 2]),
        ("folding,chair", [6, 1]),
    ],
)
def test_a_name_may_have_commas(text, labels):
    assert labels_of(text, NAMES) == labels


def test_a_list_of_names_is_not_joined():
    assert labels_of(["chair", "folding"], NAMES) == [1, 6]
    assert labels_of(["chair, folding"], NAMES) == [2]
    assert labels_of((), NAMES) is None


def test_an_unknown_class_is_named():
    with pytest.raises(
        ValueError, match=r"^--classes=table,chairs: the model has no 'chairs'; did"
    ):
        labels_of("table,chairs", NAMES)
    with pytest.raises(ValueError, match=r"^classes=table,chairs: the model has no 'chairs'; did"):
        labels_of(["table", "chairs"], NAMES)
    with pytest.raises(
        ValueError, match=r"^--classes=zebra: the model has no 'zebra'; it has pers"
    ):
        predictor.load(RECORDED, classes="zebra")
