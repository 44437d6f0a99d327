"""Writes the images of a split as shards: in parallel, each shard whole or not at all, so that a
stop at any time costs no more than the shards that were being written.

Which images a shard holds is a function of the annotations alone, and a shard of its images. So the
same command writes the same bytes, however often it is stopped.
"""

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from pix2seq_jax.data.coco.files import BROKEN, read_file
from pix2seq_jax.data.coco.json import Report
from pix2seq_jax.data.images import check_file
from pix2seq_jax.data.shards.index import INDEX, PLAN, VERSION, Index, Shard, read_index
from pix2seq_jax.data.shards.index import write_index as save_index
from pix2seq_jax.data.shards.joining import Item, Split, join
from pix2seq_jax.data.shards.records import known_of, pack
from pix2seq_jax.files.whole import named_at_the_end, open_whole, write_whole

# One record in a group: read by itself. JPEG files do not become smaller.
_OPTIONS = "group_size:1,uncompressed"
_KNOWN = ("name", "height", "width", "turned", "error")  # of a record, for the index
_TOGETHER = 64  # records that are read at a time

log = logging.getLogger("pix2seq_jax")


@dataclass(frozen=True)
class Task:
    """A shard to write.

    Attributes:
        path: of the shard.
        items: its images.
        sha256: what a whole one has, where that is known; "" else.
    """

    path: Path
    items: list[Item]
    sha256: str


@dataclass(frozen=True)
class Part:
    """A shard that is there.

    Attributes:
        shard: see index.
        known: name, height, width, turned and error of each image.
        note: why a shard of an earlier run was written anew; "" where it was not.
    """

    shard: Shard
    known: list[tuple]
    note: str


Progress = Callable[[Iterable[Part], int], Iterable[Part]]


def write(
    split: Split,
    out: Path,
    *,
    images_per_shard: int,
    workers: int,
    missing: str = "error",
    progress: Progress = lambda parts, _: parts,
) -> str:
    """Writes `out/NAME` with the shards of a split and their index, and copies its annotation files
    to `out/annotations/KIND_NAME.json`. Whole shards of an earlier run stay.

    Args:
        split: what is read.
        out: folder.
        images_per_shard: of all shards but the last.
        workers: processes.
        missing: see joining.join.
        progress: passes on the shards as they become ready, given the number of images in all.

    Returns:
        What was left out or is broken, one line for each kind; "" for nothing.

    Raises:
        ValueError: see joining.join; the folder holds something else; an image cannot be read.
        OSError: a file cannot be written.
    """
    report, folder = Report(), out / split.name
    items = join(split, report, missing=missing)
    copied = _copy_annotations(split, out)
    plan = {
        "version": VERSION,
        "images": len(items),
        "images_per_shard": images_per_shard,
        "names": hashlib.sha256(json.dumps([item.name for item in items]).encode()).hexdigest(),
        "annotations": copied,
    }
    _check_plan(folder, plan)
    write_whole(folder / PLAN, json.dumps(plan, indent=1) + "\n")
    tasks = _tasks(split.name, folder, items, images_per_shard)
    parts = []
    with _mapped(min(workers, len(tasks))) as mapped:
        for part in progress(mapped(write_shard, tasks), len(items)):
            parts.append(part)
            if part.note:
                log.warning("%s was damaged and is written anew: %s", part.shard.file, part.note)
    index = _index(parts)
    save_index(folder, index)
    for partial in folder.glob("*.partial"):  # of runs that were killed
        partial.unlink(missing_ok=True)
    report.add(BROKEN, list(index.errors.values()))
    return report.describe(split.name)


def _copy_annotations(split: Split, out: Path) -> dict[str, str]:
    """Copies the annotation files; their checksums by kind."""
    sums = {}
    for kind, path in split.annotations.items():
        copy, sums[kind] = annotation_file(out, kind, split.name), _sha256(path)
        if is_there(copy, sums[kind], path):
            continue
        with path.open("rb") as source, open_whole(copy) as target:
            shutil.copyfileobj(source, target)
    return sums


def annotation_file(out: Path, kind: str, split: str) -> Path:
    """Where the annotations beside the shards are."""
    return out / "annotations" / f"{kind}_{split}.json"


def is_there(file: Path, sha256: str, source: Path) -> bool:
    """Whether a file with this checksum is there already; ValueError where another one is."""
    if not file.exists():
        return False
    if _sha256(file) != sha256:
        raise ValueError(
            f"{file} is not what --source={source} gives: the folder holds other data, or the "
            "annotations were changed; give another --out, or remove this folder"
        )
    return True


