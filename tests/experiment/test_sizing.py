"""Numbers by the size of one's own folder: counted, logged, written, and kept by a run."""

import json
import logging
import shutil

import jax
import pytest

from pix2seq_jax import train
from pix2seq_jax.config import by_data
from pix2seq_jax.data.coco import json as coco_json
from pix2seq_jax.experiment import saved_run, sizing, start, weight_search
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.training import sharding
from tests.helpers import layouts, small

OPEN = dict.fromkeys(by_data.FIELDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, logger="pix2seq_jax")
    log.addHandler(caplog.handler)
    yield caplog
    log.removeHandler(caplog.handler)


def config_of(folder, file="detection.py", **overrides):
    """A shrunk config on the folder, with all of by_data.FIELDS open."""
    config = small.load(f"{file}:data={folder},arch=tiny,size=48,slots=4")
    values = {key: x for key, x in small.shrunk(config).items() if key not in OPEN}
    config.update_from_flattened_dict(values)
    config.update_from_flattened_dict({key.replace("__", "."): x for key, x in overrides.items()})
    return config


def numbers(config):
    content = config.to_dict()
    return {
        field: content[section][name]
        for field in by_data.FIELDS
        for section, name in [field.split(".")]
    }


def grown(folder, copy, images):
    """A copy of the folder whose training file lists more images."""
    shutil.copytree(folder, copy)
    path = copy / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["images"] = [{"id": i, "file_name": f"{i}.jpg"} for i in range(images)]
    path.write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize("piece", [3, 11, 12, 100, 2**24])
def test_images_are_counted_across_the_pieces_of_a_file(folder, monkeypatch, piece):
    path = folder / "annotations" / "captions_train.json"
    monkeypatch.setattr(coco_json, "_PIECE", piece)
    assert coco_json.count_images(path) == small.TRAIN_IMAGES


def test_the_log_has_each_number_with_its_reason(folder, logged):
    config = sizing.sized(config_of(folder), "")
    assert numbers(config) == {
        "train.batch_size": 8,
        "train.steps": 5_000,
        "schedule.base": 1.8e-4,
        "train.eval_steps": 500,
    }
    # Once by each handler.
    lines = [line for line in dict.fromkeys(logged.messages) if line.startswith("config.")]
    assert len(lines) == 4 and f"{small.TRAIN_IMAGES} images x 300 / 8 a step" in lines[1]
    pretrained = sizing.sized(config_of(folder, init_from="runs/other"), "")
    assert numbers(pretrained)["train.steps"] == 1_000
    given = config_of(folder, train__steps=7, train__batch_size=24)
    assert numbers(sizing.sized(given, ""))["train.steps"] == 7


def test_an_encoder_alone_is_no_pretrained_model(folder, logged):
    """Projection and decoder start fresh."""
    fresh = numbers(sizing.sized(config_of(folder), ""))
    assert numbers(sizing.sized(config_of(folder, init_encoder="vit.npz"), "")) == fresh
    assert "with the weights of a whole model" not in logged.text
    whole = numbers(sizing.sized(config_of(folder, init_from="runs/other"), ""))
    assert whole["train.steps"] < fresh["train.steps"]
    assert whole["schedule.base"] < fresh["schedule.base"]
    assert "40 epochs with the weights of a whole model" in logged.text


def test_accelerators_recompute_activations_where_the_batch_is_chosen(folder, logged):
    mesh = sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])

    def remat(accelerators=True, config=None, **overrides):
        config = config or config_of(folder, **overrides)
        config, reasons = sizing.planned(config, mesh, accelerators=accelerators)
        assert any(line.startswith("config.model.remat=True: ") for line in reasons) == (
            config.model.remat and not overrides.get("model__remat", False)
        )
        return config.model.remat

    assert remat() and remat(model__remat=True)
    assert not remat(accelerators=False) and not remat(train__batch_size=8)
    assert not remat(config=small.config("multitask.py:shapes", folder))
    assert not sizing.sized(config_of(folder), "").model.remat
    # A run that goes on, here on CPUs, keeps it.
    begun, _ = sizing.planned(config_of(folder), mesh, accelerators=True)
    assert sizing.as_saved(config_of(folder), begun, "runs/a").model.remat
    assert "config.model.remat=True: as runs/a was begun" in logged.text
    given = config_of(folder, train__batch_size=8)
    assert not sizing.as_saved(given, begun, "runs/a").model.remat


def test_a_file_without_splits_counts_for_the_part_that_is_trained_on(folder, tmp_path, logged):
    config = config_of(layouts.one_file(folder, tmp_path / "one"))
    sizing.sized(config, "")
    images = round(0.8 * small.TRAIN_IMAGES)
    assert f"the {images} images of an epoch" in logged.text
    # Of the other part an evaluation is made: a tenth of 10 x 8 rows is one such evaluation.
    short = sizing.sized(config_of(layouts.one_file(folder, tmp_path / "two"), train__steps=10), "")
    val = small.TRAIN_IMAGES - images
    assert short.train.eval_steps == 10 and f"at the end, of {val} images" in logged.text


