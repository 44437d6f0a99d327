"""SIGTERM: what is done is saved, and the exit code of the command says that it was interrupted."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from pix2seq_jax.experiment.guard import TERMINATED
from pix2seq_jax.experiment.logs import log

# seconds after SIGTERM in which a run whose state is saved leaves in order; a compilation can take
# longer
GRACE = 5.0


class Interrupted(SystemExit):
    """SIGTERM came; a command that does not catch it exits with TERMINATED."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


class Termination:
    """Whether SIGTERM has come, on which all processes agree. They must ask equally often, in the
    same order."""

    def __init__(self, event: threading.Event) -> None:
        self._event, self._asked = event, 0
        self._finish: Callable[[], None] | None = None
        self._ending = threading.Lock()

    def __call__(self) -> bool:
        """True from the moment that all processes know of it."""
        if jax.process_count() > 1 and not self._event.is_set():
            self._asked += 1
            if multihost_utils.reached_preemption_sync_point(self._asked):
                self._event.set()
        return self._event.is_set()

    def leave(self) -> None:
        """Raises Interrupted where SIGTERM has come."""
        if self():
            raise Interrupted

    @contextlib.contextmanager
    def all_saved(self, finish: Callable[[], None]) -> Iterator[None]:
        """While it is open, nothing is lost if the process ends once `finish()` has returned.

        So it ends GRACE seconds after SIGTERM, even in the middle of a compilation, which nothing
        can interrupt.

        Args:
            finish: waits until what was saved is on disk. It is called in another thread.
        """
        self._finish = finish
        try:
            yield
        finally:
            with self._ending:  # not while the process is ending
                self._finish = None

    def end(self) -> None:
        """Ends the process where all is saved."""
        with self._ending:
            if self._finish is None:
                return
            self._finish()
            logging.shutdown()
            os._exit(TERMINATED)


def say_saved(step: int, workdir) -> None:
    """The log line of a run that was interrupted."""
    log.warning("SIGTERM: step %d is saved in %s; run the same command to go on", step, workdir)


@contextlib.contextmanager
def termination() -> Iterator[Termination]:
    """While it is open SIGTERM does not end the process but is noted.

    With several processes JAX's own handler has to stay: it spreads the notice to all of them.
    """
    event = threading.Event()
    terminated = Termination(event)
    ours = threading.current_thread() is threading.main_thread() and jax.process_count() == 1
    if not ours:
        yield terminated
        return
    # Python calls a handler when the main thread is back from compiled code; a byte in a socket
    # comes at once.
    written, read = socket.socketpair()
    written.setblocking(False)
    before = (
        signal.signal(signal.SIGTERM, lambda *_: event.set()),
        signal.set_wakeup_fd(written.fileno()),
    )
    closed = threading.Event()
    threading.Thread(
        target=_watch, args=(read, terminated, event, closed), name="SIGTERM", daemon=True
    ).start()
    try:
        yield terminated
    finally:
        closed.set()
        signal.signal(signal.SIGTERM, before[0])
        signal.set_wakeup_fd(before[1])
        written.close()


def _watch(
    read: socket.socket, terminated: Termination, event: threading.Event, closed: threading.Event
) -> None:
    """The thread that waits for SIGTERM, and ends the process where the main thread does not."""
    with read:
        while numbers := read.recv(64):  # empty when the other side is closed
            if signal.SIGTERM in numbers:
                event.set()
                if not closed.wait(GRACE):
                    terminated.end()
