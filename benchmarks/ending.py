"""Runs a benchmark that ends as the commands do: `python benchmarks/ending.py NAME --flag=VALUE`.

What is wrong with its input is one line on stderr and exit code 2. Ctrl-C is exit code 130, and
`pix2seq_jax.bench`, which calls this, says so. Needs Python only.
"""

import runpy
import signal
import sys
from pathlib import Path


def main() -> None:
    """Runs the benchmark that the first argument names, with the other arguments."""
    script = Path(__file__).with_name(f"{sys.argv[1]}.py")
    sys.argv = [str(script), *sys.argv[2:]]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (ValueError, OSError) as error:
        words = " ".join(str(error).split())
        print(f"error: {words} (python {script} shows where it was raised)", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
