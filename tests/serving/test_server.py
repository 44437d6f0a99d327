"""A real client against a real server process with the recorded model of all four tasks."""

import asyncio
import concurrent.futures
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import pix2seq_jax
from pix2seq_jax.evaluation.metrics import masks
from pix2seq_jax.serving.app import Limits, Service
from pix2seq_jax.serving.server import serve
from tests.helpers import small
from tests.helpers.browser import CHROMIUM, Browser
from tests.helpers.commands import command

RECORDED = Path(__file__).parents[1] / "golden" / "workdir_0_1"
FLAGS = {
    "threshold": 0.0,
    "batch_size": 2,
    "delay_ms": 300,
    "queue": 12,
    "max_megabytes": 0.2,
    "max_megapixels": 1,
    "timeout": 60,
}


class Started:
    """A server in a process of its own."""

    def __init__(self, log: Path, **flags) -> None:
        self.log = log
        arguments = [f"--{name}={value}" for name, value in (FLAGS | flags).items()]
        workdir = [f"--workdir={RECORDED}", "--port=0"]
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pix2seq_jax.serve", *workdir, *arguments],
                cwd=small.ROOT,
                stderr=stream,
            )
        self.client = httpx.Client(base_url=self._address(), timeout=120)

    def _address(self) -> str:
        for _ in range(2400):
            if match := re.search(r"at (http://\S+)", self.log.read_text()):
                return match[1]
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.05)
        raise AssertionError("no address in the log")

    def wait(self) -> None:
        for _ in range(2400):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            if self.client.get("/healthz").status_code == 200:
                return
            time.sleep(0.05)
        raise AssertionError("the server did not get ready")

    def stop(self) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = Started(tmp_path_factory.mktemp("server") / "log")
    try:
        first = started.client.get("/healthz")
        refused = started.client.post("/predict", content=b"x")
        started.early = (first, refused)
        started.wait()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")
    return sorted((folder / "val").glob("*.jpg"))[:6]


@pytest.fixture(scope="module")
def wanted(files) -> list[dict]:
    """What the library says of each file alone."""
    predictor = pix2seq_jax.load(RECORDED)
    return [predictor(file, threshold=0.0)[0].to_dict() for file in files]


def same(row: dict, wanted: dict) -> None:
    assert row["caption"] == wanted["caption"]
    assert len(row["objects"]) == len(wanted["objects"]) > 0
    for one, other in zip(row["objects"], wanted["objects"], strict=True):
        assert set(one) == set(other) and one["category"] == other["category"]
        np.testing.assert_allclose(one["box"], other["box"], atol=0.011)
        np.testing.assert_allclose(one["score"], other["score"], atol=2e-6)
        assert one.get("mask") == other.get("mask")
        if "keypoints" in one:
            np.testing.assert_allclose(one["keypoints"], other["keypoints"], atol=0.011)


def post(server, file: Path) -> httpx.Response:
    return server.client.post("/predict", content=file.read_bytes())


@pytest.mark.parametrize("field", ["kernel_dtype", "cache_dtype"])
def test_dtypes_of_decoding_reach_the_model(field):
    options = {"host": "127.0.0.1", "port": 0, "limits": Limits(), "threshold": 0.5}
    with pytest.raises(ValueError, match=f"model.{field}='int4'; it may be one of"):
        serve(str(RECORDED), **options, **{field: "int4"})


def test_it_is_ready_only_when_it_has_compiled(server):
    first, refused = server.early
    assert first.status_code == 503 and first.json() == {"status": "compiling"}
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    assert "not ready" in refused.json()["error"]
    log = server.log.read_text()
    assert [f"compiled for {size} images" in log for size in (1, 2, 3)] == [1, 1, 0]


def test_body_and_form_are_answered_like_the_library(server, files, wanted):
    for file, other in zip(files[:2], wanted, strict=False):
        row = post(server, file)
        assert row.status_code == 200 and row.json()["file"] == ""
        same(row.json(), other)
        with file.open("rb") as stream:
            row = server.client.post("/predict", files={"image": (file.name, stream)})
        assert row.json()["file"] == file.name
        same(row.json(), other)


def sample(server, name: str) -> float:
    text = server.client.get("/metrics").text
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


def test_concurrent_requests_are_batched_and_answered_as_alone(server, files, wanted):
    before = sample(server, "pix2seq_batch_images_count")
    images = sample(server, "pix2seq_batch_images_sum")
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        rows = list(pool.map(lambda file: post(server, file), files))
    for row, other in zip(rows, wanted, strict=True):
        assert row.status_code == 200
        same(row.json(), other)
    assert sample(server, "pix2seq_batch_images_sum") - images == 6
    assert sample(server, "pix2seq_batch_images_count") - before <= 4  # of at most two each


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims many pixels and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    empty = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + empty + chunk(b"IEND", b"")


