"""--tasks means the same to all commands that have it, and is read before a checkpoint is."""

import importlib

import pytest
from PIL import Image

from pix2seq_jax.experiment import resolve, saved_run
from tests.helpers import small
from tests.helpers.refusals import check, refused

RECORDED = small.ROOT / "tests" / "golden" / "workdir_0_1"
COMMANDS = {  # and the other flags of each; FOLDER has an image
    "predict": ("--images=FOLDER/a.png", "--out=FOLDER/out"),
    "explain": ("--image=FOLDER/a.png", "--out=FOLDER/out"),
    "export": ("--out=FOLDER/out",),
    "serve": ("--port=0",),
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command with a value of --tasks up to the checkpoint."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def stop(*arguments, **options):
        raise ValueError("the checkpoint is read")

    monkeypatch.setattr(saved_run, "load_variables", stop)

    def run(name: str, tasks: str) -> tuple[str, int]:
        flags = [flag.replace("FOLDER", str(tmp_path)) for flag in COMMANDS[name]]
        flags += [f"--workdir={RECORDED}", f"--tasks={tasks}"]
        return refused(lambda: importlib.import_module(f"pix2seq_jax.{name}").main(flags))

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_names_are_joined_by_plus_or_commas(name, run, monkeypatch):
    selected, select = [], resolve.select_tasks

    def record(*arguments):
        selected.append(select(*arguments))
        return selected[-1]

    monkeypatch.setattr(resolve, "select_tasks", record)
    for tasks in ("captioning+detection", "captioning,detection", "captioning, detection"):
        check(run(name, tasks), "the checkpoint is read", "")
        assert set(selected.pop().tasks) == {"captioning", "detection"}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("tasks", ["detection,masks", "detection+masks"])
def test_a_wrong_name_is_refused_before_the_checkpoint_is_read(name, tasks, run):
    check(run(name, tasks), f"--tasks={tasks}: 'masks' is no task", "it has ['detection', 'segm")
