"""One training command at a time in a workdir."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import jax

from pix2seq_jax.experiment.logs import log
from pix2seq_jax.files.locations import is_address

FILE = ".training"  # says who trains; the lock on it ends with the process, however that ends


@contextlib.contextmanager
def only_training(workdir: str | Path) -> Iterator[None]:
    """Keeps other training commands out of a workdir in the file system.

    Of several processes the first does it for all.

    Raises:
        ValueError: another command trains there.
    """
    if jax.process_index() or is_address(workdir):
        yield
        return
    path = Path(workdir) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ValueError(
                f"--workdir={workdir} is being trained by {file.read()}; wait until it ends, stop "
                "it, or give another --workdir"
            ) from error
        except OSError as error:
            log.warning(
                "%s is on a file system without locks (%s): start no second training command there",
                workdir,
                error,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
