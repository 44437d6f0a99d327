"""The search for task weights: its arithmetic, its rule, a real one, and what it refuses."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax import train, weight_search
from pix2seq_jax.config import recipes
from pix2seq_jax.evaluation import HOST_TASKS
from pix2seq_jax.experiment import resolve, saved_run, task_weights
from tests.helpers import small

# Ratios at which `pretend` is best.
PEAKS = {"segmentation": 0.5, "captioning": 0.1, "keypoints": 0.1}
RATIOS = (0.1, 0.3, 0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def pretend(monkeypatch):
    """Replaces the training: metrics peak where PEAKS says. Gives the configs that were run, by the
    last part of their workdir's name."""
    configs = {}

    def run(config, workdir):
        added = workdir.name.rpartition("+")[2]
        configs[added] = config
        task, ratio = added.split("_")
        near = 1 - abs(float(ratio) - PEAKS.get(task, 0.3))
        metrics = {
            resolve.label(config, name): HOST_TASKS[name].main_metric for name in config.tasks
        }
        return {label: {metric: near, "images": 20} for label, metric in metrics.items()}

    monkeypatch.setattr(train, "run", run)
    return configs


def test_weights_sum_to_one_and_keep_their_proportions():
    rng = np.random.default_rng(0)
    for _ in range(50):
        ratios, weights = rng.uniform(0.001, 0.999, 3), {"detection": 1.0}
        for added, ratio in zip(("segmentation", "captioning", "keypoints"), ratios, strict=True):
            before, weights = weights, task_weights.mixed(weights, added, ratio)
            assert math.isclose(sum(weights.values()), 1) and weights[added] == ratio
            for name, weight in before.items():
                assert math.isclose(
                    weights[name] / weights["detection"], weight / before["detection"]
                )


def test_the_published_ratios_give_the_published_mix():
    weights = {"detection": 1.0}
    for added, ratio in (("segmentation", 0.8), ("captioning", 0.1), ("keypoints", 0.01)):
        weights = task_weights.mixed(weights, added, ratio)
    assert weights == pytest.approx(recipes.TASK_MIX, rel=1e-12)


def test_the_rule_weighs_metrics_of_any_scale_alike():
    runs = [
        {"a/AP": 0.2, "b/CIDEr-D": 2.0},
        {"a/AP": 0.4, "b/CIDEr-D": 1.8},
        {"a/AP": 0.1, "b/CIDEr-D": 2.0},
    ]
    assert task_weights.relative(runs) == pytest.approx([0.75, 0.95, 0.625])
    large = [{"a/AP": run["a/AP"], "b/CIDEr-D": 1000 * run["b/CIDEr-D"]} for run in runs]
    assert task_weights.relative(large) == pytest.approx(task_weights.relative(runs))


def test_the_rule_leaves_out_metrics_that_are_0():
    assert task_weights.relative([{"a/AP": 0.0, "b/AP": 0.1}, {"a/AP": 0.0, "b/AP": 0.2}]) == [
        0.5,
        1.0,
    ]
    assert task_weights.relative(
        [{"a/AP": None, "b/AP": 0.1}, {"a/AP": 0.3, "b/AP": math.nan}]
    ) == [0.5, 0.5]
    assert task_weights.relative([{"a/AP": 0.0}, {"a/AP": None}]) == [0.0, 0.0]


def test_each_round_builds_on_the_best_of_the_one_before(pretend, tmp_path):
    config = small.load("multitask.py:shapes")
    weights = weight_search.search(config, tmp_path, ratios=(0.5, 0.3, "0.1"), steps=7)
    wanted = {
        "detection": 0.5 * 0.9 * 0.9,
        "segmentation": 0.5 * 0.9 * 0.9,
        "captioning": 0.1 * 0.9,
        "keypoints": 0.1,
    }
    assert weights == pytest.approx(wanted)
    assert list(pretend) == [f"{name}_{ratio}" for name in PEAKS for ratio in RATIOS]
    for name, run in pretend.items():
        resolve.check_weights(run)
        assert run.train.steps == 7 and run.eval.boxes == "predicted", name
    assert set(pretend["captioning_0.3"].tasks) == {"detection", "segmentation", "captioning"}
    assert pretend["captioning_0.3"].tasks.detection.weight == pytest.approx(0.35)
    content = json.loads((tmp_path / "weight_search.json").read_text())
    assert content["weights"] == weights and len(content["rows"]) == 9
    assert [(row["task"], row["ratio"]) for row in content["rows"] if row["chosen"]] == list(
        PEAKS.items()
    )
    assert content["rows"][8]["weights"] == {
        name: run.weight for name, run in pretend["keypoints_0.5"].tasks.items()
    }


