"""The command: exit codes, the report, the pages of pictures, the layouts."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pix2seq_jax.experiment import validation
from tests.helpers import defects, small
from tests.helpers.commands import command
from tests.helpers.prepared import prepare


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


def test_clean_data_end_with_0(clean, tmp_path):
    output = command("validate", f"--data={clean}", f"--out={tmp_path}")
    assert "0 errors, 0 warnings" in output
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["totals"]["error"] == 0 and content["skipped"] == []
    instances = json.loads(defects.path_of(clean, defects.TRAIN).read_text())["annotations"]
    crowds = sum(row["iscrowd"] for row in instances)
    numbers = content["files"][str(defects.path_of(clean, defects.TRAIN))]
    assert numbers["images"] == small.TRAIN_IMAGES and numbers["crowds"] == crowds
    assert sum(own["train"] for own in content["classes"].values()) == len(instances) - crowds


@pytest.mark.parametrize(
    "names",
    [("image-broken", "category-unknown", "keypoint-outside"), ("leak-file", "box-over-edge")],
)
def test_defects_end_with_1_and_are_shown(clean, tmp_path, names):
    folder, out = shutil.copytree(clean, tmp_path / "data"), tmp_path / "out"
    for name in names:
        defects.plant(folder, name)
    output = command("validate", f"--data={folder}", f"--out={out}", code=1)
    findings = json.loads((out / "report.json").read_text())["findings"]
    assert set(names) <= set(findings) and all(f"  {name}  " in output for name in names)
    for name in names:
        first = findings[name]["first"][0]
        assert first["value"] and findings[name]["total"] >= 1
        with Image.open(out / f"{name}.png") as page:
            assert max(page.size) >= 280
    command("validate", f"--data={clean}", f"--out={out}")
    assert not [name for name in names if (out / f"{name}.png").exists()]


def test_unopened_files_are_said_to_be(clean, tmp_path):
    folder = shutil.copytree(clean, tmp_path / "data")
    defects.plant(folder, "image-broken")
    output = command("validate", f"--data={folder}", "--noimages")
    assert "not checked, since files were not opened: image-broken" in output
    assert "  image-broken  " in command("validate", f"--data={folder}")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--data=/nowhere/at/all",), "does not exist"),
        (("--data={clean}/train",), "holds neither images nor annotations"),
        (("--data={clean}", "--points=2"), "--points=2: must be at least 3"),
        (("--data={clean}", "--text_model=/none.model"), "text model /none.model cannot be read"),
        ((), "--data is missing"),
    ],
)
def test_wrong_use_ends_with_2(clean, flags, words):
    output = command("validate", *(flag.format(clean=clean) for flag in flags), code=2)
    assert words in output and len(output.splitlines()) == 1


def test_splits_may_be_called_as_in_any_layout(clean, tmp_path):
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        shutil.copytree(clean / split, folder / f"{split}2017")
        for file in (clean / "annotations").glob(f"*_{split}.json"):
            shutil.copy(file, folder / "annotations" / f"{file.stem}2017.json")
    assert "0 errors, 0 warnings" in command("validate", f"--data={folder}")
    instances = folder / "annotations" / "instances_train2017.json"
    instances.rename(folder / "annotations" / "zhiyuan_objv2_train2017.json")
    paths = validation.find_paths(str(folder))
    assert paths["train"].annotations["instances"].name == "zhiyuan_objv2_train2017.json"
    assert paths["val"].images == folder / "val2017"


def test_slots_points_and_lengths_are_those_of_the_flags(clean):
    flags = ("--slots=1", "--points=4", "--max_tokens=3")
    output = command("validate", f"--data={clean}", "--noimages", *flags)
    assert all(f"  {n}  " in output for n in ("objects-over-slots", "caption-long"))
    assert "  outline-loses-shape  " in output


def test_the_annotations_of_shards_are_looked_at(clean, tmp_path):
    folder, out = shutil.copytree(clean, tmp_path / "data"), tmp_path / "shards"
    for name in ("box-empty", "leak-name"):
        defects.plant(folder, name)
    prepare("coco_dir", folder, out)
    output = command("validate", f"--data={out}", f"--out={tmp_path / 'report'}")
    assert "  box-empty  " in output and "  leak-name  " in output and "0 errors" in output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {"image-missing", "image-unlisted", "image-broken"} <= set(report["skipped"])
    assert not set(report["skipped"]) & set(report["findings"])
