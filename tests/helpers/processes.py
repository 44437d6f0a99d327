"""Commands in processes of their own."""

import os
import subprocess
import sys

from tests.helpers import small

ENVIRONMENT = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}


def command(module: str, *args: str, code: int = 0) -> str:
    """Runs a command to its end, checks the exit code and returns what it printed."""
    line = [sys.executable, "-m", f"pix2seq_jax.{module}", *args]
    done = subprocess.run(
        line, cwd=small.ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout + done.stderr
