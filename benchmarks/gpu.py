"""What the compiler of NVIDIA GPUs makes of a training step, on a machine without one: the kernels,
and the bytes that they move.

    pip install jax-cuda12-plugin jax-cuda12-pjrt    # in the version of jax
    python benchmarks/gpu.py --config=multitask --batch=16 --remat

A step takes a minute for ViT-B (two cores). Nothing is run, so there are no times: an H100 is
described, and "ms" is what it would take to move the bytes at the rate that one had when it was
measured. Kernels that compute more than they move take longer, above all products, attention and
random numbers. The loss counts as if all positions weighed.
"""

import math
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
from jax.experimental import topologies

sys.path.insert(0, str(Path(__file__).parent))
import measure
import tpu

from pix2seq_jax.models import attention
from pix2seq_jax.training import sharding

BANDWIDTH = 2.8e12  # bytes a second, of an H100 with HBM3 (benchmarks/README.md)
# As XLA describes such a card.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 patch: 0 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84929347584
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""
CUDNN = "jax._src.cudnn.fused_attention_stablehlo"
WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "u16": 2, "s16": 2}
WIDTHS |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}  # bytes
# What moves nothing.
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "iota", "while"}
FREE |= {"conditional", "call"}
PARTS = ("dynamic-slice", "slice", "gather")


class Instruction(NamedTuple):
    """One line of a program.

    Attributes:
        root: whether it is the result of its computation.
        type: of its result.
        operation: its kind, as "fusion".
        inputs: names of other instructions.
        text: all that follows the operation.
    """

    root: bool
    type: str
    operation: str
    inputs: list[str]
    text: str


Computation = dict[str, Instruction]


def main() -> None:
    """Prints the table."""
    parser = measure.arguments(__doc__)
    tpu.add_step(parser)
    options = parser.parse_args()
    # Products by cuBLAS: which kernels of its own XLA would take, it finds out on a card.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_enable_triton_gemm=false"
    described = {"target_config": H100, "topology": "1x1x1"}
    (card,) = topologies.get_topology_desc("h100", "cuda", **described).devices
    mesh = sharding.make_mesh({"data": -1}, devices=[card])
    # The model chooses its attention by the card, and JAX asks it for its cuDNN.
    with (
        mock.patch.object(jax, "default_backend", lambda: "gpu"),
        mock.patch.object(attention, "has_cudnn", lambda: True),
        mock.patch(f"{CUDNN}.check_cudnn_version", lambda: 91000),
        mock.patch(f"{CUDNN}.check_compute_capability", lambda least: True),
    ):
        program, facts = tpu.compiled_step(options, mesh, "cuda")
    memory = program.memory_analysis()
    facts["temporaries GiB"] = memory.temp_size_in_bytes / tpu.GIB
    count, moved = defaultdict(float), defaultdict(float)
    for kind, size, times in kernels(program.as_text()):
        count[kind] += times
        moved[kind] += times * size
    table = [
        {"kernels": kind, "of a step": count[kind], "GB": size / 1e9, "ms": 1e3 * size / BANDWIDTH}
        for kind, size in sorted(moved.items())
    ]
    flags = vars(options)
    measure.report(table, flags.pop("json"), **flags, **facts)


def kernels(text: str) -> Iterator[tuple[str, int, float]]:
    """(kind, bytes that it moves, how often a step runs it) of each kernel of a program."""
    computations, entry = parsed(text)

    def run(name: str, times: float) -> Iterator[tuple[str, int, float]]:
        for line in computations[name].values():
            for called, turns in calls(line):
                yield from run(called, times * turns)
            if line.operation not in FREE:
                yield kind_of(computations, line), bytes_of(computations, name, line), times

    yield from run(entry, 1.0)


def parsed(text: str) -> tuple[dict[str, Computation], str]:
    """The instructions of each computation by their names, and the name of the program's own."""
    computations: dict[str, Computation] = {}
    own: Computation = {}
    entry = ""
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            own = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif match := re.match(r"\s+(ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$", line):
            inputs = re.findall(r"%([\w.\-]+)", match[5].split(")")[0])
            own[match[2]] = Instruction(bool(match[1]), match[3], match[4], inputs, match[5])
    return computations, entry


