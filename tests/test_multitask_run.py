"""The four tasks through training, evaluation and prediction: what is written, what boxes are used,
what is refused."""

import json
import shutil

import pytest
from PIL import Image

from pix2seq_jax import evaluate, predict, train
from pix2seq_jax.evaluation import HOST_TASKS, report
from pix2seq_jax.evaluation.metrics import masks
from pix2seq_jax.experiment import feeds, logs, resolve, saved_run
from pix2seq_jax.training import checkpoint
from tests.helpers import small
from tests.helpers.multitask import make

TASKS = ("detection", "segmentation", "keypoints", "captioning")
CAPTION_SCORES = {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr-D", "ROUGE-L"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A run of three steps with its evaluation."""
    workdir = tmp_path_factory.mktemp("run")
    metrics = train.run(make(folder), workdir)
    return workdir, metrics


def test_every_task_is_scored_and_written(trained):
    workdir, metrics = trained
    assert tuple(metrics) == TASKS
    written = json.loads((workdir / "metrics.json").read_text())
    assert {"AP", "AP50", "AR100", "per_class"} <= set(written["detection"])
    assert {"AP", "AP50", "AR100", "per_class"} <= set(written["segmentation"])
    assert {"AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"} <= set(
        written["keypoints"]
    )
    assert set(written["captioning"]) >= CAPTION_SCORES
    for task in TASKS[:3]:
        assert written[task]["images"] == small.VAL_IMAGES
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for task in TASKS:
        logged = [row for row in rows if f"train/{task}/loss" in row]
        assert len(logged) == 2 and all(f"train/{task}/token_accuracy" in row for row in logged)
        assert (
            f"train/{task}/images_per_s" in logged[-1]
            and f"train/{task}/tokens_per_s" in logged[-1]
        )
        assert any(name.startswith(f"eval/{task}/") for row in rows for name in row)
    with Image.open(next((workdir / "pictures").glob("*.png"))) as picture:
        assert picture.width > picture.height / 2


def test_results_are_what_the_coco_servers_take(trained):
    workdir, _ = trained
    results = {
        task: json.loads((workdir / "results" / f"{task}.json").read_text()) for task in TASKS
    }
    assert set(results["detection"][0]) == {"image_id", "category_id", "bbox", "score"}
    assert set(results["segmentation"][0]) == {"image_id", "category_id", "segmentation", "score"}
    assert isinstance(results["segmentation"][0]["segmentation"]["counts"], str)
    assert set(results["captioning"][0]) == {"image_id", "caption"}
    assert len(results["captioning"]) == small.VAL_IMAGES
    for row in results["keypoints"]:
        assert (
            set(row) == {"image_id", "category_id", "keypoints", "score"}
            and len(row["keypoints"]) == 3 * 17
        )


def test_boxes_of_the_annotations_are_named_as_such(folder, trained, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    metrics = evaluate.run(make(folder, eval__boxes="ground_truth"), workdir)
    assert tuple(metrics) == (
        *(
            "detection",
            "segmentation_ground_truth_boxes",
            "keypoints_ground_truth_boxes",
            "captioning",
        ),
    )
    results = json.loads((workdir / "results" / "keypoints_ground_truth_boxes.json").read_text())
    assert results and {len(row["keypoints"]) for row in results} == {51}
    before, apart = (
        json.loads((workdir / f"metrics{end}.json").read_text())
        for end in ("", "_ground_truth_boxes")
    )
    assert (
        before == json.loads((trained[0] / "metrics.json").read_text())
        and before["boxes"] == "predicted"
    )
    assert apart["boxes"] == "ground_truth" and apart["num_samples"]["segmentation"] == 2
    assert set(metrics) < set(apart)
    known = {
        tuple(row["bbox"])
        for row in json.loads((workdir / "results" / "detection.json").read_text())
    }
    assert known  # the predicted boxes are scored as before
    first = (trained[0] / "results" / "detection.json").read_bytes()
    assert (workdir / "results" / "detection.json").read_bytes() == first
    assert (workdir / "results" / "detection_ground_truth_boxes.json").is_file()

    given = evaluate.run(
        make(folder, eval__boxes=str(workdir / "results" / "detection.json")), workdir
    )
    assert tuple(given) == TASKS
    with pytest.raises(ValueError, match=r"config.eval.boxes='nowhere.json'.*ground_truth"):
        evaluate.run(make(folder, eval__boxes="nowhere.json"), workdir)


def test_every_annotated_object_gets_a_mask(folder, trained, tmp_path, caplog, monkeypatch):
    """However few slots there are; of predicted boxes the best `objects` are asked about, and the
    rest counted."""
    monkeypatch.setattr(logs.log, "handlers", [caplog.handler])
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    whole = "decode|resize(48)|pad_image(48)|pad_objects(1)"
    few = {"tasks__segmentation__objects_final": 1, "tasks__segmentation__eval_ops": whole}
    config = resolve.select_tasks(
        make(folder, eval__boxes="ground_truth", **few), ["detection", "segmentation"]
    )
    metrics = evaluate.run(config, workdir)
    results = json.loads((workdir / "results" / "segmentation_ground_truth_boxes.json").read_text())
    assert (
        len(results) == metrics["segmentation_ground_truth_boxes"]["instances"] > small.VAL_IMAGES
    )
    assert "left out" not in caplog.text
    evaluate.run(resolve.select_tasks(make(folder, **few), ["detection", "segmentation"]), workdir)
    results = json.loads((workdir / "results" / "segmentation.json").read_text())
    assert len({row["image_id"] for row in results}) == len(results)
    assert "segmentation: 60 of 80 boxes left out, at most 1 an image" in caplog.text


def test_the_best_checkpoint_is_chosen_by_what_is_measured(folder, trained, tmp_path):
    with pytest.raises(
        ValueError, match=r"best_metric='detection/mAP' is not measured.*'captioning/BLEU-4'"
    ):
        train.run(make(folder, train__best_metric="detection/mAP"), tmp_path)
    measured = report.flat(trained[1])
    assert {
        f"{task}/{metric}" for task in TASKS for metric in HOST_TASKS[task].metrics
    } == measured.keys()
    config = make(folder, train__best_metric="captioning/BLEU-4", eval__boxes="ground_truth")
    assert resolve.best_metric(config) == "captioning/BLEU-4"
    single = small.config("keypoints.py:shapes", folder)
    assert resolve.best_metric(single) == "keypoints_ground_truth_boxes/AP"


@pytest.mark.parametrize(
    ("before", "names", "after"),
    [
        ("segmentation/AP", ["segmentation"], "segmentation_ground_truth_boxes/AP"),
        ("keypoints_ground_truth_boxes/AR", ["keypoints"], "keypoints_ground_truth_boxes/AR"),
        ("captioning/BLEU-1", ["detection", "captioning"], "captioning/BLEU-1"),
        ("captioning/BLEU-1", ["detection"], ""),
    ],
)
def test_the_metric_of_fewer_tasks(before, names, after):
    config = small.load("multitask.py:shapes")
    config.train.best_metric = before
    chosen = resolve.select_tasks(config, names)
    assert chosen.train.best_metric == after
    assert resolve.best_metric(chosen) == after or not after


def test_tasks_read_apart():
    seeds = [feeds.task_seed(2**31 - 1, name) for name in (*TASKS, "mixed")]
    assert (
        seeds[0] == seeds[4] == 2**31 - 1
        and len(set(seeds)) == 4
        and min(seeds) >= 0
        and max(seeds) < 2**31
    )


def test_prediction_finds_all_of_it(folder, trained, tmp_path):
    rows = predict.run(
        str(trained[0]),
        str(folder / "val" / "*.jpg"),
        str(tmp_path / "out"),
        limit=5,
        threshold=0.0,
    )
    assert len(rows) == 5 and all(isinstance(row["caption"], str) for row in rows)
    objects = [one for row in rows for one in row["objects"]]
    assert all(len(one["keypoints"]) == 17 for one in objects if "keypoints" in one)
    for row in rows:
        with Image.open(row["file"]) as image:
            for one in row["objects"]:
                if "mask" in one:
                    assert masks.decode_rle(one["mask"], image.height, image.width).any()
    assert len(list((tmp_path / "out").glob("*.png"))) == 5


def test_keypoints_alone_are_evaluated(folder, trained, tmp_path):
    """Their file lists one category of the seven."""
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    config = resolve.select_tasks(make(folder), ["keypoints"])
    assert list(evaluate.run(config, workdir)) == ["keypoints_ground_truth_boxes"]


def keypoints_reversed(folder, path, split="val"):
    """The annotations with the names of the joints in reverse order."""
    content = json.loads((folder / "annotations" / f"person_keypoints_{split}.json").read_text())
    content["categories"][0]["keypoints"].reverse()
    path.write_text(json.dumps(content))
    return {f"data__{split}_keypoints": str(path)}


def images_renumbered(folder, path):
    """The annotations with the files of the first two images exchanged."""
    content = json.loads((folder / "annotations" / "person_keypoints_val.json").read_text())
    one, two = content["images"][:2]
    one["file_name"], two["file_name"] = two["file_name"], one["file_name"]
    path.write_text(json.dumps(content))
    return {"data__val_keypoints": str(path)}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            keypoints_reversed,
            r"keypoints.json has the keypoints \['right_ankle'.* in the same order",
        ),
        (images_renumbered, r"image id \d+ is .* number the images alike"),
        (lambda *_: {"tasks__keypoints__eval_ops": "decode|shrink(3)"}, "shrink"),
        (
            lambda *_: {"tasks__segmentation__mask_threshold": 0.0},
            r"mask_threshold=0.0: give a finite number above 0",
        ),
        (lambda *_: {"eval__boxes": "Predicted"}, r"config.eval.boxes='Predicted' cannot be used"),
    ],
)
def test_what_evaluation_could_not_use_is_named_before_the_first_step(
    folder, tmp_path, broken, message
):
    config = make(folder, **broken(folder, tmp_path / "keypoints.json"))
    with pytest.raises(ValueError, match=message):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_keypoints_are_refused_on_a_resume(folder, trained, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    config = make(
        folder, train__steps=3, **keypoints_reversed(folder, tmp_path / "keypoints.json", "train")
    )
    with pytest.raises(
        ValueError, match=r"holds another run: the training data has the keypoints \['right_ankle'"
    ):
        train.run(config, workdir, evaluate_too=False)


def test_the_text_model_is_in_workdir_and_checkpoint(folder, trained, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    stored = (workdir / "text.model").read_bytes()
    assert checkpoint.load_meta(workdir / "checkpoints")["text_model"]
    (workdir / "text.model").unlink()
    rows = predict.run(str(workdir), str(folder / "val" / "*.jpg"), str(tmp_path / "out"), limit=2)
    assert rows[0]["caption"] is not None
    # Of other captions: only the checkpoint has the model.
    other = {
        f"data__train_{kind}": small.on_folder(folder)[f"data.val_{kind}"]
        for kind in ("captions", "keypoints")
    }
    other |= {"data__train_images": str(folder / "val")}
    other |= {"data__train_annotations": small.on_folder(folder)["data.val_annotations"]}
    train.run(make(folder, train__steps=3, **other), workdir, evaluate_too=False)
    assert (workdir / "text.model").read_bytes() == stored


def test_data_mixing_trains(folder, tmp_path):
    train.run(make(folder, train__mixing="data"), tmp_path, evaluate_too=False)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2 and rows[-1]["train/tokens"] > 0
    for task in TASKS:
        assert f"train/{task}/loss" in rows[-1] and rows[-1][f"train/{task}/images_per_s"] > 0


def test_further_keypoints_have_the_names_of_the_first(folder, tmp_path):
    config = make(folder)
    paths = {
        name: value for name, value in config.data.to_dict().items() if name.startswith("train_")
    }
    other = keypoints_reversed(folder, tmp_path / "keypoints.json", "train")[
        "data__train_keypoints"
    ]
    config.more_data = {"again": paths | {"train_keypoints": other}}
    config.tasks.keypoints.mix = {"data": 0.5, "again": 0.5}
    with pytest.raises(
        ValueError, match=r"data again: .* has the keypoints \['right_ankle'.* in the same order"
    ):
        train.run(config, tmp_path / "run", evaluate_too=False)


def test_data_mixing_leaves_out_tasks_of_weight_0(folder, tmp_path):
    config = make(
        folder, train__mixing="data", tasks__segmentation__weight=0.0, tasks__detection__weight=0.75
    )
    train.run(config, tmp_path, evaluate_too=False)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train/segmentation/images_per_s"] == 0 and "train/detection/loss" in rows[-1]


def test_a_task_can_read_several_data_sets(folder, tmp_path):
    config = resolve.select_tasks(make(folder), ["detection", "captioning"])
    paths = {
        name: value for name, value in config.data.to_dict().items() if name.startswith("train_")
    }
    config.more_data = {"again": paths}  # the rest is as in config.data
    config.tasks.detection.mix = {"data": 0.7, "again": 0.3}
    train.run(config, tmp_path, evaluate_too=False)
    assert saved_run.load_config(tmp_path).tasks.detection.mix.again == 0.3
    config.tasks.detection.mix = {"data": 0.0, "again": 1.0}
    train.run(config, tmp_path / "only", evaluate_too=False)
    config.tasks.detection.mix = {"data": 0.0, "again": 0.0}
    with pytest.raises(ValueError, match=r"tasks.detection.mix=.*above 0"):
        train.run(config, tmp_path / "none", evaluate_too=False)
    config.more_data.again = {"train_images": paths["train_images"]}
    config.tasks.detection.mix = {"again": 1.0}
    with pytest.raises(ValueError, match=r"config.more_data lacks train_annotations"):
        train.run(config, tmp_path / "none", evaluate_too=False)
    config.tasks.detection.mix = {"data": 0.7, "other": 0.3}
    with pytest.raises(ValueError, match=r"tasks.detection.mix names 'other'.*'again'"):
        train.run(config, tmp_path / "other", evaluate_too=False)


def test_weights_that_are_no_shares_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"sum to 0.95.*must sum to 1"):
        train.run(make(folder, tasks__detection__weight=0.45), tmp_path)
    with pytest.raises(ValueError, match=r"config.train.mixing='all'"):
        train.run(make(folder, train__mixing="all"), tmp_path)


def test_tasks_that_need_boxes_say_so(folder, tmp_path):
    config = small.config("segmentation.py:shapes", folder, eval__boxes="predicted")
    config.tasks.segmentation.batch_size = 8
    with pytest.raises(ValueError, match=r"without detection there are no predicted boxes"):
        train.run(config, tmp_path)
