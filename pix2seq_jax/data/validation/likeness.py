"""Which images are the same or nearly the same: by their bytes, and by a difference hash."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import NamedTuple

import numpy as np

from pix2seq_jax.data.coco.files import read_file
from pix2seq_jax.data.images import glance

SMALL = (16, 18)  # height and width of the copies that are compared
MOST_BITS = 6  # of the 64 of two hashes that may differ
DARKER = 2.5  # of 255
# Of 255: how far the small copies of the same picture lie apart, on average and at the most. A
# copy of another size or JPEG quality stays below; the shapes with another small figure do not.
MEAN_APART, MOST_APART = 4, 32
_CROWDED = 200  # images in one band that are all compared with each other; more: neighbours only
_TOGETHER = 16  # files that a thread takes at a time


class Look(NamedTuple):
    """What an image file holds.

    Attributes:
        height, width: as stored; 0 of a broken file.
        turned: whether the EXIF orientation exchanges them.
        small: u8[16,18,3], the picture in small; zeros of a broken file.
        digest: of the bytes; empty where there are none.
        error: what is wrong with the file; "": nothing.
    """

    height: int
    width: int
    turned: bool
    small: np.ndarray
    digest: bytes
    error: str


class Pair(NamedTuple):
    """Two images that are alike: their numbers, and whether the files are the same to the byte."""

    first: int
    second: int
    same: bool


def look_at(files: Sequence[str]) -> list[Look]:
    """Reads and decodes the files, several at a time."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_look, files, chunksize=_TOGETHER))


def _look(file: str) -> Look:
    digest = b""
    try:
        data = read_file(file)
        digest = hashlib.blake2b(data, digest_size=16).digest() if data else b""
        return Look(*glance(data, file, SMALL), digest, "")
    except ValueError as error:
        return Look(0, 0, False, np.zeros((*SMALL, 3), np.uint8), digest, str(error))


def hashes(small: np.ndarray) -> np.ndarray:
    """The difference hash bool[n,64] of u8[n,16,18,3]: which of 8 x 9 grey fields are brighter by
    DARKER than the one to their right. Without this step, noise would decide in flat areas."""
    grey = small.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)  # BT.601
    fields = grey.reshape(-1, 8, 2, 9, 2).mean(axis=(2, 4))
    return (fields[:, :, :-1] - fields[:, :, 1:] > DARKER).reshape(-1, 64)


def pairs(looks: Sequence[Look], groups: Sequence[str]) -> list[Pair]:
    """The pairs of images that are alike.

    Args:
        looks: of n files; broken ones are like those of the same bytes alone.
        groups: n names. Of several files of the same bytes each is named with the first of its
            group and with the first of the other groups alone.
    """
    same = list(_same_bytes(looks, groups))
    later = {pair.second for pair in same}
    whole = [number for number, look in enumerate(looks) if not look.error]
    once = np.array([number for number in whole if number not in later], np.int64)
    if len(once) < 2:
        return same
    small = np.stack([looks[number].small for number in once.tolist()])
    near = [Pair(int(once[a]), int(once[b]), False) for a, b in _near(small)]
    return same + sorted(near)


def _same_bytes(looks: Sequence[Look], groups: Sequence[str]) -> Iterator[Pair]:
    by_digest = defaultdict(list)
    for number, look in enumerate(looks):
        if look.digest:
            by_digest[look.digest].append(number)
    for numbers in by_digest.values():
        firsts: dict[str, int] = {}
        for number in numbers:
            for first in firsts.values():
                yield Pair(first, number, True)
            firsts.setdefault(groups[number], number)


def _near(small: np.ndarray) -> list[tuple[int, int]]:
    """Pairs a < b of u8[n,16,18,3] whose hashes differ in at most MOST_BITS and whose pixels are
    close.

    Images are compared that have one of the four parts of a hash in common, which all have whose
    hashes differ in three bits or fewer.
    """
    bits = hashes(small)
    candidates: set[tuple[int, int]] = set()
    bands = np.packbits(bits, axis=1).view(np.uint16)  # [n,64] -> [n,8] -> [n,4]
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        cuts = np.flatnonzero(np.diff(band[order])) + 1
        for members in np.split(order, cuts):
            candidates.update(_close(members, bits))
    close = np.array(sorted(candidates), np.int64).reshape(-1, 2)
    apart = np.abs(small[close[:, 0]].astype(np.int16) - small[close[:, 1]])
    alike = (apart.mean(axis=(1, 2, 3)) <= MEAN_APART) & (apart.max(axis=(1, 2, 3)) <= MOST_APART)
    return [tuple(pair) for pair in close[alike].tolist()]


def _close(members: np.ndarray, bits: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of the members of a band whose hashes are close."""
    if len(members) <= _CROWDED:
        couples = np.array(list(combinations(members.tolist(), 2)), np.int64).reshape(-1, 2)
    else:
        keys = np.packbits(bits[members], axis=1)
        members = members[np.lexsort(keys.T[::-1])]
        couples = np.sort(np.stack([members[:-1], members[1:]], axis=1), axis=1)
    differ = (bits[couples[:, 0]] != bits[couples[:, 1]]).sum(axis=1)
    yield from map(tuple, couples[differ <= MOST_BITS].tolist())
