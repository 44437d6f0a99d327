"""What opening a COCO-format JSON costs: CPU time and resident memory, the first time and from the
column cache.

    python benchmarks/opening.py --images=118000 --boxes=860000

writes a seeded JSON of that size and opens it twice, each time in a fresh process without
TensorFlow. The defaults are the size of COCO's training data. The images are links to a few small
files.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, CATEGORIES, CHUNK = 640, 480, 80, 10_000
CROWDS = 100  # one of so many objects is a crowd region with run lengths


def write_images(folder: Path, count: int) -> None:
    """`count` files in folder/images; file systems allow some ten thousand links to a file."""
    (folder / "images").mkdir()
    for number in range(count):
        path = folder / "images" / f"{number:012d}.jpg"
        if number % CHUNK == 0:
            first = path
            Image.new("RGB", (WIDTH, HEIGHT)).save(path)
        else:
            path.hardlink_to(first)


def write_json(path: Path, images: int, boxes: int, points: int) -> None:
    """A COCO-format JSON, a chunk of objects at a time; every CROWDS-th is a crowd region."""
    rng = np.random.default_rng(0)
    listed = [
        {"id": number, "file_name": f"{number:012d}.jpg", "width": WIDTH, "height": HEIGHT}
        for number in range(images)
    ]
    categories = [{"id": i + 1, "name": f"class number {i}"} for i in range(CATEGORIES)]
    with path.open("w") as file:
        file.write(
            f'{{"images": {json.dumps(listed)}, "categories": {json.dumps(categories)}, '
            '"annotations": ['
        )
        for first in range(0, boxes, CHUNK):
            made = [
                annotation(rng, first + i, images, points) for i in range(min(CHUNK, boxes - first))
            ]
            file.write(", " * (first > 0) + json.dumps(made)[1:-1])
        file.write("]}")


def annotation(rng: np.random.Generator, number: int, images: int, points: int) -> dict:
    """One object with an outline of about `points` points."""
    low = rng.integers(0, [WIDTH // 2, HEIGHT // 2])
    size = rng.integers(8, [WIDTH // 2, HEIGHT // 2])
    angles = np.linspace(0, 2 * np.pi, rng.integers(4, 2 * points - 3), endpoint=False)
    radius = rng.uniform(0.7, 1, len(angles))
    outline = (
        low + size * (1 + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)) / 2
    )
    segmentation = [outline.round(2).ravel().tolist()]
    if number % CROWDS == 0:
        runs = np.diff(
            np.sort(rng.choice(WIDTH * HEIGHT, 200, replace=False)),
            prepend=0,
            append=WIDTH * HEIGHT,
        )
        segmentation = {"size": [HEIGHT, WIDTH], "counts": runs.tolist()}
    return {
        "id": 2**31 + number,
        "image_id": int(rng.integers(images)),
        "category_id": int(rng.integers(CATEGORIES)) + 1,
        "bbox": [*low.tolist(), *size.tolist()],
        "area": float(size.prod()),
        "iscrowd": int(number % CROWDS == 0),
        "segmentation": segmentation,
    }


def resident() -> float:
    """Resident memory of this process in GB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def measure(folder: Path) -> None:
    """Opens the JSON and prints one line of figures."""
    from pix2seq_jax.data.coco.columns import Cache
    from pix2seq_jax.data.coco.folder import CocoDir

    before, wall, cpu = resident(), time.perf_counter(), time.process_time()
    cache = Cache(folder / "columns")
    source = CocoDir(folder / "images", folder / "instances.json", max_points=128, cache=cache)
    cache.save()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if "tensorflow" in sys.modules:
        raise RuntimeError("TensorFlow was imported: the resident memory is not that of the data")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{len(source)} images: CPU {cpu:.1f} s, wall {wall:.1f} s, resident {resident():.2f} GB "
        f"({before:.2f} before opening, {peak:.2f} at the peak)",
        flush=True,
    )


def main() -> None:
    """Reads the flags, writes the data, and starts the two processes that open them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=118_000, help="images of the JSON")
    parser.add_argument("--boxes", type=int, default=860_000, help="objects of the JSON")
    parser.add_argument(
        "--points", type=int, default=20, help="mean number of points of an outline"
    )
    parser.add_argument(
        "--folder", type=Path, help="data written before, opened again; the default writes new data"
    )
    parser.add_argument(
        "--measure", action="store_true", help="open the data of --folder in this process"
    )
    given = parser.parse_args()
    if given.measure:
        measure(given.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        if not (folder / "instances.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_images(folder, given.images)
            write_json(folder / "instances.json", given.images, given.boxes, given.points)
        print(
            f"JSON of {(folder / 'instances.json').stat().st_size / 1e6:.0f} MB, "
            f"{given.boxes} objects",
            flush=True,
        )
        for name in ("first opening", "second opening"):
            print(name, end=": ", flush=True)
            subprocess.run(
                [sys.executable, __file__, f"--folder={folder}", "--measure"], check=True
            )


if __name__ == "__main__":
    main()
