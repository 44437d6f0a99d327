"""The least memory that a run needs, from its config alone: absurd sizes are refused with a number
before compiling."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import jax
import ml_collections

from pix2seq_jax import vocab
from pix2seq_jax.models import backbones
from pix2seq_jax.tasks import TASKS
from pix2seq_jax.training import losses, sharding

FLOAT = 4  # bytes of a parameter, of a logit, of a channel of a pixel
# that the optimizer keeps of each parameter
MOMENTS = {"adamw": 2, "lamb": 2, "momentum": 1, "muon": 2}
GIB = 2**30
EXHAUSTED = "RESOURCE_EXHAUSTED"  # in the message of XLA's error
# Any vocabulary will do to ask the tasks for their lengths.
ANY_VOCAB = vocab.Vocab(
    size=400, num_bins=2, num_classes=1, coord_shift=200, text_shift=300, text_size=3
)


class Part(NamedTuple):
    """Something that takes memory: what it is, bytes on each device, and the fields that decide how
    much."""

    what: str
    size: int
    fields: str


def check(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, *, training: bool) -> None:
    """Refuses a run that cannot fit into the memory of this machine.

    Args:
        config: whose values are in their ranges.
        mesh: of the run.
        training: whether gradients and the optimizer are needed, or parameters alone.

    Raises:
        ValueError: says how much is needed, how much there is, and which fields to lower.
    """
    parts, limit = needed(config, mesh, training=training), available()
    total, largest = sum(part.size for part in parts), max(parts, key=lambda part: part.size)
    if total > limit:
        raise ValueError(
            f"this run needs at least {total / GIB:,.1f} GiB of memory on each device and there "
            f"are {limit / GIB:,.1f} GiB; most of it is for {largest.what} "
            f"({largest.size / GIB:,.1f} GiB): lower {largest.fields}"
        )


@contextlib.contextmanager
def explained(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> Iterator[None]:
    """Where the device runs out of memory inside, compiling or computing, a ValueError says what
    the run is known to need and which settings make it smaller."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if EXHAUSTED not in str(error):
            raise
        parts = needed(config, mesh, training=True)
        total, largest = sum(part.size for part in parts), max(parts, key=lambda part: part.size)
        first = str(error).splitlines()[0]
        raise ValueError(
            f"out of memory on a device of {available() / GIB:,.1f} GiB ({first}); what can be "
            f"counted beforehand is {total / GIB:,.1f} GiB, most of it ({largest.size / GIB:,.1f} "
            f"GiB) for {largest.what}. Three settings that help: {', '.join(_smaller(config))}"
        ) from error


