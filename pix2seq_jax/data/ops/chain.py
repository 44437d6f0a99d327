"""Preprocessing strings: "decode|scale_jitter(640, 0.3, 2.0)|pad_objects(n=100)" -> a chain of ops.

Other modules ask the chain, never the string.
"""

import ast
import dataclasses
from collections.abc import Iterable, Mapping

import tensorflow as tf

from pix2seq_jax.data.ops import image, objects
from pix2seq_jax.data.ops.base import Example, Op

OPS: dict[str, type[Op]] = {**image.OPS, **objects.OPS}


@dataclasses.dataclass(frozen=True)
class Chain:
    """The ops that an image goes through.

    Attributes:
        ops: in their order; the first one decodes the file.
        spec: the preprocessing string, for errors.
    """

    ops: tuple[Op, ...]
    spec: str

    @property
    def decode(self) -> image.Decode:
        """The first op, which works on NumPy."""
        return self.ops[0]

    @property
    def tensor_ops(self) -> tuple[Op, ...]:
        """The others, which work on tensors."""
        return self.ops[1:]

    @property
    def image_ops(self) -> tuple[Op, ...]:
        """Those of `tensor_ops` that change the image. Tasks that have the same can share what the
        encoder makes of an image."""
        return tuple(op for op in self.tensor_ops if op.on_image)

    @property
    def slots(self) -> int:
        """Objects of an image that get through. Raises ValueError where no op sets a number."""
        limits = [op.slots for op in self.ops if op.slots is not None]
        if not limits:
            raise ValueError(
                f"preprocessing {self.spec!r} sets no number of objects; end with pad_objects(n)"
            )
        return min(limits)

    @property
    def per_object(self) -> bool:
        """Whether rows are single objects, not images."""
        return any(op.per_object for op in self.ops)

    @property
    def keeps_whole(self) -> bool:
        """Whether the image is only resized and padded, and no object is moved or dropped: then
        boxes that are predicted later can be turned into coordinates of the example."""
        return all(op.keeps_whole for op in self.tensor_ops)


def read_chain(spec: str | tuple[Op, ...]) -> Chain:
    """The chain of a preprocessing string, or of a tuple of ops.

    Raises:
        ValueError: the string cannot be read (see `parse`), it does not begin with decode, or an op
            on the image follows pad_image: what is to the right of and below the unpadded size is
            padding by then, whatever that op puts there.
    """
    ops = parse(spec, OPS) if isinstance(spec, str) else tuple(spec)
    if not ops or not isinstance(ops[0], image.Decode):
        raise ValueError(f"preprocessing {spec!r} must begin with decode")
    names = {kind: name for name, kind in OPS.items()}
    padded = False
    for op in ops:
        if padded and op.on_image:
            raise ValueError(
                f"preprocessing {spec!r}: {names.get(type(op), op)} stands behind pad_image; put "
                "pad_image behind all other ops on the image"
            )
        padded = padded or isinstance(op, image.PadImage)
    return Chain(ops, str(spec))


def apply(ops: Iterable[Op], example: Example, seed: int, draw: tf.Tensor) -> Example:
    """What ops make of row number `draw` i64[] of a run with this seed.

    Op number i draws from the stateless seed (seed·2²⁰ + 16·i, draw), which is unique. Pixels are
    made once for all ops in a row that only place them.
    """
    return image.drawn(place(ops, example, seed, draw))


def place(ops: Iterable[Op], example: Example, seed: int, draw: tf.Tensor) -> Example:
    """Like `apply`, but where the last ops on the image only place pixels it is still a View."""
    for number, op in enumerate(ops):
        own = tf.stack([tf.constant(seed * 2**20 + 16 * number, tf.int64), draw])
        if isinstance(op, image.PlacingOp):
            example = op.place(image.viewed(example), own)
        else:
            example = op(image.drawn(example) if op.on_image else example, own)
    return example


def check_shapes(values: Mapping[str, tf.Tensor | tf.TensorSpec], spec: str) -> None:
    """Raises ValueError for rows of the preprocessing `spec` that cannot be batched."""
    for name, value in values.items():
        if not value.shape.is_fully_defined():
            raise ValueError(
                f"preprocessing {spec!r}: {name!r} has no fixed shape ({value.shape}) and cannot "
                "be batched; end with pad_image(size) and, for objects, pad_objects(n)"
            )


def parse(spec: str, table: Mapping[str, type]) -> tuple:
    """Reads "op|op(1, 2)|op(word, x=(3, 4))".

    Args:
        spec: ops joined by `|`; arguments are Python literals or bare words, by position or by
            name.
        table: op name -> frozen dataclass.

    Returns:
        Op instances in the order of the string.

    Raises:
        ValueError: the string cannot be read, names no op of the table, or its arguments do not
            fit.
    """
    try:
        tree = ast.parse(spec.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(
            f"preprocessing {spec!r} is not of the form op|op(argument, ...)|...: {error.msg}"
        ) from error
    return tuple(_build(node, spec.strip(), table) for node in _calls(tree.body))


def _calls(node: ast.expr) -> list[ast.expr]:
    """Python reads "a|b|c" as (a | b) | c; back to [a, b, c]."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_calls(node.left), *_calls(node.right)]
    return [node]


def _build(node: ast.expr, spec: str, table: Mapping[str, type]):
    """One op instance of one call."""
    name = node.func if isinstance(node, ast.Call) else node
    if not isinstance(name, ast.Name):
        text = ast.get_source_segment(spec, node)
        raise ValueError(
            f"preprocessing {spec!r}: {text!r} is not of the form op or op(argument, ...)"
        )
    if name.id not in table:
        raise ValueError(
            f"preprocessing {spec!r}: there is no op {name.id!r}; the ops are "
            f"{', '.join(sorted(table))}"
        )
    op, args, keywords = table[name.id], [], {}
    if isinstance(node, ast.Call):
        args = [_literal(arg, spec) for arg in node.args]
        keywords = {keyword.arg: _literal(keyword.value, spec) for keyword in node.keywords}
    try:
        return op(*args, **keywords)
    except TypeError as error:
        fields = ", ".join(field.name for field in dataclasses.fields(op))
        raise ValueError(f"preprocessing {spec!r}: {name.id} takes ({fields}): {error}") from error


def _literal(node: ast.expr, spec: str):
    """The Python value of an argument; a bare word is a string, so that order(random) needs no
    quotes."""
    if isinstance(node, ast.Name):
        return node.id
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        text = ast.get_source_segment(spec, node)
        raise ValueError(
            f"preprocessing {spec!r}: argument {text!r} is no number, word, string or tuple"
        ) from error
