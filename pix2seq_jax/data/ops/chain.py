"""Preprocessing strings: "scale_jitter(640, 0.3, 2.0)|flip_lr|pad_objects(n=100)" -> a tuple of op
instances."""

import ast
import dataclasses
from collections.abc import Mapping


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
    op = table[name.id]
    args = [_literal(arg, spec) for arg in node.args] if isinstance(node, ast.Call) else []
    keywords = (
        {k.arg: _literal(k.value, spec) for k in node.keywords}
        if isinstance(node, ast.Call)
        else {}
    )
    try:
        return op(*args, **keywords)
    except TypeError as error:
        fields = ", ".join(field.name for field in dataclasses.fields(op))
        raise ValueError(f"preprocessing {spec!r}: {name.id} takes ({fields}): {error}") from error


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