def _smaller(config: ml_collections.ConfigDict) -> list[str]:
    """Three flags of a run that takes less memory; the first ones change no result."""
    flags = [] if config.model.remat else ["--config.model.remat=True"]
    flags.append(f"--config.train.accumulate={2 * config.train.accumulate}")
    if config.model.dtype == "float32":
        flags.append("--config.model.dtype=bfloat16")
    half = max(config.train.batch_size // 2, 1)
    flags += [f"--config.train.batch_size={half}", "a smaller size=PIXELS of the config's variant"]
    return flags[:3]


def available() -> int:
    """Bytes that each device has, as it says; where devices are cores, an equal share of the
    machine's memory."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()


def needed(
    config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, *, training: bool
) -> list[Part]:
    """What a run holds on each device at the same time, from below.

    Counted are the large matrices of the model (with gradients and the optimizer's moments in
    training), and of one step of one task its images, the inputs of the encoder's layers, and, not
    where all tasks share a batch, those of the decoder's layers and a chunk of logits with their
    gradient; of evaluation, the keys and values of the samples of one image. Not counted are
    biases, norms, most of a ResNet, activations within layers, and what XLA needs besides; a run
    that passes may still run out of memory.
    """
    # Matrices are cut along these axes, at best.
    cut = math.prod(size for axis, size in mesh.shape.items() if axis != "data")
    copies = 1
    if training:
        copies += bool(config.train.ema)
        if not config.optim.frozen:  # how much is frozen is not known here
            copies += 1 + MOMENTS[config.optim.name]
    parts = [part._replace(size=part.size * copies * FLOAT // cut) for part in _matrices(config)]
    parts += _samples(config)
    return parts + _step(config, mesh) if training else parts


def _matrices(config: ml_collections.ConfigDict) -> list[Part]:
    """Numbers of parameters."""
    model, tokens = config.model, _tokens(config)
    longest = max([model.max_seq_len, *(task.max_len for task in _tasks(config).values())])
    tables = (1 if model.shared_embedding else 2) * tokens * model.dec_dim
    decoder = model.dec_layers * model.dec_dim * (8 * model.dec_dim + 2 * model.dec_mlp)
    encoder = model.enc_layers * model.enc_dim * (4 * model.enc_dim + 2 * model.enc_mlp)
    stem, field = backbones.from_config(model.backbone).largest_kernel(model.enc_dim)
    return [
        Part(
            f"the tables of {tokens:,} tokens of width {model.dec_dim}",
            tables,
            f"{_largest_range(config)}, or config.model.dec_dim",
        ),
        Part(
            f"{longest:,} positions of sequences",
            longest * model.dec_dim if model.dec_pos_encoding == "learned" else longest,
            _longest_field(config),
        ),
        Part(
            "the decoder's layers",
            decoder,
            "config.model.dec_layers, config.model.dec_dim or config.model.dec_mlp",
        ),
        Part(
            "the encoder's layers",
            encoder,
            "config.model.enc_layers, config.model.enc_dim or config.model.enc_mlp",
        ),
        Part("the stem of the encoder", stem, f"config.model.backbone.{field}"),
    ]


def _step(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> list[Part]:
    """Bytes of one step of the task that needs most."""
    parts = math.prod(mesh.shape.get(axis, 1) for axis in sharding.RULES["batch"])
    parts *= config.train.accumulate
    steps = [_task_step(config, mesh, name, parts) for name in config.tasks]
    return max(steps, key=lambda step: sum(part.size for part in step), default=[])


def _task_step(
    config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, name: str, parts: int
) -> list[Part]:
    """Bytes of one step of a task whose batch is cut into `parts`."""
    model = config.model
    batch, field = config.train.batch_size, "train.batch_size"
    if config.train.mixing == "batch" and config.tasks[name].batch_size:
        batch, field = config.tasks[name].batch_size, f"tasks.{name}.batch_size"
    batch_field, rows = f"config.{field}={batch}", max(batch // parts, 1)
    height, width = model.image_size
    patches = math.prod(backbones.from_config(model.backbone).grid(model.image_size))
    layers = rows * patches * model.enc_dim * model.enc_layers
    float_bytes = 2 if model.dtype == "bfloat16" else FLOAT
    # A batch of all tasks has one sequence per image, of one of them.
    decoder = []
    if config.train.mixing == "batch":
        decoder = _sequences(config, mesh, name, rows, batch_field)
    return [
        Part(
            f"{rows:,} images of {height:,} x {width:,} pixels",
            rows * height * width * 3 * FLOAT,
            f"config.model.image_size or {batch_field}",
        ),
        Part(
            f"{patches:,} image tokens in each layer of the encoder",
            layers * float_bytes,
            f"config.model.image_size or {batch_field}, or make config.model.backbone coarser",
        ),
        *decoder,
    ]


def _sequences(
    config: ml_collections.ConfigDict,
    mesh: jax.sharding.Mesh,
    name: str,
    rows: int,
    batch_field: str,
) -> list[Part]:
    """Bytes of the sequences of a task for `rows` images."""
    model, task, tokens = config.model, _tasks(config)[name], _tokens(config)
    positions = rows * task.per_image * task.max_len
    float_bytes = 2 if model.dtype == "bfloat16" else FLOAT
    # Logits and their gradient are made a chunk of positions at a time.
    logits = 2 * max(min(positions * tokens * FLOAT, losses.chunk_limit()), tokens * FLOAT)
    return [
        Part(
            f"the sequences of {name} ({rows:,} images x {task.per_image:,} x {task.max_len:,} "
            "tokens) in each layer of the decoder",
            positions * model.dec_dim * model.dec_layers * float_bytes,
            f"{batch_field} or {_largest_field(task)}",
        ),
        Part(
            "a chunk of logits",
            logits // mesh.shape.get("model", 1),
            _largest_range(config),
        ),
    ]


def _samples(config: ml_collections.ConfigDict) -> list[Part]:
    """Bytes of keys and values while one image is decoded."""
    model, layers = config.model, config.model.dec_layers
    # A CPU holds those of a model in bfloat16 in float32, and the last block is never rounded.
    number = {"int8": 1, "bfloat16": 2}.get(model.cache_dtype or model.dtype, FLOAT)
    per_token = 2 * number * layers * model.dec_dim
    return [
        Part(
            f"{config.tasks[name].num_samples:,} samples of {name}",
            config.tasks[name].num_samples * task.max_len * per_token,
            f"config.tasks.{name}.num_samples, {_largest_field(task)} or "
            f"config.model.dec_layers={layers}",
        )
        for name, task in _tasks(config).items()
    ]


def _tasks(config: ml_collections.ConfigDict) -> dict[str, object]:
    """The tasks, to be asked for their lengths; a number that the data are to decide is 1."""
    made = {}
    for name, section in config.tasks.items():
        fields = [field.name for field in dataclasses.fields(TASKS[name]) if field.name in section]
        values = {field: section[field] for field in fields}
        values |= {field: 1 for field, value in values.items() if type(value) is int and value == 0}
        made[name] = TASKS[name](vocab=ANY_VOCAB, **values)
    return made


def _tokens(config: ml_collections.ConfigDict) -> int:
    """Words of the vocabulary, as far as the config decides."""
    sizes = config.vocab
    return max(
        sizes.size,
        sizes.coord_shift + sizes.num_bins,
        vocab.CLASS_SHIFT + 1 + sizes.num_classes,
        sizes.text_shift + sizes.text_size if sizes.text_size else 0,
    )


def _largest_range(config: ml_collections.ConfigDict) -> str:
    """The field that makes the vocabulary large, with its value."""
    name = max(config.vocab, key=config.vocab.get)
    return f"config.vocab.{name}={config.vocab[name]}"


def _largest_field(task) -> str:
    """The field that makes a task's sequences many or long, with its value."""
    values = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    numbers = {name: value for name, value in values.items() if type(value) is int}
    name = max(numbers, key=numbers.get)
    return f"config.tasks.{task.name}.{name}={numbers[name]}"


def _longest_field(config: ml_collections.ConfigDict) -> str:
    """The field that makes the longest sequence, with its value."""
    task = max(_tasks(config).values(), key=lambda task: task.max_len)
    length = config.model.max_seq_len
    return f"config.model.max_seq_len={length}" if length > task.max_len else _largest_field(task)
