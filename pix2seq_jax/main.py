"""Trains and evaluates: `python -m pix2seq_jax.main --config=configs/detection.py:shapes
--workdir=DIR`.

Exit codes: 0 finished; 143 interrupted by SIGTERM, all that was trained is saved and the same
command goes on; 130 stopped by Ctrl-C; 2 something is wrong, in one line on stderr.
"""

import difflib
import importlib.util
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from pix2seq_jax.experiment.guard import fail, guarded

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file; text after a colon selects a variant."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, metrics and pictures; rerun to resume."
)
_MODE = flags.DEFINE_enum(
    "mode", "train_and_eval", ["train", "eval", "train_and_eval"], "What to do."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join the other hosts of a TPU pod, SLURM or Kubernetes job (jax.distributed.initialize).",
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show the whole trace of an error.")


def start(command: Callable[[list[str]], None], required: Sequence[str]) -> None:
    """Parses the flags, of which the `required` ones must be given, and calls `command` with the
    other arguments."""
    flags.mark_flags_as_required(list(required))
    app.run(command, flags_parser=parse_flags)


def main(argv: list[str]) -> None:
    """Flags to config, config to train.run or evaluate.run."""

    def run() -> None:
        if len(argv) > 1:
            raise ValueError(f"unknown arguments {argv[1:]}: flags look like --workdir=DIR")
        from pix2seq_jax import evaluate, train

        if _MODE.value == "eval":
            evaluate.run(_CONFIG.value, _WORKDIR.value)
        else:
            train.run(_CONFIG.value, _WORKDIR.value, evaluate_too=_MODE.value == "train_and_eval")

    guarded_by_flags(run)


def guarded_by_flags(command: Callable[[], None]) -> None:
    """Runs a command with the flags above behind the guard, joined to the other processes of a
    job."""

    def joined() -> None:
        if _DISTRIBUTED.value:
            join_other_hosts()
        command()

    guarded(
        joined, workdir=_WORKDIR.value, whole_trace=_TRACEBACK.value, distributed=_DISTRIBUTED.value
    )


def join_other_hosts() -> None:
    """Connects the processes of a job; ValueError where there is no job to be recognised."""
    import jax

    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--distributed: {error}; start one process per host under SLURM, Kubernetes or on a "
            "TPU pod, or leave --distributed out"
        ) from error


def parse_flags(args: list[str]) -> list[str]:
    """Sets the flags and returns the other arguments; one that cannot be read is one line and exit
    code 2.

    ml_collections loads the config and looks up the fields while flags are parsed, and raises what
    it likes. So both are done here first, for a message that says what to do.
    """
    try:
        path = config_path(args)
        if path is not None:
            check_fields_exist(load_config(path), args)
        return flags.FLAGS(args)
    except (ValueError, flags.Error) as error:
        if any(re.fullmatch(r"--?traceback(=true)?", arg) for arg in args):
            raise
        message = str(error)
        if re.match(r"flag --config\.", message):
            message += "; give a value like the one in the config file"
        if missing := re.match(r"flag --(\w+)=None", message):
            message = (
                f"--{missing[1]} is missing; give --{missing[1]}=VALUE, --help says what it is"
            )
        fail(message)


def config_path(args: Sequence[str]) -> str | None:
    """The value of the flag --config; None where it is not given."""
    for number, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in ("--config", "-config"):
            rest = args[number + 1 : number + 2]
            return value if equals else "".join(rest)
    return None


def load_config(path: str) -> ml_collections.ConfigDict:
    """The config of FILE or FILE:VARIANT.

    Raises:
        ValueError: there is no such file, or it has a mistake, or no get_config that returns a
            config.
    """
    file, colon, variant = path.partition(":")
    if not Path(file).is_file():
        raise ValueError(
            f"--config={path}: there is no file {file!r}; give one of configs/*.py, or a copy "
            "of one"
        )
    spec = importlib.util.spec_from_file_location("config_file", file)
    if spec is None:
        raise ValueError(
            f"--config={path}: {file} is no Python file; give one of configs/*.py, or a copy of one"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if "get_config" not in vars(module):
            raise ValueError(
                f"{file} has no function get_config; write `def get_config(arg=''):` that "
                "returns a config"
            )
        config = module.get_config(variant) if colon else module.get_config()
    except ValueError as error:
        raise ValueError(f"--config={path}: {error}") from error
    except Exception as error:  # the file is code: anything can be wrong in it
        lines = [
            entry.lineno
            for entry in traceback.extract_tb(error.__traceback__)
            if entry.filename == file
        ]
        if isinstance(error, SyntaxError):
            lines = [error.lineno]
        where = f"line {lines[-1]} of {file}" if lines else file
        raise ValueError(
            f"--config={path}: {where} raises {type(error).__name__} ({error}); correct the file"
        ) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(
            f"--config={path}: get_config returns a {type(config).__name__}; it must return a "
            "ConfigDict, as configs/detection.py does"
        )
    return config


def check_fields_exist(config: ml_collections.ConfigDict, args: Sequence[str]) -> None:
    """Raises ValueError for a flag --config.NAME of a section or field that the config does not
    have."""
    for arg in args:
        found = re.match(r"--?(?:no)?config\.([^=]*)", arg)
        content = config
        for part in found[1].split(".") if found else ():
            if not isinstance(content, ml_collections.ConfigDict) or part not in content:
                names = sorted(content) if isinstance(content, ml_collections.ConfigDict) else []
                near = difflib.get_close_matches(part, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {names}"
                raise ValueError(f"{arg}: there is no section or field {part!r}; {hint}")
            content = content[part]


if __name__ == "__main__":
    start(main, ("config", "workdir"))
