"""The command predict: what it looks at, what it writes, and what it says of files that are
broken."""

import io
import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import pix2seq_jax
from pix2seq_jax import predict
from pix2seq_jax.evaluation.decoders import only_classes
from pix2seq_jax.evaluation.predictions import coco_rows, sources, video
from pix2seq_jax.evaluation.predictor import Predictor
from pix2seq_jax.vocab import Vocab
from tests.helpers.browser import CHROMIUM, Browser

RECORDED = Path(__file__).parents[1] / "golden" / "workdir_0_1"  # of all four tasks
BROKEN = 3


def draw_mixed(folder: Path, count: int, broken: int, largest: int = 900) -> None:
    """`count` images of many kinds, the last `broken` of which cannot be decoded."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6  # by 90 degrees
    sizes = [(1, 1), (64, 48), (300, 7), (largest, largest // 2), (120, 120)]
    for number in range(count):
        noise = rng.integers(0, 255, (6, 6, 3), np.uint8)
        image = Image.fromarray(noise).resize(sizes[number % len(sizes)])
        kind = number % 6
        if number >= count - broken:
            stream = io.BytesIO()
            image.save(stream, "PNG")
            content = [stream.getvalue()[:30], b"", b"no image"][number % 3]
            (folder / f"{number:04d}_broken.png").write_bytes(content)
        elif kind == 0:
            image.save(folder / f"{number:04d}.png")
        elif kind == 1:
            image.convert("L").save(folder / f"{number:04d}_grey.jpg")
        elif kind == 2:
            image.convert("CMYK").save(folder / f"{number:04d}_cmyk.jpg")
        elif kind == 3:
            image.save(folder / f"{number:04d}_turned.jpg", exif=turned)
        elif kind == 4:
            image.convert("LA").save(folder / f"{number:04d}_alpha.png")
        else:
            image.save(folder / f"{number:04d}.jpg")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    draw_mixed(folder, 12 + BROKEN, BROKEN)
    return folder


@pytest.fixture(scope="module")
def every() -> Predictor:
    """Of all classes."""
    return pix2seq_jax.load(RECORDED, tasks=["detection"])


@pytest.fixture(scope="module")
def predicted(mixed, tmp_path_factory) -> tuple[Path, list[dict], predict.Skipped]:
    """(folder that predict wrote, its rows, what was skipped)."""
    out, skipped = tmp_path_factory.mktemp("out"), predict.Skipped()
    return (
        out,
        predict.run(str(RECORDED), str(mixed), str(out), threshold=0, skipped=skipped),
        (skipped),
    )


def test_good_files_are_answered_and_broken_ones_listed(mixed, predicted):
    out, rows, skipped = predicted
    good = sorted(str(path) for path in mixed.iterdir() if "broken" not in path.name)
    assert [row["file"] for row in rows] == good
    listed = json.loads((out / "skipped.json").read_text())
    assert [row["file"] for row in listed] == [file for file, _ in skipped.files]
    assert sorted(Path(row["file"]).name for row in listed) == sorted(
        path.name for path in mixed.iterdir() if "broken" in path.name
    )
    assert all(row["error"] for row in listed)
    assert json.loads((out / "predictions.json").read_text()) == rows
    for file in good:
        with Image.open(out / f"{Path(file).stem}.png") as picture:
            assert max(picture.size) >= 480


def test_the_results_are_those_of_coco(predicted):
    out, rows, _ = predicted
    truth = COCO(out / "images_coco.json")
    found = truth.loadRes(str(out / "predictions_coco.json"))
    for row in rows:
        (image,) = (one for one in truth.imgs.values() if one["file_name"] == row["file"])
        annotations = found.imgToAnns[image["id"]]
        assert len(annotations) == len(row["objects"]) > 0
        for one, annotation in zip(row["objects"], annotations, strict=True):
            ymin, xmin, ymax, xmax = one["box"]
            expected = [xmin, ymin, xmax - xmin, ymax - ymin]
            np.testing.assert_allclose(annotation["bbox"], expected, atol=0.011)
            assert truth.cats[annotation["category_id"]]["name"] == one["category"]
            assert ("keypoints" in annotation) == ("keypoints" in one)
            if "mask" in one:
                assert annotation["segmentation"] == one["mask"]


def test_the_gallery_needs_no_network(mixed, predicted):
    out, rows, _ = predicted
    page = (out / "index.html").read_text()
    assert not re.search(r"(https?:)?//[a-z]", page)
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 2 * len(rows) and all((out / link).is_file() for link in links)
    names = {one["category"] for row in rows for one in row["objects"]}
    assert all(f'data-class="{name}"' in page for name in names)
    assert "0012_broken.png" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_the_gallery(predicted, tmp_path):
    """No script error, no missing picture, nothing wider than the window; buttons choose."""
    out, rows, skipped = predicted
    with Browser(tmp_path / "profile") as page:
        page.open(f"file://{out / 'index.html'}")
        assert load_all(page) == len(rows) and page.errors == []
        assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.value("document.querySelectorAll('table tr').length") == len(skipped.files)
        every = [{one["category"] for one in row["objects"]} for row in rows]
        names = set.union(*every)
        for name in ["", *sorted(names)]:
            page.click(f"button[data-class='{name}']")
            cards = [i for i, own in enumerate(every) if not name or name in own]
            seen = "[...document.querySelectorAll('figure')].map((one) => one.checkVisibility())"
            assert np.flatnonzero(page.value(seen)).tolist() == cards
            words = page.value("document.getElementById('count').textContent")
            assert words == f"{len(cards)} of {len(rows)} shown"
        assert len(names) > 1 and any(names - own for own in every)
        page.click("button[data-class='']")
        page.click("figure img")
        page.wait(f"location.pathname.endsWith('/{Path(rows[0]['file']).stem}.png')")
        page.wait("document.images.length === 1 && document.images[0].naturalWidth >= 480")
        assert page.errors == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_browser_tells_what_is_broken(predicted, tmp_path):
    """Else the test above could not fail."""
    broken = shutil.copytree(predicted[0], tmp_path / "broken")
    next((broken / "thumbnails").iterdir()).unlink()
    text = (broken / "index.html").read_text()
    (broken / "index.html").write_text(text.replace("<script>", "<script>undefinedName();"))
    with Browser(tmp_path / "profile") as page:
        page.open(f"file://{broken / 'index.html'}")
        assert load_all(page) == len(predicted[1]) - 1
        errors = " ".join(page.errors)
        assert "undefinedName is not defined" in errors and "ERR_FILE_NOT_FOUND" in errors


def load_all(page: Browser) -> int:
    """Loads the pictures that wait until one scrolls to them; how many are there."""
    page.value("for (const one of document.images) one.loading = 'eager'")
    page.wait("[...document.images].every((one) => one.complete)")
    return page.value("[...document.images].filter((one) => one.naturalWidth).length")


def test_the_exit_code_says_what_was_skipped(mixed, tmp_path):
    options = {"workdir": str(RECORDED), "tasks": "detection"}
    with pytest.raises(SystemExit) as ended:
        predict.call(images=str(mixed / "001*"), out=str(tmp_path / "a"), **options)
    assert ended.value.code == 1
    predict.call(images=str(mixed / "0000.png"), out=str(tmp_path / "b"), **options)
    with pytest.raises(ValueError, match="none is an image"):
        predict.call(images=str(mixed / "*broken*"), out=str(tmp_path / "c"), **options)
    assert not (tmp_path / "c").exists()


def test_names_that_are_not_utf_8_end_nothing(tmp_path, caplog, monkeypatch):
    """Files of an old system: one is answered, one is broken, and all JSON and pages are UTF-8."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name, content in ((b"caf\xe9.png", None), (b"broken\xe9.png", b"no image")):
        path = photos / os.fsdecode(name)
        try:
            path.write_bytes(content or b"")
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
        if content is None:
            Image.new("RGB", (40, 30)).save(path)
    monkeypatch.setattr(predict.log, "handlers", [caplog.handler])
    rows = predict.run(str(RECORDED), str(photos), str(out), threshold=0, tasks="detection")
    assert [Path(row["file"]).name for row in rows] == ["caf\ufffd.png"]
    assert "broken\ufffd.png" in caplog.text and caplog.text.encode()
    for name in ("predictions.json", "images_coco.json", "skipped.json"):
        text = (out / name).read_text(encoding="utf-8")
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "photos/caf\ufffd.png" in page and "broken\ufffd.png" in page
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 2 and "caf%E9.png" in links[0]
    assert all((out / os.fsdecode(unquote_to_bytes(link))).is_file() for link in links)


