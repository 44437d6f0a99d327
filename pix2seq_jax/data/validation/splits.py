"""Checks of one split against the other: images in both, classes in one."""

import os
from collections.abc import Iterator

import numpy as np

from pix2seq_jax.data.validation import images
from pix2seq_jax.data.validation.dataset import TRAIN, VAL, DataSet
from pix2seq_jax.data.validation.findings import ERROR, NOTE, WARNING, Batch, Check, Finding, batch
from pix2seq_jax.data.validation.tables import AnnotationFile

_RARE = 10  # objects of a class; with fewer it is hardly learnt


def leaked_files(data: DataSet) -> Iterator[Batch]:
    """Files that are the same to the byte."""
    yield batch(images.alike(data, same=True, leaks=True))


def leaked_pictures(data: DataSet) -> Iterator[Batch]:
    """Images that look the same."""
    yield batch(images.alike(data, same=False, leaks=True))


def leaked_names(data: DataSet) -> Iterator[Batch]:
    """File names that both splits have."""
    paths: dict[str, dict[str, str]] = {TRAIN: {}, VAL: {}}
    for file in data.files:
        for name in filter(None, file.names):
            paths[file.split].setdefault(os.path.basename(name), str(file.folder / name))
    for name in sorted(paths[TRAIN].keys() & paths[VAL].keys()):
        both = (paths[TRAIN][name], paths[VAL][name])
        there = tuple(path for path in both if os.path.isfile(path))
        yield batch([Finding(both[1], f"is the name of {both[0]}, too", files=there)])


def unknown_classes(data: DataSet) -> Iterator[Batch]:
    """Classes that the training data do not list."""
    leading = data.leading(TRAIN)
    if leading is None or not leading.class_names:
        return
    known = set(leading.class_names.values())
    for file in data.of_objects():
        names = file.class_names.items()
        unknown = [f"class {name!r} (id {number})" for number, name in names if name not in known]
        yield file.of_file(unknown)


def other_ids(data: DataSet) -> Iterator[Batch]:
    """Classes that have another id in another file."""
    leading = data.leading(TRAIN)
    if leading is None:
        return
    ids = {name: number for number, name in leading.class_names.items()}
    for file in data.of_objects():
        names = file.class_names.items()
        differ = [(name, number) for number, name in names if ids.get(name, number) != number]
        yield file.of_file(
            [f"{name!r} has id {number}, not {ids[name]}" for name, number in differ]
        )


def class_counts(file: AnnotationFile | None) -> dict[str, int]:
    """Objects of each class of a file, crowd regions aside, in the order of the file."""
    if file is None:
        return {}
    ids, counts = np.unique(file.category_id[file.objects], return_counts=True)
    of_id = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    return {name: of_id.get(number, 0) for number, name in file.class_names.items()}


def untrained_classes(data: DataSet) -> Iterator[Batch]:
    """Classes with objects in val and none in train."""
    leading, val = data.leading(TRAIN), data.leading(VAL)
    train = class_counts(leading)
    if leading is None:
        return
    counts = class_counts(val).items()
    absent = [(name, number) for name, number in counts if number and not train.get(name, 1)]
    yield leading.of_file([f"{name!r}: none in train, {n} in val" for name, n in absent])


def unused_classes(data: DataSet) -> Iterator[Batch]:
    """Classes without an object in train."""
    leading = data.leading(TRAIN)
    if leading is not None:
        counts = class_counts(leading).items()
        yield leading.of_file([f"{name!r} has no object" for name, number in counts if not number])


def rare_classes(data: DataSet) -> Iterator[Batch]:
    """Classes with few objects in train."""
    leading = data.leading(TRAIN)
    if leading is not None:
        counts = class_counts(leading).items()
        rare = [(name, number) for name, number in counts if 0 < number < _RARE]
        yield leading.of_file([f"{name!r} has {number} objects" for name, number in rare])


CHECKS = (
    Check(
        "leak-file",
        ERROR,
        "files of val that train holds, too: what is measured on them is worth nothing",
        "remove them from one of the two",
        leaked_files,
        opens=True,
    ),
    Check(
        "leak-picture",
        WARNING,
        "images of val that look like one of train",
        "remove them from one of the two",
        leaked_pictures,
        opens=True,
    ),
    Check(
        "leak-name",
        WARNING,
        "file names that both splits have",
        "see whether they are the same pictures; names that are counted anew do no harm",
        leaked_names,
    ),
    Check(
        "class-unknown",
        ERROR,
        "classes that the training data do not list",
        "give them the same names everywhere, or add them to the training data",
        unknown_classes,
    ),
    Check(
        "class-other-id",
        NOTE,
        "classes that have another id than in the training data; they are matched by name",
        "nothing needs to be done",
        other_ids,
    ),
    Check(
        "class-untrained",
        WARNING,
        "classes with objects in val and none in train",
        "divide the images anew",
        untrained_classes,
    ),
    Check(
        "class-unused",
        NOTE,
        "classes without an object in train",
        "nothing needs to be done",
        unused_classes,
    ),
    Check(
        "class-rare",
        NOTE,
        "classes with fewer than ten objects in train",
        "add images of them",
        rare_classes,
    ),
)
