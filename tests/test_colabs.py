"""The notebooks run from top to bottom, in the order of this file: the first trains the model that
the others find. One kernel runs them all, emptied before each: a third of the time was imports."""

import base64
import io
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from PIL import Image

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


@pytest.fixture(scope="module")
def kernel(folder):
    """(manager, client) of a Python in that folder."""
    environment = os.environ | SHORT | {"PYTHONPATH": str(ROOT)}
    manager, client = start_new_kernel(cwd=str(folder), env=environment)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter
def test_it_runs_from_top_to_bottom(name, folder, kernel):
    book, (manager, client) = read(name), kernel
    book.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))  # no name of the one before
    runner = NotebookClient(book, km=manager, timeout=600)
    runner.kc = client
    runner.execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    shown = [
        output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in shown]
    assert pictures and not [output for output in outputs if output.output_type == "error"]
    CHECKS[name](text, folder, pictures)


def evaluated(text: str, folder: Path, pictures: list) -> None:
    """All four tasks have figures, and the page is there."""
    del pictures
    for name in ("detection", "segmentation", "keypoints", "captioning"):
        assert re.search(rf"^{name}\n.*\d\.\d", text, re.M | re.S), name
    assert "gain in AP50" in text and (folder / "runs/shapes/report.html").is_file()


def finetuned(text: str, folder: Path, pictures: list) -> None:
    """It started from the first notebook's model."""
    del pictures
    source = (folder / "runs/mine/init_from.txt").read_text()
    assert "AP50" in text and "encoder" in source and source[:300] in text


def looked_inside(text: str, folder: Path, pictures: list) -> None:
    """Twenty tokens for four objects, each fifth a class or noise, the others coordinates; pieces
    of a caption; and a map for each token."""
    del folder
    kinds = re.findall(r"^ *\d+ +\d+ +(\w+) .+ \d\.\d\d   or \S", text, re.M)
    assert len(kinds) > 20
    for position, kind in enumerate(kinds[:20]):
        assert (kind == "coordinate") == (position % 5 < 4), position
        assert position % 5 < 4 or kind in ("class", "noise")
    *_, boxes, caption = pictures
    assert boxes.width == caption.width == 5 * 180 + 4 * 6  # five maps and their gaps
    for sheet in (boxes, caption):
        first = np.asarray(sheet.convert("RGB"), int)[40:100, :180]  # a map on a grey picture
        assert (first[..., 0] - first[..., 2] > 60).any()


CHECKS = {"evaluate": evaluated, "finetune": finetuned, "look_inside": looked_inside}
