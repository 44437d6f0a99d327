"""A text file that grows line by line, on a disk or in an object store."""

import os
import time
from collections.abc import Callable

from pix2seq_jax.files.locations import is_address, path_of
from pix2seq_jax.files.whole import write_whole

# Between two writings of an object: a store takes it as a whole each time, and about once a second
# at most.
SECONDS = 30.0


class Lines:
    """Lines at the end of a file. On a disk each is there at once; an object store is sent all of
    them after SECONDS, and where `flush` is called."""

    def __init__(
        self, path: str | os.PathLike, *, keep: Callable[[bytes], bool] = lambda line: True
    ) -> None:
        """Opens the file.

        Args:
            path: of the file; its folder is there.
            keep: which of the whole lines there stay; a last line without an end does not.

        Raises:
            OSError: the file cannot be read or written.
        """
        self._path, self._in_store = path_of(path), is_address(path)
        before = self._path.read_bytes() if self._path.exists() else b""
        lines = before.splitlines(keepends=True)
        kept = b"".join(line for line in lines if line.endswith(b"\n") and keep(line))
        if kept != before:
            write_whole(self._path, kept)
        self._unsent, self._due = False, time.monotonic() + SECONDS
        if self._in_store:
            self._content = bytearray(kept)
        else:
            self._file = self._path.open("ab")

    def append(self, line: str) -> None:
        """Adds a line, given without its end."""
        content = f"{line}\n".encode()
        if not self._in_store:
            self._file.write(content)
            self._file.flush()
            return
        self._content += content
        self._unsent = True
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Returns when all lines are there."""
        if self._in_store and self._unsent:
            self._path.write_bytes(bytes(self._content))
            self._unsent, self._due = False, time.monotonic() + SECONDS

    def close(self) -> None:
        """Writes what is left."""
        self.flush()
        if not self._in_store:
            self._file.close()
