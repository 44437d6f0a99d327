"""SIGTERM: what is done is saved, and the command leaves with a code that tells it from the end of the work."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from pix2seq_jax.telemetry import log

EXIT_CODE = 128 + signal.SIGTERM  # as shells report it


class Interrupted(SystemExit):
    """SIGTERM came; a command that does not catch it exits with EXIT_CODE."""

    def __init__(self) -> None:
        super().__init__(int(EXIT_CODE))


class Termination:
    """Whether SIGTERM has come, on which all processes agree. They must ask equally often, in the same order."""

    def __init__(self, event: threading.Event) -> None:
        self._event, self._asked = event, 0

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


def say_saved(step: int, workdir) -> None:
    """The log line of a run that was interrupted."""
    log.warning("SIGTERM: step %d is saved in %s; run the same command to go on", step, workdir)


@contextlib.contextmanager
def termination() -> Iterator[Termination]:
    """While it is open SIGTERM does not end the process but is noted.

    With several processes JAX's own handler has to stay: it spreads the notice to all of them.
    """
    event = threading.Event()
    ours = threading.current_thread() is threading.main_thread() and jax.process_count() == 1
    before = signal.signal(signal.SIGTERM, lambda *_: event.set()) if ours else None
    try:
        yield Termination(event)
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)
