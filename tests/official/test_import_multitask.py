"""Official multi-task checkpoints: every task of their config, some of them, and the text model of
the captions."""

import json
import logging

import numpy as np
import pytest

from pix2seq_jax import import_tf
from pix2seq_jax.config.fill import fill
from pix2seq_jax.data.coco.person import COCO_KEYPOINTS
from pix2seq_jax.data.text import Text
from pix2seq_jax.experiment import resolve, saved_run, text_model
from pix2seq_jax.official import names as official_names
from pix2seq_jax.official import reader
from pix2seq_jax.vocab import CLASS_SHIFT
from tests.helpers import small
from tests.helpers.commands import command
from tests.helpers.official_checkpoints import VIT_B, key, write
from tests.helpers.official_reference import Reference
from tests.helpers.refusals import LOADING
from tests.official.test_models import TINY

MODEL = TINY | {
    "image_size": [48, 48],
    "max_seq_len": 48,
    "vocab_size": 260,
    "text_vocab_shift": 230,
}
TASKS = [
    {
        "name": "captioning",
        "captions_per_image": 3,
        "max_seq_len": 12,
        "input_seq_drop_rate": 0.25,
        "weight": 1,
    },
    {
        "name": "object_detection",
        "quantization_bins": 100,
        "max_instances_per_image": 4,
        "weight": 2,
    },
    {
        **{"name": "instance_segmentation", "quantization_bins": 100, "max_instances_per_image": 3},
        **{
            "max_instances_per_image_test": 10,
            "max_points_per_object": 8,
            "shuffle_polygon_start_point": True,
        },
        **{
            "top_p": 0.6,
            "temperature": 0.5,
            "ensemble_num_samples": 2,
            "ensemble_threshold": 0.4,
            "weight": 4,
        },
    },
    {
        **{
            "name": "keypoint_detection",
            "quantization_bins": 100,
            "max_points_per_object": 17,
            "top_k": 1,
        },
        **{
            "invisible_token_weight": 0.2,
            "points_score_weight": 0.7,
            "eval_suppress_invisible_token": False,
        },
        **{"crop_to_bbox_pad_scale": 0.25, "weight": 1},
    },
]
NAMES = ("object_detection", "instance_segmentation", "keypoint_detection", "captioning")


