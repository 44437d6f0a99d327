"""The columns of an annotation file: their cache, and that nothing else of the JSON stays in
memory."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data.coco import outlines
from pix2seq_jax.data.coco.columns import Cache, read_columns
from pix2seq_jax.data.coco.folder import CocoDir

SQUARE = [[1, 1, 6, 1, 6, 6, 1, 6]]
RLE = {"size": [16, 20], "counts": [33, 5, 11, 5, 266]}
CONTENT = {
    "images": [
        {"id": 2**33, "file_name": "0.png", "height": 16, "width": 20},
        {"id": 4, "file_name": "1.png"},
        {"id": 7, "file_name": "2.png", "height": 16, "width": 20},
    ],
    "annotations": [
        {
            "id": "a1",
            "image_id": 4,
            "category_id": 5,
            "bbox": [1, 1, 5, 5],
            "area": 25,
            "segmentation": SQUARE,
        },
        {
            "id": "é",
            "image_id": 4,
            "category_id": 2,
            "bbox": [1, 1, 5, 5],
            "segmentation": RLE,
            "iscrowd": "0",
        },
        {
            "id": 3,
            "image_id": 2**33,
            "category_id": 5,
            "bbox": [-3, 1, 9, 5],
            "area": 0,
            "segmentation": SQUARE * 2,
        },
        {"image_id": 2**33, "category_id": 5, "bbox": [3, 1, 9], "keypoints": [1, 2, 2, 3, 4, 1]},
        {
            "id": 5,
            "image_id": 2**33,
            "category_id": 5,
            "bbox": [3, 1, 9, 9],
            "keypoints": [1, 2, 2, 3, 4, 1],
        },
        {
            "id": 6,
            "image_id": 99,
            "category_id": 5,
            "bbox": [3, 1, 9, 9],
            "segmentation": [[1, 1, 2, 2]],
        },
    ],
    "categories": [
        {"id": 5, "name": "Pfau", "keypoints": ["left eye", "right eye"], "skeleton": [[1, 2]]},
        {"id": 2, "name": "b"},
    ],
}


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        Image.new("RGB", (20, 16)).save(tmp_path / f"{number}.png")
    (tmp_path / "a.json").write_text(json.dumps(CONTENT), encoding="utf-8")
    return tmp_path


def opened(folder: Path, **options) -> CocoDir:
    options = {"max_points": 8, "keypoints": True, "bad_annotations": "drop"} | options
    cache = Cache(folder / "run" / "columns")
    source = CocoDir(folder, folder / "a.json", cache=cache, **options)
    cache.save()
    return source


def cached(folder: Path) -> list[Path]:
    return sorted((folder / "run" / "columns").iterdir())


def assert_same(one: CocoDir, other: CocoDir) -> None:
    """All raw features, the report, and what pycocotools gets."""
    assert len(one) == len(other)
    for index in range(len(one)):
        mine, yours = one[index], other[index]
        assert mine.keys() == yours.keys()
        for name, value in mine.items():
            np.testing.assert_array_equal(value, yours[name])
            assert np.asarray(value).dtype == np.asarray(yours[name]).dtype
    assert one.describe() == other.describe() != ""
    assert one.coco_dict() == other.coco_dict()
    assert (one.fields, one.category_names, one.skeleton) == (
        other.fields,
        other.category_names,
        other.skeleton,
    )


def test_a_second_opening_equals_the_first_and_does_not_read_the_json(folder, monkeypatch):
    first = opened(folder)
    assert len(cached(folder)) == 1
    assert (
        first.report[
            "annotations with a box that is not four finite numbers [x, y, width, height], left out"
        ]
        == 1
    )
    monkeypatch.setattr("json.load", None)
    assert_same(first, opened(folder))


def test_another_way_to_read_is_kept_apart(folder):
    opened(folder)
    plain = opened(folder, max_points=0, keypoints=False)
    assert "polygons" not in plain[0] and "keypoints" not in plain[0]
    assert len(cached(folder)) == 2
    # Those that were left out are not forgotten.
    with pytest.raises(ValueError, match="bad_annotations=drop"):
        opened(folder, bad_annotations="error")


def test_a_changed_json_is_read_again(folder):
    opened(folder)
    content = CONTENT | {"annotations": CONTENT["annotations"][:1]}
    (folder / "a.json").write_text(json.dumps(content))
    assert len(opened(folder)[1]["labels"]) == 1
    assert len(cached(folder)) == 1
    text = json.dumps(content).replace('"area": 25', '"area": 26')  # of the same length
    (folder / "a.json").write_text(text)
    os.utime(folder / "a.json", ns=(1, 1))
    assert opened(folder)[1]["area"] == [26]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_cache_is_ignored(folder, caplog, damage):
    first, (path,) = opened(folder), cached(folder)
    content = path.read_bytes()
    middle = content.index(np.float64(-3).tobytes())
    damaged = {
        "cut": content[: len(content) // 2],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "empty": b"",
        "text": b"{}",
    }
    path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING, "pix2seq_jax"):
        assert_same(first, opened(folder))
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
    assert "cannot be used" in caplog.text and path.name in caplog.text
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_ignored(folder, caplog):
    (folder / "run").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "pix2seq_jax"):
        assert len(opened(folder)) == 3
    assert "cannot be written" in caplog.text and len(caplog.records) == 1


def test_only_one_process_writes(folder):
    cache = Cache(folder / "run" / "columns", writes=False)
    CocoDir(folder, folder / "a.json", bad_annotations="drop", cache=cache)
    cache.save()
    assert not (folder / "run").exists()


def test_columns_are_arrays_without_objects(folder):
    columns = read_columns(folder / "a.json", outlines=True, keypoints=True, bad="drop")
    assert all(
        isinstance(column, np.ndarray) and column.dtype.kind in "bifuU"
        for column in columns.values()
    )
    assert columns["ids"].tolist() == ["a1", "é", "3", "3", "5", "6"]
    source = opened(folder)
    assert source._ids.dtype.kind == "U"


def test_nothing_of_the_json_stays_in_memory(tmp_path):
    """20,000 objects are 50 MB of Python objects, and 4 MB of columns."""
    Image.new("RGB", (20, 16)).save(tmp_path / "0.png")
    rows = ", ".join(
        f'{{"id": {2**32 + i}, "image_id": 1, "category_id": 5, "bbox": [1, 1, {i % 9 + 1}.5, 5], '
        f'"area": {i}.5, "segmentation": '
        f"[[{', '.join(f'{(i * k) % 97}.25' for k in range(1, 21))}]]}}"
        for i in range(1, 20_001)
    )
    images, categories = (
        '[{"id": 1, "file_name": "0.png", "height": 16, "width": 20}]',
        '[{"id": 5, "name": "a"}]',
    )
    (tmp_path / "a.json").write_text(
        f'{{"images": {images}, "categories": {categories}, "annotations": [{rows}]}}'
    )
    code = (
        "import sys; from pathlib import Path; from pix2seq_jax.data.coco.folder import CocoDir\n"
        "pages = lambda: int(Path('/proc/self/statm').read_text().split()[1]) * 4096 / 1e6\n"
        f"before = pages(); source = CocoDir({str(tmp_path)!r}, {str(tmp_path / 'a.json')!r}, "
        "max_points=8)\nassert len(source.objects()['image']) == 20_000; print(pages() - before)"
    )
    grown = float(
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout
    )
    assert grown < 20, f"{grown:.0f} MB"


def test_run_lengths_are_traced_once(folder, monkeypatch):
    source, real, times = opened(folder), outlines.trace, []
    monkeypatch.setattr(outlines, "trace", lambda mask: times.append(1) or real(mask))
    first = source[1]["polygons"]
    assert len(times) == 1 and (first[1] >= 0).any()
    np.testing.assert_array_equal(source[1]["polygons"], first)
    np.testing.assert_array_equal(source.take(1, [1])["polygons"], first[1:])
    assert len(times) == 1
