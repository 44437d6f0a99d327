"""Checks of the form of annotation files: what is missing, no number, given twice or unknown."""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from pix2seq_jax.data.coco.json import shown
from pix2seq_jax.data.validation.dataset import DataSet
from pix2seq_jax.data.validation.findings import ERROR, NOTE, WARNING, Batch, Check, Finding, batch
from pix2seq_jax.data.validation.tables import CAPTIONS, INSTANCES, AnnotationFile


def missing_files(data: DataSet) -> Iterator[Batch]:
    """Splits without an annotation file."""
    for split, paths in data.paths.items():
        if not data.of(split):
            wanted = paths.annotations.get(INSTANCES, paths.images)
            yield batch([Finding(str(wanted), f"{split} has no annotation file")])


def missing_folders(data: DataSet) -> Iterator[Batch]:
    """Annotation files whose folder of images is missing."""
    for split, paths in data.paths.items():
        if data.of(split) and not paths.images.is_dir():
            yield batch([Finding(str(paths.images), f"the folder of the {split} images")])


def broken_files(data: DataSet) -> Iterator[Batch]:
    """Files that cannot be read."""
    for file in data.files:
        yield file.of_file([file.broken] if file.broken else [])


def missing_lists(data: DataSet) -> Iterator[Batch]:
    """Files without the lists of the format."""
    for file in data.files:
        yield file.of_file([f"it has no list {key!r}" for key in file.missing_lists])


def empty_lists(data: DataSet) -> Iterator[Batch]:
    """Files whose lists are empty."""
    for file in data.files:
        lists = {"images": file.images, "annotations": file.annotations}
        if file.kind != CAPTIONS:
            lists["categories"] = file.categories
        read = {key: records for key, records in lists.items() if key not in file.missing_lists}
        empty = [] if file.broken else [key for key, records in read.items() if not records]
        yield file.of_file([f"the list {key!r} is empty" for key in empty])


def not_objects(data: DataSet) -> Iterator[Batch]:
    """Entries of lists that are no JSON objects."""
    for file in data.files:
        yield file.of_file(file.not_objects)


def image_ids(data: DataSet) -> Iterator[Batch]:
    """Images whose id is no whole number."""
    for file in data.files:
        yield file.of_images(file.bad_image_ids & _filled(file.images), "id")


def image_names(data: DataSet) -> Iterator[Batch]:
    """Images without a file name."""
    for file in data.files:
        unnamed = np.array([not name for name in file.names], bool)
        yield file.of_images(unnamed & _filled(file.images), "file_name")


def double_image_ids(data: DataSet) -> Iterator[Batch]:
    """Ids that several file names have."""
    for file in data.files:
        first = _first(file.image_ids.tolist())
        other = [file.names[a] != file.names[b] for a, b in enumerate(first)]
        rows = np.array(other, bool) & ~file.bad_image_ids
        yield file.of_images(rows, lambda row, f=file, a=first: f"has the id of {f.names[a[row]]}")


def images_listed_twice(data: DataSet) -> Iterator[Batch]:
    """Images that are listed again with the same id and name."""
    for file in data.files:
        keys = list(zip(file.image_ids.tolist(), file.names, strict=True))
        again = np.array([a != b for a, b in enumerate(_first(keys))], bool)
        yield file.of_images(again & ~file.bad_image_ids, lambda row: f"again at images[{row}]")


def double_names(data: DataSet) -> Iterator[Batch]:
    """File names that several ids have."""
    for file in data.files:
        first, ids = _first(file.names), file.image_ids
        other = [bool(ids[a] != ids[b]) for a, b in enumerate(first)]
        rows = np.array(other, bool) & np.array([bool(name) for name in file.names], bool)
        yield file.of_images(rows, lambda row, i=ids, a=first: f"has the id {i[a[row]]}, too")


