"""What a run will need on machines that are not here: its training step is compiled for as many
made-up devices, and read.

The data are not opened: what they decide is assumed, see ASSUMED.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pix2seq_jax.config import ranges
from pix2seq_jax.config.fill import fill
from pix2seq_jax.data.source import FIELDS, layout
from pix2seq_jax.data.text import PIECES
from pix2seq_jax.experiment import feeds, resolve
from pix2seq_jax.tasks import Task
from pix2seq_jax.training import compiled, flops, sharding
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step

GIB = 2**30
# What the data decide and a config leaves open: those of COCO.
ASSUMED = {"classes": 80, "keypoints": 17}
REMATS = (  # words, model.remat, model.remat_policy
    ("nothing", False, "all"),
    ("what is elementwise", True, "elementwise"),
    ("all of a layer", True, "all"),
)
READ = ("image", "boxes", "labels", "polygons", "keypoints", "captions")  # of FIELDS, by tasks
# Axes of data.source.FIELDS by the field of a task that says how long they are.
LENGTHS = {"max_points": "M", "num_keypoints": "J", "captions_per_image": "C", "max_tokens": "T"}
# An update of adamw reads a parameter, its gradient and two moments, and writes all but the
# gradient; the state holds three of them.
UPDATE_PASSES, STATE_COPIES = 7, 3


@dataclass(frozen=True)
class Chip:
    """One device, as its maker describes it.

    Attributes:
        name: of the device, for the table.
        flops: per second, of dense bfloat16 products.
        memory: bytes.
        bandwidth: bytes per second of that memory.
        link: bytes per second that it sends to the others of its island.
        island: devices that such links join: a pod of TPUs, a node of GPUs.
        network: bytes per second that a device sends beyond its island.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    island: int = 2**30
    network: float = math.inf

    def exchange(self, sent: float, devices: int) -> float:
        """Seconds in which each of some devices sends that many bytes of collectives over all of
        them, by rings: inside the islands, then each device its part between them."""
        if devices <= self.island:
            return sent / self.link
        islands, share = devices / self.island, (devices - 1) / devices
        inside = (self.island - 1) / self.island / share
        between = (islands - 1) / islands / self.island / share
        return sent * (inside / self.link + between / self.network)


# docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e}: links in bits per second of all ports, both
# directions, so a half is sent; pods; the data center network of a pod, which is not given for v5p.
# NVIDIA's data sheets of the SXM modules (NVLink 900 GB/s in both directions) and of DGX H100 and
# H200: eight modules, one adapter of 400 Gb/s for each.
CHIPS = {
    "v5e": Chip("TPU v5e", 197e12, 16e9, 819e9, 1600e9 / 16, 256, 6.4e12 / 8 / 256),
    "v5p": Chip("TPU v5p", 459e12, 95e9, 2765e9, 4800e9 / 16, 8960),
    "v6e": Chip("TPU v6e", 918e12, 32e9, 1640e9, 3200e9 / 16, 256, 25.6e12 / 8 / 256),
    "h100": Chip("NVIDIA H100 SXM", 989e12, 80e9, 3350e9, 450e9, 8, 400e9 / 8),
    "h200": Chip("NVIDIA H200 SXM", 989e12, 141e9, 4800e9, 450e9, 8, 400e9 / 8),
}


@dataclass(frozen=True)
class Plan:
    """What the compiled training step needs on each device.

    Attributes:
        parameters: numbers of the whole model.
        state: bytes of parameters, moments and statistics.
        batches: bytes of one batch of each task.
        activations: bytes that the step needs besides, gradients included.
        flops: of the step, on each device, as if every token weighed in the loss.
        sent: bytes that each device sends in a step, by kind of collective.
        images: of a step, on all devices.
        devices: of the mesh.
    """

    parameters: int
    state: int
    batches: int
    activations: int
    flops: float
    sent: Mapping[str, float]
    images: int
    devices: int

    @property
    def memory(self) -> int:
        """Bytes of a device in all."""
        return self.state + self.batches + self.activations

    def seconds(self, chip: Chip) -> dict[str, float]:
        """The least time of a step, by what alone would bound it; every collective counts as one
        over all devices."""
        return {
            "arithmetic": self.flops / chip.flops,
            "optimizer": UPDATE_PASSES / STATE_COPIES * self.state / chip.bandwidth,
            "collectives": chip.exchange(sum(self.sent.values()), self.devices),
        }


