"""One training command at a time in a workdir."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from pix2seq_jax.experiment.logs import log
from pix2seq_jax.files.locations import is_address

# Says who trains, while that is so. The lock on it ends with the process; that of a host that is
# gone may stay for a while on a network disk.
FILE = ".training"


@contextlib.contextmanager
def only_training(workdir: str | Path) -> Iterator[None]:
    """Keeps other training commands out of a workdir in the file system.

    The first of several processes holds the lock for all.

    Raises:
        ValueError: another command trains there; in all processes.
    """
    if is_address(workdir):
        yield
        return
    path = Path(workdir) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        first = jax.process_index() == 0
        free = _lock(file, path) if first else True
        if jax.process_count() > 1:
            free = bool(multihost_utils.broadcast_one_to_all(np.int32(free)))
        if not free:
            file.seek(0)
            raise ValueError(
                f"--workdir={workdir} is being trained by {file.read()}; wait until it ends, stop "
                f"it, or give another --workdir; if that host is gone, delete {path}"
            )
        try:
            yield
        finally:
            if first:
                path.unlink(missing_ok=True)


def _lock(file, path: Path) -> bool:
    """Locks the open file of a path, and writes into it who does, unless another process has it or
    has just removed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        text = "%s is on a file system without locks (%s): start no second training command there"
        log.warning(text, path.parent, error)
    if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
        return False
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return True
