"""The categories of a COCO-format JSON, and which of them is which label."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pix2seq_jax.data.coco.json import column, integers, shown

UNNAMED = "class {}"  # stands for the name of a label without one


def read_categories(path: Path, records: list) -> dict[int, str]:
    """Category id -> name, in the order of the file.

    Raises:
        ValueError: there are none, ids are no integers or not unique, or a name is no text, or a
            blank one.
    """
    ids = integers(path, column(path, records, "id", "categories"), "id", "categories").tolist()
    if not ids:
        raise ValueError(
            f"annotation file {path}: the list categories is empty; at least one category is needed"
        )
    double = [i for i, count in Counter(ids).items() if count > 1]
    if double:
        raise ValueError(
            f"annotation file {path}: category id {double[0]} is given twice; ids must be unique"
        )
    names = column(path, records, "name", "categories")
    for category_id, name in zip(ids, names, strict=True):
        if not isinstance(name, str | int) or not str(name).strip():
            raise ValueError(
                f"annotation file {path}: the name of category {category_id} is "
                f"{shown(name)}; give a text"
            )
    return dict(zip(ids, map(str, names), strict=True))


def match_labels(
    path: Path, listed: dict[int, str], label_ids: Sequence[int], label_names: Sequence[str]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Which category of a file each label of a model is: by name, and by id where names do not
    tell.

    Data sets number and order the same classes differently from file to file, and a validation file
    may list only some.

    Args:
        path: of the file, for the error.
        listed: category id -> name of the file.
        label_ids: category id of label 1, 2, … in the training data.
        label_names: their names; UNNAMED, or a name that two of them have, is matched by id.

    Returns:
        The file's category id of each label, and the names of the labels. A label that the file
        lacks keeps its id, or gets minus its number where the file uses that id for another class.

    Raises:
        ValueError: the file has a class that no label stands for.
    """
    times = Counter(label_names)
    by_name = {name: label for label, name in enumerate(label_names, 1) if times[name] == 1}
    twice = {name for name, count in Counter(listed.values()).items() if count > 1}
    by_id = {category_id: label for label, category_id in enumerate(label_ids, 1)}
    label_of = {}
    for category_id, name in listed.items():
        label = by_id.get(category_id, 0)
        if name in by_name and name not in twice:
            label = by_name[name]
        elif not label or label_names[label - 1] not in (name, UNNAMED.format(label)):
            raise ValueError(
                f"annotation file {path} has the class {name!r} (category id {category_id}), "
                f"which is none of the {len(label_names)} classes of the training data, "
                f"{shown(list(label_names))}; rename or remove this category, or train with it"
            )
        label_of[category_id] = label
    category_of = {label: category_id for category_id, label in label_of.items()}
    ids, names = [], []
    for label, (own_id, name) in enumerate(zip(label_ids, label_names, strict=True), 1):
        ids.append(category_of.get(label, -label if own_id in listed else own_id))
        unnamed = name == UNNAMED.format(label) and label in category_of
        names.append(listed[ids[-1]] if unnamed else name)
    return tuple(ids), tuple(names)
