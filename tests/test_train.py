"""train.run in this process: every shipped config shrunk, and every kind of input that does not
fit."""

import json
import shutil

import jax
import numpy as np
import pytest

from pix2seq_jax import evaluate, train
from pix2seq_jax.experiment import inputs, resolve, text_model
from tests.helpers import small

VARIANTS = (
    *("detection.py:shapes", "detection.py:arch=resnet50,size=64"),
    *(
        "segmentation.py:shapes",
        "keypoints.py:shapes",
        "captioning.py:shapes",
        "multitask.py:shapes",
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def broken(folder, tmp_path):
    """A function that changes the annotations of the training images in a copy, and gives a config
    that uses it."""

    def change(edit, **overrides):
        content = json.loads((folder / "annotations" / "instances_train.json").read_text())
        content = edit(content) or content
        path = tmp_path / "instances.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return small.config(
            "detection.py:shapes", folder, data__train_annotations=str(path), **overrides
        )

    return change


@pytest.mark.parametrize("name", VARIANTS)
def test_shipped_configs_train(name, folder, tmp_path):
    config = small.config(name, folder)
    if config.model.backbone.name == "resnet":
        config.model.backbone.depth = 18
        config.model.backbone.variant = "c3"  # these have the fewest blocks to compile
    train.run(config, tmp_path, evaluate_too=False)
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [1, 2]
    assert (tmp_path / "checkpoints" / "2" / "SHA256SUMS").is_file()


@pytest.mark.parametrize(
    "name", ["detection.py", "detection.py:arch=vit-l,size=1024", "multitask.py"]
)
def test_full_size_configs_build(name, folder):
    """The configs for COCO as they are, but for the data: the model is built in the abstract."""
    config = small.load(name)
    config.update_from_flattened_dict(small.on_folder(folder))
    text = text_model.open_text(config, folder)
    config = resolve.resolve(config, inputs.open_sources(config, "train", text), text)
    model, tasks = resolve.make_model(config), resolve.make_tasks(config)
    images = jax.ShapeDtypeStruct((2, *config.model.image_size, 3), np.float32)
    lengths = {
        "detection": 501,
        "segmentation": 6 + 2 * 128,
        "keypoints": 6 + 2 * 17,
        "captioning": 129,
    }
    for task, length in ((name, lengths[name]) for name in tasks):
        tokens = jax.ShapeDtypeStruct((2, tasks[task].max_len), np.int32)
        logits, _ = jax.eval_shape(
            lambda i, t: model.init_with_output(jax.random.key(0), i, t), images, tokens
        )
        assert logits.shape == (2, length, config.vocab.size) and config.vocab.size in (3000, 35000)


def raises(config, workdir, *parts):
    """train.run refuses the config before any step, and the message holds all parts."""
    with pytest.raises(ValueError) as caught:
        train.run(config, workdir, evaluate_too=False)
    for part in parts:
        assert str(part) in str(caught.value)
    assert not (workdir / "checkpoints").exists()


def test_missing_files_are_named(folder, tmp_path, broken):
    gone = small.config("detection.py:shapes", folder, data__train_images=str(tmp_path / "gone"))
    raises(gone, tmp_path / "a", tmp_path / "gone", "does not exist")
    gone = small.config(
        "detection.py:shapes", folder, data__train_annotations=str(tmp_path / "gone.json")
    )
    raises(gone, tmp_path / "b", tmp_path / "gone.json")

    def rename(content):
        content["images"][3]["file_name"] = "elsewhere.jpg"

    raises(broken(rename), tmp_path / "c", "elsewhere.jpg", "1 of 24")


def test_absent_coco_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = (
        "data/coco/annotations/instances_train2017.json",
        "cocodataset.org",
        "pix2seq_jax.data.shapes",
        ":shapes",
    )
    for file in ("multitask.py", "detection.py"):
        config = small.load(file)
        config.train.batch_size = 8
        raises(config, tmp_path / "run", *parts)


def test_annotations_that_do_not_fit_are_named(tmp_path, broken):
    raises(
        broken(lambda content: '{"images": ['),
        tmp_path / "a",
        "instances.json",
        "broken JSON",
        "line 1",
    )
    raises(broken(lambda content: {"images": []}), tmp_path / "b", "not COCO", "annotations")

    def unknown(content):
        content["annotations"][0]["category_id"] = 999

    raises(broken(unknown), tmp_path / "c", "category_id 999")

    def nan(content):
        content["annotations"][0]["bbox"][2] = float("nan")

    raises(broken(nan), tmp_path / "d", "not four finite numbers", "nan")


def test_settings_that_do_not_fit_are_named(folder, tmp_path):
    def config(**overrides):
        return small.config("detection.py:shapes", folder, **overrides)

    raises(
        config(train__batch_size=12),
        tmp_path / "a",
        "batch size 12",
        "8 data-parallel devices",
        "use 8 or 16",
    )
    raises(config(model__image_size=(60, 64)), tmp_path / "b", "(60, 64)", "patch_size")
    raises(
        config(vocab__coord_shift=104),
        tmp_path / "c",
        "class tokens",
        "coordinate tokens",
        "raise vocab.coord_shift",
    )
    raises(config(vocab__size=120), tmp_path / "d", "vocab.size=120")
    raises(config(data__source="tfds"), tmp_path / "e", "'tfds'", "coco_dir")
    raises(config(tasks__detection__train_ops="decode|melt"), tmp_path / "f", "melt", "flip_lr")


def test_a_config_that_failed_can_be_mended_in_its_workdir(folder, tmp_path):
    with pytest.raises(ValueError, match=r"optim.name='sgd'"):
        train.run(
            small.config("detection.py:shapes", folder, optim__name="sgd"),
            tmp_path,
            evaluate_too=False,
        )
    for name in ("log_steps", "eval_steps", "checkpoint_steps", "accumulate"):
        raises(
            small.config("detection.py:shapes", folder, **{f"train__{name}": 0}),
            tmp_path,
            f"config.train.{name}=0",
        )
    train.run(small.config("detection.py:shapes", folder), tmp_path, evaluate_too=False)


def test_what_weights_do_not_depend_on_may_change_on_a_resume(folder, tmp_path):
    train.run(
        small.config("detection.py:shapes", folder, optim__clip=0.0), tmp_path, evaluate_too=False
    )
    model = {
        "dtype": "bfloat16",
        "remat": True,
        "drop_path": 0.1,
        "drop_units": 0.1,
    }
    model = {f"model__{name}": value for name, value in model.items()}
    changed = {
        "optim__clip": 1.0,
        "tasks__detection__sampler": "greedy",
        "train__steps": 3,
        "mesh__fsdp": 2,
    } | model
    train.run(small.config("detection.py:shapes", folder, **changed), tmp_path, evaluate_too=False)
    assert (tmp_path / "checkpoints" / "3").is_dir()
    assert json.loads((tmp_path / "config.json").read_text())["mesh"] == {
        "data": -1,
        "fsdp": 2,
        "model": 1,
        "allow_whole": False,
    }


def test_a_trained_run_is_evaluated_when_that_is_asked_for(folder, tmp_path):
    config = small.config("detection.py:shapes", folder)
    train.run(config, tmp_path, evaluate_too=False)
    metrics = train.run(config, tmp_path)
    assert metrics["detection"]["images"] == small.VAL_IMAGES
    assert json.loads((tmp_path / "metrics.json").read_text())["step"] == 2


def test_workdir_of_another_run_is_refused(folder, tmp_path, broken):
    train.run(small.config("detection.py:shapes", folder), tmp_path, evaluate_too=False)
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(ValueError, match=r"config.model.enc_dim is 16 there and 32 here"):
        train.run(small.config("detection.py:shapes", folder, model__enc_dim=32), tmp_path)

    def fewer(content):
        content["categories"].pop(0)
        known = {category["id"] for category in content["categories"]}
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] in known]

    with pytest.raises(ValueError, match=r"holds another run"):
        train.run(broken(fewer), tmp_path, evaluate_too=False)
    with pytest.raises(ValueError, match=r"trained with config.model.enc_dim=16, not 32"):
        evaluate.run(small.config("detection.py:shapes", folder, model__enc_dim=32), tmp_path)

    def more(content):
        content["categories"].append({"id": 99, "name": "a new one"})

    with pytest.raises(ValueError, match=r"7, but .* 8 classes.* another --workdir"):
        train.run(broken(more), tmp_path, evaluate_too=False)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


