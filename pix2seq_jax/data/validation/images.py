"""Checks of image files: missing, broken, of another size, alike."""

import os
from collections.abc import Callable, Iterator

import numpy as np

from pix2seq_jax.data.coco.files import MOST_BROKEN, is_impossible
from pix2seq_jax.data.coco.json import has
from pix2seq_jax.data.coco.sizes import compare_sizes
from pix2seq_jax.data.validation.dataset import DataSet, ListedImage
from pix2seq_jax.data.validation.findings import ERROR, NOTE, WARNING, Batch, Check, Finding, batch
from pix2seq_jax.data.validation.likeness import Look
from pix2seq_jax.data.validation.tables import AnnotationFile

_SIDES = ("width", "height")
_SMALLEST = 32  # pixels of the shorter side
_LONGEST = 5  # times the shorter side
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def missing(data: DataSet) -> Iterator[Batch]:
    """Images that are not in their folder."""
    for file in data.files:
        if file.folder.is_dir():
            pairs = zip(file.names, file.files, strict=True)
            gone = np.array([bool(name) and not path for name, path in pairs], bool)
            yield file.of_images(gone, lambda row, f=file: f"is not in {f.folder}")


def unlisted(data: DataSet) -> Iterator[Batch]:
    """Image files that no annotation file lists."""
    listed = {os.path.normpath(image.path) for image in data.images}
    for folder in {paths.images for paths in data.paths.values()}:
        found = []
        for root, _, names in os.walk(folder):
            paths = (os.path.join(root, name) for name in names if name.lower().endswith(_ENDINGS))
            found += [path for path in paths if os.path.normpath(path) not in listed]
        yield batch(
            [Finding(path, "is in no annotation file", files=(path,)) for path in sorted(found)]
        )


def no_sizes(data: DataSet) -> Iterator[Batch]:
    """Images without width and height in the JSON."""
    for file in data.files:
        objects = np.array([bool(record) for record in file.images], bool)
        rows = (file.sizes == 0).any(axis=1) & objects & ~_impossible(file)
        yield file.of_images(rows, lambda row: f"images[{row}] has no width and height")


def impossible_sizes(data: DataSet) -> Iterator[Batch]:
    """Numbers that no width or height can be, with which training refuses the file."""
    for file in data.files:

        def text(row: int, images=file.images) -> str:
            return f"images[{row}] " + " and ".join(has(images[row], side) for side in _SIDES)

        yield file.of_images(_impossible(file), text)


def _impossible(file: AnnotationFile) -> np.ndarray:
    """bool[I], the images with a width or height that none can have."""
    sides = ([image.get(side) for side in _SIDES] for image in file.images)
    return np.array([any(map(is_impossible, own)) for own in sides], bool)


def broken(data: DataSet) -> Iterator[Batch]:
    """Files that cannot be decoded."""
    looks = data.looks.items()
    yield batch([Finding(path, look.error, files=(path,)) for path, look in looks if look.error])


def broken_unsized(data: DataSet) -> Iterator[Batch]:
    """Files that cannot be decoded, and whose size is not in the JSON either."""
    for file in data.files:
        rows = _broken(data, file) & (file.sizes == 0).any(axis=1)
        yield file.of_images(rows, lambda row: "cannot be decoded")


def mostly_broken(data: DataSet) -> Iterator[Batch]:
    """Annotation files with more broken images than training passes over."""
    for file in data.files:
        number, total = np.count_nonzero(_broken(data, file)), sum(map(bool, file.files))
        text = f"{number} of {total} images cannot be decoded"
        yield file.of_file([text] if number > MOST_BROKEN * total else [])


def _broken(data: DataSet, file: AnnotationFile) -> np.ndarray:
    """bool[I], the images of a file that cannot be decoded."""
    return np.array([bool(look and look.error) for look in _looks(data, file)], bool)


def contradicting_sizes(data: DataSet) -> Iterator[Batch]:
    """Sizes that tell nothing about the file."""
    for file in data.files:
        looks = _looks(data, file)
        yield file.of_images(_compared(file, looks)[0], _sizes(file, looks))


def exchanged_sizes(data: DataSet) -> Iterator[Batch]:
    """Sizes with height and width exchanged."""
    for file in data.files:
        looks = _looks(data, file)
        yield file.of_images(_compared(file, looks)[1], _sizes(file, looks))


def scaled_sizes(data: DataSet) -> Iterator[Batch]:
    """Sizes of a smaller or larger copy."""
    for file in data.files:
        looks = _looks(data, file)
        yield file.of_images(_compared(file, looks)[2], _sizes(file, looks))


def _looks(data: DataSet, file: AnnotationFile) -> list[Look | None]:
    """Of the images of a file; None where they are not there."""
    return [data.looks.get(path) for path in file.files]


