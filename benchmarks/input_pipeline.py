"""What the input pipeline costs: images/s of the training and of the evaluation ops, each beside
its floor in the same run, the bare decode and resize of the same files in TensorFlow.

    python benchmarks/input_pipeline.py --size=640 --cache=2

measures training also with decoded images in memory, as from the second epoch on. The files are a
seeded folder of JPEGs: the sizes of COCO, of which most need no resizing in an evaluation at 640,
and larger ones, all of which do. Needs TensorFlow.
"""

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import measure
import numpy as np
import tensorflow as tf
from PIL import Image

from pix2seq_jax.config import recipes
from pix2seq_jax.data import pipeline, rows
from pix2seq_jax.data.coco.captions import CocoCaptions
from pix2seq_jax.data.coco.files import read_file
from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.data.coco.person import COCO_KEYPOINTS
from pix2seq_jax.data.ops.chain import read_chain
from pix2seq_jax.data.reading import ImageCache
from pix2seq_jax.data.selections import PerObject
from pix2seq_jax.data.source import Source
from pix2seq_jax.data.text import Text

# Height and width in COCO's proportions, and of larger pictures.
COCO = [(480, 640)] * 5 + [(427, 640)] * 2 + [(640, 480)] * 2 + [(375, 500)]
LARGE = [(768, 1024), (1024, 768), (720, 1280), (960, 1280)]
QUALITY = 92  # of the files: about 160 kB at 640 x 480, as in COCO
OBJECTS, POINTS = 7, 20  # of an image, of an outline
DISTINCT = 40  # pictures that are drawn; the others are links to these
SLOTS, BATCH = 100, 8
KEYPOINTS = list(COCO_KEYPOINTS["names"])
CAPTION = "A thing of colour number {} in front of a field of many colours."
# Floors by the factors that they resize by.
FLOORS = {
    "bare decode + jittered resize": (0.3, 2.0),
    "bare decode + smaller jitter": (0.3, 1.0),
    "bare decode + resize": (1.0, 1.0 + 1e-6),
}
JITTERED, SMALLER, RESIZED = FLOORS


def picture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Smooth fields of colour with sharp shapes on them, texture and some noise."""
    small = rng.uniform(0, 255, (height // 40, width // 40, 3)).astype(np.uint8)
    made = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    made = made.astype(np.float32)
    y, x = np.mgrid[:height, :width]
    for _ in range(12):
        centre, radius = rng.uniform(0, [height, width]), rng.uniform(10, height / 4, 2)
        inside = ((np.stack([y, x], -1) - centre) ** 2 / radius**2).sum(-1) < 1
        texture = 20 * np.sin(y * rng.uniform(0, 1) + x * rng.uniform(0, 1))
        made[inside] = rng.uniform(0, 255, 3) + texture[inside, None]
    grain = np.asarray(
        Image.fromarray(rng.normal(128, 25, (height // 2, width // 2)).astype(np.uint8)).resize(
            (width, height), Image.Resampling.BILINEAR
        ),
        np.float32,
    )
    made += (grain - 128)[..., None] + rng.normal(0, 5, made.shape)
    return Image.fromarray(np.clip(made, 0, 255).astype(np.uint8))


def write_data(folder: Path, count: int, sizes: Sequence[tuple[int, int]]) -> None:
    """`count` JPEG files of these sizes and their COCO-format JSON."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        height, width = sizes[number % DISTINCT % len(sizes)]
        path = folder / f"{number:06d}.jpg"
        if number < DISTINCT:
            picture(rng, height, width).save(path, quality=QUALITY)
        else:
            path.hardlink_to(folder / f"{number % DISTINCT:06d}.jpg")
        images.append({"id": number, "file_name": path.name, "height": height, "width": width})
        for _ in range(OBJECTS):
            annotations.append(annotation(rng, len(annotations), number, height, width))
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing", "keypoints": KEYPOINTS}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    captions = [
        {"id": 5 * number + i, "image_id": number, "caption": CAPTION.format(i)}
        for number in range(count)
        for i in range(5)
    ]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))


def opened(folder: Path, **reads: Any) -> CocoDir:
    """The files as a source, with what else is to be read."""
    return CocoDir(folder, folder / "instances.json", **reads)


def annotation(
    rng: np.random.Generator, number: int, image: int, height: int, width: int
) -> dict[str, Any]:
    """One object with an elliptic outline and keypoints on the diagonal of its box."""
    low = rng.uniform(0, [width / 2, height / 2])
    size = rng.uniform(8, [width / 2, height / 2])
    angle = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    outline = low + size * (1 + np.stack([np.cos(angle), np.sin(angle)], -1)) / 2
    points = low + size * np.linspace(0.05, 0.95, len(KEYPOINTS))[:, None]
    seen = np.full((len(KEYPOINTS), 1), 2)
    return {
        "id": number + 1,
        "image_id": image,
        "category_id": 1,
        "bbox": [*low.tolist(), *size.tolist()],
        "area": float(size.prod()),
        "iscrowd": 0,
        "segmentation": [outline.ravel().tolist()],
        "keypoints": np.concatenate([points, seen], axis=1).ravel().tolist(),
        "num_keypoints": len(KEYPOINTS),
    }