def _check_plan(folder: Path, plan: dict) -> None:
    """Raises ValueError where the folder holds something else than shards of this plan."""
    if not folder.exists():
        return
    try:
        earlier = json.loads((folder / PLAN).read_text())
    except FileNotFoundError as error:
        if not any(path.suffix != ".partial" for path in folder.iterdir()):
            return
        raise ValueError(
            f"{folder} holds files and no {PLAN}, so it is no folder of shards; give another --out"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{folder / PLAN} is damaged ({error}); remove this file and run the command again"
        ) from error
    odd = [name for name in plan if earlier.get(name) != plan[name]]
    if odd:
        raise ValueError(
            f"{folder} holds shards of another {odd[0]}: {earlier.get(odd[0])} and not "
            f"{plan[odd[0]]}; give another --out, or remove this folder"
        )


def _tasks(name: str, folder: Path, items: list[Item], size: int) -> list[Task]:
    """Which images each shard holds."""
    sums: dict[str, str] = {}
    if (folder / INDEX).exists():
        with contextlib.suppress(ValueError):  # a damaged index is written anew
            sums = {shard.file: shard.sha256 for shard in read_index(folder).shards}
    total = -(-len(items) // size)
    tasks = []
    for number in range(total):
        file = f"{name}-{number:05d}-of-{total:05d}.array_record"
        part = items[number * size : (number + 1) * size]
        tasks.append(Task(folder / file, part, sums.get(file, "")))
    return tasks


@contextlib.contextmanager
def _mapped(workers: int) -> Iterator[Callable]:
    """A `map` whose results come in order, by processes where there are several."""
    if workers < 2:
        yield map
        return
    # Spawned, not forked: the caller may already run threads. A Pool, not an executor: its workers
    # end with it.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        yield pool.imap


def write_shard(task: Task) -> Part:
    """Writes a shard, unless it is there and whole.

    Raises:
        ValueError: an image cannot be read.
        OSError: the shard cannot be written.
    """
    note = ""
    if task.path.exists():
        try:
            return _earlier(task)
        except ValueError as error:
            note = str(error)
    known = []
    with named_at_the_end(task.path) as partial:
        with _writer(partial) as writer:
            for item in task.items:
                facts = _facts(item)
                known.append(tuple(facts[name] for name in _KNOWN))
                image = read_file(item.file)
                writer.write(pack(facts | {"annotations": item.annotations}, image))
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())  # a name for what is on the disk
    return Part(_described(task), known, note)


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[ArrayRecordWriter]:
    """Writes records to a file. It raises RuntimeError for all that is wrong."""
    try:
        writer = ArrayRecordWriter(str(path), _OPTIONS)
        yield writer
        writer.close()
    except RuntimeError as error:
        raise OSError(f"shard {path} cannot be written: {error}; is the disk full?") from error


def _facts(item: Item) -> dict:
    """What is known of an image file: _KNOWN."""
    facts = {"name": item.name, "height": 0, "width": 0, "turned": False, "error": ""}
    try:
        height, width, turned = check_file(item.file)
    except ValueError as error:
        return facts | {"error": str(error)}
    return facts | {"height": height, "width": width, "turned": turned}


def _earlier(task: Task) -> Part:
    """A shard of an earlier run; ValueError where it is not whole."""
    shard = _described(task)
    if task.sha256 and shard.sha256 != task.sha256:
        raise ValueError(f"its SHA-256 is {shard.sha256}, in {INDEX} {task.sha256}")
    try:
        reader = ArrayRecordReader(str(task.path))
        count = reader.num_records()
        starts = range(0, count, _TOGETHER)
        facts = [
            known_of(record)
            for start in starts
            for record in reader.read(list(range(start, min(start + _TOGETHER, count))))
        ]
        known = [tuple(own[name] for name in _KNOWN) for own in facts]
        reader.close()
    except Exception as error:  # array_record raises RuntimeError for all that is wrong
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if [own[0] for own in known] != [item.name for item in task.items]:
        raise ValueError("it holds other images")
    return Part(shard, known, "")


def _described(task: Task) -> Shard:
    size = task.path.stat().st_size
    return Shard(task.path.name, len(task.items), size, _sha256(task.path))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _index(parts: list[Part]) -> Index:
    known = [own for part in parts for own in part.known]
    names, heights, widths, turned, errors = zip(*known, strict=True)
    sizes = np.stack([heights, widths], axis=1).astype(np.int32)
    broken = {row: text for row, text in enumerate(errors) if text}
    shards = [part.shard for part in parts]
    return Index(shards, names, sizes, np.array(turned, bool), broken)
