"""Runs the main command in this process and reads the one line that it must end with."""

import contextlib
import io

import pytest

from pix2seq_jax import main
from pix2seq_jax.experiment import logs

# ml_collections loads config files in a way that Python will drop.
LOADING = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")


def command(*args: str) -> tuple[str, int]:
    """The one line on stderr and the exit code of the main command with these arguments, which must
    refuse them."""
    return refused(lambda: main.main(args))


def refused(action) -> tuple[str, int]:
    """The one line on stderr and the exit code of an action that must end the process."""
    logs.setup_logging()  # its handler keeps the stderr of now
    stderr = io.StringIO()
    with pytest.raises(SystemExit) as ended, contextlib.redirect_stderr(stderr):
        action()
    lines = stderr.getvalue().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0], ended.value.code


def check(found: tuple[str, int], field: str, remedy: str) -> None:
    """The line names the field and the remedy, and the exit code is 2."""
    line, code = found
    assert code == 2 and field in line and remedy in line, line