def _compared(
    file: AnnotationFile, looks: list[Look | None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which images are of another size than in the JSON: bool[I] without relation to it, with
    exchanged sides, of the same aspect."""
    stored = [(look.height, look.width) if look else (0, 0) for look in looks]
    stored = np.array(stored, np.int64).reshape(-1, 2)
    turned = np.array([bool(look and look.turned) for look in looks], bool)
    compared = compare_sizes(file.sizes, stored, turned)
    known = (stored > 0).all(axis=1) & (file.sizes > 0).all(axis=1)
    return compared.wrong & known, compared.exchanged & known, compared.scaled & known


def _sizes(file: AnnotationFile, looks: list[Look | None]) -> Callable[[int], str]:
    def value(row: int) -> str:
        (height, width), look = file.sizes[row].tolist(), looks[row]
        return f"is {look.width} x {look.height} pixels and {width} x {height} in the JSON"

    return value


def turned(data: DataSet) -> Iterator[Batch]:
    """Files whose EXIF orientation exchanges height and width."""
    found = [path for path, look in data.looks.items() if look.turned]
    yield batch([Finding(path, "is turned by its EXIF", files=(path,)) for path in found])


def small(data: DataSet) -> Iterator[Batch]:
    """Images of few pixels."""
    yield _of_shape(data, lambda height, width: min(height, width) < _SMALLEST)


def narrow(data: DataSet) -> Iterator[Batch]:
    """Images that are mostly padding in a square."""
    yield _of_shape(data, lambda height, width: max(height, width) > _LONGEST * min(height, width))


def _of_shape(data: DataSet, odd: Callable[[int, int], bool]) -> Batch:
    found = [
        Finding(path, f"is {look.width} x {look.height} pixels", files=(path,))
        for path, look in data.looks.items()
        if not look.error and odd(look.height, look.width)
    ]
    return batch(found)


def flat(data: DataSet) -> Iterator[Batch]:
    """Images of one colour."""
    found = [
        Finding(path, f"is {look.small[0, 0].tolist()} (RGB) everywhere", files=(path,))
        for path, look in data.looks.items()
        if not look.error and int(np.ptp(look.small, axis=(0, 1)).max()) <= 1
    ]
    yield batch(found)


def copies(data: DataSet) -> Iterator[Batch]:
    """Files of a split that are the same to the byte."""
    yield batch(alike(data, same=True, leaks=False))


def near_copies(data: DataSet) -> Iterator[Batch]:
    """Images of a split that look the same."""
    yield batch(alike(data, same=False, leaks=False))


def alike(data: DataSet, *, same: bool, leaks: bool) -> list[Finding]:
    """Pairs of images that are alike.

    Args:
        same: those that are the same to the byte, or the others.
        leaks: those of two splits, or of one.
    """
    found = []
    for pair in data.pairs:
        one, other = data.images[pair.first], data.images[pair.second]
        if pair.same == same and (one.split != other.split) == leaks:
            value = f"{_named(one)} and {_named(other)}"
            found.append(Finding(other.path, value, files=(one.path, other.path)))
    return found


def _named(image: ListedImage) -> str:
    return f"{image.split} image {os.path.basename(image.path)}"


CHECKS = (
    Check(
        "image-missing",
        ERROR,
        "images that are not in their folder",
        "add the files, or remove the images from the JSON",
        missing,
        lists=True,
    ),
    Check(
        "image-unlisted",
        NOTE,
        "image files that no annotation file lists",
        "nothing needs to be done, unless they should be learnt",
        unlisted,
        lists=True,
    ),
    Check(
        "image-size-missing",
        NOTE,
        "images without width and height in the JSON; those of the file are taken",
        "write width and height",
        no_sizes,
    ),
    Check(
        "image-size-impossible",
        ERROR,
        "images whose width or height is a number that cannot be",
        "write width and height in pixels, or remove them",
        impossible_sizes,
    ),
    Check(
        "image-broken",
        WARNING,
        "files that cannot be decoded; others are read in their place, and an evaluation scores "
        "them as empty pictures",
        "copy them again, or remove the images from the JSON",
        broken,
        opens=True,
    ),
    Check(
        "image-broken-unsized",
        ERROR,
        "images that cannot be decoded and have no width and height in the JSON",
        "copy them again, or remove them from the JSON",
        broken_unsized,
        opens=True,
    ),
    Check(
        "image-mostly-broken",
        ERROR,
        "annotation files of which more than half of the images cannot be decoded",
        "see whether the download is whole",
        mostly_broken,
        opens=True,
    ),
    Check(
        "image-size-contradicts",
        ERROR,
        "images whose size in the JSON is another one than that of the file",
        "correct width and height, or give the images that the annotations were made for",
        contradicting_sizes,
        opens=True,
    ),
    Check(
        "image-size-exchanged",
        WARNING,
        "images whose height and width are exchanged in the JSON; those of the file are used",
        "exchange them, and see whether the boxes are right",
        exchanged_sizes,
        opens=True,
    ),
    Check(
        "image-size-scaled",
        WARNING,
        "images of another size than in the JSON and the same aspect; boxes are scaled",
        "see whether the annotations were made on such a copy",
        scaled_sizes,
        opens=True,
    ),
    Check(
        "image-turned",
        NOTE,
        "files whose EXIF orientation exchanges height and width",
        "see whether boxes were made on the turned image, as the size in the JSON says",
        turned,
        opens=True,
    ),
    Check(
        "image-small",
        NOTE,
        "images with a side of less than 32 pixels",
        "see whether they are thumbnails",
        small,
        opens=True,
    ),
    Check(
        "image-narrow",
        NOTE,
        "images that are more than five times as long as wide, mostly padding in a square",
        "cut them into parts",
        narrow,
        opens=True,
    ),
    Check(
        "image-flat",
        WARNING,
        "images of one colour",
        "see whether the files are damaged",
        flat,
        opens=True,
    ),
    Check(
        "image-copy",
        WARNING,
        "files that are the same to the byte as another one of the split",
        "remove one of the two",
        copies,
        opens=True,
    ),
    Check(
        "image-near-copy",
        WARNING,
        "images that look like another one of the split",
        "remove one of the two, unless they are frames of a film",
        near_copies,
        opens=True,
    ),
)