def test_evaluation_refuses_other_classes(folder, tmp_path):
    train.run(small.config("detection.py:shapes", folder), tmp_path / "run", evaluate_too=False)
    path = folder / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["categories"][1]["name"] = "blob"
    (tmp_path / "other.json").write_text(json.dumps(content))
    config = small.config(
        "detection.py:shapes", folder, data__val_annotations=str(tmp_path / "other.json")
    )
    with pytest.raises(
        ValueError, match=r"other.json has the class 'blob' .* of the training data"
    ):
        evaluate.run(config, tmp_path / "run")


def test_a_truncated_image_is_named_and_refused_or_passed_over(folder, tmp_path):
    images = shutil.copytree(folder / "train", tmp_path / "images")
    damaged = sorted(images.iterdir())[5]
    damaged.write_bytes(damaged.read_bytes()[:700])
    config = small.config(
        "detection.py:shapes", folder, data__train_images=str(images), data__bad_images="error"
    )
    raises(config, tmp_path / "run", "1 of 24 images are broken", damaged.name)
    config.data.bad_images = "replace"
    told = inputs.describe(inputs.open_sources(config, "train"))
    assert "1 images that cannot be decoded" in told and damaged.name in told


def test_repairs_are_counted_and_reported(folder, tmp_path, broken, caplog):
    def edit(content):
        first, second = content["annotations"][:2]
        first["bbox"] = [-5, -5, 30, 30]
        second["bbox"] = [10, 10, 0, 8]

    caplog.set_level("WARNING", logger="pix2seq_jax")
    from pix2seq_jax.experiment.logs import log

    log.addHandler(caplog.handler)
    config = broken(edit, tasks__detection__max_instances=3)
    config.tasks.detection.train_ops = config.tasks.detection.train_ops.replace("(4)", "(3)")
    train.run(config, tmp_path, evaluate_too=False)
    log.removeHandler(caplog.handler)
    assert "1 boxes outside their image, clipped" in caplog.text
    assert "1 boxes without area, not learnt" in caplog.text
    assert "images with more than 3 objects" in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run(folder, tmp_path):
    config = small.config(
        "detection.py:shapes", folder, train__steps=20, schedule__base=1e30, schedule__warmup=0
    )
    config.optim.clip = 0.0
    with pytest.raises(
        FloatingPointError,
        match=r"step \d+: loss .*gradient norm .*image ids .*config.schedule.base",
    ):
        train.run(config, tmp_path, evaluate_too=False)
