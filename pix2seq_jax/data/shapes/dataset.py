"""Embedded data: a COCO-format folder that is drawn, the same one every time.

    DIR/{train,val}/*.jpg
    DIR/annotations/{instances,person_keypoints,captions}_{train,val}.json
    DIR/shapes.json                                         what was drawn: version, seed, numbers

Seven categories with sparse ids (person and filled shapes; others where they are named), one to
four objects an image, polygons of the visible parts, persons with the 17 COCO keypoints, a few
crowds, empty and grayscale images, five captions each. Image i of a split depends on (seed, split,
i) alone, so the number of worker processes changes nothing. No TensorFlow, no jax.
"""

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pix2seq_jax.data.coco.person import COCO_KEYPOINTS
from pix2seq_jax.data.shapes.draw import SUPERSAMPLE, Figure, Scene, draw
from pix2seq_jax.data.shapes.sketches import CATEGORIES, EVERY, Category, named
from pix2seq_jax.geometry.rings import area
from pix2seq_jax.geometry.run_lengths import runs_of_mask

VERSION = 1  # raise it whenever the drawn data change
SPLITS = ("train", "val")
MIN_SIZE = 32  # smaller pictures cannot show the smallest shapes
COUNTS = (0.25, 0.35, 0.25, 0.15)  # probability of 1, 2, 3, 4 objects: 2.3 on average
EMPTY, CROWD, GRAY = 0.01, 0.015, 0.03  # share of images
UNLABELLED = 0.2  # share of persons of whom some keypoints are not annotated

KEYPOINTS = list(COCO_KEYPOINTS["names"])
SKELETON = [[start + 1, end + 1] for start, end in COCO_KEYPOINTS["skeleton"]]
# What an annotator may leave out: the face, the arms below the shoulder, the legs below the hip,
# everything.
LEFT_OUT = (range(0, 5), range(7, 11), range(13, 17), range(17))

NUMBERS = ("no", "one", "two", "three", "four")
TEMPLATES = (
    "A picture of {list}.",
    "There {are} {total}: {list}.",
    "The image shows {list} on a plain background.",
    "{List} on a plain background.",
    "{List} can be seen here, {total} in all.",
)
EMPTY_CAPTIONS = (
    "A picture of nothing at all.",
    "There are no objects in the image.",
    "The image shows only a plain background.",
    "An empty plain background.",
    "Nothing can be seen here, no objects in all.",
)


@dataclass(frozen=True)
class Spec:
    """What is drawn: `train` and `val` images whose longer side is `size` pixels, from `seed`, with
    objects of these `classes`. ValueError if bad."""

    train: int = 20000
    val: int = 500
    seed: int = 0
    size: int = 64
    version: int = VERSION
    classes: tuple[str, ...] = tuple(category.name for category in CATEGORIES)

    def __post_init__(self) -> None:
        for name, low in (("train", 1), ("val", 1), ("seed", 0), ("size", MIN_SIZE)):
            if getattr(self, name) < low:
                raise ValueError(f"--{name}={getattr(self, name)}: must be at least {low}")
        names = [category.name for category in EVERY]
        if not self.classes or len(set(self.classes) & set(names)) < len(self.classes):
            raise ValueError(
                f"--classes={','.join(self.classes)}: name each class once, of {', '.join(names)}"
            )