def calls(line: Instruction) -> list[tuple[str, float]]:
    """(computation, how often) of what a loop or a choice runs. Each branch counts as often as the
    others. A loop whose number of turns depends on the data is that of the loss over chunks of
    positions: it carries a table of them, a row for each chunk."""
    if line.operation == "while":
        turns = re.search(r'"known_trip_count":\{"n":"(\d+)"', line.text)
        turns = turns or re.search(r"\bs32\[(\d+),\d+\]", line.type)
        return [(re.search(r"\bbody=%?([\w.\-]+)", line.text)[1], float(turns[1]))]
    if line.operation == "conditional":
        names = re.search(r"branch_computations=\{([^}]*)\}", line.text)[1]
        branches = re.findall(r"[\w.\-]+", names)
        return [(branch, 1 / len(branches)) for branch in branches]
    if line.operation == "call":
        return [(re.search(r"\bto_apply=%?([\w.\-]+)", line.text)[1], 1.0)]
    return []


def kind_of(computations: dict[str, Computation], line: Instruction) -> str:
    """The kind of a kernel."""
    if line.operation == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', line.text)[1]
        return "product" if "cublas" in target else "attention" if "fmha" in target else target
    if line.operation != "fusion":
        return line.operation
    operations = {inner.operation for inner in fused(computations, line).values()}
    if {"shift-right-logical", "xor"} <= operations:
        return "random numbers"
    if "reduce" in operations:
        return "sums"
    return "writing into a stack" if "dynamic-update-slice" in operations else "elementwise"


def fused(computations: dict[str, Computation], line: Instruction) -> Computation:
    """The computation of a fusion."""
    return computations[re.search(r"\bcalls=%?([\w.\-]+)", line.text)[1]]


def bytes_of(computations: dict[str, Computation], name: str, line: Instruction) -> int:
    """Bytes that a kernel reads and writes; of arrays that it cuts or writes into, the part."""
    own = computations[name]
    if line.operation in PARTS:
        return 2 * size_of(line.type)
    if line.operation == "dynamic-update-slice":
        return 2 * size_of(own[line.inputs[1]].type)
    if line.operation != "fusion":
        # What cuBLAS is lent beside its result does not count.
        result = re.sub(r"\bs8\[\d+\]", "", line.type)
        return size_of(result) + sum(size_of(own[key].type) for key in line.inputs if key in own)
    inner = fused(computations, line)
    ((root, last),) = (item for item in inner.items() if item[1].root)
    results = last.inputs if last.operation == "tuple" else [root]
    inputs = [key for key, other in inner.items() if other.operation == "parameter"]
    return sum(_written(inner, key) for key in results) + sum(_read(inner, key) for key in inputs)


def _written(inner: Computation, key: str) -> int:
    """Bytes of one result of a fusion."""
    while inner[key].operation in ("bitcast", "copy"):
        (key,) = inner[key].inputs
    if inner[key].operation == "dynamic-update-slice":
        key = inner[key].inputs[1]
    return size_of(inner[key].type)


def _read(inner: Computation, key: str) -> int:
    """Bytes of one input that a fusion looks at."""
    total, whole = 0, size_of(inner[key].type)
    for user, line in inner.items():
        if key not in line.inputs:
            continue
        if line.operation in PARTS:
            total += size_of(line.type)
        elif line.operation == "bitcast":
            total += _read(inner, user)
        elif line.operation != "dynamic-update-slice" or line.inputs[0] != key:
            return whole
    return min(total, whole)


def size_of(shape: str) -> int:
    """Bytes of a type, which may be a tuple."""
    arrays = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(
        WIDTHS[dtype] * math.prod(int(side) for side in sides.split(",") if side)
        for dtype, sides in arrays
    )


if __name__ == "__main__":
    main()