def test_equally_good_ratios_give_the_smallest(pretend, tmp_path, monkeypatch):
    monkeypatch.setitem(PEAKS, "captioning", 0.2)
    order = ("detection", "captioning")
    found = weight_search.search(
        small.load("multitask.py:shapes"), tmp_path, ratios=(0.3, 0.1), order=order
    )
    assert found["captioning"] == 0.1


def test_without_detection_the_boxes_are_those_of_the_annotations(pretend, tmp_path):
    order = ("segmentation", "keypoints", "detection")
    weight_search.search(small.load("multitask.py:shapes"), tmp_path, ratios=(0.5,), order=order)
    assert (
        pretend["keypoints_0.5"].eval.boxes == "ground_truth"
        and pretend["detection_0.5"].eval.boxes == "predicted"
    )
    rows = json.loads((tmp_path / "weight_search.json").read_text())["rows"]
    assert set(rows[0]["metrics"]) == {
        "segmentation_ground_truth_boxes/AP",
        "keypoints_ground_truth_boxes/AP",
    }
    assert set(rows[1]["metrics"]) == {"segmentation/AP", "keypoints/AP", "detection/AP"}


def test_more_ratios_and_tasks_may_follow_but_no_other_config(pretend, tmp_path):
    config, order = small.load("multitask.py:shapes"), ["detection", "segmentation"]
    weight_search.search(config, tmp_path, ratios=(0.3,), order=order)
    config.train.log_steps, config.tasks.detection.weight = 5, 0.7  # neither changes a result
    weights = weight_search.search(
        config, tmp_path, ratios=(0.3, 0.5), order=[*order, "captioning"]
    )
    runs = ["segmentation_0.3", "segmentation_0.5", "captioning_0.3", "captioning_0.5"]
    assert list(pretend) == runs  # the first was not repeated
    assert weights == pytest.approx({"detection": 0.35, "segmentation": 0.35, "captioning": 0.3})
    steps = config.train.steps
    with pytest.raises(
        ValueError,
        match=rf"another search: config.train.steps is {steps} there and 9 here.*--workdir",
    ):
        weight_search.search(config, tmp_path, ratios=(0.3,), steps=9)
    (tmp_path / "weight_search.json").write_text("{")
    with pytest.raises(ValueError, match=r"weight_search.json cannot be read .*delete it"):
        weight_search.search(config, tmp_path, ratios=(0.3,))


def test_where_a_later_ratio_wins_the_tasks_after_it_are_tried_anew(pretend, tmp_path):
    config, order = small.load("multitask.py:shapes"), ("detection", "segmentation", "captioning")
    weight_search.search(config, tmp_path, ratios=(0.1,), order=order)
    weights = weight_search.search(config, tmp_path, ratios=(0.1, 0.5), order=order)
    assert weights == pytest.approx({"detection": 0.45, "segmentation": 0.45, "captioning": 0.1})
    rows = json.loads((tmp_path / "weight_search.json").read_text())["rows"]
    base = "detection+segmentation"
    runs = [f"{base}_0.1", f"{base}_0.1+captioning_0.1", f"{base}_0.5"]
    runs += [f"{base}_0.5+captioning_{ratio}" for ratio in (0.1, 0.5)]
    assert [row["run"] for row in rows] == runs and [row["chosen"] for row in rows] == [
        False,
        False,
        True,
        True,
        False,
    ]
    shown = (tmp_path / "weight_search.txt").read_text().split("\n\n")[0].splitlines()
    assert len(shown) == 5  # a head, and no row for the run that was built on 0.1


def test_a_stopped_run_ends_the_search_and_keeps_the_rest(pretend, tmp_path, monkeypatch):
    config, whole = small.load("multitask.py:shapes"), train.run
    monkeypatch.setattr(
        train, "run", lambda c, w: {} if w.name == "detection+segmentation_0.5" else whole(c, w)
    )
    assert weight_search.search(config, tmp_path, ratios=RATIOS) == {}
    content = json.loads((tmp_path / "weight_search.json").read_text())
    assert [row["ratio"] for row in content["rows"]] == [0.1, 0.3] and content["weights"] == {}
    monkeypatch.setattr(train, "run", whole)
    assert weight_search.search(config, tmp_path, ratios=RATIOS)
    assert len(pretend) == 9


