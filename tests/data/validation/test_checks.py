"""Every check finds its defect, and none is found in clean data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pix2seq_jax.data.validation import report
from pix2seq_jax.data.validation.checks import CHECKS
from pix2seq_jax.data.validation.dataset import DataSet, Options, SplitPaths
from pix2seq_jax.data.validation.findings import ERROR, KEPT, NOTE, SEVERITIES, run
from pix2seq_jax.data.validation.tables import CAPTIONS, INSTANCES, KEYPOINTS
from pix2seq_jax.experiment import inputs, validation_pages
from tests.helpers import defects, small

BY_NAME = {check.name: check for check in CHECKS}


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


def opened(folder: Path, **options) -> DataSet:
    kinds = (INSTANCES, KEYPOINTS, CAPTIONS)
    paths = {
        split: SplitPaths(
            folder / split,
            {kind: folder / "annotations" / f"{kind}_{split}.json" for kind in kinds},
        )
        for split in ("train", "val")
    }
    return DataSet(paths, Options(**options))


def test_nothing_is_wrong_with_clean_data(clean):
    results = [run(check, opened(clean)) for check in CHECKS]
    wrong = {r.check.name: r.findings for r in results if r.total and r.check.severity != NOTE}
    assert not wrong


def test_the_table_is_whole():
    assert len(BY_NAME) == len(CHECKS) and len(CHECKS) >= 25
    assert set(defects.DEFECTS) == set(BY_NAME), "every check has a defect that it must find"
    assert all(check.severity in SEVERITIES for check in CHECKS)


@pytest.mark.parametrize("name", defects.DEFECTS)
def test_a_planted_defect_is_found(clean, tmp_path, name):
    before = run(BY_NAME[name], opened(clean))
    folder = shutil.copytree(clean, tmp_path / "data")
    source = defects.plant(folder, name)
    data = opened(folder)
    result = run(BY_NAME[name], data)
    assert result.total > before.total
    if source:
        assert source in {finding.source for finding in result.findings}
    # What is wrong stops no other check, and the report can be written.
    results = [run(check, data) for check in CHECKS]
    assert name in report.text(data, results, ())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image-broken", ""),
        ("image-broken-unsized", "has no width and height of it either"),
        ("image-mostly-broken", "images are broken, first: .*is the download whole"),
    ],
)
def test_broken_images_are_errors_where_training_refuses_them(clean, tmp_path, name, words):
    folder = shutil.copytree(clean, tmp_path / "data")
    defects.plant(folder, name)
    results = [run(check, opened(folder)) for check in CHECKS]
    assert bool(report.totals(results)[ERROR]) == bool(words)
    config = small.config("detection.py:shapes", folder)
    assert config.data.bad_images == "replace"
    if not words:
        inputs.open_sources(config, "train")
        return
    with pytest.raises(ValueError, match=words):
        inputs.open_sources(config, "train")


def test_findings_are_counted_beyond_those_that_are_kept(clean, tmp_path):
    folder = shutil.copytree(clean, tmp_path / "data")
    path = defects.path_of(folder, defects.WORDS)
    path.write_text(path.read_text().replace('"caption":"', '"caption":" ","words":"'))
    result = run(BY_NAME["caption-blank"], opened(folder))
    assert result.total == 5 * small.TRAIN_IMAGES > len(result.findings) == KEPT


def test_findings_name_image_annotation_and_value(clean, tmp_path):
    folder = shutil.copytree(clean, tmp_path / "data")
    source = defects.plant(folder, "box-outside")
    (finding,) = run(BY_NAME["box-outside"], opened(folder)).findings
    data = opened(folder)
    row = data.files[0].annotations[data.files[0].ids.tolist().index(finding.annotation_id)]
    assert finding.source == source and finding.image_id == row["image_id"]
    assert "[5000.0, 5.0, 10.0, 7.0]" in finding.value
    assert finding.files == (str(folder / "train" / f"{row['image_id']:012d}.jpg"),)


def test_files_are_not_opened_unless_they_are_looked_at(clean, tmp_path):
    folder = shutil.copytree(clean, tmp_path / "data")
    defects.plant(folder, "image-broken")
    data = opened(folder)
    results = [run(check, data) for check in CHECKS if not check.opens]
    assert "looks" not in vars(data) and not report.totals(results)[ERROR]


ODD = (None, True, -1, 0, 1.5, 1e300, float("nan"), 10**30, "", "x", "\0", [], {}, [None], [[1]])


def spoil(rng: np.random.Generator, value):
    """A JSON value with an odd one in place of one of its parts, deep or not."""
    if not isinstance(value, dict | list) or not value or rng.uniform() < 0.15:
        return ODD[rng.integers(len(ODD))]
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[rng.integers(len(keys))]
    value[key] = spoil(rng, value[key])
    return value


@pytest.mark.parametrize("seed", range(2))
def test_no_value_of_a_json_stops_the_checks(clean, tmp_path, seed):
    rng = np.random.default_rng(seed)
    folder = shutil.copytree(clean, tmp_path / "data")
    for path in sorted((folder / "annotations").glob("*.json")):
        content = json.loads(path.read_text())
        for key in ("images", "annotations", "categories"):
            for record in content.get(key, ())[: 4 + 40 * (key == "annotations")]:
                spoil(rng, record)
        if seed == 1:
            spoil(rng, content)
        path.write_text(json.dumps(content))
    data = opened(folder)
    results = [run(check, data) for check in CHECKS]
    assert report.totals(results)[ERROR] > 50
    json.dumps(report.content(data, results, ()))
    validation_pages.write(data, results, tmp_path / "out")
