"""The images of an annotation file: names that were written for another place, sizes that
contradict, broken files."""

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data.coco.checked_images import CheckedImages
from pix2seq_jax.data.coco.files import (
    BROKEN,
    ImageFolder,
    ImageRules,
    locate,
    read_file,
    read_images,
)
from pix2seq_jax.data.coco.json import Report

TURN_RIGHT = 6  # EXIF orientation: a viewer shows the stored rows as columns


def save(path, width=20, height=12, orientation=1):
    """An image file with these stored sides in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), "red").save(path, exif=exif)
    return path


def opened(folder, records, report=None, **rules):
    listed = [{"id": number, **record} for number, record in enumerate(records)]
    rules = ImageRules(**{"headers": CheckedImages()} | rules)
    return read_images(
        folder / "x.json",
        ImageFolder(folder),
        listed,
        Report() if report is None else report,
        rules,
    )


@pytest.mark.parametrize(
    "name",
    [
        "images/v1/patch8/a.jpg",
        "v1/patch8/a.jpg",
        "patch8/a.jpg",
        "./patch8/a.jpg",
        "images\\v1\\patch8\\a.jpg",
        "/home/somebody/objects365/patch8/a.jpg",
    ],
)
def test_names_may_begin_with_folders_that_are_not_there(tmp_path, name):
    save(tmp_path / "patch8" / "a.jpg")
    other = name.replace("a.jpg", "b.jpg")
    save(tmp_path / "patch8" / "b.jpg")
    found = locate(tmp_path / "x.json", tmp_path, [name, other])
    assert [
        file and file.endswith(end)
        for file, end in zip(found, ("patch8/a.jpg", "patch8/b.jpg"), strict=True)
    ]


def test_flat_folders_do_not_mix_up_images_of_the_same_name(tmp_path):
    save(tmp_path / "1.jpg")
    assert locate(tmp_path / "x.json", tmp_path, ["a/1.jpg", "b/1.jpg"]) == [None, None]
    assert locate(tmp_path / "x.json", tmp_path, ["a/1.jpg", "b/2.jpg"]) == [
        str(tmp_path / "1.jpg"),
        None,
    ]


def test_missing_images_are_refused_or_left_out(tmp_path):
    save(tmp_path / "a.png")
    records = [
        {"file_name": "a.png", "height": 12, "width": 20},
        {"file_name": "b.png", "height": 12, "width": 20},
    ]
    with pytest.raises(
        ValueError, match=r"1 of 2 images .* first: b\.png; .*--config\.data\.missing_images=drop"
    ):
        opened(tmp_path, records)
    report = Report()
    found = opened(tmp_path, records, report, missing="drop")
    assert found.ids.tolist() == [0] and found.dropped.tolist() == [1] and len(found.files) == 1
    assert (
        "1 images that are not in the folder, left out with their annotations (first: b.png)"
        in report.describe()
    )
    with pytest.raises(ValueError, match="2 of 2 images"):
        opened(
            tmp_path,
            [record | {"file_name": f"{i}.png"} for i, record in enumerate(records)],
            missing="drop",
        )


@pytest.mark.parametrize(
    ("orientation", "written", "used", "counted"),
    [
        (1, (12, 20), (12, 20), ""),
        (1, (12, 21), (12, 21), ""),  # a pixel is no contradiction
        (TURN_RIGHT, (20, 12), (20, 12), ""),  # annotated as viewers show it
        (TURN_RIGHT, (12, 20), (12, 20), ""),  # annotated as stored
        (TURN_RIGHT, (20, 13), (20, 12), ""),  # decoding turns for the exact size only
        (1, (20, 12), (12, 20), "exchanged"),
        (1, (6, 10), (6, 10), "same aspect"),
        (1, (24, 40), (24, 40), "same aspect"),
    ],
)
def test_sizes_of_the_json_against_those_of_the_file(tmp_path, orientation, written, used, counted):
    save(tmp_path / "a.png", orientation=orientation)
    report = Report()
    found = opened(
        tmp_path, [{"file_name": "a.png", "height": written[0], "width": written[1]}], report
    )
    assert tuple(found.sizes[0].tolist()) == used
    assert (counted in report.describe()) and bool(report) == bool(counted)


@pytest.mark.parametrize(
    ("orientation", "written"), [(1, (20, 20)), (1, (12, 40)), (TURN_RIGHT, (10, 6))]
)
def test_sizes_that_tell_nothing_are_refused(tmp_path, orientation, written):
    save(tmp_path / "a.png", orientation=orientation)
    with pytest.raises(
        ValueError, match=r"1 images are of another size .*a\.png is 20 x 12 pixels .*correct width"
    ):
        opened(tmp_path, [{"file_name": "a.png", "height": written[0], "width": written[1]}])


def test_broken_files_are_refused_or_counted(tmp_path):
    records = [{"file_name": f"{i}.png", "height": 12, "width": 20} for i in range(3)]
    for record in records:
        save(tmp_path / record["file_name"])
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    with pytest.raises(
        ValueError, match=r"1 of 3 images are broken, first: .*1\.png .*bad_images=replace"
    ):
        opened(tmp_path, records)
    report = Report()
    assert opened(tmp_path, records, report, bad="replace").ids.tolist() == [0, 1, 2]
    assert report == {BROKEN: 1} and "1.png" in report.describe()
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 of 3 images are broken, .*is the download whole"):
        opened(tmp_path, records, bad="replace")


@pytest.mark.parametrize("name", [None, 5, ["a.png"], "", " ", "./", "a\0b.png"])
def test_names_that_name_no_file_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"images\[0\] has file_name .*names no file"):
        opened(tmp_path, [{"file_name": name, "height": 2, "width": 2}])


@pytest.mark.parametrize("rules", [{"missing": "replace"}, {"bad": "drop"}, {"missing": ""}])
def test_rules_are_words_of_the_config(rules):
    with pytest.raises(ValueError, match=r"config\.data\.(missing|bad)_images="):
        ImageRules(**rules)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match="is no file but a folder, pipe or device"):
        read_file(str(tmp_path))
    with pytest.raises(ValueError, match=r"none\.png cannot be read"):
        read_file(str(tmp_path / "none.png"))


def test_sizes_missing_in_the_json_are_those_of_the_files(tmp_path):
    save(tmp_path / "a.png")
    for headers in (CheckedImages(), None):
        report = Report()
        found = opened(tmp_path, [{"file_name": "a.png", "width": True}], report, headers=headers)
        np.testing.assert_array_equal(found.sizes, [[12, 20]])
        assert "1 images without width and height" in report.describe()
