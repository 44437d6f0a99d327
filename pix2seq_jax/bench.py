"""Runs a benchmark of a checkout: `pix2seq bench decode --batches=8`, or
`python -m pix2seq_jax.bench decode --batches=8`.

What follows the name goes to `benchmarks/NAME.py`; `--help` after it lists its
flags. An installed package has no benchmarks.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pix2seq_jax.experiment.guard import INTERRUPTED

FLAGS = ()  # each benchmark has its own
FOLDER = Path(__file__).parents[1] / "benchmarks"
ENDING = "ending"  # runs one of them
SHARED = ("measure", ENDING)  # no benchmarks


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; its exit code is that of the benchmark."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-help", "-h"):
        listed = "\n  ".join(names() or ["none, since this is no checkout"])
        print(f"{__doc__}\nbenchmarks:\n  {listed}")
        return
    if name not in names():
        print(f"error: {_unknown(name)}", file=sys.stderr)
        sys.exit(2)
    here = str(FOLDER.parent)
    paths = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, str(FOLDER / f"{ENDING}.py"), name, *rest]
    try:
        code = subprocess.call(command, env=os.environ | {"PYTHONPATH": paths})
    except KeyboardInterrupt:  # it has interrupted the benchmark, too
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("stopped by Ctrl-C", file=sys.stderr)
    sys.exit(code)


def names() -> list[str]:
    """The benchmarks of this checkout."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)


def _unknown(name: str) -> str:
    if not names():
        return (
            f"{FOLDER} does not exist, and a benchmark {name!r} is only in a checkout of the "
            "repository; run it there, as in `python benchmarks/decode.py`"
        )
    return f"there is no benchmark {name!r}; give one of {', '.join(names())}"


if __name__ == "__main__":
    main()
