"""What devices send each other, read off a compiled program."""

import re

COLLECTIVES = (
    r"= (?P<arrays>.*?) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
BYTES = {"pred": 1, "f32": 4, "s32": 4, "u32": 4}


def collectives(program: str) -> list[tuple[str, str, int]]:
    """(computation, kind, bytes) of each collective; the program itself is the computation
    "ENTRY"."""
    rows, computation = [], ""
    for line in program.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            computation = "ENTRY" if header[1] else header[2]
        if found := re.search(COLLECTIVES, line):
            arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", found["arrays"])
            sizes = [BYTES[kind] * product(shape) for kind, shape in arrays]
            rows.append((computation, found["kind"], sum(sizes)))
    return rows


def product(shape: str) -> int:
    total = 1
    for side in filter(None, shape.split(",")):
        total *= int(side)
    return total