def cut_png() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()[:2000]


BROKEN = {
    "empty": (b"", 400, "has no image"),
    "text": (b"GET me an image", 400, "none that can be read"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400, "none that can be"),
    "cut": (cut_png(), 400, "cannot be decoded"),
    "bomb": (bomb(30_000, 30_000), 413, "30000 x 30000 pixels, more than the 1,000,000"),
    "large": (b"\xff\xd8" + b"x" * 200_001, 413, "more than 200,000 bytes"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("form", [False, True], ids=["body", "form"])
def test_broken_uploads_get_one_sentence(server, name, form):
    data, status, message = BROKEN[name]
    body = {"files": {"image": ("odd.png", data)}} if form else {"content": data}
    answer = server.client.post("/predict", **body)
    error = answer.json()["error"]
    assert answer.status_code == status and message in error
    assert "\n" not in error and len(error) < 200


def test_a_body_of_unknown_length_is_cut_off(server):
    def parts():
        for _ in range(100):
            yield b"x" * 10_000

    answer = server.client.post("/predict", content=parts())
    assert answer.status_code == 413


def test_forms_that_cannot_be_read(server):
    kind = {"content-type": "multipart/form-data; boundary=b"}
    for body in (b"nonsense", b"--b\r\ncontent", b""):
        answer = server.client.post("/predict", content=body, headers=kind)
        assert answer.status_code == 400 and "form" in answer.json()["error"]
    kind = {"content-type": "multipart/form-data"}  # without a boundary
    answer = server.client.post("/predict", content=b"x", headers=kind)
    assert answer.status_code == 400
    answer = server.client.post("/predict", data={"image": "text"}, files={})
    assert answer.status_code == 400


def test_pages(server):
    page = server.client.get("/")
    assert page.status_code == 200 and "http" not in page.text.lower().replace("html", "")
    info = server.client.get("/info").json()
    assert info["classes"][0] == "person" and info["max_pixels"] == 1_000_000
    for path, status in (("/predict", 405), ("/nothing", 404)):
        answer = server.client.get(path)
        assert answer.status_code == status
        assert answer.json()["error"].startswith(f"GET {path}: ") and "POST an image" in answer.text
    assert sample(server, "pix2seq_ready") == 1
    assert sample(server, "pix2seq_open_requests") == 0


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_drops_an_image_on_the_page(server, files, wanted, tmp_path):
    """The answer and the boxes appear, without an error of the script or a missing file."""
    with Browser(tmp_path / "profile") as page:
        page.open(str(server.client.base_url))
        page.wait("document.getElementById('status').textContent.startsWith('Step ')")
        assert not page.value("document.getElementById('view').checkVisibility()")
        page.drop("#drop", files[0])
        answered(page, wanted[0])
        boxes_are_drawn(page, wanted[0])
        page.choose("#file", files[1])
        answered(page, wanted[1])
        boxes_are_drawn(page, wanted[1])
        masks_and_keypoints_are_drawn(page)
        assert page.errors == []
        (tmp_path / "odd.txt").write_text("no image")
        page.drop("#drop", tmp_path / "odd.txt")
        message = page.wait("document.getElementById('error').textContent")
        assert "none that can be read" in message
        assert not page.value("document.getElementById('view').checkVisibility()")
        assert len(page.errors) == 1 and "400" in page.errors[0]  # what the browser says of it


def answered(page: Browser, row: dict) -> None:
    """The caption and the table say what the library says; nothing is wider than the window."""
    words = page.wait(
        "/ ms/.test(document.getElementById('status').textContent)"
        " && document.getElementById('status').textContent"
    )
    assert words.endswith(row["caption"].strip()[-20:])
    assert page.value("document.getElementById('view').checkVisibility()")
    lines = "[...document.getElementById('rows').rows]"
    table = page.value(f"{lines}.map((one) => [...one.cells].map((cell) => cell.textContent))")
    assert [line[0] for line in table] == [one["category"] for one in row["objects"]]
    for line, one in zip(table, row["objects"], strict=True):
        assert float(line[1]) == pytest.approx(one["score"], abs=6e-4)
        box = [float(edge) for edge in line[2].split(", ")]
        np.testing.assert_allclose(box, one["box"], atol=0.52)
    assert page.value("document.documentElement.scrollWidth <= window.innerWidth")


def boxes_are_drawn(page: Browser, row: dict) -> None:
    """On the lower edge of each box there is the colour of a class."""
    colours = page.value("info.colours")
    scale = page.value("canvas.width / image.width")
    width, height = page.value("[canvas.width, canvas.height]")
    assert row["objects"] and width >= 640
    for one in row["objects"]:
        _, left, bottom, right = (scale * edge for edge in one["box"])
        y = min(int(bottom), height - 1)
        for x in np.linspace(left, right, 9)[1:-1].clip(0, width - 1).astype(int).tolist():
            pixel = page.value(f"[...pen.getImageData({x}, {y}, 1, 1).data]")
            if "#{:02x}{:02x}{:02x}".format(*pixel[:3]) in colours:
                break
        else:
            raise AssertionError(f"no edge of {one['box']} is drawn")


def masks_and_keypoints_are_drawn(page: Browser) -> None:
    """The recorded model finds none, so the page gets another answer for the image that it shows:
    exactly the mask's pixels change with one box, and some more with the other."""
    width, height = page.value("[image.width, image.height]")
    mask = np.random.default_rng(0).random((height, width)) > 0.4
    mask[:8] = False  # the name of the object stands there
    points = [[20.5, 20.5], [30.5, 25.5]] * 8 + [[40.5, 20.5]]  # middles of pixels
    one = {"box": [0, 0, 1, 1], "category": "person", "score": 0.9, "keypoints": points}
    answer = json.dumps({"objects": [one | {"mask": masks.to_rle(mask)}]})
    page.value(f"found = {answer}; draw()")
    everything = middles(page)
    page.click("#points")
    without_points = middles(page)
    page.click("#masks")
    bare = middles(page)
    np.testing.assert_array_equal((without_points != bare).any(-1), mask)
    changed = (everything != without_points).any(-1)
    assert changed[20, 20] and changed[30, 25] and changed[40, 20]


def middles(page: Browser) -> np.ndarray:
    """u8[H,W,3] of the middles of the image's pixels on the canvas."""
    width, scale = page.value("[canvas.width, canvas.width / image.width]")
    data = page.value("[...pen.getImageData(0, 0, canvas.width, canvas.height).data]")
    pixels = np.array(data, np.uint8).reshape(-1, width, 4)
    return pixels[scale // 2 :: scale, scale // 2 :: scale, :3]


def test_too_many_requests_and_sigterm(files, wanted, tmp_path):
    """One server of a long delay: requests pile up, some are sent away, and those that are in
    flight at SIGTERM are answered."""
    server = Started(tmp_path / "log", delay_ms=3000, batch_size=4, queue=3, tasks="detection")
    try:
        server.wait()
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            sent = [pool.submit(post, server, file) for file in files]
            while sample(server, "pix2seq_open_requests") < 3:
                time.sleep(0.01)
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            answers = [one.result() for one in sent]
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [200] * 3 + [503] * 3
        for answer, other in zip(answers, wanted, strict=True):
            if answer.status_code == 200:
                same_boxes = [one["box"] for one in answer.json()["objects"]]
                boxes = [one["box"] for one in other["objects"]]
                np.testing.assert_allclose(same_boxes, boxes, atol=0.011)
            else:
                assert answer.headers["retry-after"] == "1"
    finally:
        code = server.stop()
    assert code == 0 and server.log.read_text().rstrip().endswith("stopped")


def test_what_cannot_be_served_is_one_line(tmp_path):
    printed = command("serve", f"--workdir={tmp_path}", "--port=0", code=2)
    assert "is not the workdir of a run" in printed
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        printed = command("serve", f"--workdir={RECORDED}", f"--port={port}", code=2)
    assert "cannot be listened at" in printed and "another host or port" in printed
    printed = command("serve", f"--workdir={RECORDED}", "--batch_size=0", code=2)
    assert "--batch_size=0: give at least 1" in printed


def test_a_slow_request_is_told(files):
    """In this process, without a server: the time limit is one of the service."""

    class Slow:
        def compile(self, count):
            pass

        def __call__(self, images, **options):
            time.sleep(0.5)
            raise RuntimeError("too late")

    async def ask() -> httpx.Response:
        app = Service(Slow(), Limits(timeout=0.1, delay=0.0)).app()
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://s") as client:
                while (await client.get("/healthz")).status_code != 200:
                    await asyncio.sleep(0.01)
                return await client.post("/predict", content=files[0].read_bytes())

    answer = asyncio.run(ask())
    assert answer.status_code == 504 and "within 0.1 s" in answer.json()["error"]
