"""What a training step has to compute, by arithmetic: XLA counts the body of a loop once, so it
cannot tell of a program with loops over layers and tasks.

Counted are matrix products and convolutions, a multiplication and an addition as two. The backward
pass takes twice the forward pass; what `remat` computes again is not work that had to be done.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from pix2seq_jax.models.pix2seq import Pix2Seq

PASSES = 3  # forward, and two products for each one backward


def of_step(model: Pix2Seq, tasks: Mapping[str, Any], images: Mapping[str, float]) -> float:
    """FLOPs of a step without its logits, for `images` of each task."""
    per_image = of_images(model)
    return PASSES * sum(
        number * (per_image + tasks[name].per_image * of_sequence(model, tasks[name].max_len - 1))
        for name, number in images.items()
    )


def of_logits(model: Pix2Seq, tokens: float) -> float:
    """FLOPs of the logits of a step, of the targets that weigh."""
    return PASSES * 2 * tokens * model.dec_dim * model.vocab_size


def of_images(model: Pix2Seq) -> float:
    """FLOPs of the forward pass of one image: encoder, projection, and the keys and values that the
    decoder attends to."""
    images = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    stem = model.clone(enc_layers=1, dec_layers=1)

    def run_stem(module: Pix2Seq, images: jax.Array) -> jax.Array:
        return module.stem(images, False)

    variables = jax.eval_shape(stem.init, jax.random.key(0), images, tokens)
    traced = jax.make_jaxpr(lambda v, x: stem.apply(v, x, method=run_stem))(variables, images)
    length, width = _image_tokens(model), model.enc_dim
    layer = length * (4 * width * width + 2 * width * model.enc_mlp) + 2 * length**2 * width
    projection = length * width * model.dec_dim
    if model.proj_mode == "mlp":
        projection += 2 * length * model.dec_dim**2 * (model.enc_mlp // model.enc_dim)
    keys = 2 * length * model.dec_dim**2 * model.dec_layers
    return of_program(traced.jaxpr) + 2 * (model.enc_layers * layer + projection + keys)


def of_sequence(model: Pix2Seq, length: int) -> float:
    """FLOPs of the forward pass of one sequence in the decoder, without its logits."""
    width, patches = model.dec_dim, _image_tokens(model)
    layer = length * (6 * width * width + 2 * width * model.dec_mlp)
    attended = 2 * length * (length + patches) * width
    return 2 * model.dec_layers * (layer + attended)


def of_program(jaxpr: Any) -> float:
    """FLOPs of the matrix products and convolutions of a program, loops of known length counted as
    often as they run."""
    total = 0.0
    for equation in jaxpr.eqns:
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        inner = [x for value in equation.params.values() for x in _programs(value)]
        total += times * sum(of_program(x) for x in inner)
        shapes = [x.aval.shape for x in equation.invars]
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            terms = math.prod(shapes[0][axis] for axis in summed)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * terms
        if equation.primitive.name == "conv_general_dilated":
            out_axis = equation.params["dimension_numbers"].rhs_spec[0]
            terms = math.prod(shapes[1]) / shapes[1][out_axis]
            gaps = math.prod(equation.params["lhs_dilation"])  # zeros between the inputs are free
            total += 2 * math.prod(equation.outvars[0].aval.shape) * terms / gaps
    return float(total)


def _programs(value: Any) -> list[Any]:
    """The programs in a parameter of an equation."""
    if isinstance(value, tuple | list):
        return [x for item in value for x in _programs(item)]
    value = value.jaxpr if isinstance(value, ClosedJaxpr) else value
    return [value] if isinstance(value, Jaxpr) else []


def _image_tokens(model: Pix2Seq) -> int:
    rows, columns = model.backbone.grid(model.image_size)
    return rows * columns + model.use_cls_token
