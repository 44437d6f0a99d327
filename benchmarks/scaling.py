"""Writes docs/scaling.md: what bounds a training step on 1 to 4096 devices, on paper.

    python benchmarks/scaling.py > docs/scaling.md

Parameters come from the model's shapes, FLOPs from training.flops, rates from the makers
(experiment.plan.CHIPS), the input rate from benchmarks/README.md. Nothing is run or compiled.
"""

import importlib.util
import itertools
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from pix2seq_jax.config import recipes
from pix2seq_jax.experiment import feeds, plan, resolve
from pix2seq_jax.training import flops, trees

# What is looked at: a name, a config and its variant.
MODELS = (
    *(
        (f"{arch} at {size}", "detection", f"arch={arch},size={size}")
        for arch in ("vit-b", "vit-l")
        for size in (640, 1333)
    ),
    ("recipe scratch, resnet50 at 1333", "detection", "recipe=scratch"),
    ("recipe pretrain, vit-b at 640", "detection", "recipe=pretrain"),
    ("recipe multitask, vit-b at 640", "multitask", ""),
)
DEVICES = (1, 8, 64, 256, 1024, 4096)
WIDTH = 120  # of the page, in letters
GOOD = 0.7  # share of a step that is arithmetic, from which on devices are well used
MFU = 0.4  # share of the peak that the arithmetic reaches
CHIPS = ("v5e", "v6e", "h100")
HOST = 8  # devices of one
# CPU seconds of an image of detection at 640 pixels, training (benchmarks/README.md).
INPUT_SECONDS, INPUT_SIDE = 5.17e-3, 640


@dataclass(frozen=True)
class Work:
    """What one image and one step of a model cost.

    Attributes:
        name: for the tables.
        side: of an image in pixels.
        parameters: numbers.
        flops: of an image, on average over the tasks.
        images: of a step, of all tasks.
        most: devices on which each task has an image.
    """

    name: str
    side: int
    parameters: int
    flops: float
    images: int
    most: int

    @property
    def gradients(self) -> int:
        """Bytes, float32."""
        return 4 * self.parameters


def main() -> None:
    """Prints the page."""
    works = [work(*model) for model in MODELS]
    blocks = []
    for part in (_head(works), _weak(works), _strong(works), _input(works), _end()):
        blocks += part
    print("\n\n".join(blocks))


def work(name: str, config: str, variant: str) -> Work:
    """Of a shipped config."""
    file = Path(__file__).parents[1] / "configs" / f"{config}.py"
    spec = importlib.util.spec_from_file_location("config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = plan.assumed(module.get_config(variant))
    if config.train.by_data:  # what the recipe of these models has
        config.train.batch_size = recipes.RECIPES["finetune"]["batch_size"]
    model, tasks = resolve.make_model(config), resolve.make_tasks(config)
    image = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image, tokens)
    images = feeds.batch_sizes(config)
    step = flops.of_step(model, tasks, images)
    step += flops.of_logits(model, sum(feeds.tokens_per_step(images, tasks).values()))
    total = sum(images.values())
    side = max(model.image_size)
    count = trees.count(variables["params"])
    return Work(name, side, count, step / total, total, min(images.values()))


def sent(size: float, devices: int) -> float:
    """Bytes that each of some devices sends when all add up arrays of that many bytes, by rings."""
    return 2 * (devices - 1) / devices * size


def step(job: Work, images: float, devices: int, name: str) -> tuple[float, float, float]:
    """Seconds of arithmetic, optimizer and exchange in a step with some images on each device."""
    chip = plan.CHIPS[name]
    arithmetic = images * job.flops / (MFU * chip.flops)
    optimizer = plan.UPDATE_PASSES * job.gradients / chip.bandwidth
    return arithmetic, optimizer, chip.exchange(sent(job.gradients, devices), devices)


