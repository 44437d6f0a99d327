"""Imports go down only (CONTRIBUTING.md, floors), sizes stay small, and every module can be imported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pix2seq_jax"
FLOORS = {
    0: ("vocab", "trees", "presets"),
    1: ("models", "tasks", "decoding.sampling"),
    2: ("decoding.generate", "decoding.beam", "optim", "sharding"),
    3: ("train_step", "checkpoint"),
    4: ("data", "evaluators", "telemetry"),
}
HOST_PACKAGES = ("tensorflow", "tensorflow_datasets", "clu", "ml_collections", "pycocotools")
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)
SOURCES = sorted(p for d in ("pix2seq_jax", "configs", "benchmarks", "tests") for p in (ROOT / d).rglob("*.py"))


def floor(module: str) -> int:
    """Floor of a dotted module name inside the package; everything not listed is a verb, on the top floor."""
    for level, names in FLOORS.items():
        if any(module == name or module.startswith(name + ".") for name in names):
            return level
    return 5


def imported(module: str) -> set[str]:
    """Dotted names inside the package that a module imports anywhere in its text."""
    tree = ast.parse((PACKAGE / (module.replace(".", "/") + ".py")).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pix2seq_jax"):
            base = node.module.removeprefix("pix2seq_jax").lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                names.add(full if full in MODULES else base)
        if isinstance(node, ast.Import):
            names |= {a.name.removeprefix("pix2seq_jax.") for a in node.names if a.name.startswith("pix2seq_jax.")}
    return names - {""}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    mine = floor(module)
    for other in imported(module):
        same_package = module.split(".")[0] == other.split(".")[0]
        if mine == 4:
            assert floor(other) == 0 or same_package, f"{module} (floor 4) imports {other}: only floor 0 is allowed"
        elif mine == 1:
            assert floor(other) == 0 or same_package, f"{module} and {other} are blind to each other"
        else:
            assert floor(other) <= mine, f"{module} (floor {mine}) imports {other} (floor {floor(other)})"


def test_lower_floors_import_without_host_packages():
    modules = [f"pix2seq_jax.{m}" for m in MODULES if floor(m) <= 3]
    assert len(modules) >= 15
    code = (
        "import sys, importlib\n"
        f"for name in {HOST_PACKAGES!r}: sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_every_module_imports_and_only_data_pulls_in_tensorflow():
    free = [f"pix2seq_jax.{m}" for m in MODULES if floor(m) <= 3] + ["pix2seq_jax.data.feed", "pix2seq_jax.data.shapes"]
    code = (
        "import sys, importlib\n"
        f"for name in {free!r}: importlib.import_module(name)\n"
        "assert 'tensorflow' not in sys.modules, 'TensorFlow was imported'\n"
        f"for name in {[f'pix2seq_jax.{m}' for m in MODULES]!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=180)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes(path):
    text = path.read_text()
    assert text.count("\n") <= 400, f"{path.name} is longer than 400 lines"
    assert path.stem not in ("utils", "common", "misc", "helpers"), f"{path.name}: the name says nothing"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= (120 if node.name == "run" else 60), f"{path.name}: {node.name} has {lines} lines"
            positional = len(node.args.posonlyargs) + len(node.args.args)
            assert positional <= 8, f"{path.name}: {node.name} takes {positional} arguments before *"
