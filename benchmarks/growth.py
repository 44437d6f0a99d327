"""How the cost grows with image size, objects, samples, vocabulary and devices, beside the law that
it should follow.

    python benchmarks/growth.py
    python benchmarks/growth.py --axes size devices --json=growth.json

The law of a row is its floor (see decode.py and encode.py): the FLOPs over the matrix rate, or the
bytes over the bandwidth, of the same run. Time and law also stand relative to the first row of the
axis, so that a cost that grows faster than its law shows. ViT-B, float32, one image. Devices are
made-up ones of this CPU: for them the bytes that each sends in a training step are read off the
compiled program. Needs jax, flax, optax and NumPy only.
"""

import functools
import types
from collections.abc import Iterator, Sequence
from typing import Any

import decode
import encode
import jax
import measure
import numpy as np

from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.tasks.detection import Detection
from pix2seq_jax.training import compiled, flops, optim, sharding
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step
from pix2seq_jax.vocab import Vocab

SIZES = (320, 448, 640, 896, 1344)  # pixels
OBJECTS = (10, 30, 100, 300)  # of one sequence, five tokens each (Pix2Seq, section 2.1)
SAMPLES, SAMPLED_OBJECTS, SAMPLED_TOKENS = (1, 2, 4, 8, 16), 10, 48
VOCABULARIES, VOCABULARY, TOKENS = (3_000, 35_000), 3_000, 96
DEVICES = (1, 2, 4, 8)
AXES = ("size", "objects", "samples", "vocabulary", "devices")


def main() -> None:
    """Prints a table for each axis."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=AXES)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    rate, bandwidth = measure.matrix_rate(), measure.bandwidth()
    tables = {
        "size": lambda: encoding(rate, options.runs),
        "objects": lambda: decoding("objects", rate, bandwidth, options.runs),
        "samples": lambda: decoding("samples", rate, bandwidth, options.runs),
        "vocabulary": lambda: decoding("vocabulary", rate, bandwidth, options.runs),
        "devices": lambda: list(sending()),
    }
    rows = [row for axis in options.axes for row in relative(tables[axis]())]
    facts = {"GFLOP/s": rate / 1e9, "GB/s": bandwidth / 1e9}
    measure.report(rows, options.json, **facts)


def relative(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with what was measured, and its law, over those of the first row that has any."""
    first = next(row for row in rows if row["law"])
    return [
        row | {"grows": row["measured"] / first["measured"], "law grows": row["law"] / first["law"]}
        for row in rows
    ]


def encoding(rate: float, runs: int) -> list[dict[str, Any]]:
    """Seconds of encoding one image."""
    rows = []
    for size in SIZES:
        model = Pix2Seq((size, size), VOCABULARY, VitBackbone(16))
        function, arguments = encode.encode(model)
        program, _ = measure.compiled(function, *arguments)
        timing = measure.timed(functools.partial(program, *arguments), runs=runs)
        law = flops.of_images(model) / rate
        rows.append(row_of("size", size, timing, law))
    return rows


def decoding(axis: str, rate: float, bandwidth: float, runs: int) -> list[dict[str, Any]]:
    """Seconds of decoding, of all tokens together."""
    shapes = {  # value of the axis: (objects of an image, samples, vocabulary, tokens)
        "objects": {n: (1, 1, VOCABULARY, 5 * n) for n in OBJECTS},
        "samples": {n: (SAMPLED_OBJECTS, n, VOCABULARY, SAMPLED_TOKENS) for n in SAMPLES},
        "vocabulary": {n: (1, 1, n, TOKENS) for n in VOCABULARIES},
    }
    rows = []
    for value, (objects, samples, vocabulary, tokens) in shapes[axis].items():
        model = Pix2Seq((640, 640), vocabulary, VitBackbone(16), max_seq_len=tokens + 1)
        arguments = types.SimpleNamespace(lengths=[tokens], sampler="greedy")
        works, _ = decode._decoders(arguments, model, (1, objects, samples))
        timing = measure.timed(works[tokens], runs=runs)
        sequences = objects * samples
        read = decode._bytes(model, 1, sequences, tokens / 2) / bandwidth
        computed = 2 * decode._products(model, sequences, tokens / 2) / rate
        rows.append(row_of(axis, value, timing, tokens * max(read, computed)))
    return rows


def row_of(axis: str, value: int, timing: measure.Timing, law: float) -> dict[str, Any]:
    """A row of seconds."""
    times = {"measured": timing.median, "CPU s": timing.cpu}
    row = {"axis": axis, "value": value, "unit": "s"} | times
    return row | {"law": law, "times the law": timing.median / law}


def sending() -> Iterator[dict[str, Any]]:
    """Megabytes that a device sends in a training step of a small model on the data axis; the law
    is one all-reduce of the gradients, 2 (n - 1) / n of their bytes."""
    words = Vocab(size=400, num_bins=100, num_classes=91, coord_shift=200)
    task = Detection(words, max_instances=4)
    fields = {"enc_dim": 64, "enc_mlp": 128, "enc_heads": 4, "dec_dim": 64, "dec_mlp": 128}
    model = Pix2Seq((64, 64), 400, VitBackbone(16), dec_heads=4, max_seq_len=32, **fields)
    rate = optim.schedule("none", base=1e-4, batch_size=8, total=10)
    tx = optim.make("adamw", rate)
    for devices in DEVICES:
        mesh = sharding.make_mesh(devices=jax.devices()[:devices])
        step = train_step.make_step(model, {"detection": task}, tx, rate)
        with jax.set_mesh(mesh):
            state = train_state.abstract_state(model, tx, mesh=mesh)
            update = train_step.jit_step(step, state, mesh=mesh)
            program = update.lower(state, {"detection": batch()}, jax.random.key(0)).compile()
        sent = sum(compiled.sent_by_kind(program.as_text()).values()) / 1e6
        law = 2 * (devices - 1) / devices * measure.tree_bytes(state.params) / 1e6
        row = {"axis": "devices", "value": devices, "unit": "MB sent", "measured": sent}
        yield row | {"law": law, "times the law": sent / max(law, 1e-9)}


def batch() -> dict[str, np.ndarray]:
    """Eight images without objects."""
    shapes = {"boxes": (8, 4, 4), "image": (8, 64, 64, 3)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return arrays | {"labels": np.zeros((8, 4), np.int32)}


if __name__ == "__main__":
    main()
