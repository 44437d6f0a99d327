"""report.html after an evaluation and by its command: files, figures, and how a browser sees it."""

import csv
import html.parser
import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax import train
from pix2seq_jax.evaluation import make_host_tasks
from pix2seq_jax.evaluation.metrics import coco
from pix2seq_jax.evaluation.pages import build
from pix2seq_jax.evaluation.pages.html import Page
from pix2seq_jax.evaluation.report import write_json
from pix2seq_jax.experiment import inputs, saved_run, text_model
from tests.helpers import small
from tests.helpers.commands import command
from tests.helpers.multitask import make

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PARTS = {"detection": "AP", "segmentation": "AP", "keypoints": "AP", "captioning": "CIDEr-D"}


class Read(html.parser.HTMLParser):
    """Tables by id, as rows of texts; what is referred to; ids; tags that are open."""

    VOID = ("meta", "img", "line", "rect", "polyline")

    def __init__(self, text):
        super().__init__()
        self.tables, self.targets, self.ids, self.open = {}, [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.targets += [attrs[name] for name in ("src", "href") if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        assert tag != "script"
        if tag == "table":
            self.rows = self.tables.setdefault(attrs["id"], [])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in self.VOID

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] in (["td"], ["th"]):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A run of two steps and its evaluation, which finds next to nothing."""
    workdir = tmp_path_factory.mktemp("run")
    train.run(make(folder), workdir)
    return workdir


@pytest.fixture(scope="module")
def skilled(trained, tmp_path_factory):
    """The same with results of a detector that sees well, and the report of the command."""
    workdir = shutil.copytree(trained, tmp_path_factory.mktemp("skilled") / "run")
    looked_at = json.loads((workdir / "report" / build.INPUTS).read_text())
    config = saved_run.load_config(workdir)
    sources = inputs.open_sources(config, "val", text_model.load_text(config, workdir))
    metrics = json.loads((workdir / "metrics.json").read_text())
    rng = np.random.default_rng(0)
    for name, host_task in make_host_tasks(config).items():
        ids, annotations = looked_at["image_ids"][name], {}
        if host_task.has_classes:
            annotations = sources[name].coco_dict()
        truth = host_task.truth(sources[name], annotations, ids)
        rows = [seen(row, name, rng, sources[name]) for row in truth]
        if not host_task.has_classes:
            rows = list({row["image_id"]: row for row in rows}.values())
        if name == "detection":
            rows = rows[1:] + [row | {"score": 0.45} for row in rows[:3]]
        write_json(workdir / "results" / f"{name}.json", rows)
        metrics[name] = host_task.score(sources[name], annotations, rows, ids)
    write_json(workdir / "metrics.json", coco.json_safe(metrics))
    shutil.rmtree(workdir / "report", ignore_errors=False)
    write_json(workdir / "report" / build.INPUTS, looked_at)
    said = command("report", f"--workdir={workdir}")
    assert f"the report is {workdir / 'report.html'}" in said
    return workdir


def seen(row, name, rng, source):
    """A result that is nearly what the annotation says."""
    if name == "captioning":
        return {"image_id": row["image_id"], "caption": row["caption"]}
    result = {key: row[key] for key in ("image_id", "category_id")}
    result["score"] = float(rng.uniform(0.2, 1))
    if name == "detection":
        result["bbox"] = (np.array(row["bbox"]) + rng.normal(0, 1.5, 4)).clip(0).tolist()
        if rng.random() < 0.15:
            result["category_id"] = int(rng.choice(source.category_ids))
    if name == "segmentation":
        result["segmentation"] = row["segmentation"]
        if isinstance(row["segmentation"], list):
            result["segmentation"] = rle(row, source)
    if name == "keypoints":
        points = np.reshape(row.get("keypoints", [0] * 51), (-1, 3)).astype(float)
        points[:, :2] += rng.normal(0, 1, points[:, :2].shape)
        result["keypoints"] = points.ravel().tolist()
    return result


def rle(row, source):
    from pycocotools import mask

    height, width = source.sizes[source.image_ids.tolist().index(row["image_id"])].tolist()
    merged = mask.merge(mask.frPyObjects(row["segmentation"], height, width))
    return merged | {"counts": merged["counts"].decode()}


@pytest.mark.parametrize("run", ["trained", "skilled"])
def test_everything_that_is_referred_to_is_there(run, request):
    workdir = request.getfixturevalue(run)
    page = Read((workdir / "report.html").read_text())
    files = [target for target in page.targets if not target.startswith("#")]
    assert len(files) > 15 and not any("://" in target for target in files)
    for target in files:
        path = workdir / target
        assert path.stat().st_size, target
        if path.suffix == ".png":
            Image.open(path).load()
    assert {target[1:] for target in page.targets if target.startswith("#")} == set(PARTS)
    assert len(page.ids) == len(set(page.ids))
    written = {path.name for path in (workdir / "report").iterdir()} - {build.INPUTS}
    assert written == {target.removeprefix("report/") for target in files}


@pytest.mark.parametrize("run", ["trained", "skilled"])
def test_the_figures_are_those_of_the_metrics(run, request):
    workdir = request.getfixturevalue(run)
    page = Read((workdir / "report.html").read_text())
    metrics = json.loads((workdir / "metrics.json").read_text())

    def text(value):
        return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"

    for task, main in PARTS.items():
        header, row = page.tables[f"{task}_numbers"]
        numbers = dict(zip(header[1:], row[1:], strict=True))
        assert main in numbers
        assert numbers == {name: text(metrics[task][name]) for name in numbers}
        if "per_class" in metrics[task]:
            header, *rows = page.tables[f"{task}_classes"]
            read = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
            assert read == {
                name: {key: text(value) for key, value in own.items()}
                for name, own in metrics[task]["per_class"].items()
            }
            for name, ap, ar in page.tables[f"{task}_sizes"][1:]:
                assert (ap, ar) == tuple(
                    text(metrics[task][kind + name[0]]) for kind in ("AP", "AR")
                )
            path = workdir / "report" / f"{task}_classes.csv"
            with path.open(newline="") as file:
                table = {row["class"]: row for row in csv.DictReader(file)}
            for name, own in metrics[task]["per_class"].items():
                value = table[name]["AP"]
                assert (None if value == "" else float(value)) == own["AP"]


def test_what_the_page_counts_adds_up(skilled):
    page = Read((skilled / "report.html").read_text())
    metrics = json.loads((skilled / "metrics.json").read_text())["detection"]
    matrix = np.array(
        [[int(cell or 0) for cell in row[1:]] for row in page.tables["detection_confusion"][1:]]
    )
    per_class = [row["instances"] for row in metrics["per_class"].values()]
    assert matrix[:-1].sum(axis=1).tolist() == per_class
    numbers = {row[0]: int(row[1]) for row in page.tables["detection_errors"][1:]}
    with (skilled / "report" / "detection_images.csv").open(newline="") as file:
        images = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert len(images) == metrics["images"]
    wrong = sum(row["wrong"] for row in images)
    assert sum(numbers.values()) - numbers["missed"] == wrong > 0
    assert sum(row["right"] + row["missed"] for row in images) == metrics["instances"]
    found = sum((row["AR100"] or 0) * row["instances"] for row in metrics["per_class"].values())
    recall = float(page.tables["detection_slots"][-1][2])  # of objects, not of classes
    assert recall == pytest.approx(found / metrics["instances"], abs=6e-4)
    shown = [target for target in page.targets if target.endswith(".png")]
    assert len([target for target in shown if "worst" in target]) == 4
    good = [row[4] for row in page.tables["keypoints_keypoints"][1:] if row[4] != "-"]
    assert good and max(map(float, good)) > 0.5


def test_what_is_missing_is_named(trained, tmp_path):
    said = command("report", f"--workdir={tmp_path}", code=2)
    assert "config.json does not exist" in said and "train first" in said
    workdir = shutil.copytree(trained, tmp_path / "run")
    said = command("report", f"--workdir={workdir}", "--boxes=ground_truth", code=2)
    assert "report_ground_truth_boxes/inputs.json does not exist" in said
    assert f"`pix2seq eval --workdir={workdir} --config.eval.boxes=ground_truth`" in said
    (workdir / "results" / "keypoints.json").write_text("[{")
    said = command("report", f"--workdir={workdir}", code=2)
    assert "keypoints.json is not JSON" in said
    (workdir / "results" / "keypoints.json").unlink()
    assert "keypoints.json does not exist" in command("report", f"--workdir={workdir}", code=2)


def test_text_is_never_markup(tmp_path):
    """Classes are named by users."""
    page = Page(tmp_path / "report.html", "<b>&")
    page.section("a", "<i>")
    page.table("a_b", ("<class>", "AP"), [["<img src=x>", float("nan")], ["é星", 0.12345]])
    read = Read(page.write().read_text())
    assert read.tables["a_b"] == [["<class>", "AP"], ["<img src=x>", "-"], ["é星", "0.123"]]
    assert read.targets == ["#a", "report/a_b.csv"]
    assert (
        tmp_path / "report" / "a_b.csv"
    ).read_text() == "<class>,AP\n<img src=x>,\né星,0.12345\n"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_it(skilled, tmp_path):
    """No script error, no missing picture, nothing wider than the window."""
    probe = (
        "<script>window.onload=()=>{const bad=[...document.images].filter(i=>!i.naturalWidth);"
        "const wide=document.documentElement.scrollWidth-window.innerWidth;"
        "document.body.dataset.seen=`pictures ${document.images.length} bad ${bad.length} "
        "charts ${document.querySelectorAll('svg').length} wide ${wide>0}`}</script></body>"
    )
    text = (skilled / "report.html").read_text()
    (skilled / "probe.html").write_text(text.replace("</body>", probe))
    picture = tmp_path / "page.png"
    address = f"file://{skilled / 'probe.html'}"
    dom = browser("--dump-dom", address, home=tmp_path)
    pictures, charts = text.count("<img"), text.count("<svg")
    assert pictures >= 16 and charts >= 17
    expected = f"pictures {pictures} bad 0 charts {charts} wide false"
    assert f'data-seen="{expected}"' in dom.stdout, dom.stdout[-300:]
    assert "CONSOLE" not in dom.stderr
    browser(f"--screenshot={picture}", "--window-size=1200,2000", address, home=tmp_path)
    with Image.open(picture) as shot:
        assert shot.size == (1200, 2000)
        colors = np.unique(np.asarray(shot.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colors) > 50  # charts and text, not an empty page


def browser(*arguments, home):
    """A headless Chromium that is done; its own folder for what it keeps."""
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
    profile = f"--user-data-dir={home / 'profile'}"
    return subprocess.run(
        [CHROMIUM, *options, profile, "--virtual-time-budget=5000", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