def assumed(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of a config as if data with ASSUMED had been opened."""
    ranges.check(config)
    config = fill(config)
    with config.unlocked():
        vocab = config.vocab
        vocab.num_classes = vocab.num_classes or ASSUMED["classes"]
        for section in config.tasks.values():
            if "num_keypoints" in section:
                section.num_keypoints = section.num_keypoints or ASSUMED["keypoints"]
            if "captions_per_image" in section:
                vocab.text_size = vocab.text_size or config.data.text_pieces or PIECES
        vocab.update(resolve.laid_out(vocab))
        config.model.vocab_size = vocab.size
        longest = max(task.max_len for task in resolve.make_tasks(config).values())
        config.model.max_seq_len = max(config.model.max_seq_len, longest)
    return config


def assumptions(config: ml_collections.ConfigDict) -> str:
    """What `assumed` fills in, as flags that would say so."""
    sizes = {"vocab.num_classes": (config.vocab.num_classes, ASSUMED["classes"])}
    for name, section in config.tasks.items():
        if "num_keypoints" in section:
            own = section.num_keypoints, ASSUMED["keypoints"]
            sizes[f"tasks.{name}.num_keypoints"] = own
    flags = [f"--config.{field}={size}" for field, (own, size) in sizes.items() if not own]
    return f"no data are opened; assumed: {' '.join(flags) or 'nothing'}"


def this_cpu(devices: int) -> Chip:
    """One of several made-up devices that share this machine; its rates are measured."""
    side, numbers = 2048, np.ones(2**25)
    a = jnp.ones((side, side))
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    product_seconds = min(_seconds(lambda: product(a, a).block_until_ready()) for _ in range(5))
    read_seconds = min(_seconds(numbers.max) for _ in range(5))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    rates = 2 * side**3 / product_seconds, numbers.nbytes / read_seconds
    shares = [value / devices for value in (rates[0], memory, rates[1])]
    return Chip("this CPU, float32", *shares, link=shares[2])


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plan(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> Plan:
    """Compiles the training step of a config, as `assumed` gives it, for a mesh.

    Raises:
        ValueError: the mesh does not divide a batch, or a size of the model.
    """
    model, tasks = resolve.make_model(config), resolve.make_tasks(config)
    trained, images = feeds.trained_tasks(config, tasks), feeds.images_per_step(config)
    sizes = feeds.batch_sizes(config)
    for name, size in sizes.items():
        sharding.check_batch(mesh, size, accum=config.train.accumulate, name=name)
    train_state.check_divides(model, mesh=mesh, allow_whole=config.mesh.allow_whole)
    tx, step = resolve.make_update(config, model, trained)
    with jax.set_mesh(mesh):
        options = resolve.state_options(config)
        state = train_state.abstract_state(model, tx, mesh=mesh, **options)
        batches = {name: _batch(config, trained[name], size, mesh) for name, size in sizes.items()}
        jitted = train_step.jit_step(step, state, mesh=mesh)
        lowered = jitted.lower(state, batches, jax.random.key(0))
    program = lowered.compile()
    tokens = sum(feeds.tokens_per_step(images, trained).values())
    work = flops.of_step(model, feeds.rows_of(images, trained), images)
    work += flops.of_logits(model, tokens)
    return Plan(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        state=bytes_on_a_device(state),
        batches=bytes_on_a_device(batches),
        activations=program.memory_analysis().temp_size_in_bytes,
        flops=work / mesh.size,
        sent=compiled.sent_by_kind(program.as_text()),
        images=round(sum(images.values())),
        devices=mesh.size,
    )


def fitting(
    config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, chip: Chip
) -> Iterator[str]:
    """For each way of recomputing activations, a line with the images of each task that fit on a
    device; from the memory of one and of three, by a straight line."""
    parts = math.prod(mesh.shape.get(axis, 1) for axis in sharding.RULES["batch"])
    for words, remat, policy in REMATS:
        few, more = (
            plan(_changed(config, remat, policy, parts * count), mesh).memory for count in (1, 3)
        )
        each = max((more - few) / 2, 1)
        images = max(math.floor(1 + (chip.memory - few) / each), 0)
        yield (
            f"  recomputing {words:22} {images:4} images of each task on a device "
            f"({(few - each) / GIB:.2f} GiB, and {each / GIB:.3f} GiB an image)"
        )


def _changed(
    config: ml_collections.ConfigDict, remat: bool, policy: str, batch: int
) -> ml_collections.ConfigDict:
    """A copy with another way of recomputing and other batches, whole in one part."""
    config = ml_collections.ConfigDict(config.to_dict())
    config.model.update({"remat": remat, "remat_policy": policy})
    config.train.update({"batch_size": batch, "accumulate": 1})
    for section in config.tasks.values():
        section.batch_size = 0
    return config


def _batch(
    config: ml_collections.ConfigDict, task: Task, size: int, mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch with all fields that a source can give, whatever the task reads of them."""
    axes = dict.fromkeys("MJCT", 1) | {"N": task.max_instances or 1}
    axes |= dict(zip("HW", config.model.image_size, strict=True))
    for section in (config.tasks[name] for name in task.names):
        axes |= {axis: section[field] for field, axis in LENGTHS.items() if field in section}
    rows = sharding.batch_sharding(mesh)

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=rows)

    batch = {}
    for name, (dtype, shape) in layout(READ, **axes).items():
        sides = zip(FIELDS[name].axes, shape, strict=True)
        batch[name] = array(dtype, *(axes[axis] if side is None else side for axis, side in sides))
    return batch | {
        "unpadded_size": array(jnp.int32, 2),
        "pad_value": array(jnp.float32),
        "valid": array(jnp.bool_),
        "task": array(jnp.int32),
    }


def bytes_on_a_device(tree: Any) -> int:
    """Of the part of abstract arrays that one device holds."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape)
        total += jnp.dtype(leaf.dtype).itemsize * math.prod(shape)
    return total