def images_disagree(data: DataSet) -> Iterator[Batch]:
    """Images that two annotation files of a split call otherwise."""
    for split in data.paths:
        names: dict[int, tuple[str, str]] = {}
        for file in data.of(split):
            own = dict(zip(file.image_ids.tolist(), file.names, strict=True))
            rows = [names.get(i, (name, ""))[0] != name for i, name in own.items()]
            differ = {i for i, other in zip(own, rows, strict=True) if other}
            wrong = np.array([i in differ for i in file.image_ids.tolist()], bool)
            yield file.of_images(wrong & ~file.bad_image_ids, _called(file, dict(names)))
            names |= {i: (name, file.path.name) for i, name in own.items() if i not in names}


def _called(file: AnnotationFile, names: dict[int, tuple[str, str]]) -> Callable[[int], str]:
    def value(row: int) -> str:
        name, source = names[int(file.image_ids[row])]
        return f"its id {file.image_ids[row]} is {name} in {source}"

    return value


def category_ids(data: DataSet) -> Iterator[Batch]:
    """Categories whose id is no whole number."""
    for file in data.of_objects():
        rows = np.flatnonzero(file.bad_category_ids & _filled(file.categories)).tolist()
        yield file.of_file([f"categories[{row}] is {shown(file.categories[row])}" for row in rows])


def double_category_ids(data: DataSet) -> Iterator[Batch]:
    """Category ids that are given twice."""
    for file in data.of_objects():
        good = file.category_ids[~file.bad_category_ids].tolist()
        double = [number for number, count in Counter(good).items() if count > 1]
        yield file.of_file([f"category id {number}" for number in double])


def category_names(data: DataSet) -> Iterator[Batch]:
    """Categories without a name."""
    for file in data.of_objects():
        names = zip(file.categories, map(_is_class_name, file.categories), strict=True)
        nameless = [record for record, named in names if record and not named]
        yield file.of_file([f"the category {shown(record)}" for record in nameless])


def _is_class_name(record: dict) -> bool:
    name = record.get("name")
    return isinstance(name, str | int) and bool(str(name).strip())


def double_category_names(data: DataSet) -> Iterator[Batch]:
    """Names that several categories have, white space and case aside."""
    for file in data.of_objects():
        names = Counter(" ".join(name.lower().split()) for name in file.class_names.values())
        double = [name for name, count in names.items() if count > 1 and name]
        yield file.of_file([f"{names[name]} categories are called {name!r}" for name in double])


def double_ids(data: DataSet) -> Iterator[Batch]:
    """Annotation ids that are given twice."""
    for file in data.files:
        first = _first(file.ids.tolist())
        again = np.array([a != b for a, b in enumerate(first)], bool)
        given = np.array(["id" in record for record in file.annotations], bool)
        yield file.of_annotations(
            again & given, lambda row, a=first: f"annotations[{row}] and annotations[{a[row]}]"
        )


def no_ids(data: DataSet) -> Iterator[Batch]:
    """Annotations without an id."""
    for file in data.files:
        missing = np.array(["id" not in record for record in file.annotations], bool)
        yield file.of_annotations(missing & _filled(file.annotations), "id")


def bad_image_id(data: DataSet) -> Iterator[Batch]:
    """Annotations whose image_id is no whole number."""
    for file in data.files:
        yield file.of_annotations(file.bad_image_id & _filled(file.annotations), "image_id")


def orphans(data: DataSet) -> Iterator[Batch]:
    """Annotations of images that are not listed."""
    for file in data.files:
        yield file.of_annotations((file.index < 0) & ~file.bad_image_id, "image_id")


def unknown_categories(data: DataSet) -> Iterator[Batch]:
    """Annotations of categories that are not listed."""
    for file in data.of_objects():
        listed = file.category_ids[~file.bad_category_ids]
        unknown = file.bad_category_id | ~np.isin(file.category_id, listed)
        yield file.of_annotations(unknown & _filled(file.annotations), "category_id")


def bad_crowds(data: DataSet) -> Iterator[Batch]:
    """Annotations whose iscrowd is neither 0 nor 1."""
    for file in data.of_objects():
        yield file.of_annotations(file.bad_crowd, "iscrowd")


