"""What is refused about the workdir of a run: a config.json that is none, other sizes; where traces
of errors go."""

import gc
import json
import signal
import sys
import time
from pathlib import Path

import pytest

from pix2seq_jax.experiment import guard, inputs, resolve
from tests.helpers import small
from tests.helpers.refusals import LOADING, check, command

pytestmark = LOADING
BROKEN = [  # content of config.json in a workdir, what must be named, remedy
    ("", "is not JSON", "restore it"),
    ("{", "is not JSON", "restore it"),
    ('{"train": {"steps": ', "is not JSON", "restore it"),
    (b"\xff\xfe\x00\x01", "is not JSON", "restore it"),
    (b"\x80\x04", "is not JSON", "restore it"),
    ("[" * 100_000, "config.json", "restore it"),
    ('{"a":' * 100_000, "config.json", "restore it"),
    *(
        (content, "config.json holds a ", "restore it")
        for content in ("[]", "3", '"text"', "null", "true", "NaN")
    ),
    ("{}", "config.json lacks the section", "restore the file"),
]
SECTIONS = (
    "data",
    "model",
    "vocab",
    "schedule",
    "optim",
    "train",
    "eval",
    "mesh",
    "tasks",
    "more_data",
)
LACKING = (
    "seed",
    "model.enc_dim",
    "train.steps",
    "eval.boxes",
    "vocab.num_bins",
    "tasks.detection.sampler",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def saved(folder) -> str:
    """The config.json of a run on the folder."""
    config = small.config("detection.py:shapes", folder)
    return resolve.resolve(config, inputs.open_sources(config, "train")).to_json()


@pytest.fixture
def workdir(tmp_path, saved) -> Path:
    """The workdir of a run that was stopped: what is looked at before its checkpoint is."""
    path = tmp_path / "run"
    (path / "checkpoints" / "1").mkdir(parents=True)
    (path / "checkpoints" / "1" / "state").write_text("")
    (path / "config.json").write_text(saved)
    return path


def written(workdir: Path) -> list[str]:
    """The files of a workdir."""
    return sorted(str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file())


UNTOUCHED = ["checkpoints/1/state", "config.json", "error.txt"]


def evaluate(folder, workdir) -> tuple[str, int]:
    return command(*small.flags(folder), f"--workdir={workdir}", "--mode=eval")


@pytest.mark.parametrize("content,field,remedy", BROKEN, ids=range(len(BROKEN)))
def test_broken_configs_of_a_workdir(folder, workdir, content, field, remedy):
    content = content if isinstance(content, bytes) else content.encode()
    (workdir / "config.json").write_bytes(content)
    check(evaluate(folder, workdir), field, remedy)
    assert written(workdir) == UNTOUCHED and (workdir / "config.json").read_bytes() == content


@pytest.mark.parametrize("section", SECTIONS)
def test_sections_that_a_workdir_lacks(folder, workdir, saved, section):
    for value in (None, 3):
        content = json.loads(saved)
        content[section] = value
        if value is None:
            del content[section]
        (workdir / "config.json").write_text(json.dumps(content))
        check(
            evaluate(folder, workdir),
            f"config.json lacks the section {section!r}",
            "restore the file",
        )


@pytest.mark.parametrize("name", LACKING)
def test_fields_that_a_workdir_lacks(folder, workdir, saved, name):
    content = json.loads(saved)
    *sections, field = name.split(".")
    section = content
    for part in sections:
        section = section[part]
    del section[field]
    (workdir / "config.json").write_text(json.dumps(content))
    check(evaluate(folder, workdir), f"config.json lacks the field {name}", "give ")
    section[field + "x"] = 1
    (workdir / "config.json").write_text(json.dumps(content))
    check(evaluate(folder, workdir), f"config.json.{name}x", f"did you mean {field!r}?")


@pytest.mark.parametrize(
    "name,value", [("model.enc_layers", 0), ("vocab.num_bins", -3), ("tasks.detection.weight", 7)]
)
def test_values_that_a_workdir_cannot_have(folder, workdir, saved, name, value):
    content = json.loads(saved)
    *sections, field = name.split(".")
    section = content
    for part in sections:
        section = section[part]
    section[field] = value
    (workdir / "config.json").write_text(json.dumps(content))
    found = command(
        f"--config={small.ROOT}/configs/workdir.py:{workdir}", f"--workdir={workdir}", "--mode=eval"
    )
    check(found, f"config.{name}={value}", "give a ")
    assert written(workdir) == UNTOUCHED


SIZES = [  # flags of a resume that change one size, what must be named, remedy
    (
        "model.image_size=(64,64)",
        "config.model.image_size is [48, 48] there and [64, 64] here",
        "another --workdir",
    ),
    (
        "data.size=64",
        "config.model.image_size is [48, 48] there and [64, 64] here",
        "another --workdir",
    ),
    (
        "data.slots=6",
        "config.tasks.detection.max_instances is 4 there and 6 here",
        "another --workdir",
    ),
    (
        "tasks.detection.max_instances=2",
        "config.tasks.detection.max_instances is 4 there and 2 here",
        "another --workdir",
    ),
    (
        "tasks.detection.max_instances=6",
        "config.tasks.detection.max_instances is 4 there and 6 here",
        "another --workdir",
    ),
    (
        "model.backbone.patch_size=24",
        "config.model.backbone.patch_size is 16 there and 24 here",
        "another --workdir",
    ),
    ("vocab.num_bins=64", "config.vocab.num_bins is 48 there and 64 here", "another --workdir"),
]


@pytest.mark.parametrize("change,field,remedy", SIZES)
def test_a_resume_with_another_size_is_refused_by_name(folder, workdir, change, field, remedy):
    name, value = change.split("=")
    arguments = [part for part in small.flags(folder) if not part.startswith(f"--config.{name}=")]
    found = command(*arguments, f"--config.{name}={value}", f"--workdir={workdir}", "--mode=train")
    check(found, field, remedy)
    assert written(workdir) == UNTOUCHED


def test_a_resume_of_another_variant_is_refused_by_name(folder, workdir):
    for variant, name in (
        ("shapes,size=64", "model.image_size"),
        ("shapes,slots=6", "tasks.detection.max_instances"),
    ):
        arguments = small.flags(folder, f"detection.py:{variant}")
        check(
            command(*arguments, f"--workdir={workdir}", "--mode=train"),
            f"config.{name} is",
            "use another --workdir",
        )
        assert written(workdir) == UNTOUCHED


def test_the_trace_of_an_error_is_in_the_workdir(folder, workdir):
    line, _ = command(*small.flags(folder, train__steps=0), f"--workdir={workdir}")
    assert f"the whole trace is in {workdir}/error.txt" in line
    assert (
        "Traceback" in (workdir / "error.txt").read_text()
        and "ranges.py" in (workdir / "error.txt").read_text()
    )
    line, _ = command(*small.flags(folder, train__log_steps=0), f"--workdir={workdir}")
    assert "log_steps=0" in (workdir / "error.txt").read_text()  # the newest only
    assert "steps=0: give" not in (workdir / "error.txt").read_text().replace(
        "log_steps=0: give", ""
    )
    line, _ = command(*small.flags(folder, train__steps=0), f"--workdir={workdir}/other")
    assert "--traceback shows" in line and not (workdir / "other").exists()


def test_errors_of_the_library_keep_their_trace(workdir, capfd):
    def fails():
        raise KeyError("a mistake of ours")

    with pytest.raises(KeyError):
        guard.guarded(fails, workdir=str(workdir))
    assert "a mistake of ours" in (workdir / "error.txt").read_text()


def test_ctrl_c_is_one_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        guard.guarded(interrupted)
    assert ended.value.code == 130
    assert capsys.readouterr().err.splitlines() == [
        "stopped by Ctrl-C; a training run goes on from what it has saved"
    ]


@pytest.fixture
def heeding_ctrl_c():
    """What starts in the background of a shell ignores it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def test_ctrl_c_within_the_garbage_collector_is_not_lost(capsys, heeding_ctrl_c):
    """Python drops what a callback of the collector raises, as JAX's may when Ctrl-C comes."""
    before, seen = sys.unraisablehook, []

    def callback(phase, _):
        if phase == "stop" and not seen:
            seen.append(phase)
            signal.raise_signal(signal.SIGINT)
            int("1")  # where Python looks for signals

    def works():
        gc.callbacks.append(callback)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(callback)
        time.sleep(60)

    with pytest.raises(SystemExit) as ended:
        guard.guarded(works)
    assert ended.value.code == guard.INTERRUPTED and "stopped by Ctrl-C" in capsys.readouterr().err
    assert seen and sys.unraisablehook is before
