"""Every value that a config or the command line cannot mean: one line that says where and what to
do, and exit code 2.

The command runs in this process, flags included. Nothing may be written for what is refused.
"""

from pathlib import Path

import pytest

from pix2seq_jax import train
from pix2seq_jax.config import ranges
from pix2seq_jax.experiment import guard
from tests.helpers import small
from tests.helpers.bad_values import (
    CASES,
    COMMAND_LINES,
    CONFIG,
    FILES,
    OF_PROGRAMS,
    OTHERS,
    RESNET_FIELDS,
    VARIANTS,
)
from tests.helpers.refusals import LOADING, check, command, refused

pytestmark = LOADING


def test_there_are_many_cases():
    assert (
        len(CASES)
        + len(OTHERS)
        + len(VARIANTS)
        + len(FILES)
        + len(COMMAND_LINES)
        + len(OF_PROGRAMS)
        >= 250
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.mark.parametrize("overrides,field,remedy", [*CASES, *OTHERS])
def test_flags_of_the_config(folder, tmp_path, overrides, field, remedy):
    changes = dict(part.split("=", 1) for part in overrides.split(";"))
    of_resnet = any(name in RESNET_FIELDS for name in changes)
    config = f"{CONFIG},arch=resnet50" if of_resnet else CONFIG
    values = {**small.shrunk(small.load(config)), **small.on_folder(folder)}
    values = {name: value for name, value in values.items() if name not in changes} | changes
    arguments = [f"--config.{name}={value}" for name, value in values.items()]
    workdir = tmp_path / "run"
    check(
        command(f"--config={small.ROOT}/configs/{config}", *arguments, f"--workdir={workdir}"),
        field,
        remedy,
    )
    assert not workdir.exists()


@pytest.mark.parametrize("variant,field,remedy", VARIANTS)
def test_variants(tmp_path, variant, field, remedy):
    check(
        command(f"--config={small.ROOT}/configs/{variant}", f"--workdir={tmp_path}/run"),
        field,
        remedy,
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content,field,remedy", FILES)
def test_config_files(tmp_path, content, field, remedy):
    (tmp_path / "own.py").write_text(content)
    check(command(f"--config={tmp_path}/own.py", f"--workdir={tmp_path}/run"), field, remedy)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments,field,remedy", COMMAND_LINES)
def test_command_lines(tmp_path, monkeypatch, arguments, field, remedy):
    monkeypatch.chdir(tmp_path)
    config = f"--config={small.ROOT}/configs/detection.py:shapes"
    check(command(config, "--workdir=run", *arguments), field, remedy)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field,value,remedy", OF_PROGRAMS)
def test_values_of_another_kind(folder, tmp_path, field, value, remedy):
    config = small.config("detection.py:shapes", folder)
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    found = refused(lambda: guard.guarded(lambda: train.run(config, tmp_path / "run")))
    check(found, f"config.{field}={value!r}", remedy)
    assert not (tmp_path / "run").exists()


def test_an_image_that_no_machine_holds(tmp_path):
    config = f"--config={small.ROOT}/configs/detection.py:shapes,size=1000000"
    check(
        command(config, f"--workdir={tmp_path}/run"), "config.model.image_size", "GiB; most of it"
    )
    assert not (tmp_path / "run").exists()


def test_what_is_in_the_way_of_a_workdir(folder, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    for workdir, named in (("file", "file"), ("file/run", "file"), ("run", "run/checkpoints")):
        found = command(*small.flags(folder), f"--workdir={tmp_path}/{workdir}")
        check(found, f"{tmp_path}/{named} is not a folder", "give another --workdir")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]


@pytest.mark.parametrize(
    "name", ["detection.py", "detection.py:arch=resnet50-c4,size=1024", "multitask.py", CONFIG]
)
def test_shipped_configs_are_within_the_ranges(name):
    ranges.check(small.load(name))
