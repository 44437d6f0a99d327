"""The documentation site builds without a warning, has every page and every name of the contracts,
and what its pages show is true."""

import doctest
import importlib
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from pix2seq_jax.config import recipes

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# What other programs may call: module -> names.
SOURCES = ("Source", "FileSource", "ImageSource", "ObjectSource")
CONTRACTS = {
    "pix2seq_jax": ("load",),
    "pix2seq_jax.evaluation.predictor": ("Predictor", "Prediction", "load"),
    "pix2seq_jax.evaluation.base": ("HostTask", "Opening", "Rows"),
    "pix2seq_jax.vocab": ("Vocab",),
    "pix2seq_jax.tasks.base": ("Task", "Sequences", "images", "to_original"),
    "pix2seq_jax.tasks.detection": ("Detection",),
    "pix2seq_jax.tasks.segmentation": ("Segmentation",),
    "pix2seq_jax.tasks.keypoints": ("Keypoints",),
    "pix2seq_jax.tasks.captioning": ("Captioning",),
    "pix2seq_jax.data.source": (*SOURCES, "FIELDS", "layout"),
    "pix2seq_jax.models.pix2seq": ("Pix2Seq",),
    "pix2seq_jax.models.backbones.base": ("Backbone", "at_least", "one_of"),
    "pix2seq_jax.decoding.generate": ("generate", "Generated"),
    "pix2seq_jax.decoding.sampling": ("Greedy", "TopK", "Nucleus", "Beam"),
    "pix2seq_jax.import_tf": ("load",),
}
PROTOCOLS = ("Task", "HostTask", *SOURCES, "Backbone", "Vocab")


def build(source: Path, out: Path, *options: str) -> subprocess.CompletedProcess:
    """Builds a site in strict mode, by the configuration of docs/."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", str(DOCS)]
    return subprocess.run(
        [*command, *options, str(source), str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=out.parent,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "html"
    done = build(DOCS, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def entries(site):
    """The names that the API reference has an entry for, from the index for other sites."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(packed).decode().splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith("py:")}


def test_every_page_is_there(site):
    missing = [
        str(page.relative_to(DOCS))
        for page in PAGES
        if not (site / page.relative_to(DOCS).with_suffix(".html")).is_file()
    ]
    assert len(PAGES) > 20 and missing == []


def test_the_site_opens_without_a_network(site):
    fetched = re.compile(
        r"<(?:script|img|link rel=\"stylesheet\")[^>]*(?:src|href)=\"(?:https?:)?//"
    )
    pages = list(site.rglob("*.html"))
    assert pages and [page.name for page in pages if fetched.search(page.read_text())] == []


@pytest.mark.parametrize("module", CONTRACTS)
def test_the_contracts_have_entries(module, entries):
    owner = importlib.import_module(module)
    wanted = []
    for name in CONTRACTS[module]:
        wanted.append(f"{module}.{name}")
        if name in PROTOCOLS:
            members = vars(getattr(owner, name))
            own = {*members, *members.get("__annotations__", {})}
            wanted += [f"{module}.{name}.{member}" for member in own if member[0] != "_"]
        else:
            assert hasattr(owner, name)
    assert sorted(set(wanted) - entries) == []


def test_defects_fail_the_build(tmp_path):
    """Of links, of the navigation and of the API reference; each is named."""
    source, code = tmp_path / "source", tmp_path / "code"
    source.mkdir()
    code.mkdir()
    (code / "small.py").write_text('"""A module."""\n')
    (source / "index.md").write_text(
        "# Title\n\n[a page](nowhere.md) [a heading](index.md#no-such-heading)\n\n"
        "{py:func}`pix2seq_jax.no_such_reference`\n\n"
        "```{toctree}\nno_such_page\n```\n\n"
        "```{eval-rst}\n.. autoapifunction:: small.no_such_name\n```\n"
    )
    (source / "left_out.md").write_text("# In no navigation\n")
    done = build(source, tmp_path / "out", "-D", f"autoapi_dirs={code}", "-b", "dummy")
    assert done.returncode != 0
    for part in (
        *("nowhere.md", "no-such-heading", "no_such_reference", "no_such_page", "no_such_name"),
        "left_out.md: WARNING: document isn't included in any toctree",
    ):
        assert part in done.stderr, f"{part} is not in\n{done.stderr}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=str)
def test_links_lead_to_files(page):
    """As they stand, so that they work where the Markdown is read, too."""
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["concepts.md", "extending.md"])
def test_examples_are_true(name):
    text = (DOCS / name).read_text()
    examples = "\n".join(re.findall(r"```python\n(>>> .*?)```", text, re.DOTALL))
    test = doctest.DocTestParser().get_doctest(examples, {}, name, str(DOCS / name), 0)
    assert len(test.examples) >= 5
    report = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert report == [], "".join(report)


def rows_of(text: str, count: int) -> list[list[str]]:
    """The rows of the tables with `count` columns whose first cell is code."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    rows = [[cell.strip("` |") for cell in row] for row in rows]
    return [row for row in rows if len(row) == count]


def test_recipes_are_those_of_the_configs():
    text = (DOCS / "recipes.md").read_text()
    settings = {row[0]: row[1:] for row in rows_of(text, 10)}
    fields = ("data", "arch", "size", "num_bins", "batch_size", "repeats", "base", "steps")
    assert settings == {
        name: [*(str(recipe[field]) for field in fields), f"{recipe['warmup']:.3g}"]
        for name, recipe in recipes.RECIPES.items()
    }
    figures = {
        (recipe, arch, size): f"box AP {cell}"
        for recipe, arch, *cells in rows_of(text.replace("| | |", "| - | - |"), 5)
        for size, cell in zip((640, 1024, 1333), cells, strict=True)
        if cell != "-"
    }
    published = recipes.PUBLISHED.items()
    assert figures == {key: said for key, said in published if key[0] in ("scratch", "finetune")}
    for (recipe, _, size), said in published:
        if recipe == "multitask":
            assert f"| {size} | {' | '.join(re.findall(r'[0-9]+[.][0-9]', said))} |" in text


def test_the_architecture_page_has_every_folder():
    text = (DOCS / "architecture.md").read_text()
    folders = [path.parent.name for path in (ROOT / "pix2seq_jax").glob("*/__init__.py")]
    assert len(folders) > 10 and [name for name in folders if f"`{name}/`" not in text] == []
