"""SIGTERM while the interpreter cannot answer: a run whose state is saved ends all the same."""

import subprocess
import sys
import time

import pytest

from pix2seq_jax.experiment import guard, stopping

# One jitted call that takes much longer than the grace period, as a compilation does: no Python
# runs in between.
PROGRAM = """
import os, signal, threading, time
import jax
from pix2seq_jax.experiment import stopping

stopping.GRACE = 0.5
busy = jax.jit(lambda x: jax.lax.fori_loop(0, {turns}, lambda _, y: y @ y, x))
busy(jax.numpy.eye(8)).block_until_ready()
end = time.monotonic() + {seconds}
threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
with stopping.termination() as terminated:
    with {block}:
        while time.monotonic() < end:
            busy(jax.numpy.eye(8)).block_until_ready()
    print("noted" if terminated() else "missed", flush=True)
"""
SAVED = "terminated.all_saved(lambda: print('finished', flush=True))"


def run(block: str, seconds: int) -> subprocess.CompletedProcess:
    """Runs the program; its calls go on for some seconds unless something ends it."""
    program = PROGRAM.format(turns=2_000_000, seconds=seconds, block=block)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )


def test_a_saved_run_ends_within_a_long_call():
    start = time.monotonic()
    result = run(SAVED, seconds=60)
    assert (result.returncode, result.stdout) == (guard.TERMINATED, "finished\n"), result.stderr
    assert time.monotonic() - start < 60


def test_an_unsaved_run_is_not_ended():
    result = run("__import__('contextlib').nullcontext()", seconds=3)
    assert (result.returncode, result.stdout) == (0, "noted\n"), result.stderr


def test_the_handler_is_as_before():
    import signal

    before = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    with stopping.termination(), pytest.raises(stopping.Interrupted):
        signal.raise_signal(signal.SIGTERM)
        raise stopping.Interrupted
    assert (signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)) == before
