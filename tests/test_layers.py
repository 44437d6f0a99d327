"""Imports go down only (CONTRIBUTING.md, layers), and every module can be imported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pix2seq_jax"
# From the lowest; the longest prefix that fits decides.
LAYERS = (
    ("vocab", "geometry", "files"),
    ("models", "tasks", "decoding.sampling"),
    ("decoding",),
    ("training",),
    ("data", "evaluation.metrics", "evaluation.pictures", "experiment.logs"),
    ("evaluation", "experiment", "official", "portable", "serving", "pretrained", "config"),
    (
        *("main", "train", "evaluate", "predict", "import_tf", "weight_search"),
        *("plan", "prepare", "validate", "commands", "bench", "demo", "export", "serve"),
        *("explain", "browse", "report"),
        "data.shapes.__main__",  # a command beside what it draws
    ),
)
BLIND = (1, 4)  # layers whose packages do not see each other
DEVICE = 3  # layers up to this one run where only JAX is installed
DATA = 4
HOST_PACKAGES = ("tensorflow", "tensorflow_datasets", "clu", "ml_collections", "pycocotools")
# Of geometry, which the layers that run on the device may import, but do not.
GEOMETRY_PACKAGES = ("shapely", "contourpy")
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)


def layer(module: str) -> int:
    """Number of the layer of a dotted module name inside the package."""
    names = [
        ".".join(module.split(".")[:length]) for length in range(len(module.split(".")), 0, -1)
    ]
    for name in names:  # decoding.sampling before decoding
        for number, members in enumerate(LAYERS):
            if name in members:
                return number
    raise ValueError(f"{module} is in no layer: give it, or its package, a place in LAYERS")


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
            modules = [alias.name for alias in node.names if alias.name.startswith("pix2seq_jax.")]
            names |= {name.removeprefix("pix2seq_jax.") for name in modules}
    return names - {""}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    mine = layer(module)
    for other in imported(module):
        if module.split(".")[0] == other.split(".")[0]:
            assert layer(other) <= mine, f"{module} imports {other}, which is in a higher layer"
        elif mine in BLIND:
            allowed = 0 if mine == DATA else mine - 1
            assert layer(other) <= allowed, f"{module} and {other} are blind to each other"
        else:
            assert layer(other) <= mine, f"{module} imports {other}, which is in a higher layer"


def test_device_layers_import_without_host_packages():
    modules = [f"pix2seq_jax.{m}" for m in MODULES if layer(m) <= DEVICE and m != "geometry.rings"]
    assert len(modules) >= 15
    code = (
        "import sys, importlib\n"
        f"for name in {HOST_PACKAGES + GEOMETRY_PACKAGES!r}: sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_only_the_pipeline_pulls_in_tensorflow():
    packages = ["pix2seq_jax"] + [
        ".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")
    ]
    free = [f"pix2seq_jax.{m}" for m in MODULES if layer(m) <= DEVICE]
    free += [*packages, "pix2seq_jax.data.feed", "pix2seq_jax.data.shapes.dataset"]
    everything = [f"pix2seq_jax.{m}" for m in MODULES if not m.endswith("__main__")]
    code = (
        "import sys, importlib\n"
        f"for name in {free!r}: importlib.import_module(name)\n"
        "assert 'tensorflow' not in sys.modules, 'TensorFlow was imported'\n"
        f"for name in {everything!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=180)
