"""The rules of CONTRIBUTING.md that a program can check: sizes and shapes of code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = sorted(p for d in ("pix2seq_jax", "configs", "benchmarks") for p in (ROOT / d).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_NODES, MOST_NODES_OF_THE_LOOP, LOOP = 400, 700, ("loop.py", "train")
MOST_BRANCHES, MOST_ARGUMENTS, MOST_LINES = 12, 8, 400
ROOT_MODULES = {
    *("__init__", "vocab", "main", "train", "evaluate", "predict", "import_tf", "weight_search"),
    *("plan", "prepare", "validate", "commands", "bench", "demo", "export", "serve"),
    *("explain", "browse", "report"),
}
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.match_case)
VALUES = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.JoinedStr, ast.Subscript)


def functions(path: Path) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]


def body(function: ast.FunctionDef) -> list[ast.AST]:
    """The nodes in the body of a function, docstring and inner functions counted."""
    return [node for statement in function.body for node in ast.walk(statement)]


def odd_shapes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) of shapes that two plain lines say better."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Starred) and isinstance(node.value, ast.Tuple | ast.List):
            yield node.lineno, "a literal is spread: *(a, b)"
        if isinstance(node, ast.Dict) and any(
            key is None and isinstance(value, ast.Dict)
            for key, value in zip(node.keys, node.values, strict=True)
        ):
            yield node.lineno, "a literal is spread: **{'k': v}"
        if isinstance(node, ast.keyword) and node.arg is None and isinstance(node.value, ast.Dict):
            yield node.value.lineno, "a literal is spread: **{'k': v}"
        if isinstance(node, ast.For | ast.comprehension):
            where = node.iter.lineno
            if isinstance(node.iter, ast.IfExp):
                yield where, "a loop over `xs if condition else ()`"
            if any(isinstance(part, ast.Subscript) for part in ast.walk(node.target)):
                yield where, "a loop header assigns to an array element"
        yield from _chains(node)


def _chains(node: ast.AST) -> Iterator[tuple[int, str]]:
    """`condition and value` where a value is wanted."""
    values = []
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.Return | ast.keyword):
        values = [node.value]
    elif isinstance(node, ast.Call):
        values = node.args
    for value in values:
        if not isinstance(value, ast.BoolOp):
            continue
        mixed = any(isinstance(part, ast.BoolOp) for part in value.values)
        last = value.values[-1]
        makes = isinstance(last, ast.Call) and getattr(last.func, "id", "a")[0].isupper()
        if isinstance(value.op, ast.And) and (isinstance(last, VALUES) or makes):
            yield value.lineno, "`condition and value`: write `value if condition else ...`"
        elif isinstance(value.op, ast.Or) and mixed and isinstance(last, VALUES):
            yield value.lineno, "`a and b or c`: write `b if a else c`"


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_are_small(path):
    for function in functions(path):
        nodes = body(function)
        most = MOST_NODES_OF_THE_LOOP if (path.name, function.name) == LOOP else MOST_NODES
        name = f"{path.name}:{function.lineno} {function.name}"
        assert len(nodes) <= most, f"{name} has {len(nodes)} syntax nodes, at most {most}"
        branches = sum(isinstance(node, BRANCHES) for node in nodes)
        assert branches <= MOST_BRANCHES, f"{name} has {branches} branches"
        positional = len(function.args.posonlyargs) + len(function.args.args)
        assert positional <= MOST_ARGUMENTS, f"{name} takes {positional} arguments before *"


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_has_plain_shapes(path):
    odd = [f"{path.name}:{line} {what}" for line, what in odd_shapes(ast.parse(path.read_text()))]
    assert not odd, "\n".join(odd)


@pytest.mark.parametrize(
    "text",
    [
        "f(*(a, b))",
        "{**{'k': v}}",
        "f(**{'k': v})",
        "for x in xs if c else (): pass",
        "[x for x in (xs if c else ())]",
        "for i, a[i] in b: pass",
        "x = c and Slots(a)",
        "return_ = a and b or 'c'",
    ],
)
def test_odd_shapes_are_seen(text):
    assert list(odd_shapes(ast.parse(text)))


@pytest.mark.parametrize("path", [*CODE, *TESTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_and_have_names(path):
    assert path.read_text().count("\n") <= MOST_LINES, f"{path.name} is too long"
    names = ("utils", "common", "misc", "helpers")
    assert path.stem not in names, f"{path.name}: the name says nothing"


def test_the_root_holds_commands():
    assert {path.stem for path in (ROOT / "pix2seq_jax").glob("*.py")} == ROOT_MODULES
