"""The folders of checkpoints, each named by its step, on a disk and in an object store.

On a disk Orbax writes under another name and renames what is complete. An object store renames
nothing: Orbax writes under the final name, and a file at the end says that it is complete.
"""

import logging
import time

from etils import epath

from pix2seq_jax.files.locations import is_address

COMMITTED = "commit_success.txt"  # the file that Orbax writes last
GONE_SECONDS = 30.0  # for which a folder may seem to be there that was removed

log = logging.getLogger("pix2seq_jax")


def steps(directory: epath.PathLike) -> list[int]:
    """Steps of the folders that are not empty, damaged ones too, newest first.

    One that was not finished in an object store, where it has its final name, does not count.
    """
    folders = [path for path in _numbered(directory) if not _is_unfinished(path)]
    return sorted((int(path.name) for path in folders if any(path.iterdir())), reverse=True)


def _numbered(directory: epath.PathLike) -> list[epath.Path]:
    """The folders whose names are steps."""
    directory = epath.Path(directory)
    if not directory.exists():
        return []
    return [path for path in directory.iterdir() if path.name.isdecimal() and path.is_dir()]


def _is_unfinished(folder: epath.Path) -> bool:
    """Whether a process ended while it saved there."""
    return is_address(folder) and not (folder / COMMITTED).exists()


def remove_unfinished(directory: epath.Path) -> None:
    """Removes what is no checkpoint in an object store, so that its step can be saved."""
    for folder in filter(_is_unfinished, _numbered(directory)):
        log.warning("checkpoint %s was not finished: it is removed", folder)
        folder.rmtree()
        _until_gone(folder)


def _until_gone(folder: epath.Path) -> None:
    """Waits: for five seconds TensorFlow takes a folder in an object store for there that it has
    seen, and Orbax does not save into one that is there."""
    end = time.monotonic() + GONE_SECONDS
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.1)


def set_aside(folder: epath.Path) -> epath.Path:
    """Renames a damaged folder, so that it does not count and its step can be saved again; its new
    path.

    Raises:
        ValueError: there are a thousand of them.
    """
    for number in range(1, 1000):
        target = folder.parent / f"{folder.name}.damaged{number}"
        if not target.exists():
            folder.rename(target)
            _until_gone(folder)
            return target
    raise ValueError(
        f"{folder.parent} holds a thousand damaged checkpoints of step {folder.name}; delete them"
    )
