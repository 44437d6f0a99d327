"""The notebooks run from top to bottom, in the order of this file: the first trains the model that
the others find."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ("evaluate", "finetune", "look_inside")
SHORT = {"PIX2SEQ_STEPS": "2", "PIX2SEQ_IMAGES": "24", "PIX2SEQ_BATCH": "8"}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "colabs" / f"{name}.ipynb", as_version=4)


def test_there_are_no_others():
    assert {path.stem for path in (ROOT / "colabs").iterdir()} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_of_a_run_is_stored(name):
    book = read(name)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert (ROOT / "colabs" / f"{name}.ipynb").stat().st_size < 20_000
    first = code[0].source
    assert 'if "google.colab" in sys.modules' in first and "pip install" in first
    assert not any("pip install" in cell.source for cell in code[1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the notebooks run, one after the other."""
    return tmp_path_factory.mktemp("colabs")


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter
def test_it_runs_from_top_to_bottom(name, folder, monkeypatch):
    for key, value in SHORT.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = read(name)
    client = NotebookClient(book, timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert pictures and not [output for output in outputs if output.output_type == "error"]
    assert CHECKS[name](text, folder)


def evaluated(text: str, folder: Path) -> bool:
    """All four tasks have figures, and the page is there."""
    names = ("detection", "segmentation", "keypoints", "captioning")
    figures = all(re.search(rf"^{name}\n.*\d\.\d", text, re.M | re.S) for name in names)
    return figures and "gain in AP50" in text and (folder / "runs/shapes/report.html").is_file()


def finetuned(text: str, folder: Path) -> bool:
    """It started from the first notebook's model."""
    source = (folder / "runs/mine/init_from.txt").read_text()
    return "AP50" in text and "encoder" in source and source[:300] in text


def looked_inside(text: str, folder: Path) -> bool:
    """Twenty tokens for four objects; each fifth is a class or noise, the others coordinates."""
    lines = re.findall(r"^ *\d+ (ymin|xmin|ymax|xmax|class) +\d+ +(.+?) +\d\.\d\d +or", text, re.M)
    return len(lines) == 20 and all(
        ("of the side" in meaning) == (part != "class") for part, meaning in lines
    )


CHECKS = {"evaluate": evaluated, "finetune": finetuned, "look_inside": looked_inside}