def generate(out: str | os.PathLike, spec: Spec, workers: int | None = None) -> bool:
    """Write the folder described above, whole or not at all.

    Args:
        out: folder to write; absent, empty, or holding the same set, which is left as it is.
        spec: what to draw.
        workers: processes; one for each core if None.

    Returns:
        Whether anything was drawn.

    Raises:
        ValueError: `out` holds something else.
    """
    out, workers = Path(out).resolve(), workers or os.cpu_count() or 1
    manifest = out / "shapes.json"
    if manifest.is_file():
        # A set that was drawn before classes could be chosen has the usual ones.
        drawn = _recorded(Spec()) | json.loads(manifest.read_text(encoding="utf-8"))
        if drawn == _recorded(spec):
            print(f"shapes: {out} already holds this set", flush=True)
            return False
        raise ValueError(
            f"{out} holds another shapes set, {drawn}, not {_recorded(spec)}; choose another --out"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{out} exists and is not a shapes folder; choose an absent or empty folder for --out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    partly = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        (partly / "annotations").mkdir()
        # Spawned, not forked: the caller may already run threads. A Pool, not an executor: its
        # workers end with it.
        context = multiprocessing.get_context("spawn")
        quiet = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
        with context.Pool(workers, **quiet) if workers > 1 else nullcontext() as pool:
            for split in SPLITS:
                _make_split(partly, split, spec, partial(pool.imap, chunksize=25) if pool else map)
        (partly / "shapes.json").write_text(json.dumps(_recorded(spec)) + "\n", encoding="utf-8")
        partly.chmod(0o755)  # mkdtemp makes private folders
        os.replace(partly, out)
    finally:
        shutil.rmtree(partly, ignore_errors=True)
    return True


def _recorded(spec: Spec) -> dict:
    """What shapes.json holds of a set."""
    return asdict(spec) | {"classes": list(spec.classes)}


def _make_split(folder: Path, split: str, spec: Spec, mapped: Callable) -> None:
    """Draw a split, saying every few seconds how far it is."""
    number = getattr(spec, split)
    (folder / split).mkdir()
    make = partial(
        _make_image,
        folder=str(folder / split),
        split=split,
        seed=spec.seed,
        size=spec.size,
        classes=spec.classes,
    )
    records, start = [], time.monotonic()
    said = start
    for record in mapped(make, range(number)):
        records.append(record)
        if time.monotonic() - said > 5:
            said = time.monotonic()
            rate = len(records) / (said - start)
            left = (number - len(records)) / rate
            print(
                f"shapes: {split} {len(records)}/{number}, {rate:.0f} images/s, {left:.0f} s left",
                flush=True,
            )
    _write_annotations(folder / "annotations", split, spec, records)
    objects = sum(len(record["instances"]) for record in records)
    print(
        f"shapes: {split} {number} images, {objects} objects, {time.monotonic() - start:.1f} s",
        flush=True,
    )


def _make_image(
    index: int, *, folder: str, split: str, seed: int, size: int, classes: tuple[str, ...]
) -> dict:
    """Draw image `index` of a split into `folder` and return its COCO records."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    short = size * 3 // 4
    width, height = ((size, size), (size, size), (size, short), (short, size))[rng.integers(4)]
    scene = draw(rng, width, height, _wanted(rng, named(classes)), gray=rng.uniform() < GRAY)
    # Neither dense nor shared by the splits, as in COCO.
    image_id = 7 * index + 1 + SPLITS.index(split)
    name = f"{image_id:012d}.jpg"
    scene.image.save(os.path.join(folder, name), quality=95, subsampling=0)
    instances, persons = _annotations(rng, scene, image_id)
    texts = [
        {"id": 10 * image_id + number, "image_id": image_id, "caption": text}
        for number, text in enumerate(captions(scene.figures))
    ]
    record = {"id": image_id, "license": 1, "file_name": name, "width": width, "height": height}
    return {"image": record, "instances": instances, "person_keypoints": persons, "captions": texts}


def _wanted(
    rng: np.random.Generator, categories: tuple[Category, ...]
) -> list[tuple[Category, bool]]:
    """Classes of the figures of an image, bottom to top, and whether each is a crowd."""
    if rng.uniform() < EMPTY:
        return []
    number = 1 + rng.choice(len(COUNTS), p=COUNTS)
    shares = np.array([category.share for category in categories])
    chosen = rng.choice(len(categories), number, p=shares / shares.sum())
    crowd = rng.uniform() < CROWD
    return [(categories[index], bool(crowd and row == 0)) for row, index in enumerate(chosen)]


def _annotations(
    rng: np.random.Generator, scene: Scene, image_id: int
) -> tuple[list[dict], list[dict]]:
    """Annotations for `instances` and for `person_keypoints`, in a random order that does not tell
    the depth."""
    instances, persons = [], []
    for number in rng.permutation(len(scene.figures)).tolist():
        figure, visible = scene.figures[number], scene.visible[number]
        region = _crowd_region(visible) if figure.crowd else _region(scene.rings[number])
        ids = {
            "id": 10 * image_id + len(instances),
            "image_id": image_id,
            "category_id": figure.category.id,
        }
        instances.append(ids | region)
        if figure.category.name == "person":
            persons.append(ids | region | _keypoints(rng, figure, visible, region["bbox"]))
    return instances, persons


def _region(rings: list[np.ndarray]) -> dict:
    """Segmentation, area and box of an object: its visible polygons, their area and tight
    bounds."""
    rings = [ring.round(2) for ring in rings]
    points = np.concatenate(rings)
    x, y, width, height = np.concatenate([points.min(0), np.ptp(points, axis=0)]).round(2).tolist()
    segmentation = [ring.ravel().tolist() for ring in rings]
    total = round(sum(abs(area(ring)) for ring in rings), 4)
    return {
        "segmentation": segmentation,
        "area": total,
        "bbox": [x, y, width, height],
        "iscrowd": 0,
    }


def _crowd_region(visible: np.ndarray) -> dict:
    """Segmentation, area and box of a crowd: the pixels at least half of which belong to it."""
    height, width = (side // SUPERSAMPLE for side in visible.shape)
    mask = visible.reshape(height, SUPERSAMPLE, width, SUPERSAMPLE).mean((1, 3)) >= 0.5
    y, x = np.nonzero(mask)
    box = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
    rle = {"counts": runs_of_mask(mask).tolist(), "size": [height, width]}
    return {
        "segmentation": rle,
        "area": int(mask.sum()),
        "bbox": [int(side) for side in box],
        "iscrowd": 1,
    }


def _keypoints(
    rng: np.random.Generator, figure: Figure, visible: np.ndarray, box: list[float]
) -> dict:
    """COCO's (x, y, v) of a person: v=2 seen, 1 covered by another object, 0 not annotated.

    Covered points outside the box of what is visible are not annotated, nor are some chosen ones of
    some persons.
    """
    points = np.zeros((17, 3))
    if figure.keypoints is not None:
        points[:, :2] = figure.keypoints.round(2)
        column, row = np.floor(figure.keypoints * SUPERSAMPLE).astype(int).T
        points[:, 2] = np.where(visible[row, column], 2, 1)
        low, high = np.array(box[:2]), np.array(box[:2]) + box[2:]
        points[np.any((points[:, :2] < low) | (points[:, :2] > high), axis=1)] = 0
        if rng.uniform() < UNLABELLED:
            points[LEFT_OUT[rng.choice(len(LEFT_OUT), p=[0.3, 0.3, 0.3, 0.1])]] = 0
    flat = [int(value) if i % 3 == 2 else value for i, value in enumerate(points.ravel().tolist())]
    return {"keypoints": flat, "num_keypoints": int(np.count_nonzero(points[:, 2]))}


def captions(figures: tuple[Figure, ...]) -> list[str]:
    """Five sentences that name the same facts: how many figures of which colour and class, in a
    fixed order."""
    if not figures:
        return list(EMPTY_CAPTIONS)
    groups: dict[tuple, int] = {}
    for figure in figures:
        key = (EVERY.index(figure.category), figure.colour, figure.crowd)
        groups[key] = groups.get(key, 0) + 1
    phrases = [
        _phrase(EVERY[i], colour, count, crowd)
        for (i, colour, crowd), count in sorted(groups.items())
    ]
    listed = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
    plural = len(figures) > 1
    words = {
        "list": listed,
        "List": listed[0].upper() + listed[1:],
        "are": "are" if plural else "is",
        "total": f"{NUMBERS[len(figures)]} object{'s' * plural}",
    }
    return [template.format(**words) for template in TEMPLATES]


def _phrase(category: Category, colour: str, count: int, crowd: bool) -> str:
    if crowd:
        return f"a crowd of {colour} {category.plural}"
    if count > 1:
        return f"{NUMBERS[count]} {colour} {category.plural}"
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {category.name}"


def _write_annotations(folder: Path, split: str, spec: Spec, records: list[dict]) -> None:
    """Write the COCO files of a split; that of keypoints where there may be people."""
    plain = [
        {"supercategory": c.supercategory, "id": c.id, "name": c.name} for c in named(spec.classes)
    ]
    person = [
        entry | {"keypoints": KEYPOINTS, "skeleton": SKELETON}
        for entry in plain
        if entry["name"] == "person"
    ]
    shared = {
        "info": {
            "description": f"shapes, seed {spec.seed}, {split}",
            "url": "",
            "version": str(spec.version),
            "year": 2026,
            "contributor": "pix2seq_jax.data.shapes",
            "date_created": "2026/01/01",
        },
        "licenses": [
            {
                "id": 1,
                "name": "Apache License 2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            }
        ],
        "images": [record["image"] for record in records],
    }
    for kind, categories in (
        ("instances", plain),
        ("person_keypoints", person),
        ("captions", None),
    ):
        if categories == []:
            continue
        content = shared | {"annotations": [entry for record in records for entry in record[kind]]}
        if categories is not None:
            content["categories"] = categories
        path = folder / f"{kind}_{split}.json"
        path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
