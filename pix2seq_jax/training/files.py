"""Files that are there as a whole or not at all."""

import os
from pathlib import Path, PurePath


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file, text as UTF-8, so that a stop in between leaves what was there before.

    Missing folders are made. The content goes to a file of another name beside it first, one for
    each process, which is then renamed.
    """
    path = path if isinstance(path, PurePath) else Path(path)  # etils' paths are PurePaths
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    data = content.encode() if isinstance(content, str) else content
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
