"""What encoding one image costs: ViT-B at several sizes and ResNet-50, and the training step of
both at 640 pixels with --train.

    python benchmarks/encode.py --sizes 320 640 --models vit-b resnet50

Beside each figure stands its floor: the floating point operations of the matrix products and
convolutions over the matrix rate of this run. What blockwise attention computes twice counts once.
Runs with jax, flax, optax and NumPy alone.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax
from flax import linen as nn

from pix2seq_jax.models.backbones.resnet import ResNetBackbone
from pix2seq_jax.models.backbones.vit import VitCropBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.training import flops

TOKENS, VOCABULARY = 512, 3000
RESNET = {
    "backbone": ResNetBackbone(),
    "enc_layers": 6,
    "enc_dim": 256,
    "enc_mlp": 1024,
    "enc_heads": 8,
    "dec_dim": 256,
    "dec_mlp": 1024,
    "dec_heads": 8,
}
MODELS = {"vit-b": {"backbone": VitCropBackbone()}, "resnet50": RESNET}


def main() -> None:
    """Reads the flags, and measures each model at each size."""
    given = flags().parse_args()
    rate = measure.matrix_rate(given.dtype)
    options = {"dtype": given.dtype, "remat": given.remat}
    rows = []
    for name in given.models:
        for size in given.sizes:
            image = {"image_size": (size, size), "vocab_size": VOCABULARY}
            fields = image | MODELS[name] | options
            model = Pix2Seq(attention=given.attention, **fields)
            plain = Pix2Seq(attention="plain", **fields)
            row = measured(train_step if given.train else encode, model, plain, rate, given.runs)
            rows.append({"model": name, "size": size} | row)
    work = "train step" if given.train else "encode"
    facts = {"work": work, "dtype": given.dtype, "attention": given.attention}
    measure.report(rows, given.json, matrix_gflops=rate / 1e9, **facts)


def flags() -> argparse.ArgumentParser:
    """The flags of this benchmark."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(MODELS))
    parser.add_argument("--sizes", nargs="+", type=measure.whole, default=[320, 640, 1024, 1333])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--attention", default="auto", help="model.attention")
    parser.add_argument("--remat", action="store_true", help="model.remat, with --train")
    parser.add_argument("--train", action="store_true", help="a training step in place of encoding")
    return parser


def measured(
    build: Callable, model: Pix2Seq, plain: Pix2Seq, rate: float, runs: int
) -> dict[str, Any]:
    """A row of the table: the work that `build` makes of the model, and its floor from the plain
    form of the same model."""
    function, arguments = build(model)
    program, compiling = measure.compiled(function, *arguments)
    timing = measure.timed(lambda: program(*arguments), runs=runs)
    plain_function, _ = build(plain)
    count = flops.of_program(jax.make_jaxpr(plain_function)(*arguments).jaxpr)
    return {
        "compile s": compiling,
        "temporary GiB": program.memory_analysis().temp_size_in_bytes / 2**30,
        "time": timing,
        "GFLOP": count / 1e9,
        "floor s": count / rate,
        "times the floor": timing.median / (count / rate),
    }


def encode(model: Pix2Seq) -> tuple[Callable, tuple]:
    """Encoding one image: a function and its arguments."""
    return lambda variables, image: model.apply(variables, image, method="encode"), inputs(model)


def train_step(model: Pix2Seq) -> tuple[Callable, tuple]:
    """A training step of one image and TOKENS tokens with AdamW: a function and its arguments."""
    variables, image = inputs(model)
    params, rest = variables.pop("params"), variables
    tokens = jax.random.randint(jax.random.key(2), (1, TOKENS), 0, VOCABULARY)
    optimizer = optax.adamw(1e-4)

    def loss(params, image, tokens):
        logits, updated = model.apply(
            {"params": params, **rest},
            image,
            tokens[:, :-1],
            train=True,
            rngs={"dropout": jax.random.key(3)},
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return losses.mean(), updated

    def step(params, state, image, tokens):
        (value, updated), grads = jax.value_and_grad(loss, has_aux=True)(params, image, tokens)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, updated, value

    return step, (params, optimizer.init(params), image, tokens)


def inputs(model: Pix2Seq) -> tuple[dict[str, Any], jax.Array]:
    """Variables at random, without compiling the initialisation, and one image."""
    image, tokens = jnp.full((1, *model.image_size, 3), 0.5), jnp.zeros((1, 4), jnp.int32)
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), image, tokens))
    random = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: jnp.asarray(0.02 * random.standard_normal(x.shape), x.dtype), shapes
    )
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(jnp.ones_like, variables["batch_stats"])
    return variables, image


if __name__ == "__main__":
    main()