def test_a_ratio_that_diverges_counts_as_0_and_is_not_tried_again(pretend, tmp_path, monkeypatch):
    config, whole, tried = small.load("multitask.py:shapes"), train.run, []

    def diverging(config, workdir):
        tried.append(workdir.name)
        if workdir.name.endswith("_0.5"):  # PEAKS: the best ratio of segmentation
            raise FloatingPointError("step 7: loss nan")
        return whole(config, workdir)

    monkeypatch.setattr(train, "run", diverging)
    weights = weight_search.search(config, tmp_path, ratios=RATIOS)
    rows = json.loads((tmp_path / "weight_search.json").read_text())["rows"]
    lost = [row for row in rows if row["ratio"] == 0.5]
    assert len(lost) == 3 and all(row["relative"] == 0 and not row["chosen"] for row in lost)
    assert weights["segmentation"] / (
        weights["segmentation"] + weights["detection"]
    ) == pytest.approx(0.3)
    before = list(tried)
    assert weight_search.search(config, tmp_path, ratios=RATIOS) == weights and tried == before


def test_a_config_that_failed_can_be_mended_in_its_workdir(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"warmup=5 .* leave no step of config.train.steps=2"):
        weight_search.search(
            small.config("multitask.py:shapes", folder, schedule__warmup=5), tmp_path, ratios=(0.5,)
        )
    monkeypatch.setattr(train, "run", lambda config, workdir: {})
    assert (
        weight_search.search(small.config("multitask.py:shapes", folder), tmp_path, ratios=(0.5,))
        == {}
    )


def test_the_flags_make_a_config_that_trains():
    config = small.load("multitask.py:shapes")
    weights = task_weights.mixed(
        task_weights.mixed({"detection": 1.0}, "captioning", 1 / 3), "keypoints", 0.01
    )
    written = task_weights.as_flags(weights, config)
    pairs = (flag.removeprefix("--config.").split("=") for flag in written.split())
    config.update_from_flattened_dict({name: float(value) for name, value in pairs})
    resolve.check_weights(config)
    assert "--config.tasks.segmentation.weight=0" in written.split()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"ratios": (0.5, 1.0)}, ("--ratios: 1.0", "above 0 and below 1")),
        ({"ratios": ("0",)}, ("--ratios: 0 ",)),
        ({"ratios": ("nan",)}, ("--ratios: nan",)),
        ({"ratios": ("0.1", "x")}, ("'x' is no number", "--ratios=0.1,0.3,0.5")),
        ({"ratios": ()}, ("--ratios is empty",)),
        ({"order": ("detection", "depth")}, ("unknown task 'depth'", "captioning")),
        ({"order": ("detection",)}, ("--order=detection", "at least two")),
        ({"order": ("detection", "detection")}, ("each once",)),
        ({"config": "detection.py:shapes"}, ("--order=detection", "at least two")),
        (
            {"config": "detection.py:shapes", "order": ("detection", "keypoints")},
            ("'keypoints' is not in the config", "['detection']", "multitask.py"),
        ),
    ],
)
def test_what_does_not_fit_is_named(change, parts, pretend, tmp_path):
    config = small.load(change.get("config", "multitask.py:shapes"))
    with pytest.raises(ValueError) as caught:
        weight_search.search(
            config, tmp_path, ratios=change.get("ratios", RATIOS), order=change.get("order", ())
        )
    assert all(part in str(caught.value) for part in parts)
    assert not pretend and not list(tmp_path.iterdir())


def test_a_search_trains_and_resumes(folder, tmp_path, monkeypatch):
    config = small.config("multitask.py:shapes", folder)
    given = {"ratios": (0.2, 0.6), "order": ("detection", "captioning"), "steps": 2}
    weights = weight_search.search(config, tmp_path, **given)
    assert set(weights) == {"detection", "captioning"} and math.isclose(sum(weights.values()), 1)
    content = json.loads((tmp_path / "weight_search.json").read_text())
    assert [row["ratio"] for row in content["rows"]] == [0.2, 0.6]
    for row in content["rows"]:
        run = tmp_path / row["run"]
        measured = json.loads((run / "metrics.json").read_text())
        assert measured["step"] == 2
        found = {
            "detection/AP": measured["detection"]["AP"],
            "captioning/CIDEr-D": measured["captioning"]["CIDEr-D"],
        }
        assert row["metrics"] == found
        trained = saved_run.load_config(run)
        assert {name: section.weight for name, section in trained.tasks.items()} == row["weights"]
    lines = (tmp_path / "weight_search.txt").read_text().splitlines()
    assert lines[0].split() == [
        "added",
        "ratio",
        "weights",
        "detection/AP",
        "captioning/CIDEr-D",
        "relative",
    ]
    assert [line.endswith("*") for line in lines[1:3]] == [row["chosen"] for row in content["rows"]]
    assert lines[-1] == task_weights.as_flags(weights, config)
    with Image.open(tmp_path / "weight_search.png") as figure:
        assert figure.format == "PNG"

    monkeypatch.setattr(train, "run", None)  # nothing is left to train
    assert weight_search.search(config, tmp_path, **given) == weights
    assert json.loads((tmp_path / "weight_search.json").read_text()) == content