def _filled(records: list[dict]) -> np.ndarray:
    """bool[n]: not {}, which stands for what is no object and is found by `not_objects`."""
    return np.array([bool(record) for record in records], bool)


def _first(values: list) -> list[int]:
    """For each value the row where it stands first."""
    rows: dict = {}
    return [rows.setdefault(value, row) for row, value in enumerate(values)]


CHECKS = (
    Check(
        "annotations-missing",
        ERROR,
        "a split has no annotation file",
        "add annotations/instances_SPLIT.json, or give another folder",
        missing_files,
    ),
    Check(
        "image-folder-missing",
        ERROR,
        "annotation files whose folder of images does not exist",
        "add the folder",
        missing_folders,
    ),
    Check(
        "json-broken",
        ERROR,
        "files that are no JSON, or no object with lists",
        "copy or write the file again",
        broken_files,
    ),
    Check(
        "list-missing",
        ERROR,
        "files without images, annotations or categories",
        "write these lists",
        missing_lists,
    ),
    Check(
        "list-empty",
        ERROR,
        "files in which a list is empty",
        "fill the list, or leave the file out",
        empty_lists,
    ),
    Check(
        "record-no-object",
        ERROR,
        "entries of lists that are no JSON objects",
        "correct or remove them",
        not_objects,
    ),
    Check(
        "image-id-invalid",
        ERROR,
        "images whose id is no whole number",
        "give whole numbers",
        image_ids,
    ),
    Check(
        "image-name-invalid",
        ERROR,
        "images without a file name",
        "give file_name",
        image_names,
    ),
    Check(
        "image-id-duplicate",
        ERROR,
        "images that have the id of another file",
        "give each image an id of its own",
        double_image_ids,
    ),
    Check(
        "image-listed-twice",
        WARNING,
        "images that are listed again; they are read once",
        "remove the second entry",
        images_listed_twice,
    ),
    Check(
        "file-listed-twice",
        WARNING,
        "files that are listed under two ids, each with a part of the objects",
        "merge the entries and their annotations",
        double_names,
    ),
    Check(
        "files-disagree",
        ERROR,
        "images that another annotation file of the split calls otherwise",
        "give an image the same id in instances, person_keypoints and captions",
        images_disagree,
    ),
    Check(
        "category-id-invalid",
        ERROR,
        "categories whose id is no whole number",
        "give whole numbers",
        category_ids,
    ),
    Check(
        "category-id-duplicate",
        ERROR,
        "ids that several categories have",
        "give each category an id of its own",
        double_category_ids,
    ),
    Check(
        "category-name-invalid",
        ERROR,
        "categories without a name",
        "give name",
        category_names,
    ),
    Check(
        "category-name-duplicate",
        WARNING,
        "names of several categories, case aside",
        "merge them, or tell them apart: files are matched by name",
        double_category_names,
    ),
    Check(
        "annotation-id-duplicate",
        WARNING,
        "annotations that have the id of another one",
        "number them anew: other programs match by id",
        double_ids,
    ),
    Check(
        "annotation-id-missing",
        NOTE,
        "annotations without an id",
        "number them: other programs need it",
        no_ids,
    ),
    Check(
        "annotation-image-invalid",
        ERROR,
        "annotations whose image_id is no whole number",
        "correct or remove them",
        bad_image_id,
    ),
    Check(
        "annotation-orphan",
        WARNING,
        "annotations of images that are not listed; they are dropped",
        "list the images, or remove the annotations",
        orphans,
    ),
    Check(
        "category-unknown",
        ERROR,
        "annotations whose category is not listed",
        "correct category_id, or list the category",
        unknown_categories,
    ),
    Check(
        "crowd-invalid",
        ERROR,
        "annotations whose iscrowd is neither 0 nor 1",
        "write 0 or 1",
        bad_crowds,
    ),
)