def test_what_images_means(tmp_path, monkeypatch):
    for name in ("b.png", "a [1].jpg", "sub/c.jpeg", "notes.txt", "film.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [str(tmp_path / name) for name in ("a [1].jpg", "b.png", "sub/c.jpeg")]
    assert sources.find(str(tmp_path)).paths == tuple(names)
    assert sources.find(names[0]).paths == (names[0],)
    assert sources.find(f"{tmp_path}/*.png").paths == (names[1],)
    assert sources.find(f"{tmp_path}/**/*.jpeg").paths == (names[2],)
    lines = io.StringIO("\n".join([*reversed(names), "", names[0], "missing.jpg\n"]))
    assert sources.find("-", stdin=lines).paths == (*reversed(names), "missing.jpg")
    assert sources.find(str(tmp_path / "film.mp4")).video == str(tmp_path / "film.mp4")
    assert sources.find(str(tmp_path), limit=1).paths == (names[0],)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")  # reading it will say so
    assert sources.find(str(tmp_path)).paths == (*names[:2], str(tmp_path / "gone.png"), names[2])
    assert sources.find(f"{tmp_path}/gone.*").paths == (str(tmp_path / "gone.png"),)
    for nothing in (f"{tmp_path}/none/*", f"{tmp_path}/none.jpg", ""):
        with pytest.raises(ValueError, match="0 files match"):
            sources.find(nothing)
    with pytest.raises(ValueError, match="0 files match; addresses are not fetched"):
        sources.find("https://example.com/a.jpg")


def test_pictures_of_the_last_time_are_no_images(tmp_path):
    for name in ("a.png", "sub/b.png", "out/a.png", "out/thumbnails/0.png", "output.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths = sources.find(str(tmp_path), without=f"{tmp_path}/sub/../out").paths
    assert [str(Path(path).relative_to(tmp_path)) for path in paths] == [
        "a.png", "output.png", "sub/b.png",
    ]  # fmt: skip
    assert len(sources.find(str(tmp_path), without="elsewhere").paths) == 5
    every = f"{tmp_path}/**/*.png"
    assert sources.find(every, without=f"{tmp_path}/out").paths == paths
    assert len(sources.find(every, without=str(tmp_path)).paths) == 5
    with pytest.raises(ValueError, match="is the folder of the images"):
        sources.find(str(tmp_path), without=f"{tmp_path}/")


def test_pictures_of_one_name_are_refused(tmp_path):
    lines = io.StringIO("a.jpg\n./a.jpg\n")
    assert sources.find("-", stdin=lines).paths == ("a.jpg",)
    paths = ["b/a.jpg", "c/a.jpg", "x_y/c.jpg", "x/y_c.jpg"]
    with pytest.raises(ValueError, match=r"x_y/c\.jpg and x/y_c\.jpg would both be x_y_c"):
        sources.check_names(paths, sources.names_for(paths), tmp_path)


def test_pictures_may_go_above_the_images(tmp_path, monkeypatch):
    """And hidden files, and those that Pillow only writes or knows by name, are none."""
    names = [".a.png", "._a.jpg", ".cache/a.png", "a.h5", "a.grib", "a.wmf", "a.pdf", "a.palm"]
    for name in ["a.png", "sub/b.webp", *names]:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    wanted = tuple(str(tmp_path / "photos" / name) for name in ("a.png", "sub/b.webp"))
    assert sources.find(f"{tmp_path}/photos", without=str(tmp_path)).paths == wanted
    monkeypatch.chdir(tmp_path)
    assert len(sources.find("photos", without=".").paths) == 2
    # A folder is not hidden because one above it is.
    (tmp_path / "photos").rename(tmp_path / ".photos")
    assert len(sources.find(f"{tmp_path}/.photos").paths) == 2


def test_image_ids_of_an_annotation_file(tmp_path):
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "x\\b.jpg"}]
    images.append({"id": 5, "file_name": "y/b.jpg"})
    file = tmp_path / "ids.json"
    file.write_text(json.dumps({"images": images}))
    paths = ["data/a.jpg", "data/x/b.jpg", "/data/y/b.jpg"]
    assert coco_rows.image_ids(paths, str(file)) == [7, 9, 5]
    assert coco_rows.image_ids(paths) == [1, 2, 3]
    with pytest.raises(ValueError, match=r"has no image c\.jpg"):
        coco_rows.image_ids(["c.jpg"], str(file))
    with pytest.raises(ValueError, match=r"has 2 images b\.jpg, none of them as in data/z/b\.jpg"):
        coco_rows.image_ids(["data/z/b.jpg"], str(file))
    file.write_text(json.dumps({"images": images[:2]}))
    assert coco_rows.image_ids(["data/z/b.jpg"], str(file)) == [9]  # only one is called so
    with pytest.raises(ValueError, match=r"p/a\.jpg and q/a\.jpg are both image 7"):
        coco_rows.image_ids(["p/a.jpg", "q/a.jpg"], str(file))
    file.write_text(json.dumps({"images": [*images, {"id": 8, "file_name": "a.jpg"}]}))
    with pytest.raises(ValueError, match=r"lists a\.jpg with several ids"):
        coco_rows.image_ids(["a.jpg"], str(file))
    file.write_text("[]")
    with pytest.raises(ValueError, match="cannot be read"):
        coco_rows.image_ids(paths, str(file))


