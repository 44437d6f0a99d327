"""All commands answer alike: --help at once with an example, one line for a flag that is wrong."""

import functools
import os
import subprocess
import sys

import pytest

from pix2seq_jax import browse, serve
from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag
from tests.helpers import small
from tests.helpers.refusals import LOADING, check, refused

COMMANDS = {  # and a flag of each
    "main": "workdir",
    "import_tf": "workdir",
    "predict": "workdir",
    "weight_search": "workdir",
    "validate": "data",
    "data.shapes": "out",
    "prepare": "out",
}
FLAGS = (
    Flag("from", REQUIRED, "Where from.", argument="source"),
    Flag("count", 3, "How many."),
    Flag("rate", 0.5, "How fast.", least=0, most=2),
    Flag("parts", 4, "Of each.", least=1),
    Flag("width", 1.0, "Of a part.", least=0.25),
    Flag("at", 0, "Which one.", least=0, most=2**31 - 1),
    Flag("names", ("a",), "Of what."),
    Flag("kind", "plain", "What kind.", choices=("plain", "round")),
    Flag("dry", False, "Whether to write nothing."),
)
DEFAULTS = {flag.argument or flag.name: flag.default for flag in FLAGS[1:]} | {"names": ["a"]}


@pytest.mark.parametrize(("name", "flag"), COMMANDS.items())
def test_help_has_an_example_and_needs_no_large_library(name, flag):
    module = f"pix2seq_jax.{name}"
    code = (
        f"import runpy, sys; sys.argv = ['', '--help']; "
        f"runpy.run_module({module!r}, run_name='__main__'); "
        "print({'jax', 'flax', 'tensorflow', 'clu'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=small.ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout.endswith("set()\n"), done.stdout + done.stderr
    assert f"python -m {module}" in done.stdout and f"--{flag}=VALUE" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_a_folder_that_cannot_be_written_is_refused_before_the_call(tmp_path, capsys):
    table, calls = (Flag("out", "", "Folder."),), []
    (tmp_path / "file").touch()

    def call(out: str) -> None:
        calls.append(out)

    with pytest.raises(SystemExit) as ended:
        command.run(call, table, "A command.", [f"--out={tmp_path / 'file' / 'folder'}"])
    assert ended.value.code == 2 and not calls
    said = capsys.readouterr().err
    assert f"error: --out={tmp_path / 'file' / 'folder'}: " in said and "another --out" in said
    for out in ("", str(tmp_path / "new" / "folder"), "gs://bucket/folder"):
        command.run(call, table, "A command.", [f"--out={out}"])
    assert len(calls) == 3 and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "setting,folder", [(None, "HOME/.cache/pix2seq_jax/compiled"), ("/mine", "/mine"), ("", "None")]
)
def test_compiled_programs_are_kept_unless_the_user_says_otherwise(tmp_path, setting, folder):
    code = (
        "from pix2seq_jax.experiment import command\n"
        "def call():\n"
        "    import jax\n"
        "    print(jax.config.jax_compilation_cache_dir or None)\n"
        "command.run(call, (), 'A command.', [])\n"
    )
    environment = dict(os.environ, HOME=str(tmp_path))
    environment.pop(command.CACHE, None)
    if setting is not None:
        environment[command.CACHE] = setting
    output = subprocess.check_output(
        [sys.executable, "-c", code], cwd=small.ROOT, env=environment, text=True, timeout=60
    )
    assert output.strip() == folder.replace("HOME", str(tmp_path))


def call(*arguments: str) -> dict:
    """What the call gets for these arguments."""
    calls = []
    command.run(lambda **values: calls.append(values), FLAGS, "A test.", arguments)
    return calls[0]


def test_values_are_of_the_kind_of_their_defaults():
    assert call("--from=x") == {"source": "x"} | DEFAULTS
    changed = ("--count=4", "--rate", "2", "--names=b,c", "--kind=round", "--dry")
    assert call("--from=x", *changed) == {
        "source": "x",
        "count": 4,
        "rate": 2.0,
        "parts": 4,
        "width": 1.0,
        "at": 0,
        "names": ["b", "c"],
        "kind": "round",
        "dry": True,
    }
    assert call("--from=x", "--nodry", "--names=") == {"source": "x"} | DEFAULTS | {"names": []}


@pytest.mark.parametrize(
    ("arguments", "field", "remedy"),
    [
        ((), "--from is missing", "give --from=VALUE"),
        (("--from=x", "--count=many"), "--count=many", "int()"),
        (("--from=x", "--kind=flat"), "--kind=flat", "plain|round"),
        (("--from=x", "--cuont=4"), "'cuont'", "Did you mean: count"),
        (("--from=x", "more"), "unknown arguments ['more']", "flags look like --workdir=DIR"),
        (("more",), "unknown arguments ['more']", "flags look like --workdir=DIR"),
        (("--from=x", "--rate=2.5"), "--rate=2.5", "give a number from 0 to 2"),
        (("--from=x", "--rate=nan"), "--rate=nan", "give a number from 0 to 2"),
        (("--from=x", "--parts=0"), "--parts=0", "give at least 1"),
        (("--from=x", "--width=inf"), "--width=inf", "give at least 0.25"),
        (("--from=x", "--at=99999999999"), "--at=99999999999", "a number from 0 to 2147483647"),
    ],
)
def test_flags_that_cannot_be_read_are_one_line(arguments, field, remedy):
    check(refused(lambda: call(*arguments)), field, remedy)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("max_megabytes", ("inf", "nan", "-1", "0"), "0.001 to 10000"),
        ("max_megapixels", ("inf", "nan", "-1", "0"), "0.001 to 10000"),
        ("timeout", ("inf", "nan", "-1", "0"), "0.001 to 86400"),
        ("delay_ms", ("inf", "nan", "-1"), "0 to 60000"),
    ],
)
def test_limits_of_a_server_are_checked_before_it_is_loaded(name, values, words):
    for value in values:
        arguments = ["--workdir=none", f"--{name}={value}"]
        line = refused(functools.partial(serve.main, arguments))
        check(line, f"--{name}={value}:", f"give a number from {words}")


@LOADING
def test_a_step_that_no_run_has_cannot_be_browsed():
    flags = ("--config=configs/detection.py:shapes", "--out=none", "--step=10000000000000")
    check(refused(lambda: browse.main(flags)), flags[-1], "give a number from 0 to 2147483647")


def test_errors_of_the_call_are_one_line_unless_the_trace_is_asked_for():
    def fail(**values):
        raise ValueError("no such folder")

    found = refused(lambda: command.run(fail, FLAGS, "A test.", ["--from=x"]))
    check(found, "no such folder", "--traceback shows where")
    with pytest.raises(ValueError, match="no such folder"):
        command.run(fail, FLAGS, "A test.", ["--from=x", "--traceback"])
