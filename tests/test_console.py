"""The console command `pix2seq`: its verbs are the commands, and help comes at once."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pix2seq_jax import commands, demo
from pix2seq_jax.experiment import config_file
from tests.helpers import small
from tests.helpers.commands import command

# ml_collections loads a config file in an old way; other tests load them in processes of their own.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
PIX2SEQ = [sys.executable, "-m", "pix2seq_jax.commands"]
LINES, COLUMNS, SECONDS = 24, 80, 1.5  # of a screen; of CPU time
HEAVY = ("jax", "flax", "tensorflow", "clu")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(small.ROOT)}


@pytest.mark.parametrize("verb", [verb.name for verb in commands.VERBS])
def test_help_of_a_verb_fits_a_screen_and_has_an_example(verb):
    output = command("commands", verb, "--help")
    lines = output.splitlines()
    assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS, output
    assert f"pix2seq {verb} " in output
    assert all(f"--{flag.name}" in output for flag in _module(verb).FLAGS)


def _module(verb: str):
    (name,) = [one.module for one in commands.VERBS if one.name == verb]
    return commands.importlib.import_module(f"pix2seq_jax.{name}")


@pytest.mark.parametrize("arguments", [["--help"], ["eval", "--help"], ["weights", "--help"]])
def test_help_needs_no_large_library_and_little_time(arguments):
    code = (
        f"import sys; from pix2seq_jax import commands; commands.main({arguments}); "
        f"print(set({HEAVY}) & set(sys.modules))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.check_output(
        [sys.executable, "-c", code], cwd=small.ROOT, text=True, timeout=120
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert output.endswith("set()\n")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS


def test_every_verb_is_in_the_list():
    output = command("commands")
    assert output == command("commands", "--help") and len(output.splitlines()) <= LINES
    assert all(f"  {verb.name} " in output and verb.help in output for verb in commands.VERBS)


@pytest.mark.parametrize(
    ("name", "words"), [("trian", "did you mean 'train'?"), ("xyz", "there are train, eval")]
)
def test_an_unknown_verb_is_one_line(name, words):
    output = command("commands", name, code=2)
    assert f"no command {name!r}" in output and words in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "file", "variant"),
    [
        ("detection", "detection", ""),
        ("multitask:shapes,slots=3", "multitask", ":shapes,slots=3"),
        ("configs/keypoints.py:shapes", "keypoints", ":shapes"),
    ],
)
def test_a_shipped_config_is_known_by_name(tmp_path, monkeypatch, text, file, variant):
    monkeypatch.chdir(tmp_path)
    path = f"{small.ROOT}/configs/{file}.py{variant}"
    assert config_file.completed([f"--config={text}"]) == [f"--config={path}"]
    split = ["--workdir", "config", "--config", text]
    assert config_file.completed(split) == ["--workdir", "config", "--config", path]
    (tmp_path / "detection").touch()  # a file of the user comes first
    assert config_file.completed(["--config=detection"]) == ["--config=detection"]
    for other in ("detect", "mine/detection", "detection.py", "./configs/detection.py"):
        assert config_file.completed([f"--config={other}"]) == [f"--config={other}"]


def test_an_unknown_name_lists_the_shipped_configs():
    output = command("commands", "train", "--config=detect:shapes", "--workdir=none", code=2)
    assert "no file 'detect'" in output and "captioning, detection, keypoints" in output


def test_an_installed_package_has_the_configs(tmp_path):
    build = ["egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(
        [sys.executable, "setup.py", "-q", *build], cwd=small.ROOT, check=True, timeout=120
    )
    script = (
        "from pix2seq_jax import commands; "
        "commands.main(['train', '--config=detec', '--workdir=none'])"
    )
    environment = ENVIRONMENT | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, text=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and "captioning, detection, keypoints" in done.stderr
    entry = (tmp_path / "pix2seq_jax.egg-info" / "entry_points.txt").read_text()
    assert "pix2seq = pix2seq_jax.commands:main" in entry


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """Of a run that the verb has trained on one file without splits, by the name of a config."""
    root = tmp_path_factory.mktemp("run")
    shapes = small.make_shapes(root / "shapes")
    data = root / "data"
    shutil.copytree(shapes / "train", data / "images")
    shutil.copy(shapes / "annotations" / "instances_train.json", data / "labels.json")
    name = f"detection:data={data},arch=tiny,size=48,slots=4"
    overrides = small.shrunk(small.load("detection.py:shapes"))
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    output = command("commands", "train", f"--config={name}", f"--workdir={root}/run", *flags)
    assert f"data: {data} has no splits: labels.json with images in images/" in output
    assert "20 % of its images are val" in output
    return root / "run"


def test_eval_needs_no_config(workdir):
    trained = json.loads((workdir / "metrics.json").read_text())["detection"]
    assert 0 < trained["images"] < small.TRAIN_IMAGES
    (workdir / "metrics.json").unlink()
    command("commands", "eval", f"--workdir={workdir}")
    again = json.loads((workdir / "metrics.json").read_text())["detection"]
    assert again == trained
    shapes = workdir.parent / "shapes"
    other = f"--config=workdir:{workdir},data={shapes}"
    command("commands", "eval", f"--workdir={workdir}", other, "--config.eval.images=7")
    metrics = json.loads((workdir / "metrics.json").read_text())["detection"]
    assert metrics["images"] == 7 > trained["images"]


def test_another_split_is_not_the_same_run(workdir):
    flags = [f"--config=workdir:{workdir}", f"--workdir={workdir}", "--config.train.steps=3"]
    output = command("commands", "train", *flags, "--config.data.split_seed=1", code=2)
    assert "holds another run: config.data.split_seed is 0 there and 1 here" in output


def test_predict_needs_no_config(workdir, tmp_path):
    images = f"--images={workdir.parent}/shapes/val/*1.jpg"
    command("commands", "predict", f"--workdir={workdir}", images, f"--out={tmp_path}")
    assert json.loads((tmp_path / "predictions.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("eval", "--workdir=none"), "none/config.json does not exist"),
        (("demo", f"--workdir={__file__}"), "is not a folder"),
        (("eval",), "--workdir is missing"),
        (("bench", "decod"), "there is no benchmark 'decod'; give one of decode, encode"),
        (("bench", "measure"), "there is no benchmark 'measure'"),
    ],
)
def test_wrong_use_ends_with_2(arguments, words):
    output = command("commands", *arguments, code=2)
    assert words in output and len(output.splitlines()) == 1


def test_a_benchmark_runs_with_its_own_flags(tmp_path):
    done = subprocess.run(
        [*PIX2SEQ, "bench", "shards", "--help"], cwd=tmp_path, env=ENVIRONMENT, text=True,
        capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and "usage: shards.py" in done.stdout, done.stderr


def test_the_demo_ends_as_its_first_step_that_fails(tmp_path):
    (tmp_path / "data").touch()
    done = subprocess.run(
        [*PIX2SEQ, "demo"], cwd=tmp_path, env=ENVIRONMENT, text=True, capture_output=True,
        timeout=300,
    )  # fmt: skip
    assert (
        done.returncode == 2
        and "data is not a folder" in done.stderr
        and "metrics" not in done.stdout
    )


def test_a_demo_that_is_terminated_ends_its_step(tmp_path):
    process = subprocess.Popen([*PIX2SEQ, "demo"], cwd=tmp_path, env=ENVIRONMENT, text=True,
                               stderr=subprocess.PIPE)  # fmt: skip
    for _ in range(6000):
        if any(tmp_path.glob("data/*")):
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143 and "interrupted by SIGTERM" in errors
    assert not any(tmp_path.glob("data/*"))  # the drawing removed what was half done


def test_the_demo_names_flags_that_there_are():
    steps = demo.commands("runs/x", steps=3)
    assert [module for module, _ in steps] == ["data.shapes", "main", "predict"]
    for module, given in steps:
        command_of = "data.shapes.__main__" if module == "data.shapes" else module
        output = command(command_of, "--help")
        names = [flag.split("=")[0] for flag in given if not flag.startswith("--config.")]
        assert all(f"{name}=VALUE" in output for name in names)