def test_only_some_classes_can_be_found(every, mixed):
    image = str(mixed / "0000.png")
    some = pix2seq_jax.load(RECORDED, tasks=["detection"], classes=["heart", "person"])
    names = {name for result in every(image, threshold=0) for name in result.names}
    (result,) = some(image, threshold=0)
    assert names - {"heart", "person"}, "the model names no other class: nothing is tested"
    assert len(result.names) == len(every(image, threshold=0)[0].names)
    assert set(result.names) <= {"heart", "person"} and (result.scores >= 0).all()
    with pytest.raises(ValueError, match=r"no 'Person'; did you mean 'person'"):
        pix2seq_jax.load(RECORDED, classes=["Person"])
    with pytest.raises(ValueError, match="it has person, circle"):
        pix2seq_jax.load(RECORDED, classes=["zebra"])


def test_the_grammar_of_some_classes():
    vocab = Vocab(size=170, num_bins=32, num_classes=5, coord_shift=106)
    coordinates = ((106, 138),)
    allowed = (coordinates, ((101, 106), (30, 31)))
    assert only_classes(allowed, vocab, None) is allowed
    assert only_classes(allowed, vocab, [2, 5]) == (
        coordinates,
        ((102, 103), (105, 106), (30, 31)),
    )
    assert only_classes(None, vocab, [1]) == (((0, 101), (106, 170), (101, 102)),)


