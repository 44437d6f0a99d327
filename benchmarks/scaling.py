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

from pix2seq_jax.experiment import plan, resolve
from pix2seq_jax.training import flops, trees

MODELS = tuple((arch, size) for arch in ("vit-b", "vit-l") for size in (640, 1333))
DEVICES = (1, 8, 64, 256, 1024, 4096)
RECIPE_BATCH = 128  # images of a step, of the recipe finetune
WIDTH = 120  # of the page, in letters
GOOD = 0.7  # share of a step that is arithmetic, from which on devices are well used
MFU = 0.4  # share of the peak that the arithmetic reaches
# CPU seconds of an image of detection at 640 pixels, training (benchmarks/README.md).
INPUT_SECONDS, INPUT_SIDE = 6.56e-3, 640


@dataclass(frozen=True)
class Pod:
    """How devices are joined.

    Attributes:
        island: devices that the fast links join.
        network: bytes per second that a device sends beyond its island.
        host: devices of a host.
    """

    island: int
    network: float
    host: int


# docs.cloud.google.com/tpu/docs/{v5e,v6e}: pods of 256, hosts of 8, data center network of a pod;
# NVIDIA's data sheet of DGX H100: eight modules, one adapter of 400 Gb/s for each.
PODS = {
    "v5e": Pod(256, 6.4e12 / 8 / 256, 8),
    "v6e": Pod(256, 25.6e12 / 8 / 256, 8),
    "h100": Pod(8, 400e9 / 8, 8),
}


@dataclass(frozen=True)
class Work:
    """What one image and one step of a model cost."""

    name: str
    side: int
    parameters: int
    flops: float

    @property
    def gradients(self) -> int:
        """Bytes, float32."""
        return 4 * self.parameters


def main() -> None:
    """Prints the page."""
    works = [work(arch, size) for arch, size in MODELS]
    blocks = []
    for part in (_head(works), _weak(works), _strong(works), _input(works), _end()):
        blocks += part
    print("\n\n".join(blocks))


def work(arch: str, side: int) -> Work:
    """Of the shipped detection config."""
    file = Path(__file__).parents[1] / "configs" / "detection.py"
    spec = importlib.util.spec_from_file_location("config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = plan.assumed(module.get_config(f"arch={arch},size={side}"))
    model, tasks = resolve.make_model(config), resolve.make_tasks(config)
    image = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image, tokens)
    per_image = flops.of_step(model, tasks, {"detection": 1.0})
    per_image += flops.of_logits(model, tasks["detection"].max_len - 1)
    return Work(arch, side, trees.count(variables["params"]), per_image)


def sent(size: float, devices: int) -> float:
    """Bytes that each of some devices sends when all add up arrays of that many bytes, by rings."""
    return 2 * (devices - 1) / devices * size


def exchange(size: float, devices: int, chip: plan.Chip, pod: Pod) -> float:
    """Seconds of that: inside the islands, then each device its part between them."""
    inside = min(devices, pod.island)
    islands = devices // inside
    return sent(size, inside) / chip.link + sent(size / inside, islands) / pod.network


def step(job: Work, images: float, devices: int, name: str) -> tuple[float, float, float]:
    """Seconds of arithmetic, optimizer and exchange in a step with some images on each device."""
    chip, pod = plan.CHIPS[name], PODS[name]
    arithmetic = images * job.flops / (MFU * chip.flops)
    optimizer = plan.UPDATE_PASSES * job.gradients / chip.bandwidth
    return arithmetic, optimizer, exchange(job.gradients, devices, chip, pod)


def _head(works: list[Work]) -> Iterator[str]:
    networks = ", ".join(f"{name} {pod.network / 1e9:.1f} GB/s" for name, pod in PODS.items())
    yield "# How far training scales, on paper"
    yield (
        "`python benchmarks/scaling.py > docs/scaling.md` writes this page. None of it was run on "
        "these devices."
    )
    yield "Assumed:"
    yield from _list(
        "Detection as shipped (100 objects), products in bfloat16, parameters and gradients in "
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
        f"\n| {job.name} at {job.side} | {job.parameters / 1e6:.0f} M "
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
    for job, name in itertools.product(works, PODS):
        steps = [step(job, 4, devices, name) for devices in DEVICES]
        cells = [f"{1e3 * sum(parts):.0f} ({parts[0] / sum(parts):.2f})" for parts in steps]
        rows.append(f"| {job.name} at {job.side} | {name} | {' | '.join(cells)} |")
    yield "\n".join(rows)


def _strong(works: list[Work]) -> Iterator[str]:
    yield f"## Where the recipe of {RECIPE_BATCH} images stops"
    yield textwrap.fill(
        "With a fixed batch more devices mean fewer images on each, and one image each is the end. "
        "The columns say up to how many devices (powers of two) at least "
        f"{GOOD} of a step is "
        "arithmetic, and the rate there.",
        WIDTH,
    )
    rows = ["| model | chip | devices | images on each | images/s | at 128 devices |"]
    rows.append("|---|---|---|---|---|---|")
    for job, name in itertools.product(works, PODS):
        times = {n: step(job, RECIPE_BATCH / n, n, name) for n in (2**k for k in range(8))}
        most = max(n for n, parts in times.items() if parts[0] >= GOOD * sum(parts))
        rates = {n: RECIPE_BATCH / sum(parts) for n, parts in times.items()}
        rows.append(
            f"| {job.name} at {job.side} | {name} | {most} | {RECIPE_BATCH // most} "
            f"| {rates[most]:.0f} | {rates[RECIPE_BATCH]:.0f} images/s |"
        )
    yield "\n".join(rows)


def _input(works: list[Work]) -> Iterator[str]:
    yield "## Input of a host"
    yield textwrap.fill(
        f"One core prepares {1 / INPUT_SECONDS:.0f} images/s of 640 pixels (measured, "
        "benchmarks/README.md). At 1333 pixels the time is assumed to grow with the pixels. What a "
        "host of eight devices needs whose steps are arithmetic alone, so never more than this:",
        WIDTH,
    )
    rows = ["| model | chip | images/s of a host | cores needed |", "|---|---|---|---|"]
    for job, (name, pod) in itertools.product(works, PODS.items()):
        rate = pod.host / step(job, 1, 1, name)[0]
        cores = rate * INPUT_SECONDS * (job.side / INPUT_SIDE) ** 2
        rows.append(f"| {job.name} at {job.side} | {name} | {rate:.0f} | {cores:.1f} |")
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
        "--mesh=data=64,model=2` compiles them.",
        "The input is the bound: `data.workers`, or `train.repeats`, which reads an image once for "
        "several rows of a batch.",
    )


if __name__ == "__main__":
    main()
