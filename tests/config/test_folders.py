"""Data folders as people have them: what is recognised, and what is said of the rest."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pix2seq_jax.config import build, folders
from pix2seq_jax.experiment import inputs, resolve
from tests.helpers import layouts, small
from tests.helpers.commands import command

TASKS = ("detection", "segmentation", "keypoints")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


def opened(folder: Path, split: str, **overrides):
    """(config, sources) of three tasks for `data=FOLDER`, resolved from the training data."""
    config = build.build(f"data={folder},arch=tiny,size=48", recipe="multitask", tasks=TASKS)
    config.update_from_flattened_dict({f"data.{key}": value for key, value in overrides.items()})
    config = resolve.resolve(config, inputs.open_sources(config, "train"))
    return config, inputs.open_sources(config, split)


def ids(sources: dict) -> list[int]:
    return sources["detection"].image_ids.tolist()


@pytest.mark.parametrize("layout", layouts.WITH_SPLITS)
def test_splits_are_read_from_every_layout(shapes, tmp_path, layout):
    folder = layouts.WITH_SPLITS[layout](shapes, tmp_path / "data")
    expected = {split: opened(shapes, split)[1] for split in ("train", "val")}
    for split, own in expected.items():
        config, sources = opened(folder, split)
        assert ids(sources) == ids(own) and config.data.val_share == 0
        # The file of Roboflow holds the other classes, too, which have no keypoints.
        labelled = [one["keypoints"].objects()["num_keypoints"].sum() for one in (sources, own)]
        assert labelled[0] == labelled[1] > 0
        for name in ("detection", "segmentation"):
            assert sources[name].describe() == own[name].describe()
            np.testing.assert_array_equal(sources[name][3]["boxes"], own[name][3]["boxes"])
            assert sources[name][3]["image"] == own[name][3]["image"]


@pytest.mark.parametrize("layout", layouts.WITHOUT_SPLITS)
def test_a_file_without_splits_is_split_by_the_seed(shapes, tmp_path, layout):
    folder = layouts.WITHOUT_SPLITS[layout](shapes, tmp_path / "data")
    before = sorted(folder.rglob("*"))
    config, train = opened(folder, "train")
    _, val = opened(folder, "val")
    assert set(ids(train)).isdisjoint(ids(val)) and ids(val)
    assert len(train["detection"]) + len(val["detection"]) == small.TRAIN_IMAGES
    for sources in (train, val):  # no annotation is counted as one without an image
        assert "not listed" not in inputs.describe(sources)
        assert sources["segmentation"].image_ids.tolist() == ids(sources)
    assert set(val["keypoints"].image_ids.tolist()) == set(ids(val))
    assert ids(opened(folder, "val", split_seed=5)[1]) != ids(val)
    assert sorted(folder.rglob("*")) == before
    assert f"{folder} has no splits" in config.data.layout


def test_a_val_of_its_own_ends_the_split(shapes, tmp_path):
    folder = layouts.one_file(shapes, tmp_path / "data")
    own = {
        f"val_{kind}": f"{shapes}/annotations/{file}_val.json" for kind, file in small.KINDS.items()
    }
    _, train = opened(folder, "train", val_images=f"{shapes}/val", **own)
    assert len(train["detection"]) == small.TRAIN_IMAGES
    with pytest.raises(
        ValueError, match=r"val_share=0\.2 splits the files .*but val_annotations differs"
    ):
        opened(folder, "train", val_annotations=own["val_annotations"])


def test_too_few_images_name_a_seed_that_divides_them(shapes, tmp_path):
    folder = layouts.one_file(shapes, tmp_path / "data", images=2)
    for _ in range(2):
        try:
            sizes = [len(opened(folder, split)[1]["detection"]) for split in ("train", "val")]
        except ValueError as error:
            seed = int(str(error).split("split_seed=")[2].split()[0])
            sizes = [
                len(opened(folder, split, split_seed=seed)[1]["detection"])
                for split in ("train", "val")
            ]
        assert sorted(sizes) == [1, 1]


def test_shards_are_recognised(shapes, tmp_path):
    out = tmp_path / "shards"
    command("prepare", f"--source={shapes}", f"--out={out}", "--workers=1")
    config, sources = opened(out, "val")
    assert config.data.source == "array_record" and "shards" in config.data.layout
    assert ids(sources) == ids(opened(shapes, "val")[1])


@pytest.mark.parametrize(
    ("kind", "make"), [(kind, make) for kind, own in layouts.FOREIGN.items() for make in own]
)
def test_voc_and_yolo_are_answered_with_a_command_that_works(shapes, tmp_path, kind, make):
    folder = make(shapes, tmp_path / "mine")
    config = build.build(f"data={folder}", recipe="finetune", tasks=("detection",))
    with pytest.raises(ValueError, match="which is not read as it is") as caught:
        inputs.check_paths(config, "train")
    words = str(caught.value).partition("`python -m pix2seq_jax.")[2].partition("`")[0].split()
    assert words[:2] == ["prepare", f"--from={kind}"]
    command(*words, "--workers=1")
    config = build.build(f"data={tmp_path}/mine_shards", recipe="finetune", tasks=("detection",))
    assert len(inputs.open_sources(config, "train")["detection"]) == 2
    assert "which is not read as it is" in command("validate", f"--data={folder}", code=2)


def test_prepare_and_validate_take_the_same_folders(shapes, tmp_path):
    folder = layouts.one_file(shapes, tmp_path / "data")
    output = command("validate", f"--data={folder}", "--noimages")
    assert "has no splits" in output and f"{small.TRAIN_IMAGES} images" in output
    assert "0 errors" in output
    out = tmp_path / "shards"
    command("prepare", f"--source={folder}", f"--out={out}", "--workers=1")
    for split in ("train", "val"):
        assert ids(opened(out, split)[1]) == ids(opened(folder, split)[1])
    roboflow = layouts.roboflow(shapes, tmp_path / "roboflow")
    assert "0 errors" in command("validate", f"--data={roboflow}", "--noimages")
    assert "0 errors" in command("validate", f"--data={out}")


def test_what_is_missing_is_asked_for_by_name(shapes, tmp_path):
    folder = shutil.copytree(shapes, tmp_path / "data")
    (folder / "annotations" / "instances_val.json").rename(tmp_path / "val.json")
    (folder / "annotations" / "person_keypoints_val.json").unlink()
    (folder / "annotations" / "captions_val.json").unlink()
    config = build.build(f"data={folder}", recipe="finetune", tasks=("detection",))
    inputs.check_paths(config, "train")
    with pytest.raises(ValueError) as caught:
        inputs.check_paths(config, "val")
    message = str(caught.value)
    assert f"{folder}/annotations/instances_val.json does not exist" in message
    assert "{split}/_annotations.coco.json" in message and "valid" in message
    flags = [word for word in message.split() if word.startswith("--config.data.val_")]
    values = dict(flag.removeprefix("--config.data.").rstrip(";").split("=") for flag in flags)
    config.data.update(values | {"val_share": float(values.pop("val_share"))})
    sizes = [len(inputs.open_sources(config, split)["detection"]) for split in ("train", "val")]
    assert sum(sizes) == small.TRAIN_IMAGES and min(sizes) > 0


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("a.json", "b.json"), "holds several annotation files (a.json, b.json)"),
        (("notes.txt",), "no data folder that is recognised; looked for: annotations/instances_"),
        (("empty.json",), "no data folder that is recognised"),
        ((), "no data folder that is recognised"),
    ],
)
def test_other_folders_say_what_was_looked_for(shapes, tmp_path, files, words):
    for name in files:
        text = (shapes / "annotations" / "instances_val.json").read_text()
        (tmp_path / name).write_text("" if name == "empty.json" else text)
    folder = folders.of(str(tmp_path))
    assert folder.kind == "" and words in folder.hint
    assert folder.images["val"] == f"{tmp_path}/val"


@pytest.mark.parametrize("given", ["", "ours/train", "ours/annotations/instances_train.json"])
def test_data_that_lie_one_step_away_are_pointed_at(shapes, tmp_path, given):
    shutil.copytree(shapes, tmp_path / "ours")
    (tmp_path / "notes").mkdir()
    folder = folders.of(str(tmp_path / given))
    assert folder.kind == "" and f"give data={tmp_path}/ours: " in folder.hint
    assert "instances_val.json (and keypoints, captions) with images in val/" in folder.hint
    # What is not part of them is not answered with them.
    assert "looked for: annotations/" in folders.of(str(tmp_path / "notes")).hint


def test_yolo_without_its_description_is_told_what_to_write(shapes, tmp_path):
    folder = layouts.yolo(shapes, tmp_path / "mine")
    given = folders.of(str(folder / "data.yaml"))
    assert "mine/data.yaml is a file" in given.hint and "prepare --from=yolo" in given.hint
    text = (folder / "data.yaml").read_text()
    (folder / "data.yaml").unlink()
    seen = folders.of(str(folder))
    assert seen.kind == "" and "but no data.yaml; write one" in seen.hint
    (folder / "data.yaml").write_text(text)
    assert folders.of(str(folder)).kind == "yolo"


def test_a_folder_that_is_not_there_is_named():
    assert "the folder /no/data does not exist" in folders.of("/no/data").hint
    assert folders.of("gs://bucket/data").images["train"] == "gs://bucket/data/train"


def test_files_that_are_not_read_are_named(shapes, tmp_path):
    folder = layouts.roboflow(shapes, tmp_path / "data")
    shutil.copytree(folder / "valid", folder / "test")
    words = folders.of(str(folder)).words
    assert words.endswith("; not read: test/_annotations.coco.json")
    assert json.loads((folder / "test" / folders.ROBOFLOW).read_text())["images"]


@pytest.mark.parametrize("empty", ["[]", "[ ]", "null"])
def test_empty_lists_of_keypoints_are_none(shapes, tmp_path, empty):
    """Some programs write them to every object."""
    folder = layouts.roboflow(shapes, tmp_path / "data")
    assert "keypoints" in folders.of(str(folder)).words
    path = folder / "train" / folders.ROBOFLOW
    content = json.loads(path.read_text())
    for one in [*content["annotations"], *content["categories"]]:
        one["keypoints"] = "EMPTY"
    path.write_text(json.dumps(content, indent=1).replace('"EMPTY"', empty))
    seen = folders.of(str(folder))
    assert seen.annotations["train"]["keypoints"].endswith("person_keypoints_train.json")
    assert seen.annotations["val"]["keypoints"].endswith(folders.ROBOFLOW)
