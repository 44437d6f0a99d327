"""What all benchmarks share: timing with warm-up, the machine's own rates, the table and the JSON.

A figure stands beside its floor: the time that the same machine needs, measured in the same run, to
read the bytes or to multiply the numbers that the work cannot do without. Needs jax and NumPy only.
"""

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Of the square matrices whose product gives the matrix rate, and the bytes that are read to find
# the bandwidth; an accelerator needs more to be busy for longer than it takes to start it.
MATRIX_SIDE, ACCELERATOR_SIDE = 2048, 8192
READ_BYTES, ACCELERATOR_BYTES = 1 << 30, 1 << 32


@dataclass(frozen=True)
class Timing:
    """Seconds of several runs of the same work.

    Attributes:
        median: of wall time.
        fastest: of wall time.
        slowest: of wall time.
        cpu: median of the CPU time of all threads.
        runs: how many there were.
    """

    median: float
    fastest: float
    slowest: float
    cpu: float
    runs: int


def timed(work: Callable[[], Any], *, runs: int = 5, warm_up: int = 1) -> Timing:
    """Times `work`, which returns arrays that are waited for."""
    return timed_in_turns({"": work}, runs=runs, warm_up=warm_up)[""]


def timed_in_turns(
    works: Mapping[str, Callable[[], Any]], *, runs: int = 5, warm_up: int = 1
) -> dict[str, Timing]:
    """Times several works alternately, so that what disturbs the machine meets all of them."""
    for work in works.values():
        for _ in range(warm_up):
            jax.block_until_ready(work())
    wall: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            jax.block_until_ready(work())
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
    return {
        name: Timing(
            statistics.median(wall[name]),
            min(wall[name]),
            max(wall[name]),
            statistics.median(cpu[name]),
            runs,
        )
        for name in works
    }


def compiled(function: Callable, *arguments: Any) -> tuple[Any, float]:
    """(the compiled function, the seconds that compiling took) for these arguments."""
    start = time.perf_counter()
    made = jax.jit(function).lower(*arguments).compile()
    return made, time.perf_counter() - start


def matrix_rate(dtype: str = "float32") -> float:
    """Floating point operations per second of a large square matrix product."""
    side = MATRIX_SIDE if jax.default_backend() == "cpu" else ACCELERATOR_SIDE
    a = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    summed = jnp.float32 if jax.default_backend() == "cpu" else dtype  # see layers.multiply
    product = jax.jit(functools.partial(jnp.matmul, preferred_element_type=summed))
    return 2 * side**3 / timed(lambda: product(a, a), runs=7, warm_up=2).fastest


def bandwidth() -> float:
    """Bytes per second that are read from memory: by all cores of a CPU, or by one accelerator."""
    if jax.default_backend() != "cpu":
        x = jnp.ones(ACCELERATOR_BYTES // 4, jnp.float32)
        total = jax.jit(jnp.sum)
        return ACCELERATOR_BYTES / timed(lambda: total(x), runs=7, warm_up=2).fastest
    workers = len(os.sched_getaffinity(0))
    parts = np.array_split(np.ones(READ_BYTES // 8), workers)
    with ThreadPoolExecutor(workers) as pool:
        return READ_BYTES / timed(lambda: list(pool.map(np.max, parts)), runs=7).fastest


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the flags that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--runs", type=whole, default=5, help="timed runs of each figure")
    return parser


def whole(text: str) -> int:
    """The value of a flag that is a whole number of at least 1."""
    (number,) = _wholes([text], "a whole number of at least 1")
    return number


def wholes(text: str) -> list[int]:
    """The value of a flag that is whole numbers of at least 1, joined by commas."""
    return _wholes(text.split(","), "whole numbers of at least 1, joined by commas")


def _wholes(parts: Sequence[str], words: str) -> list[int]:
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{','.join(parts)!r}: give {words}")
    return numbers


def report(rows: Sequence[Mapping[str, Any]], path: Path | None, **facts: Any) -> None:
    """Prints the rows as a table under the facts of the machine, and writes both as JSON.

    Args:
        rows: figures by column; Timings become their median, spread and CPU time.
        path: of the JSON; None for none.
        facts: measured of the machine in this run, such as its bandwidth.
    """
    device = jax.devices()[0]
    facts = {"device": device.device_kind, "cores": os.cpu_count(), "jax": jax.__version__} | facts
    print("  ".join(f"{name}={_text(value)}" for name, value in facts.items()))
    table = [{name: _text(value) for name, value in row.items()} for row in rows]
    names = list(dict.fromkeys(name for row in table for name in row))
    widths = {name: max([len(name), *(len(row.get(name, "")) for row in table)]) for name in names}
    for row in ({name: name for name in names}, *table):
        print("  ".join(row.get(name, "").rjust(widths[name]) for name in names))
    if path is not None:
        written = [{name: _plain(value) for name, value in row.items()} for row in rows]
        content = {"facts": facts, "rows": written}
        path.write_text(json.dumps(content, indent=1) + "\n")


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Timing) else value


def _text(value: Any) -> str:
    if isinstance(value, Timing):
        return (
            f"{value.median:.4g} ({value.fastest:.4g}-{value.slowest:.4g}, CPU {value.cpu:.4g}) s"
        )
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
