"""ViT-L on eight made-up devices against one: loss, gradients, decoding, and what is sent.

    python -m tests.trials.large_meshes

The model at its full depth and width, on images of 64 pixels. Needs 12 GB and some minutes.
"""

import functools
import sys

import jax
import numpy as np

from pix2seq_jax.config.architectures import ARCHITECTURES
from pix2seq_jax.models.backbones.vit import VitBackbone
from tests.helpers import four_tasks
from tests.helpers.meshes import Run, name_of

ROWS = 8
MESHES = ({"fsdp": 8}, {"model": 8}, {"data": 2, "fsdp": 2, "model": 2})
MIB = 2**20


def main() -> None:
    """Prints a line for each mesh."""
    jax.config.update("jax_num_cpu_devices", 8)
    fields = {name: value for name, value in ARCHITECTURES["vit-l"].items() if name != "backbone"}
    decoder = {"dec_dim": 512, "dec_mlp": 2048, "dec_heads": 16}
    model = four_tasks.tiny(**fields, **decoder, backbone=VitBackbone(patch_size=16))
    run = functools.partial(Run, model, rows=ROWS, scale=0.02, decodes=True)
    alone = run({"data": 1}, devices=jax.devices()[:1])
    print(
        f"{alone.parameters / 4:,.0f} parameters, loss on one device {alone.loss:.6f}", flush=True
    )
    for axes in MESHES:
        made = run(axes)
        sent = ", ".join(f"{kind} {size / MIB:,.0f}" for kind, size in sorted(made.sent.items()))
        print(
            f"{name_of(axes)}: loss {made.loss:.6f}, gradients {apart(made, alone):.1e} of their "
            f"largest, logits {np.abs(made.logits - alone.logits).max():.1e}; temporaries "
            f"{made.temporaries / MIB:,.0f} MiB; MiB sent: {sent}",
            flush=True,
        )
        del made


def apart(one: Run, other: Run) -> float:
    """The largest difference of the gradients, relative to the largest of each array."""

    def of(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3))

    return max(jax.tree.leaves(jax.tree.map(of, one.gradients, other.gradients)))


if __name__ == "__main__":
    sys.exit(main())