def test_detections_of_supervision(every, mixed):
    supervision = pytest.importorskip("supervision")
    (result,) = every(str(mixed / "0000.png"), threshold=0)
    found = result.to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == len(result.boxes) > 0
    np.testing.assert_array_equal(found.xyxy[:, [1, 0, 3, 2]], result.boxes)
    np.testing.assert_array_equal(found.class_id, result.labels - 1)
    assert tuple(found.data["class_name"]) == result.names
    assert len(found[found.class_id == 99]) == 0


@pytest.mark.parametrize(("package", "use"), [("supervision", "to_supervision"), ("av", "video")])
def test_packages_that_are_missing_are_named(every, package, use, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    (result,) = every(np.zeros((8, 8, 3), np.uint8), threshold=2)
    with pytest.raises(ValueError, match=rf"pip install 'pix2seq_jax\[{use.split('_')[-1]}\]'"):
        if use == "video":
            with video.opened(str(tmp_path / "a.mp4")):
                pass
        else:
            result.to_supervision()


def test_a_video_is_predicted_frame_by_frame(tmp_path):
    pytest.importorskip("av")
    film, out = str(tmp_path / "film.mp4"), tmp_path / "out"
    frames = np.random.default_rng(0).integers(0, 255, (11, 4, 6, 3), np.uint8).repeat(12, 1)
    with video.written(Path(film), 5) as append:
        for frame in frames.repeat(12, 2):
            append(frame)
    rows = predict.run(str(RECORDED), film, str(out), threshold=0, batch_size=4)
    assert [row["frame"] for row in rows] == list(range(11))
    np.testing.assert_allclose([row["seconds"] for row in rows], np.arange(11) / 5)
    with video.opened(film) as read, video.opened(str(out / "film.mp4")) as written:
        pixels = [frame.pixels for frame in read.frames]
        shapes = {frame.pixels.shape for frame in written.frames}
        assert read.count == written.count == 11 and len(shapes) == 1
        assert (
            pixels[0].shape == (48, 72, 3)
            and np.abs(np.int32(pixels[3]) - frames[3].repeat(12, 1)).mean() < 60
        )
    assert '<video controls preload=metadata src="film.mp4">' in (out / "index.html").read_text()
    assert len(json.loads((out / "images_coco.json").read_text())["images"]) == 11
    with pytest.raises(ValueError, match="would overwrite"):
        predict.run(str(RECORDED), film, str(tmp_path))
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="cannot be read"):
        predict.run(str(RECORDED), str(tmp_path / "no.mp4"), str(out))
