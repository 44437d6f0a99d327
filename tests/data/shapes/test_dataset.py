"""The embedded data: geometry against independent oracles, the COCO files as pycocotools reads
them, the command."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pix2seq_jax.data.shapes import dataset
from pix2seq_jax.data.shapes import draw as shapes_draw
from pix2seq_jax.data.shapes.draw import SUPERSAMPLE
from pix2seq_jax.data.shapes.sketches import CATEGORIES
from pix2seq_jax.geometry.rings import area
from pix2seq_jax.geometry.run_lengths import runs_of_mask

# pycocotools 2.0.11 decodes masks in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

SPEC = dataset.Spec(train=300, val=30, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "set"
    assert dataset.generate(out, SPEC, workers=1)
    return out


@pytest.fixture(scope="module")
def coco(folder) -> dict[str, COCO]:
    kinds = ("instances", "person_keypoints", "captions")
    return {kind: COCO(str(folder / "annotations" / f"{kind}_train.json")) for kind in kinds}


@pytest.fixture(scope="module")
def scenes() -> list[shapes_draw.Scene]:
    rng = np.random.default_rng(5)
    shares = [category.share for category in CATEGORIES]
    wanted = [[(CATEGORIES[i], False) for i in rng.choice(7, 3, p=shares)] for _ in range(60)]
    return [shapes_draw.draw(rng, 64, 48, figures, gray=False) for figures in wanted]


def objects(coco: COCO) -> list[dict]:
    return [entry for entry in coco.anns.values() if not entry["iscrowd"]]


def test_fill_sets_exactly_the_pixel_centres_inside():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:30, :40] + 0.5
    for _ in range(20):
        # Crosses itself: even-odd differs from nonzero winding.
        ring = rng.uniform([0, 0], [40, 30], (7, 2))
        canvas = np.zeros((30, 40), bool)
        shapes_draw.fill(canvas, ring, True)
        starts, ends = ring, np.roll(ring, -1, axis=0)
        crossings = np.zeros((30, 40), int)
        for (ax, ay), (bx, by) in zip(starts, ends, strict=True):
            crossings += ((ay > y) != (by > y)) & (x > ax + (y - ay) * (bx - ax) / (by - ay))
        np.testing.assert_array_equal(canvas, crossings % 2 == 1)


def test_outlines_are_parts_and_what_they_leave_out():
    mask = np.zeros((80, 120), bool)
    mask[8:40, 4:24] = True
    mask[8:40, 60:100] = True
    rings, lost = shapes_draw.outlines(mask, 0.1)
    assert lost == 0 and len(rings) == 2
    areas = [area(ring) for ring in rings]  # positive: clockwise on the screen
    np.testing.assert_allclose(areas, [32 * 20 / 16, 32 * 40 / 16], rtol=0.01)
    np.testing.assert_allclose([rings[0].min(0), rings[0].max(0)], [[1, 2], [6, 10]])
    assert len(rings[0]) <= 8
    mask[50:52, 50:54] = True
    rings, lost = shapes_draw.outlines(mask, 0.1)
    assert len(rings) == 2 and lost == pytest.approx(0.5, rel=0.1)
    mask[16:28, 70:84] = False
    assert shapes_draw.outlines(mask, 0.1)[1] == pytest.approx(12 * 14 / 16, rel=0.02)


def test_polygons_cover_what_is_drawn_and_visible(scenes):
    overlaps = []
    split = 0
    for scene in scenes:
        for visible, rings in zip(scene.visible, scene.rings, strict=True):
            height, width = visible.shape
            polygons = [(ring * SUPERSAMPLE).ravel().tolist() for ring in rings]
            drawn = coco_mask.decode(
                coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
            ).astype(bool)
            overlaps.append((drawn & visible).sum() / (drawn | visible).sum())
            split += len(rings) > 1
    assert min(overlaps) >= 0.9
    assert np.mean(overlaps) >= 0.97
    assert split >= 3  # some objects are cut in pieces


def test_visible_parts_hold_the_colour_of_their_figure(scenes):
    checked = 0
    for scene in scenes:
        image = np.asarray(scene.image, float)
        for figure, visible in zip(scene.figures, scene.visible, strict=True):
            blocks = visible.reshape(48, SUPERSAMPLE, 64, SUPERSAMPLE)
            if len(figure.parts) == 1:
                assert np.abs(image[blocks.all((1, 3))] - figure.parts[0][1]).max() <= 1
                checked += 1
            assert visible.sum() >= shapes_draw.MIN_VISIBLE * figure.mask.sum()
    assert checked > 50


def test_sizes_of_the_full_objects(scenes):
    for scene in scenes:
        for figure in scene.figures:
            sides = (figure.bounds[1] - figure.bounds[0]) / 48
            least = (
                sides.max() / shapes_draw.MIN_PERSON
                if figure.keypoints is not None
                else sides.min() / 0.15
            )
            assert least > 0.999 and sides.max() < 0.601
            assert figure.bounds[0].min() >= 0 and np.all(figure.bounds[1] <= [64, 48])


def test_files_follow_the_coco_schema(folder, coco):
    for kind, part in coco.items():
        assert {"info", "licenses", "images", "annotations"} <= set(part.dataset)
        assert len(part.imgs) == SPEC.train
        assert len(part.anns) == len(part.dataset["annotations"]), f"{kind}: ids repeat"
        assert all(entry["image_id"] in part.imgs for entry in part.anns.values())
    ids = [entry["id"] for entry in coco["instances"].dataset["categories"]]
    assert len(ids) >= 6 and 1 in ids and ids != list(range(1, len(ids) + 1))
    (person,) = coco["person_keypoints"].dataset["categories"]
    assert len(person["keypoints"]) == 17 and person["keypoints"][:3] == [
        "nose",
        "left_eye",
        "right_eye",
    ]
    assert len(person["skeleton"]) == 19
    for record in coco["instances"].imgs.values():
        with Image.open(folder / "train" / record["file_name"]) as image:
            image.load()
            assert image.format == "JPEG" and image.size == (record["width"], record["height"])
    val = json.loads((folder / "annotations" / "instances_val.json").read_text())
    assert len(val["images"]) == SPEC.val == len(list((folder / "val").iterdir()))
    assert not {entry["id"] for entry in val["images"]} & set(coco["instances"].imgs)


def test_pictures_vary(folder, coco):
    sizes = {(record["width"], record["height"]) for record in coco["instances"].imgs.values()}
    assert sizes == {(64, 64), (64, 48), (48, 64)}
    modes = []
    for path in (folder / "train").iterdir():
        with Image.open(path) as image:
            modes.append(image.mode)
    assert set(modes) == {"RGB", "L"} and 1 <= modes.count("L") <= 25


def test_numbers_of_objects(coco):
    counts = np.array(
        [len(coco["instances"].imgToAnns[image_id]) for image_id in coco["instances"].imgs]
    )
    assert counts.mean() >= 2 and counts.max() == 4
    assert 1 <= np.sum(counts == 0) <= 12
    crowds = sum(entry["iscrowd"] for entry in coco["instances"].anns.values())
    assert 1 <= crowds <= 15
    for category in CATEGORIES:
        assert len(coco["instances"].getAnnIds(catIds=[category.id])) >= 40


def test_boxes_and_areas_are_those_of_the_masks(coco):
    part = coco["instances"]
    for entry in objects(part):
        record = part.imgs[entry["image_id"]]
        x, y, width, height = entry["bbox"]
        assert (
            x >= 0
            and y >= 0
            and x + width <= record["width"] + 1e-6
            and y + height <= record["height"] + 1e-6
        )
        points = np.concatenate([np.reshape(ring, (-1, 2)) for ring in entry["segmentation"]])
        np.testing.assert_allclose(
            [x, y, x + width, y + height], [*points.min(0), *points.max(0)], atol=0.011
        )
        rows, columns = (np.nonzero(part.annToMask(entry).any(axis))[0] for axis in (1, 0))
        bounds = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        # Sharp tips cover no pixel centre: the test below measures the same at four times the
        # resolution.
        np.testing.assert_allclose([x, y, x + width, y + height], bounds, atol=2)
        assert entry["area"] == pytest.approx(part.annToMask(entry).sum(), rel=0.15, abs=6)


def test_boxes_bound_what_is_visible(scenes):
    for scene in scenes:
        for visible, rings in zip(scene.visible, scene.rings, strict=True):
            left, top, width, height = dataset._region(rings)["bbox"]
            box = np.array([left, top, left + width, top + height])
            rows, columns = (np.nonzero(visible.any(axis))[0] for axis in (1, 0))
            bounds = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / SUPERSAMPLE
            assert np.all((box - bounds) * [1, 1, -1, -1] > -0.5)  # no larger than what is visible
            yx = (np.mgrid[: visible.shape[0], : visible.shape[1]] + 0.5) / SUPERSAMPLE
            low, high = box[:2] - 0.25, box[2:] + 0.25
            outside = (yx[0] < low[1]) | (yx[0] > high[1]) | (yx[1] < low[0]) | (yx[1] > high[0])
            assert np.sum(visible & outside) <= 12  # nor smaller, but for specks


def test_crowds_are_run_lengths(coco):
    part = coco["instances"]
    crowds = [entry for entry in part.anns.values() if entry["iscrowd"]]
    for entry in crowds:
        record = part.imgs[entry["image_id"]]
        assert entry["segmentation"]["size"] == [record["height"], record["width"]]
        assert sum(entry["segmentation"]["counts"]) == record["height"] * record["width"]
        mask = part.annToMask(entry)
        assert mask.sum() == entry["area"] > 20
        np.testing.assert_array_equal(coco_mask.toBbox(part.annToRLE(entry)), entry["bbox"])


def test_run_lengths_of_a_mask_that_begins_and_ends_set():
    mask = np.array([[1, 0], [1, 1]], bool)
    assert runs_of_mask(mask).tolist() == [0, 2, 1, 1]
    assert runs_of_mask(np.zeros((2, 3), bool)).tolist() == [6]


def test_keypoints_lie_in_the_box_and_on_the_person(coco):
    part, seen = coco["person_keypoints"], np.zeros(3, int)
    persons = objects(part)
    for entry in persons:
        points = np.reshape(entry["keypoints"], (17, 3))
        flags = points[:, 2].astype(int)
        assert entry["num_keypoints"] == np.count_nonzero(flags)
        assert np.all(points[flags == 0] == 0)
        x, y, width, height = entry["bbox"]
        labelled = points[flags > 0, :2]
        assert np.all((labelled >= [x, y]) & (labelled <= [x + width, y + height]))
        inside = [
            any(
                Polygon(np.reshape(ring, (-1, 2))).contains_point(point, radius=0.5)
                for ring in entry["segmentation"]
            )
            for point in points[flags == 2, :2]
        ]
        assert all(inside)
        seen += np.bincount(flags, minlength=3)
        instance = coco["instances"].anns[entry["id"]]
        assert {key: entry[key] for key in instance} == instance
    assert np.all(seen / seen.sum() > [0.03, 0.02, 0.7])
    # Facing the viewer: the left shoulder is on the right of the picture.
    assert all(k[15] > k[18] for k in (entry["keypoints"] for entry in persons) if k[17] and k[20])


def test_five_captions_tell_the_counts_and_classes(coco):
    names = {category.id: category for category in CATEGORIES}
    for image_id in coco["captions"].imgs:
        texts = [entry["caption"] for entry in coco["captions"].imgToAnns[image_id]]
        assert len(set(texts)) == 5 and all(
            text.endswith(".") and text[0].isupper() for text in texts
        )
        found = coco["instances"].imgToAnns[image_id]
        for entry in found:
            category = names[entry["category_id"]]
            assert all(category.name in text or category.plural in text for text in texts)
        if found:
            assert (
                f"There {'is' if len(found) == 1 else 'are'} {dataset.NUMBERS[len(found)]} object"
                in texts[1]
            )


def test_caption_words():
    figures = [
        shapes_draw.Figure(CATEGORIES[index], colour, crowd, (), None, np.zeros(0), ())
        for index, colour, crowd in (
            (2, "red", False),
            (0, "orange", False),
            (2, "red", False),
            (1, "blue", True),
        )
    ]
    expected = (
        "An orange person, a crowd of blue circles and two red squares on a plain background."
    )
    assert dataset.captions(figures)[3] == expected


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_for_any_number_of_workers_and_images(folder, tmp_path):
    fewer = dataset.Spec(train=60, val=30, seed=0)
    dataset.generate(tmp_path / "one", fewer, workers=1)
    dataset.generate(tmp_path / "two", fewer, workers=2)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    whole = contents(folder)
    assert all(whole[name] == content for name, content in one.items() if name.endswith(".jpg"))
    dataset.generate(tmp_path / "seed", dataset.Spec(train=2, val=1, seed=1), workers=1)
    assert all(one[name] != content for name, content in contents(tmp_path / "seed").items())


def test_a_finished_set_is_kept_and_other_folders_refused(folder, tmp_path, capsys):
    before = contents(folder)
    assert not dataset.generate(folder, SPEC, workers=1)
    assert "already holds" in capsys.readouterr().out
    with pytest.raises(ValueError, match="another shapes set"):
        dataset.generate(folder, dataset.Spec(train=300, val=30, seed=1), workers=1)
    assert contents(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="not a shapes folder"):
        dataset.generate(tmp_path / "mine", SPEC, workers=1)
    assert contents(tmp_path / "mine") == {"thesis.txt": b"x"}


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(dataset, "_write_annotations", fail)
    with pytest.raises(OSError, match="disk full"):
        dataset.generate(tmp_path / "set", dataset.Spec(train=2, val=1), workers=1)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path):
    run = [sys.executable, "-m", "pix2seq_jax.data.shapes", "--train=3", "--val=2", "--workers=1"]
    done = subprocess.run(
        [*run, f"--out={tmp_path}/set", "--size=96"], capture_output=True, text=True, check=True
    )
    assert (
        "train 3 images" in done.stdout and len(list((tmp_path / "set" / "train").iterdir())) == 3
    )
    bad = subprocess.run(
        [*run, f"--out={tmp_path}/bad", "--size=8"], capture_output=True, text=True
    )
    assert bad.returncode == 2 and not (tmp_path / "bad").exists()
    assert bad.stderr.startswith("error: --size=8: must be at least 32 (")


def test_a_command_that_is_stopped_leaves_nothing_behind(tmp_path):
    # What starts in the background of a shell ignores Ctrl-C, and so would a test's command.
    code = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('pix2seq_jax.data.shapes', run_name='__main__')"
    )
    run = [sys.executable, "-c", code, f"--out={tmp_path}/set"]
    for number, status, workers in ((signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 1)):
        process = subprocess.Popen(
            [*run, f"--workers={workers}"], stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and not list(tmp_path.glob(".set.partial-*/train/*.jpg")):
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status and "Traceback" not in errors
        assert not list(tmp_path.iterdir())


def test_needs_neither_tensorflow_nor_jax():
    code = (
        "import sys, pix2seq_jax.data.shapes.dataset; print({'tensorflow', 'jax', 'pycocotools'} & "
        "set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        == "set()\n"
    )
