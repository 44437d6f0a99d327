"""What the compiler of TPUs makes of a training step, on a machine without a TPU: whether it
compiles, the memory of a chip, and what the chips send each other.

    pip install "jax[tpu]"
    python benchmarks/tpu.py --chips=v5e:4x4 --config=multitask --batch=128 --remat

It takes a minute for the demo's model and seven for ViT-B (two cores). Nothing is run, so there are
no times.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.experimental import topologies

sys.path.insert(0, str(Path(__file__).parent))
import measure
import train_step as steps

from pix2seq_jax.training import compiled, optim, sharding
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step

GIB = 2**30


def main() -> None:
    """Prints the table."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--chips", default="v5e:2x4", help="a topology, as v5e:4x4 or v6e:2x4")
    parser.add_argument("--config", default="demo", choices=steps.CONFIGS)
    parser.add_argument("--size", type=int, default=640, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images of a step and task")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", action="store_true", help="compute activations again")
    parser.add_argument("--remat_policy", default="elementwise", help="model.remat_policy")
    options = parser.parse_args()
    # libtpu would ask the network which TPU this machine has.
    os.environ.update({"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"})
    topology = topologies.get_topology_desc(platform="tpu", topology_name=options.chips)
    facts = vars(options)
    # The model chooses its attention and the loss its chunks by the platform; here it is the chip.
    with mock.patch.object(jax, "default_backend", lambda: "tpu"):
        row = compiled_row(options, sharding.make_mesh(devices=topology.devices))
    measure.report([row], facts.pop("json"), **facts)


def compiled_row(options: Any, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """The figures of one step."""
    model, tasks, images = steps.step_of(options.config, options.size, options.batch)
    fields = {name: getattr(options, name) for name in ("dtype", "remat", "remat_policy")}
    model = model.clone(**fields)
    rate = optim.schedule("none", base=1e-4, batch_size=1, total=1000)
    tx = optim.make("adamw", rate)
    step = train_step.make_step(model, tasks, tx, rate)
    rows = sharding.batch_sharding(mesh)
    # Not jax.set_mesh: constants would be computed on the chips, which are not here.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        state = train_state.abstract_state(model, tx, mesh=mesh)
        batches = {
            name: jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows),
                jax.eval_shape(partial(steps.example, task, images[name], model.image_size[0])),
            )
            for name, task in tasks.items()
        }
        jitted = train_step.jit_step(step, state, mesh=mesh)
        start = time.perf_counter()
        program = jitted.lower(state, batches, jax.random.key(0)).compile()
        seconds = time.perf_counter() - start
    size = sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(state.params))
    row = {"chips": mesh.size, "images of a chip": sum(images.values()) / mesh.size}
    return row | {"compile s": seconds, "parameters MB": size / 1e6} | read(program)


def read(program: Any) -> dict[str, Any]:
    """The figures that a compiled program itself has."""
    memory, sent = program.memory_analysis(), compiled.collectives(program.as_text())
    return {
        "state and batch GiB": memory.argument_size_in_bytes / GIB,
        "temporaries GiB": memory.temp_size_in_bytes / GIB,
        "reduced MB": sum(row.size for row in sent) / 1e6,
        "collectives": len(sent),
        "of them in loops": sum(row.computation != compiled.ENTRY for row in sent),
    }


if __name__ == "__main__":
    main()
