"""What the devices send each other, read off a compiled program.

XLA's text names each collective and each loop with its number of turns, so what is inside a loop
can be counted as often as it runs.
"""

import functools
import math
import re
from collections import defaultdict
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_COLLECTIVE = rf"= (?P<arrays>.*?) (?P<kind>{'|'.join(KINDS)})(-start)?\("
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
_WIDE = 8  # bytes of the other types
ENTRY = "ENTRY"  # computation of what is in no loop


class Collective(NamedTuple):
    """One collective of a program.

    Attributes:
        computation: that it stands in; ENTRY for the program itself.
        kind: one of KINDS.
        size: bytes of its result on one device.
        devices: of a group that it connects.
    """

    computation: str
    kind: str
    size: int
    devices: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends, by the ring algorithms."""
        others = self.devices - 1
        return {
            "all-reduce": 2 * others / self.devices * self.size,
            "all-gather": others / self.devices * self.size,
            "reduce-scatter": others * self.size,
            "all-to-all": others / self.devices * self.size,
            "collective-permute": self.size,
        }[self.kind]


def collectives(program: str) -> list[Collective]:
    """The collectives of a program, in the order of its text.

    Args:
        program: `compiled.as_text()`.
    """
    rows, computation = [], ""
    for line in program.splitlines():
        computation = _computation(line) or computation
        if match := re.search(_COLLECTIVE, line):
            arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", match["arrays"])
            size = sum(_array_bytes(dtype, shape) for dtype, shape in arrays)
            rows.append(Collective(computation, match["kind"], size, _group(line)))
    return rows


def _array_bytes(dtype: str, shape: str) -> int:
    sides = [int(side) for side in shape.split(",") if side]
    return _BYTES.get(dtype, _WIDE) * math.prod(sides)


def sent_by_kind(program: str) -> dict[str, float]:
    """Bytes that each device sends in one run of a program, by kind of collective.

    Loops count as often as they run; one of an unknown number of turns counts as one. Of the
    branches of a conditional inside a loop each is taken equally often.
    """
    own, calls = defaultdict(list), defaultdict(list)
    for row in collectives(program):
        own[row.computation].append(row)
    computation = ""
    for line in program.splitlines():
        computation = _computation(line) or computation
        calls[computation] += _calls(line)

    @functools.cache
    def sent(name: str, kind: str) -> float:
        total = sum(row.sent for row in own[name] if row.kind == kind)
        return total + sum(times * sent(called, kind) for called, times in calls[name])

    return {kind: sent(ENTRY, kind) for kind in KINDS if sent(ENTRY, kind)}


def _calls(line: str) -> list[tuple[str, float]]:
    """(computation, how often) of what an instruction runs."""
    if match := re.search(r"\bbody=%?([\w.\-]+)", line):
        turns = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
        return [(match[1], float(turns[1]) if turns else 1.0)]
    if match := re.search(r"branch_computations=\{([^}]*)\}", line):
        names = re.findall(r"[\w.\-]+", match[1])
        return [(name, 1 / len(names)) for name in names]
    if match := re.search(r"true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+)", line):
        return [(match[1], 0.5), (match[2], 0.5)]
    if match := re.search(r"\b(?:calls|to_apply)=%?([\w.\-]+)", line):
        return [(match[1], 1.0)]
    return []


def _computation(line: str) -> str:
    """The name of the computation that begins in this line, or ""."""
    header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
    if header is None:
        return ""
    return ENTRY if header[1] else header[2]


def _group(line: str) -> int:
    """Devices that a collective connects with each other, in the three ways that XLA writes it."""
    if match := re.search(r"replica_groups=\[[\d,]*?(\d+)\]<=", line):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part) if part else sizes[name] for name, part in parts)
    return 2  # a permutation goes from one to another
