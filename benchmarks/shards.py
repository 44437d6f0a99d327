"""What shards cost and bring: images/s of `prepare`, and of reading from them against loose files.

    python benchmarks/shards.py --images=118000 --side=32

draws so many JPEG files of noise and a COCO JSON with boxes, prepares them, kills another `prepare`
in the middle and goes on, and reads all images in the order of a training epoch, from files and
from shards in turns. Files that were just written are in the memory of the machine, so what is
compared is the work of the processor and the system. With --cold they are read from the disk: the
system is asked to forget their content (not their names) before each reading.
"""

import argparse
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pix2seq_jax.data.coco.files import ImageFolder, Storage
from pix2seq_jax.data.shards.reading import ImageShards

PREPARE = [sys.executable, "-m", "pix2seq_jax.prepare", "--from=coco_dir", "--splits=train"]


def draw(folder: Path, count: int, side: int, boxes: int) -> None:
    """`count` images and `boxes` boxes in each."""
    rng = np.random.default_rng(0)
    for name in ("train", "annotations"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(stream, "JPEG")
        (folder / "train" / f"{number:012d}.jpg").write_bytes(stream.getvalue())
    size = {"width": side, "height": side}
    images = [{"id": i, "file_name": f"{i:012d}.jpg", **size} for i in range(count)]
    box = {"category_id": 1, "bbox": [1, 2, side // 2, side // 3], "area": 1.0, "iscrowd": 0}
    objects = [{"id": i + 1, "image_id": i // boxes, **box} for i in range(count * boxes)]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))


def prepare(source: Path, out: Path, more: Sequence[str]) -> float:
    """Seconds of the command."""
    start = time.perf_counter()
    subprocess.run([*PREPARE, f"--source={source}", f"--out={out}", *more], check=True)
    return time.perf_counter() - start


def kill_in_the_middle(source: Path, out: Path, more: Sequence[str], shards: int) -> int:
    """Sends SIGKILL to the command once half of the shards are there; how many then are."""
    process = subprocess.Popen([*PREPARE, f"--source={source}", f"--out={out}", *more])
    while len(list((out / "train").glob("*.array_record"))) < shards // 2:
        if process.poll() is not None:
            raise RuntimeError("prepare ended before it was killed; take more images")
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(5)  # its workers notice, and write their last shards to the end
    return len(list((out / "train").glob("*.array_record")))


def sums(folder: Path) -> dict[str, str]:
    """Checksums of all files below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def forget(folder: Path) -> None:
    """Takes the content of all files below a folder out of the memory of the system (Linux)."""
    os.sync()  # what is not on the disk yet cannot be forgotten
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def rate(storage: Callable[[], Storage], names: list[str], order: np.ndarray) -> float:
    """Images/s of reading in this order, opening aside."""
    opened = storage()
    files = opened.locate(Path("benchmark.json"), names)
    start = time.perf_counter()
    for row in order.tolist():
        opened.load(files[row])
    return len(order) / (time.perf_counter() - start)


def measure(folder: Path, given: argparse.Namespace) -> dict:
    """All figures."""
    source, out, again = (folder / name for name in ("loose", "shards", "killed"))
    draw(source, given.images, given.side, given.boxes)
    more = [f"--images_per_shard={given.images_per_shard}", f"--workers={given.workers}"]
    seconds = prepare(source, out, more)
    figures = {"prepare_images_per_s": given.images / seconds, "prepare_s": seconds}
    shards = len(list((out / "train").glob("*.array_record")))
    figures["shards"] = shards
    figures["shards_after_kill"] = kill_in_the_middle(source, again, more, shards)
    figures["finish_s"] = prepare(source, again, more)
    figures["identical"] = sums(out) == sums(again)
    names = [f"{number:012d}.jpg" for number in range(given.images)]
    order = np.random.default_rng(1).permutation(given.images)
    ways = {
        "loose": lambda: ImageFolder(source / "train"),
        "shards": lambda: ImageShards(out / "train"),
    }
    rates = {way: [] for way in ways}
    for _ in range(given.runs):
        for way, storage in ways.items():
            if given.cold:
                forget(folder / way)
            rates[way].append(rate(storage, names, order))
    figures |= {f"{way}_images_per_s": float(np.median(own)) for way, own in rates.items()}
    ratio = figures["shards_images_per_s"] / figures["loose_images_per_s"]
    return figures | {"shards_over_loose": ratio}


def main() -> None:
    """Reads the flags, measures, and prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=118_000, help="how many")
    parser.add_argument("--side", type=int, default=32, help="of an image in pixels")
    parser.add_argument("--boxes", type=int, default=7, help="objects of an image")
    parser.add_argument("--images_per_shard", type=int, default=4000, help="as of the command")
    parser.add_argument("--workers", type=int, default=2, help="as of the command")
    parser.add_argument("--runs", type=int, default=3, help="readings; the median is shown")
    parser.add_argument("--cold", action="store_true", help="read from the disk")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), given), indent=1), flush=True)


if __name__ == "__main__":
    main()