def test_evaluations_follow_from_the_images_of_val(folder, tmp_path, logged):
    def every(data=folder, **overrides):
        return sizing.sized(config_of(data, train__steps=50, **overrides), "").train.eval_steps

    assert every() == 25  # 2 x 20 images are a tenth of 50 x 8 rows
    assert "2 evaluations of 20 images" in logged.text and "of the 400 rows" in logged.text
    assert every(eval__images_in_training=5) == 10  # 20 and 4 x 5
    assert every(eval__images=10) == 25 and every(train__batch_size=4) == 50
    assert every(train__eval_steps=3) == 3
    unknown = grown(folder, tmp_path / "no_val", small.TRAIN_IMAGES)
    (unknown / "annotations" / "instances_val.json").unlink()
    assert every(unknown) == 5


def test_tasks_without_weight_are_refused_in_words(folder):
    config = config_of(folder, tasks__detection__weight=0.0)
    with pytest.raises(ValueError, match="they are shares of the loss and must sum to 1"):
        sizing.sized(config, "")


def test_other_configs_stay(folder):
    config = small.config("multitask.py:shapes", folder)
    assert sizing.sized(config, "") is config


@pytest.mark.parametrize(
    "name,value", [("optim__name", "momentum"), ("schedule__scaling", "linear")]
)
def test_a_rate_is_chosen_for_the_published_optimizer_alone(folder, name, value):
    with pytest.raises(ValueError, match=r"give a rate, as in --config\.schedule\.base=1e-3"):
        sizing.sized(config_of(folder, **{name: value}), "")
    config = sizing.sized(config_of(folder, **{name: value, "schedule__base": 0.1}), "")
    assert config.schedule.base == 0.1


def test_accumulation_and_repeats_divide_the_batch(folder):
    mesh = sharding.make_mesh({"data": 2}, devices=jax.devices()[:2])
    config = config_of(folder, train__accumulate=3, train__repeats=4)
    config, reasons = sizing.planned(config, mesh, accelerators=True)
    assert config.train.batch_size == 24 and "in multiples of 12" in reasons[0]


def test_a_plan_needs_no_data(tmp_path):
    mesh = sharding.make_mesh({"data": 8})
    config, reasons = sizing.planned(config_of(tmp_path), mesh, accelerators=True)
    assert config.train.batch_size == 128 and "118,287 images are assumed" in reasons[0]


def test_a_run_keeps_its_numbers(folder, tmp_path, logged):
    """Of another size of the folder, and where only its length is changed."""
    workdir = tmp_path / "run"
    train.run(config_of(folder, train__steps=2), workdir, evaluate_too=False)
    assert start.FROM_SCRATCH in logged.text
    saved = numbers(saved_run.load_config(workdir))
    expected = {"train.batch_size": 8, "train.steps": 2, "train.eval_steps": 2}
    assert saved == expected | {"schedule.base": 1.8e-4}
    larger = grown(folder, tmp_path / "larger", 400)
    assert numbers(sizing.sized(config_of(larger), ""))["train.steps"] == 15_000
    assert numbers(sizing.sized(config_of(larger), workdir)) == saved
    longer = numbers(sizing.sized(config_of(larger, train__steps=9), workdir))
    assert longer == saved | {"train.steps": 9}
    # The same command again.
    before = (workdir / "config.json").read_text()
    train.run(config_of(folder, train__steps=2), workdir, evaluate_too=False)
    assert (workdir / "config.json").read_text() == before
    assert f"as {workdir} was begun" in logged.text


def test_all_runs_of_a_search_have_the_numbers_that_it_began_with(folder, tmp_path):
    configs = []

    def stopped(config, workdir):
        """As a run that SIGTERM stops; the first one measures something."""
        configs.append(numbers(config))
        measured = {"detection": {"AP": 0.1}, "segmentation_ground_truth_boxes": {"AP": 0.1}}
        return measured if len(configs) == 1 else {}

    def search(data):
        config = config_of(data, "multitask.py")
        ratios, order = (0.1, 0.5), ("detection", "segmentation")
        return weight_search.search(stopped, config, tmp_path / "w", ratios=ratios, order=order)

    assert search(folder) == {}
    larger = grown(folder, tmp_path / "larger", 400)
    with pytest.raises(ValueError, match=r"of another search: config.data"):
        search(larger)  # at another place
    shutil.copy(larger / "annotations" / "instances_train.json", folder / "annotations")
    assert search(folder) == {}
    assert len(configs) == 3 and configs[0] == configs[1] == configs[2]
    assert configs[0]["train.steps"] == 5_000
