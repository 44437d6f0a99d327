"""Says what a training run needs on machines that are not here:
`python -m pix2seq_jax.plan --config=configs/multitask.py --mesh=data=8 --chip=v5e`.

The training step is compiled for made-up devices, which takes minutes for a large model. No data
are needed: where they would decide, the sizes of COCO are taken. Memory is that of XLA's program
for CPUs; the program for the chip differs, mostly by needing less.
"""

import math
from collections.abc import Sequence

import ml_collections

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import Flag

GIB = 2**30
CHIPS = ("v5e", "v5p", "v6e", "h100", "h200", "cpu")
FLAGS = (
    command.CONFIG,
    Flag("mesh", ("data=1",), "Axes and sizes, as in data=4,fsdp=2; their product is the devices."),
    Flag("chip", "v5e", "What the devices are.", choices=CHIPS),
    Flag("decode", False, "Also compile the decoder of each task, and say what it needs."),
    Flag("fit", False, "Also compile each way of recomputing activations, at two batch sizes, and "
         "say how many images of each task fit on a device."),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments)


def call(
    config: ml_collections.ConfigDict, mesh: list[str], chip: str, decode: bool, fit: bool
) -> None:
    """Compiles, and prints the table."""
    axes, given = _axes(mesh), {axis: config.mesh[axis] for axis in ("fsdp", "model")}
    if any(size not in (1, axes.get(axis, 1)) for axis, size in given.items()):
        raise ValueError(f"config.mesh has {given}, and --mesh={','.join(mesh)}; give it by --mesh")
    devices = math.prod(axes.values())
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)

    from pix2seq_jax.config import ranges
    from pix2seq_jax.experiment import plan, sizing
    from pix2seq_jax.training import sharding

    ranges.check(config)
    made = sharding.make_mesh(axes)
    config, reasons = sizing.planned(config, made, accelerators=chip != "cpu")
    reasons = [*reasons, plan.assumptions(config)]
    config = plan.assumed(config)
    device = plan.this_cpu(devices) if chip == "cpu" else plan.CHIPS[chip]
    print(f"{config.about}\n{devices} x {device.name}, mesh {dict(made.shape)}")
    for line in reasons:
        print(line)
    _show(plan.plan(config, made), device)
    if decode:
        from pix2seq_jax.experiment.plan_decoding import decoding

        for name, needs in decoding(config, made).items():
            print(
                f"  decoding {name}, {needs.rows} rows: besides the parameters "
                f"{needs.memory / GIB:.3f} GiB of encoded images, "
                f"{needs.temporaries / GIB:.3f} GiB of caches and temporaries, "
                f"{needs.results / GIB:.3f} GiB of results"
            )
    if fit:
        for line in plan.fitting(config, made, device):
            print(line)


def _axes(mesh: Sequence[str]) -> dict[str, int]:
    """Sizes by axis; ValueError for what is no axis=size."""
    axes = {}
    for text in mesh:
        name, _, size = text.partition("=")
        if not size.isdecimal() or int(size) < 1:
            raise ValueError(f"--mesh={','.join(mesh)}: give axes and sizes, as in data=4,fsdp=2")
        if name in axes:
            raise ValueError(f"--mesh={','.join(mesh)}: {name} is given twice")
        axes[name] = int(size)
    return axes


def _show(made, device) -> None:
    """The table of a plan."""
    rows = {
        "parameters": f"{made.parameters:,}",
        "state of a device": f"{made.state / GIB:.2f} GiB",
        "batches of a device": f"{made.batches / GIB:.2f} GiB",
        "activations of a device": f"{made.activations / GIB:.2f} GiB",
        "memory of a device": f"{made.memory / GIB:.2f} of {device.memory / GIB:.1f} GiB: "
        + ("it fits" if made.memory < device.memory else "it does not fit"),
        "a device computes": f"{made.flops / 1e12:.3g} TFLOP",
    }
    for kind, size in made.sent.items():
        rows[f"a device sends, {kind}"] = f"{size / GIB:.3g} GiB"
    seconds = made.seconds(device)
    for name, value in seconds.items():
        rows[f"a step takes at least, {name}"] = f"{value:.3g} s"
    rows["so at most"] = f"{made.images / max(seconds.values()):.3g} images/s"
    for name, text in rows.items():
        print(f"  {name:36} {text}")


if __name__ == "__main__":
    main()
