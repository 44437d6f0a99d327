"""What the compiler of TPUs makes of a training step or of decoding, on a machine without a TPU:
whether it compiles, the memory of a chip, and what the chips send each other.

    pip install "jax[tpu]"
    python benchmarks/tpu.py --chips=v5e:4x4 --config=multitask --batch=128 --remat
    python benchmarks/tpu.py --decode=40 --tokens=500 --vocab=35000

A training step takes a minute for the demo's model and seven for ViT-B (two cores), decoding one.
Nothing is run, so there are no times; of a token in decoding there is the number of cycles that the
compiler itself counts on.
"""

import argparse
import os
import re
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.experimental import topologies

sys.path.insert(0, str(Path(__file__).parent))
import measure
import train_step as steps

from pix2seq_jax.decoding.generate import generate
from pix2seq_jax.decoding.sampling import from_string
from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.training import compiled, optim, sharding
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step

GIB = 2**30


def main() -> None:
    """Prints the table."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--chips", default="v5e:2x4", help="a topology, as v5e:4x4 or v6e:2x4")
    parser.add_argument("--mesh", default="data=-1", help="of a training step: data=2,fsdp=4")
    add_step(parser)
    parser.add_argument("--decode", type=int, default=0, help="images that ViT-B decodes on a chip")
    parser.add_argument("--objects", type=measure.whole, default=1, help="sequences of an image")
    parser.add_argument("--samples", type=measure.whole, default=1, help="samples of a sequence")
    parser.add_argument("--tokens", type=measure.whole, default=500, help="length of a sequence")
    parser.add_argument("--vocab", type=measure.whole, default=3000, help="size of the vocabulary")
    parser.add_argument("--kernel_dtype", default="", help="model.kernel_dtype")
    parser.add_argument("--cache_dtype", default="", help="model.cache_dtype")
    parser.add_argument("--sampler", default="nucleus(0.4)")
    options = parser.parse_args()
    # libtpu would ask the network which TPU this machine has.
    os.environ.update({"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"})
    topology = topologies.get_topology_desc(platform="tpu", topology_name=options.chips)
    facts = vars(options)
    # The model chooses its attention and the loss its chunks by the platform; here it is the chip.
    with mock.patch.object(jax, "default_backend", lambda: "tpu"):
        if options.decode:
            row = decoding_row(options, topology.devices[0])
        else:
            axes = dict(axis.split("=") for axis in options.mesh.split(","))
            axes = {name: int(size) for name, size in axes.items()}
            mesh = sharding.make_mesh(axes, devices=topology.devices)
            program, row = compiled_step(options, mesh, "tpu")
            row |= read(program)
    measure.report([row], facts.pop("json"), **facts)


def add_step(parser: argparse.ArgumentParser) -> None:
    """The flags of a training step."""
    parser.add_argument("--config", default="demo", choices=steps.CONFIGS)
    parser.add_argument(
        "--size", type=measure.whole, default=640, help="side of the images in pixels"
    )
    parser.add_argument("--batch", type=measure.whole, default=8, help="images of a step and task")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", action="store_true", help="compute activations again")
    parser.add_argument("--remat_policy", default="elementwise", help="model.remat_policy")


def compiled_step(
    options: Any, mesh: jax.sharding.Mesh, platform: str
) -> tuple[Any, dict[str, Any]]:
    """The program of one training step for devices that are only described, and figures of it."""
    model, tasks, images = steps.step_of(options.config, options.size, options.batch)
    fields = {name: getattr(options, name) for name in ("dtype", "remat", "remat_policy")}
    model = model.clone(**fields)
    rate = optim.schedule("none", base=1e-4, batch_size=1, total=1000)
    tx = optim.make("adamw", rate)
    step = train_step.make_step(model, tasks, tx, rate)
    rows = sharding.batch_sharding(mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    # Not jax.set_mesh: constants would be computed on the devices, which are not here.
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
        traced = jitted.trace(state, batches, key)
        program = traced.lower(lowering_platforms=(platform,)).compile()
        seconds = time.perf_counter() - start
    size = sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(state.params))
    row = {"chips": mesh.size, "images of a chip": sum(images.values()) / mesh.size}
    return program, row | {"compile s": seconds, "parameters MB": size / 1e6}


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


def decoding_row(options: Any, chip: jax.Device) -> dict[str, Any]:
    """The figures of the decoding of a batch of images on one chip."""
    model, decoder, memory = decoder_of(options)
    prompt = jax.ShapeDtypeStruct((options.decode, options.objects, 1), jnp.int32)

    def decode(variables, memory, prompt):
        given = {"sampler": from_string(options.sampler), "num_samples": options.samples}
        given |= {"max_len": options.tokens + 1, "rng": jax.random.key(0)}
        return generate(model, variables, memory, prompt, **given).tokens

    start = time.perf_counter()
    only = jax.sharding.SingleDeviceSharding(chip)
    program = jax.jit(decode, in_shardings=only).lower(decoder, memory, prompt).compile()
    seconds, used = time.perf_counter() - start, program.memory_analysis()
    # As many bytes as the program cuts them into, before the loop.
    weights = measure.tree_bytes(jax.eval_shape(model.cut_variables, decoder))
    keys = measure.tree_bytes(
        jax.eval_shape(partial(model.apply, method="cross_kv"), decoder, memory)
    )
    own = used.peak_memory_in_bytes - used.argument_size_in_bytes - weights - keys
    return {
        "images": options.decode,
        "sequences": options.decode * options.objects * options.samples,
        "compile s": seconds,
        "temporaries GiB": used.temp_size_in_bytes / GIB,
        "weights GB": weights / 1e9,
        "image keys GB": keys / 1e9,
        "beyond at most GB": own / 1e9,
        "cycles of a token": dearest_loop(program.as_text()),
    }


def decoder_of(options: Any) -> tuple[Pix2Seq, dict[str, Any], jax.ShapeDtypeStruct]:
    """ViT-B, the shapes of its decoder's variables, and that of the memory of the images."""
    size, length = (options.size, options.size), options.tokens + 1
    model = Pix2Seq(size, options.vocab, VitBackbone(16), dtype=options.dtype, max_seq_len=length)
    model = model.clone(kernel_dtype=options.kernel_dtype, cache_dtype=options.cache_dtype)
    images, tokens = jnp.zeros((1, *size, 3)), jnp.zeros((1, 1), jnp.int32)
    variables = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), images, tokens))
    image = jax.eval_shape(partial(model.apply, method="encode"), variables, images)
    memory = jax.ShapeDtypeStruct((options.decode, *image.shape[1:]), image.dtype)
    return model, {"params": {"decoder": variables["params"]["decoder"]}}, memory


def dearest_loop(text: str) -> int:
    """Cycles of a turn of the dearest loop of a program, which the compiler wrote into its text;
    without those of loops inside of it."""
    cycles, name = Counter(), ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            name = line.removeprefix("ENTRY ").split()[0]
        cycles[name] += sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', line)))
    return max(cycles[body] for body in re.findall(r" body=(%[\w.-]+)", text))


if __name__ == "__main__":
    main()
