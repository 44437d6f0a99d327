"""Whether predict answers a heap of mixed files, names the broken ones and keeps its memory.

    python -m tests.trials.files --workdir=runs/shapes --images=data/shapes/val,photos

Makes --count files of the images in those folders: JPEG in grey, CMYK and RGB, PNG with alpha, with
a palette and with 16 bits, WebP, GIF, TIFF and BMP, turned by EXIF, from 1 x 1 to 6000 x 4000
pixels, some with odd names; --broken of them are cut off, empty, or text. Then it runs `predict` on
them in a process of its own, and prints its resident memory when a tenth, a half and all of the
pictures are written. It ends with 1 if a good file has no answer, a broken one is not listed, the
exit code is not 1, or a box lies outside of its image. Not part of the test suite, because it takes
minutes.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pix2seq_jax.data.images import header

ROOT = Path(__file__).parents[2]
SIZES = ((1, 1), (64, 64), (640, 480), (1, 3000), (120, 90), (6000, 3), (333, 77), (1024, 768))
LARGE, EVERY = (6000, 4000), 80  # each so many files one that is large
TURNED = 6  # of EXIF: by 90 degrees


def as_is(image: Image.Image) -> Image.Image:
    """The image."""
    return image


def deep(image: Image.Image) -> Image.Image:
    """16 bits of grey."""
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def clear(image: Image.Image) -> Image.Image:
    """With an alpha that is not the same everywhere."""
    alpha = Image.linear_gradient("L").resize(image.size)
    with_alpha = image.convert("RGBA")
    with_alpha.putalpha(alpha)
    return with_alpha


def turned() -> Image.Exif:
    """EXIF data of a camera that was held upright."""
    exif = Image.Exif()
    exif[0x0112] = TURNED
    return exif


KINDS = (  # suffix, what is made of an RGB image, options of Pillow
    (".jpg", as_is, {}),
    (".jpg", lambda image: image.convert("L"), {}),
    (".jpg", lambda image: image.convert("CMYK"), {}),
    (".png", clear, {}),
    (".png", deep, {}),
    (".JPG", as_is, {"exif": turned()}),
    (".png", lambda image: image.convert("LA"), {}),
    (".png", lambda image: image.quantize(32), {"transparency": 3}),
    (".webp", as_is, {}),
    (".gif", as_is, {}),
    (".tiff", as_is, {}),
    (".bmp", as_is, {}),
    (".jpeg", as_is, {"progressive": True, "quality": 60}),
    (".png", lambda image: image.convert("1"), {}),
    (" (é 星 #1 %20).jpg", as_is, {}),
)


def make(folder: Path, images: list[Path], count: int, broken: int) -> dict[str, bool]:
    """Writes the files; file -> whether it is whole."""
    odd = set(np.random.default_rng(0).choice(count, broken, replace=False).tolist())
    files = {}
    for number in range(count):
        with Image.open(images[number % len(images)]) as source:
            image = source.convert("RGB")
        size = LARGE if number % EVERY == EVERY // 2 else SIZES[number % len(SIZES)]
        suffix, change, options = KINDS[number % len(KINDS)]
        path = folder / f"{number:04d}{suffix}"
        change(image.resize(size)).save(path, **options)
        if number in odd:
            path = broken_one(path, number)
        files[str(path)] = number not in odd
    return files


def broken_one(path: Path, number: int) -> Path:
    """Puts one of five kinds of broken files in the place of a good one."""
    stream = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 255, (90, 120, 3), np.uint8)
    suffix = (".png", ".jpg")[number % 2]
    Image.fromarray(noise).save(stream, ("PNG", "JPEG")[number % 2])
    whole = stream.getvalue()
    contents = (
        whole[:20],
        whole[: len(whole) // 2],
        b"",
        b"this is no image\n",
        b"<!doctype html>",
    )
    path.unlink()
    path = path.with_name(f"{number:04d}_broken{suffix}")
    path.write_bytes(contents[number % len(contents)])
    return path


def predict(workdir: str, folder: Path, out: Path, good: int) -> tuple[int, dict[int, int]]:
    """(exit code, resident MiB after so many pictures); the last is the most there ever was."""
    flags = [f"--workdir={workdir}", f"--images={folder}", f"--out={out}", "--threshold=0.1"]
    process = subprocess.Popen([sys.executable, "-m", "pix2seq_jax.predict", *flags], cwd=ROOT)
    marks, memory = [good // 10, good // 2, good - 1], {}
    while process.poll() is None:
        done = len(list(out.glob("*.png")))
        status = resident(process.pid)
        while marks and done >= marks[0] and status:
            memory[marks.pop(0)] = status["VmRSS"]
        if status:
            memory[-1] = status["VmHWM"]
        time.sleep(0.1)
    return process.returncode, memory


def resident(process: int) -> dict[str, int]:
    """MiB of what /proc says; {} once the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.split()[:2] for line in lines if line.startswith(("VmRSS:", "VmHWM:"))]
    return {name.rstrip(":"): int(value) // 1024 for name, value in pairs}


def wrong(files: dict[str, bool], out: Path) -> list[str]:
    """What is not as it should be."""
    rows = json.loads((out / "predictions.json").read_text())
    skipped = [row["file"] for row in json.loads((out / "skipped.json").read_text())]
    bad = []
    if sorted(row["file"] for row in rows) != sorted(file for file in files if files[file]):
        bad.append("the rows of predictions.json are not the good files")
    if sorted(skipped) != sorted(file for file in files if not files[file]):
        bad.append("skipped.json does not list the broken files")
    for row in rows:
        height, width, is_turned = header(row["file"])
        if is_turned:
            height, width = width, height
        edges = np.array([one["box"] for one in row["objects"]]).reshape(-1, 4)
        if (edges < 0).any() or (edges > np.array([height, width, height, width])).any():
            bad.append(f"{row['file']}: a box lies outside of {height} x {width}")
    fields = {key for row in rows for one in row["objects"] for key in one} | set(
        *map(set, rows[:1])
    )
    if missing := {"box", "mask", "keypoints", "caption"} - fields:
        bad.append(f"no answer has {sorted(missing)}")
    return bad


def main() -> None:
    """Reads the flags, runs and judges."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", required=True, help="of a trained run of all four tasks")
    parser.add_argument("--images", required=True, help="folders of images, joined by commas")
    parser.add_argument("--count", type=int, default=1000, help="of the files")
    parser.add_argument("--broken", type=int, default=20, help="of them")
    given = parser.parse_args()
    ends = {".jpg", ".jpeg", ".png"}
    folders = [sorted(Path(one).iterdir()) for one in given.images.split(",")]
    images = [one for pair in zip(*folders, strict=False) for one in pair if one.suffix in ends]
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "files", Path(temporary) / "out"
        folder.mkdir()
        files = make(folder, images, given.count, given.broken)
        start = time.perf_counter()
        code, memory = predict(given.workdir, folder, out, given.count - given.broken)
        print(f"{given.count} files, {given.broken} broken: exit code {code}, "
              f"{time.perf_counter() - start:.0f} s")  # fmt: skip
        most = memory.pop(-1)
        print("resident after", ", ".join(f"{n} pictures {m} MiB" for n, m in memory.items()))
        print(f"most {most} MiB")
        bad = [f"the exit code is {code}, and files are broken"]
        if code == 1:
            bad = wrong(files, out)
        print("\n".join(bad[:20]) or "all good files answered, all broken ones listed")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
