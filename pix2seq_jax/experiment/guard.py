"""How every command ends when something is wrong: one line on stderr, an exit code, and the trace
in a file."""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from absl import logging

from pix2seq_jax.experiment import workdir as folder

# TensorFlow, which is imported later, announces what it will do to the floating point of its matrix
# products.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}

# Exit codes after Ctrl-C and SIGTERM, as of a shell; input that does not fit ends with 2.
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
AGAIN = 0.05  # seconds after which Ctrl-C comes again


def guarded(
    command: Callable[[], None],
    *,
    workdir: str | None = None,
    whole_trace: bool = False,
    distributed: bool = False,
) -> None:
    """Runs a command; an error of the user's input is one line and exit code 2, Ctrl-C is one line
    and 130.

    Args:
        command: what to run.
        workdir: gets the whole trace of an error as error.txt, once it is the workdir of a run.
        whole_trace: show the trace as well.
        distributed: whether there are other processes; error-PROCESS.txt then.
    """
    logging.set_verbosity(logging.WARNING)  # of jax and orbax; logs has a logger of its own
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        with _interrupts():
            command()
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; a training run goes on from what it has saved", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        process = process_index() if distributed else None
        trace = folder.keep_trace(workdir, error, process=process)
        if whole_trace or not isinstance(error, (ValueError, FloatingPointError, OSError)):
            raise
        fail(str(error), trace=str(trace or ""))


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Lets Ctrl-C come again that came where Python drops what is raised, as in JAX's callback of
    the garbage collector."""
    before = sys.unraisablehook

    def dropped(what) -> None:
        if what.exc_type is KeyboardInterrupt:
            again = threading.Timer(AGAIN, _thread.interrupt_main)
            again.daemon = True
            again.start()
        else:
            before(what)

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = before


def fail(message: str, *, trace: str = "") -> None:
    """Prints an error as one line, with the file that holds its trace, and exits with code 2."""
    where = f"the whole trace is in {trace}" if trace else "--traceback shows where it was raised"
    print(f"error: {' '.join(message.split())} ({where})", file=sys.stderr)
    sys.exit(2)


def process_index() -> int:
    """Number of this process among those of a job; 0 where they did not find each other."""
    import jax

    try:
        return jax.process_index()
    except RuntimeError:
        return 0
