"""The figure shows the values where they are and survives those that are missing."""

import itertools

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.evaluation.pictures import plots
from pix2seq_jax.evaluation.pictures.marks import color


def row(ratio, task="segmentation", **values) -> dict:
    return {"task": task, "ratio": ratio} | {
        name.replace("__", "/"): value for name, value in values.items()
    }


def ink(figure: Image.Image, number: int) -> np.ndarray:
    """i64[count,2] yx: pixels in the colour of metric `number`, without the legend."""
    pixels = np.asarray(figure)[: plots.PANEL[1]].astype(int)
    return np.argwhere(np.abs(pixels - 0.75 * np.array(color(number))).max(-1) < 2)


def test_curves_rise_and_fall_with_their_values(tmp_path):
    rows = [
        row(ratio, segmentation__AP=ratio, detection__AP=1 - ratio)
        for ratio in (0.0, 0.9, 0.5, 1.0)
    ]
    figure = plots.weight_search_plot(rows, tmp_path / "new" / "figure.png")
    with Image.open(tmp_path / "new" / "figure.png") as saved:
        assert saved.format == "PNG"
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(figure))
    left, above, right, below = plots.MARGINS
    width, height = plots.PANEL[0] - left - right, plots.PANEL[1] - above - below
    for number, values in ((1, lambda x: x), (2, lambda x: 1 - x)):
        y, x = ink(figure, number).T
        share = (x - left) / width
        up = 1 - (y - above) / height
        assert len(x) > 300 and np.abs(up - values(share)).max() < 0.03
        assert share.min() < 0.01 and share.max() > 0.99


def test_the_axes_hold_all_values_and_the_dots_mark_them(tmp_path):
    values = {0.1: 0.31, 0.2: 0.42, 0.7: 0.40}
    figure = plots.weight_search_plot(
        [row(x, a__b=y) for x, y in values.items()], tmp_path / "figure.png"
    )
    left, above, right, below = plots.MARGINS
    marks = [plots.ticks(min(v), max(v)) for v in (values.keys(), values.values())]
    places = ink(figure, 1)
    for x, y in values.items():
        across, up = ((v - at[0]) / (at[-1] - at[0]) for v, at in zip((x, y), marks, strict=True))
        column = left + across * (plots.PANEL[0] - left - right)
        line = plots.PANEL[1] - below - up * (plots.PANEL[1] - above - below)
        assert (np.hypot(*(places - [line, column]).T) < 3.5).sum() > 20  # a dot of 4 px


@pytest.mark.parametrize(
    "missing", [{}, {"a__b": None}, {"a__b": float("nan")}, {"a__b": np.inf}, {"a__b": "n/a"}]
)
def test_missing_values_are_skipped(missing, tmp_path):
    rows = [row(0.1, a__b=0.2, note="x"), row(0.5, a__b=np.float32(0.4)), row(0.9, a__b=0.3)]
    wanted = plots.weight_search_plot(rows, tmp_path / "wanted.png")
    found = plots.weight_search_plot(
        [*rows, row(0.3, **missing), row(None, a__b=9.0)], tmp_path / "found.png"
    )
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


def test_a_panel_for_each_added_task_with_the_same_colours(tmp_path):
    rows = [
        row(x, task, **{f"{task}__AP": x, "detection__AP": 1.0})
        for x in (0.1, 0.9)
        for task in ("a", "星", "c")
    ]
    figure = plots.weight_search_plot(rows, tmp_path / "figure.png")
    one = plots.weight_search_plot(rows[:1], tmp_path / "one.png")
    assert figure.size == (2 * one.width, 2 * one.height)
    pixels = np.asarray(figure)
    panels = [
        pixels[y : y + one.height, x : x + one.width]
        for y in (0, one.height)
        for x in (0, one.width)
    ]
    colour = np.round(0.75 * np.array(color(2)))  # of detection/AP, in every panel
    assert [(panel == colour).all(-1).sum() > 100 for panel in panels] == [True, True, True, False]
    assert (panels[3] == plots.PAPER).all()


def test_a_task_without_values_has_an_empty_panel(tmp_path):
    assert (
        plots.weight_search_plot(
            [row(0.1), row(float("nan"), a__b=1.0)], tmp_path / "figure.png"
        ).width
        > 0
    )


@pytest.mark.parametrize("rows", [[], [{"ratio": 0.1, "a/b": 0.5}]])
def test_rows_without_a_task_are_refused(rows, tmp_path):
    with pytest.raises(ValueError, match="added 'task' and 'ratio'"):
        plots.weight_search_plot(rows, tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())


def test_ticks_are_round_and_enclose_the_values():
    values = [-12.3, -1e-3, 0.0, 1e-5, 0.1, 0.30000001, 0.31, 0.42, 1.0, 99.0, 1e6]
    for low, high in itertools.combinations_with_replacement(values, 2):
        marks = plots.ticks(low, high)
        assert 2 <= len(marks) <= 7, (low, high, marks)
        slack = 1e-6 * (marks[-1] - marks[0])
        assert marks[0] <= low + slack and high - slack <= marks[-1]
        np.testing.assert_allclose(np.diff(marks), marks[1] - marks[0], rtol=1e-6)
    assert plots.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
