"""Commands in this process: their Python is imported once, not by each of them."""

import contextlib
import importlib
import io
import logging

from pix2seq_jax.experiment import logs


def command(module: str, *args: str, code: int = 0) -> str:
    """Runs a command to its end, checks the exit code and returns what it printed and logged."""
    output, ended = io.StringIO(), 0
    logs.setup_logging()  # its handler keeps the stderr of now
    handler = logging.StreamHandler(output)
    logs.log.addHandler(handler)
    run = importlib.import_module(f"pix2seq_jax.{module}").main
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            run(args)
    except SystemExit as end:
        ended = end.code
    finally:
        logs.log.removeHandler(handler)
    assert ended == code, output.getvalue()[-3000:]
    return output.getvalue()