def changed(name: str, **fields) -> dict:
    """The config with other fields of one task."""
    tasks = [task | (fields if task["name"] == name else {}) for task in TASKS]
    return {"model": MODEL, "task": tasks[0], "tasks": tasks}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Workdir of an imported checkpoint of four tasks."""
    folder = tmp_path_factory.mktemp("multitask")
    reference = Reference(MODEL)
    reference.logits(
        reference.encode(np.zeros((1, 48, 48, 3), np.float32)), np.zeros((1, 7), np.int32)
    )
    reference.entries[key("decoder/ar_decoder.Soutp_bias")][CLASS_SHIFT + 1] += 5  # it finds people
    write(folder / "official", changed(""), reference.entries)
    import_tf.run(folder / "official", folder / "run")
    return folder / "run"


def load(workdir, variant: str = ""):
    return small.load(f"workdir.py:{workdir}{variant}")


def test_a_published_config_is_the_shipped_one():
    """Without any field, all tasks are as `configs/multitask.py` has them, but for what the release
    decides else."""
    config = {"model": VIT_B | {"vocab_size": 35_000}, "tasks": [{"name": name} for name in NAMES]}
    made = reader.make_config(config)
    shipped = fill(small.load("multitask.py:arch=vit-b,size=640"))
    shipped.tasks.segmentation.random_start = False
    shipped.tasks.keypoints.update({"num_keypoints": 17, "sigmas": COCO_KEYPOINTS["sigmas"]})
    for name, section in shipped.tasks.items():
        assert made.tasks[name].weight == pytest.approx(section.weight)
        section.weight = made.tasks[name].weight
        assert made.tasks[name].to_dict() == section.to_dict()
    assert made.vocab.to_dict() == shipped.vocab.to_dict() | {
        "num_classes": 90,
        "text_size": 32_000,
    }
    assert made.data.val_captions == "data/coco/annotations/captions_val2017.json"
    assert (made.data.keypoint_categories, made.data.keypoint_names[16]) == ((1,), "right_ankle")
    resolve.check_weights(made)
    assert resolve.make_model(made).max_seq_len == 512


def test_every_task_gets_its_own_settings(imported):
    config = saved_run.load_config(imported)
    made = resolve.make_tasks(config)
    assert list(made) == ["detection", "segmentation", "keypoints", "captioning"]
    assert (made["detection"].max_instances, config.vocab.num_bins, config.vocab.text_size) == (
        4,
        100,
        30,
    )
    outline, joints, words = made["segmentation"], made["keypoints"], made["captioning"]
    assert (outline.max_instances, outline.max_points, outline.random_start) == (3, 8, True)
    assert (joints.num_keypoints, joints.invisible_weight, joints.points_score_weight) == (
        17,
        0.2,
        0.7,
    )
    assert (words.captions_per_image, words.max_tokens, words.input_drop) == (3, 12, 0.25)
    sections = config.tasks
    assert (sections.segmentation.num_samples, sections.segmentation.mask_threshold) == (2, 0.4)
    samplers = [section.sampler for section in sections.values()]
    assert sorted(samplers) == sorted(["nucleus(0.4)", "nucleus(0.6, 0.5)", "topk(1)", "greedy"])
    # The release's 10 objects in evaluation are for debugging.
    assert (
        sections.segmentation.objects == 20 and "pad_objects(20)" in sections.segmentation.eval_ops
    )
    assert "pad_objects(3)" in sections.segmentation.train_ops and not sections.keypoints.grammar
    assert all(
        "decode|crop_to_box(1.5)|" in sections.keypoints[name] for name in ("train_ops", "eval_ops")
    )
    weights = {name: section.weight for name, section in sections.items()}
    assert weights == {
        "detection": 0.25,
        "segmentation": 0.5,
        "keypoints": 0.125,
        "captioning": 0.125,
    }


def test_crops():
    cut = {
        "unbatch": True,
        "crop_to_bbox": True,
        "crop_to_bbox_pad_scale": 0.1,
        "max_instances_per_image": 1,
    }
    section = reader.make_config(changed("instance_segmentation", **cut)).tasks.segmentation
    assert (
        section.eval_ops
        == "decode|crop_to_box(1.2)|resize(48, antialias=True)|pad_image(48)|pad_objects(1)"
    )
    assert "decode|crop_to_box(1.2)|" in section.train_ops and (
        section.max_instances,
        section.objects,
    ) == (1, 20)
    whole = {"crop_to_bbox": False, "unbatch": False, "max_instances_per_image": 6}
    section = reader.make_config(changed("keypoint_detection", **whole)).tasks.keypoints
    assert section.eval_ops == "decode|resize(48, antialias=True)|pad_image(48)|pad_objects(20)"
    assert section.train_ops.endswith(
        "|filter_objects(min_keypoints=1)|order(random)|pad_image(48)|pad_objects(6)"
    )
    assert section.max_instances == 6


def test_what_is_decided_is_logged(caplog):
    with caplog.at_level(logging.INFO, "pix2seq_jax"):
        config = changed("")
        config["tasks"] = [*TASKS, {"name": "panoptic_segmentation"}]
        made = reader.make_config(config)
    assert (
        len(made.tasks) == 4
        and "not known here, and left out: panoptic_segmentation" in caplog.text
    )
    assert (
        "nucleus(1.0) gives BLEU-4 14.1" in caplog.text
        and "in training they sum to 1" in caplog.text
    )
    assert (
        reader.make_config(changed("captioning", top_p=0.4)).tasks.captioning.sampler
        == "nucleus(0.4)"
    )
    caplog.clear()
    with caplog.at_level(logging.INFO, "pix2seq_jax"):
        tasks = [
            {"name": "object_detection", "weight": 1.0},
            {"name": "keypoint_detection", "weight": 1.0},
        ]
        mix = reader.make_config({"model": VIT_B, "tasks": tasks}).tasks
    assert "the published mix instead" in caplog.text
    assert mix.detection.weight / mix.keypoints.weight == pytest.approx(17.82)


def test_the_task_of_a_run_of_one_goes_before_the_list():
    """The release takes `task` there, which flags may have changed."""
    sections, _ = official_names.task_sections(
        {"task": TASKS[1], "tasks": [{"name": "object_detection"}]}
    )
    assert sections["detection"]["quantization_bins"] == 100
    alone = reader.make_config({"model": MODEL, "task": TASKS[2]})
    assert list(alone.tasks) == ["segmentation"] and alone.eval.boxes == "ground_truth"


@pytest.mark.parametrize(
    ("name", "fields", "part"),
    [
        ("keypoint_detection", {"quantization_bins": 500}, "'keypoints': 500"),
        (
            "keypoint_detection",
            {"max_points_per_object": 22},
            "22 keypoints need 50 positions but model",
        ),
        ("captioning", {"weight": -1}, "'captioning': -1"),
    ],
)
def test_settings_that_do_not_fit(name, fields, part):
    with pytest.raises(ValueError, match=part):
        reader.make_config(changed(name, **fields))


def test_only_unknown_tasks():
    with pytest.raises(
        ValueError, match=r"tasks are \['recognition'\]; none of them is known here, only"
    ):
        reader.make_config({"model": MODEL, "task": {"name": "recognition"}})


def test_sequences_are_no_longer_than_the_table_of_positions():
    long = reader.make_config(changed("instance_segmentation", max_points_per_object=128))
    assert long.tasks.segmentation.max_points == 21
    assert max(task.max_len for task in resolve.make_tasks(long).values()) <= 48


def test_some_tasks_of_a_workdir(imported):
    some = load(imported, ",tasks=keypoints+detection")
    assert {name: section.weight for name, section in some.tasks.items()} == pytest.approx(
        {"detection": 2 / 3, "keypoints": 1 / 3}
    )
    resolve.check_weights(some)
    assert some.eval.boxes == "predicted" and text_model.load_text(some, imported) is None
    both = load(imported, ",data=my_data,tasks=segmentation")
    assert both.data.val_keypoints == "my_data/annotations/person_keypoints_val.json"
    assert list(both.tasks) == ["segmentation"] and both.eval.boxes == "ground_truth"
    adopted = saved_run.adopt(saved_run.load_config(imported), some)
    assert list(resolve.make_tasks(adopted)) == ["detection", "keypoints"]
    with pytest.raises(ValueError, match="was trained on the tasks"):
        saved_run.adopt(some, load(imported))


@pytest.mark.parametrize(
    ("variant", "part"),
    [
        (",tasks=detection+masks", "tasks=detection[+]masks: 'masks' is no task; it has"),
        (",tasks=", "tasks=: '' is no task"),
        (",tasks=detection,tasks=keypoints", "at most once"),
        (",size=640", "at most once, as key=value"),
    ],
)
def test_variants_that_do_not_fit(variant, part, imported):
    with pytest.raises(ValueError, match=part):
        load(imported, variant)


def test_tasks_that_the_model_does_not_have(imported):
    config = load(imported, ",tasks=detection")
    with pytest.raises(
        ValueError,
        match=r"'captioning' is a task that this model was not trained on; it has \['det",
    ):
        resolve.select_tasks(config, ["captioning"])


def test_captions_need_the_text_model_of_the_checkpoint(imported, tmp_path):
    config = load(imported)
    for opened in (text_model.load_text, text_model.open_text):
        with pytest.raises(ValueError, match=r"has no text model.*tasks=detection\+segmentation"):
            opened(config, imported)
    text = Text.train(["a cat", "two cats", "a dog and a cat"], 24)
    config.data.text_model = str(tmp_path / "text.model")
    (tmp_path / "text.model").write_bytes(text.to_bytes())
    for opened in (text_model.load_text, text_model.open_text):
        with pytest.raises(
            ValueError, match=f"text.model has {text.size} pieces and the model's vocabulary 30"
        ):
            opened(config, imported)
    config.vocab.text_size = text.size
    assert text_model.load_text(config, imported) == text_model.open_text(config, imported) == text


@LOADING
def test_import_and_evaluate(imported, tmp_path):
    folder = small.make_shapes(tmp_path / "shapes")
    variant = f"{imported},data={folder},tasks=detection+segmentation+keypoints"
    changes = {
        "eval.batch_size": 8,
        "eval.pictures": 1,
        "data.workers": 1,
        "tasks.segmentation.objects": 2,
    }
    changes["tasks.segmentation.eval_ops"] = (
        "decode|resize(48,antialias=True)|pad_image(48)|pad_objects(2)"
    )
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    where = f"--config={small.ROOT}/configs/workdir.py:{variant}", f"--workdir={imported}"
    assert "AP50" in command("main", *where, *flags, "--mode=eval")
    metrics = json.loads((imported / "metrics.json").read_text())
    assert metrics["step"] == 0 and metrics["samplers"]["segmentation"] == "nucleus(0.6, 0.5)"
    assert {"detection", "segmentation", "keypoints"} <= set(
        metrics
    ) and "captioning" not in metrics
    for name in ("detection", "segmentation", "keypoints"):
        assert metrics[name]["images"] == small.VAL_IMAGES
        assert json.loads((imported / "results" / f"{name}.json").read_text())