def _head(works: list[Work]) -> Iterator[str]:
    networks = ", ".join(f"{name} {plan.CHIPS[name].network / 1e9:.1f} GB/s" for name in CHIPS)
    yield "# How far training scales, on paper"
    yield (
        "`python benchmarks/scaling.py > docs/scaling.md` writes this page. None of it was run on "
        "these devices."
    )
    yield "Assumed:"
    yield from _list(
        "Detection as shipped (100 objects, the batch of the recipe finetune), or the recipe that "
        "is named; products in bfloat16, parameters and gradients in "
        "float32, `mesh.data` alone: gradients are added once a step. The program of XLA sends the "
        "same bytes (tests/experiment/test_plan.py compares those of a small model).",
        f"Arithmetic reaches {MFU} of the published peak; links and memory what is published, "
        "without latency.",
        "Nothing overlaps, so a step is the sum of its parts. Where XLA overlaps them, the largest "
        "part is the bound.",
        "Beyond an island (256 TPUs, 8 GPUs) each device exchanges its part of the sums over the "
        f"network, with {networks}.",
        "Memory is not looked at: four images of ViT-L, or any at 1333 pixels, need `model.remat`, "
        "and on the smaller chips `mesh.fsdp` besides; `python -m pix2seq_jax.plan --fit` tells.",
        "`mesh.fsdp` sends twice that: parameters are gathered in the forward and in the backward "
        "pass besides.",
    )
    yield "| model | parameters | gradients | a step of one image |\n|---|---|---|---|" + "".join(
        f"\n| {job.name} | {job.parameters / 1e6:.0f} M "
        f"| {job.gradients / 2**30:.2f} GiB | {job.flops / 1e12:.2f} TFLOP |"
        for job in works
    )


def _list(*points: str) -> Iterator[str]:
    yield "\n".join(textwrap.fill(f"- {point}", WIDTH, subsequent_indent="  ") for point in points)


def _weak(works: list[Work]) -> Iterator[str]:
    yield "## Step time, four images on each device"
    yield "Milliseconds, and in brackets the share of the step that is arithmetic."
    rows = [
        f"| model | chip | {' | '.join(map(str, DEVICES))} |",
        "|---" * (2 + len(DEVICES)) + "|",
    ]
    for job, name in itertools.product(works, CHIPS):
        steps = [step(job, 4, devices, name) for devices in DEVICES]
        cells = [f"{1e3 * sum(parts):.0f} ({parts[0] / sum(parts):.2f})" for parts in steps]
        rows.append(f"| {job.name} | {name} | {' | '.join(cells)} |")
    yield "\n".join(rows)


def _strong(works: list[Work]) -> Iterator[str]:
    yield "## Where the recipes stop"
    yield textwrap.fill(
        "With a fixed batch more devices mean fewer images on each, and one image of each task is "
        "the end. The columns say up to how many devices (powers of two) at least "
        f"{GOOD} of a step is arithmetic, the rate there, and the rate at the end.",
        WIDTH,
    )
    rows = ["| model | images a step | chip | devices | images on each | images/s | at the end |"]
    rows.append("|---|---|---|---|---|---|---|")
    for job, name in itertools.product(works, CHIPS):
        counts = [2**k for k in range(job.most.bit_length())]
        times = {n: step(job, job.images / n, n, name) for n in counts}
        best = max(n for n, parts in times.items() if parts[0] >= GOOD * sum(parts))
        rates = {n: job.images / sum(parts) for n, parts in times.items()}
        rows.append(
            f"| {job.name} | {job.images} | {name} | {best} | {job.images // best} "
            f"| {rates[best]:.0f} | {rates[counts[-1]]:.0f} images/s on {counts[-1]} devices |"
        )
    yield "\n".join(rows)


def _input(works: list[Work]) -> Iterator[str]:
    yield "## Input of a host"
    yield textwrap.fill(
        f"One core prepares {1 / INPUT_SECONDS:.0f} images/s of 640 pixels (measured, "
        "benchmarks/README.md), in detection; segmentation takes 0.9 of that time, the other tasks "
        "were not measured. At 1333 pixels it is assumed to grow with the pixels. What a host of "
        "eight devices needs whose steps are arithmetic alone, so never more than this:",
        WIDTH,
    )
    rows = ["| model | chip | images/s of a host | cores needed |", "|---|---|---|---|"]
    for job, name in itertools.product(works, CHIPS):
        rate = HOST / step(job, 1, 1, name)[0]
        cores = rate * INPUT_SECONDS * (job.side / INPUT_SIDE) ** 2
        rows.append(f"| {job.name} | {name} | {rate:.0f} | {cores:.1f} |")
    yield "\n".join(rows)


def _end() -> Iterator[str]:
    yield "## What to change"
    yield from _list(
        "The exchange is the bound: more images on a device, which is a larger batch with a "
        "learning rate that suits it, or fewer devices.",
        "The state does not fit: `mesh.fsdp` within an island and `mesh.data` between islands; it "
        "sends twice the bytes.",
        "One image on each device, and still too slow: `mesh.model` cuts the work of an image. Its "
        "exchanges depend on the layers and are not modelled here; `python -m pix2seq_jax.plan "
        "--config=… --mesh=data=64,model=2` compiles them.",
        "The input is the bound: more cores for each device (`data.worker_processes`), or smaller "
        "files.",
    )


if __name__ == "__main__":
    main()