def bare(files: Sequence[str], size: int, factors: tuple[float, float]) -> tf.data.Dataset:
    """Decodes the files and resizes them to `size` times a uniform factor, no more."""

    def make(file: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(file), channels=3, dct_method="INTEGER_ACCURATE")
        factor = tf.random.stateless_uniform([], tf.stack([0, number]), *factors)
        now = tf.cast(tf.shape(image)[:2], tf.float32)
        target = tf.cast(now * size * factor / tf.reduce_max(now), tf.int32)
        return tf.raw_ops.ResizeBilinear(images=image[None], size=target, half_pixel_centers=True)

    options = tf.data.Options()
    options.threading.private_threadpool_size = pipeline.cpu_count()
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    numbered = tf.data.Dataset.from_tensor_slices((files, range(len(files)))).repeat()
    mapped = numbered.map(make, num_parallel_calls=pipeline.cpu_count())
    return mapped.prefetch(2 * BATCH).with_options(options)


def trained(
    source: Source, spec: str, size: int, cache: ImageCache | None = None
) -> pipeline.Batches:
    """Batches as training gets them."""
    ops = spec.format(size=size, side=size, max_instances=SLOTS, slots=SLOTS)
    return pipeline.train_dataset(source, ops, batch_size=BATCH, seed=0, cache=cache)


def evaluated(source: CocoDir, size: int) -> Callable[[int], None]:
    """Prepares so many images as an evaluation does: threads that decode and resize,
    then a batch."""
    spec = recipes.DETECTION_EVAL.format(size=size, side=size, max_instances=SLOTS)
    make = rows.Preprocess(read_chain(spec).image_ops, objects=False, spec=spec)
    sizes = [tuple(pair) for pair in source.sizes.tolist()]

    def one(i: int, into: np.ndarray) -> rows.Row:
        pixels, shape = rows.read(source.files[i], sizes[i], read_file)
        return make({"image": pixels, "orig_size": shape}, i, into)

    def run(count: int) -> None:
        with ThreadPoolExecutor(pipeline.cpu_count()) as pool:
            for start in range(0, count, 4 * BATCH):
                chunk = [i % len(source) for i in range(start, min(start + 4 * BATCH, count))]
                images = make.images(len(chunk))
                make.batch(dict(enumerate(pool.map(one, chunk, images))), len(chunk), images)

    return run


def draining(batches: Any, count: int) -> Callable[[], None]:
    """Work that reads `count` items from a fresh iterator."""

    def run() -> None:
        iterator = iter(batches)
        for _ in range(count):
            next(iterator)
        if isinstance(iterator, pipeline.BatchIterator):
            iterator.close()

    return run


def training(folder: Path) -> dict[str, tuple[Source, str, str]]:
    """(source, preprocessing, name of the floor) of each task."""
    text = Text.train([CAPTION.format(i) for i in range(5)], 256)
    captions = CocoCaptions(folder, folder / "captions.json", text=text)
    persons = PerObject(opened(folder, keypoints=True), min_keypoints=1)
    return {
        "detection": (opened(folder), recipes.DETECTION_TRAIN, JITTERED),
        "captioning": (captions, recipes.CAPTIONING_TRAIN, JITTERED),
        "segmentation": (opened(folder, max_points=128), recipes.SEGMENTATION_TRAIN, SMALLER),
        "keypoints": (persons, recipes.KEYPOINTS_TRAIN, SMALLER),
    }


def works(
    folder: Path, size: int, images: int, gib: float
) -> dict[str, tuple[str, Callable[[], None]]]:
    """What is timed, each over so many images: (name of its floor, work). Where images may stay in
    memory, training also with those; the run before the first that counts reads them."""
    source, made = opened(folder), {}
    files, cache = [str(file) for file in source.files], ImageCache(int(gib * 2**30))
    for floor, factors in FLOORS.items():
        made[floor] = floor, draining(bare(files, size, factors), images)
    for name, (own, spec, floor) in training(folder).items():
        batches = trained(own, spec, size)
        made[f"{name}, training"] = floor, draining(batches, images // BATCH)
        if gib:
            batches = trained(own, spec, size, cache)
            made[f"{name}, in memory"] = floor, draining(batches, images // BATCH)
    evaluate = evaluated(source, size)
    made["detection, evaluation"] = RESIZED, lambda: evaluate(images)
    return made


def measured(folder: Path, size: int, images: int, runs: int, gib: float) -> list[dict]:
    """Rows of the table."""
    made, table = works(folder, size, images, gib), []
    timings = measure.timed_in_turns({name: work for name, (_, work) in made.items()}, runs=runs)
    for work, timing in timings.items():
        floor = timings[made[work][0]]
        table.append(
            {
                "files": folder.name,
                "work": work,
                "images/s": images / timing.median,
                "slowest": images / timing.slowest,
                "fastest": images / timing.fastest,
                "CPU ms/image": 1e3 * timing.cpu / images,
                "of the floor": floor.median / timing.median,
                "of the floor, CPU": floor.cpu / timing.cpu,
            }
        )
    return table


def main() -> None:
    """Reads the flags, writes the files and measures."""
    parser = measure.arguments(__doc__)
    parser.add_argument(
        "--size", type=measure.whole, default=640, help="longer side of the resized images"
    )
    parser.add_argument("--only", help="COCO or large; the default measures both")
    parser.add_argument("--images", type=measure.whole, default=320, help="images of a run")
    parser.add_argument(
        "--cache", type=float, default=0.0, help="GiB of decoded images that may stay in memory"
    )
    given = parser.parse_args()
    table, facts = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, sizes in (("COCO", COCO), ("large", LARGE)):
            if given.only not in (None, name):
                continue
            folder = Path(temporary) / name
            write_data(folder, given.images, sizes)
            files = [file.stat().st_size / 1e3 for file in folder.glob("*.jpg")]
            facts[f"{name} kB"] = statistics.mean(files)
            images = given.images // BATCH * BATCH
            table += measured(folder, given.size, images, given.runs, given.cache)
    measure.report(table, given.json, size=given.size, images=given.images, **facts)


if __name__ == "__main__":
    main()
