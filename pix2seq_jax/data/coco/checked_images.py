"""What the beginnings and ends of image files say, each file read once: later starts read it from a
cache."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from pix2seq_jax.data.images import check_file
from pix2seq_jax.files.locations import open_to_read
from pix2seq_jax.files.whole import save_arrays

_NOT_LOOKED, _WHOLE, _TURNED, _BROKEN = range(4)
_WORDS = 4  # of 16 bits in a key
_TOGETHER = 64  # files that a thread takes at a time

log = logging.getLogger("pix2seq_jax")


class Headers(NamedTuple):
    """What was learned about N files.

    Attributes:
        sizes: i32[N,2], height and width as stored; 0, 0 of a broken file.
        turned: bool[N], whether the EXIF orientation exchanges them.
        errors: number of a file -> what is wrong with it.
    """

    sizes: np.ndarray
    turned: np.ndarray
    errors: dict[int, str]


class CheckedImages:
    """`checked(files) -> Headers`. A file that has not changed since it was read is not read again.

    Broken files are read again every time. Several processes share the work: each reads its part of
    the files.
    """

    def __init__(
        self,
        cache: PurePath | None = None,
        *,
        part: tuple[int, int] = (0, 1),
        gather: Callable[[np.ndarray], np.ndarray] = lambda table: table,
        writes: bool = True,
    ) -> None:
        """Reads the cache.

        Args:
            cache: file for what was learned, `.npz`; None: there is none. One that cannot be read
                counts as empty.
            part: (p, P), this process looks at files p, p + P, ...
            gather: i32[N,7] of this process -> the maximum over all processes, for P > 1; every
                process calls it.
            writes: whether this process writes the file.
        """
        self._cache, self._part, self._gather, self._writes = cache, part, gather, writes
        self._lines = _load(cache) if cache else {}  # key -> (height, width, kind)
        self._fresh = 0  # lines that the cache lacks

    def __call__(self, files: Sequence[str]) -> Headers:
        """Reads the files; raises nothing for broken ones."""
        index, count = self._part
        own = range(index, len(files), count)
        table = np.zeros((len(files), 3 + _WORDS), np.int32)
        for row, key in zip(own, self._read([files[row] for row in own]), strict=True):
            table[row] = *self._lines[key], *_words(key)
        table = np.asarray(self._gather(table))
        if count > 1:  # what the other processes learned
            before = len(self._lines)
            for height, width, kind, *words in table.tolist():
                self._lines[_key_of(words)] = height, width, kind
            self._fresh += len(self._lines) - before
        broken = np.flatnonzero(table[:, 2] == _BROKEN).tolist()
        errors = {row: _error(files[row]) for row in broken}
        errors = {row: text for row, text in errors.items() if text}
        return Headers(table[:, :2], table[:, 2] == _TURNED, errors)

    def _read(self, files: Sequence[str]) -> list[bytes]:
        """The keys of files, each of which has a line afterwards."""
        with ThreadPoolExecutor() as pool:
            keys = list(pool.map(_key, files, chunksize=_TOGETHER))
            new = [row for row, key in enumerate(keys) if key not in self._lines]
            lines = pool.map(_look, [files[row] for row in new], chunksize=_TOGETHER)
            for row, line in zip(new, lines, strict=True):
                self._lines[keys[row]] = line
        self._fresh += len(new)
        return keys

    def save(self) -> None:
        """Writes what was learned of whole files; a cache that cannot be written is a line in the
        log."""
        if not (self._cache and self._writes and self._fresh):
            return
        whole = {key: line for key, line in self._lines.items() if line[2] in (_WHOLE, _TURNED)}
        keys, lines = np.array(list(whole), "S16"), np.array(list(whole.values()), np.int32)
        try:
            save_arrays(self._cache, {"keys": keys, "lines": lines})
        except OSError as error:
            log.warning("what was learned about the images cannot be written: %s", error)


def _load(cache: PurePath) -> dict[bytes, tuple[int, int, int]]:
    """The lines of the cache: key -> (height, width, kind)."""
    try:
        if not cache.is_file():
            return {}
        with open_to_read(cache) as stream, np.load(stream, allow_pickle=False) as content:
            keys, lines = content["keys"].tolist(), content["lines"]
        return dict(zip(keys, map(tuple, lines.reshape(-1, 3).tolist()), strict=True))
    except Exception as error:  # a damaged archive raises many kinds
        log.warning(
            "%s cannot be read (%s: %s): all images are looked at again",
            cache,
            type(error).__name__,
            error,
        )
        return {}


def _key(file: str) -> bytes:
    """Name of a state of a file: its path, size and time of change."""
    try:
        status = os.stat(file)
        state = (os.path.abspath(file), status.st_size, status.st_mtime_ns)
    except OSError:
        state = (os.path.abspath(file), -1, -1)
    # Hexadecimal digits: NumPy cuts zero bytes off the ends of texts.
    return (
        hashlib.blake2b(repr(state).encode(errors="surrogatepass"), digest_size=8)
        .hexdigest()
        .encode()
    )


def _words(key: bytes) -> list[int]:
    """A key as _WORDS numbers below 2**16: what processes exchange has no texts, and no more than
    32 bits."""
    return [int(key[start : start + 4], 16) for start in range(0, 4 * _WORDS, 4)]


def _key_of(words: Sequence[int]) -> bytes:
    """The inverse of `_words`."""
    return b"".join(b"%04x" % word for word in words)


def _look(file: str) -> tuple[int, int, int]:
    """(height, width, kind) of a file."""
    try:
        height, width, turned = check_file(file)
    except ValueError:
        return 0, 0, _BROKEN
    return height, width, _TURNED if turned else _WHOLE


def _error(file: str) -> str:
    """What is wrong with a file; "" where it has been repaired meanwhile."""
    try:
        check_file(file)
    except ValueError as error:
        return str(error)
    return ""
