"""One style for all commands: a table of flags, one call with their values, behind the guard.

The docstring of a command says what it does, with an example. Its large libraries are imported
within the call, so that `--help` and a flag that is refused answer at once:

    FLAGS = (Flag("workdir", REQUIRED, "Folder of the run."), Flag("step", 0, "Of the checkpoint."))

    def main(arguments=None):
        command.run(call, FLAGS, __doc__, arguments)

    def call(workdir: str, step: int) -> None:
        ...
"""

import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from pix2seq_jax.experiment import config_file
from pix2seq_jax.experiment.guard import fail, guarded
from pix2seq_jax.experiment.workdir import check_folder
from pix2seq_jax.files.locations import is_address

REQUIRED = None  # as the default of a flag: it must be given, and is a text
WIDTH = 100  # of the help, in letters
SHORT_WIDTH, SHORT_COLUMN = 79, 27  # of the help of `pix2seq VERB`; where the words begin
# Where compiled programs are kept for the next run of the same sizes. JAX reads this variable when
# it is imported; a user's own value stays, and an empty one keeps nothing.
CACHE = "JAX_COMPILATION_CACHE_DIR"
CACHE_FOLDER = "~/.cache/pix2seq_jax/compiled"


class Flag(NamedTuple):
    """A flag of a command; its values are of the kind of its default.

    Attributes:
        name: on the command line.
        default: a text, a number, True or False, a tuple (texts joined by commas), or REQUIRED.
        help: what it means.
        choices: the texts that are allowed; () for any.
        argument: of the call, where it has another name than the flag.
        least: of a number, which must be finite then.
        most: of a number that has a least one.
    """

    name: str
    default: str | float | bool | tuple | None
    help: str
    choices: tuple[str, ...] = ()
    argument: str = ""
    least: float | None = None
    most: float | None = None


# A config file with --config.NAME=VALUE for its fields; the call gets a ConfigDict.
CONFIG = Flag(
    "config",
    REQUIRED,
    "Configuration file; text after a colon selects a variant. --config.NAME=VALUE sets a field.",
)
# The same for what is done with a run: the config of --workdir where none is given.
WORKDIR_CONFIG = CONFIG._replace(
    default="",
    help="Another config than that of the workdir, as in workdir:DIR,data=coco. "
    "--config.NAME=VALUE sets a field.",
)
# `run` joins the other processes before the call, which does not get these.
DISTRIBUTED = (
    Flag(
        "distributed",
        False,
        "Join the other hosts of a TPU pod, SLURM, Kubernetes or MPI job, which is recognised.",
    ),
    Flag("coordinator", "", "HOST:PORT of process 0, in any other job of several processes."),
    Flag("num_processes", 0, "Of that job."),
    Flag("process_id", -1, "Of this process in that job, from 0."),
)
TRACEBACK = Flag("traceback", False, "Show the whole trace of an error.")


def run(
    call: Callable[..., None],
    table: Sequence[Flag],
    doc: str,
    arguments: Sequence[str] | None = None,
    *,
    trace_in_workdir: bool = True,
) -> None:
    """Runs a command; what is wrong with its input is one line on stderr and exit code 2. A flag
    --out is a folder that has to be one to write into.

    Args:
        call: gets the value of each flag by name.
        table: the flags; --traceback and --help are added.
        doc: docstring of the command, for --help.
        arguments: of the command line; None: those of this process.
        trace_in_workdir: whether an error leaves its trace in the folder --workdir.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument in ("--help", "-help", "-h") for argument in arguments):
        print(help_text(doc, table))
        return
    os.environ.setdefault(CACHE, os.path.expanduser(CACHE_FOLDER))
    values = parse(arguments, (*table, TRACEBACK))
    whole_trace = values.pop("traceback")
    job = [values.pop(flag.name) for flag in DISTRIBUTED if flag in table]
    distributed = job not in ([], [flag.default for flag in DISTRIBUTED])

    def joined() -> None:
        if (out := values.get("out")) and not is_address(out):  # before any work is done for it
            check_folder(out, flag=f"--out={out}")
        if not distributed:
            return call(**values)
        from pix2seq_jax.training import processes

        processes.join(*job[1:])
        call(**values)
        # Process 0 may still score and write what the others are done with.
        processes.meet("the end of the command")

    workdir = values.get("workdir") if trace_in_workdir else None
    guarded(joined, workdir=workdir, whole_trace=whole_trace, distributed=distributed)


def parse(arguments: list[str], table: Sequence[Flag]) -> dict[str, Any]:
    """The values of the flags by the names of the call's arguments; one that cannot be read ends
    the process with one line and exit code 2."""
    values = flags.FlagValues()
    if any(flag.name == CONFIG.name for flag in table):
        own = WORKDIR_CONFIG in table
        arguments = config_file.completed(arguments, of_workdir=own)
    for flag in table:
        _define(flag, values, arguments)
    try:
        if CONFIG in table or WORKDIR_CONFIG in table:
            # ml_collections loads the config and looks up the fields while flags are parsed, and
            # raises what it likes. So both are done here first, for a message that says what to do.
            config_file.check(arguments)
        rest = values(["", *arguments])[1:]
        if rest:
            raise ValueError(f"unknown arguments {rest}: flags look like --workdir=DIR")
        for flag in table:
            _check_value(flag, values[flag.name].value)
    except (ValueError, flags.Error) as error:
        if any(re.fullmatch(r"--?traceback(=true)?", argument) for argument in arguments):
            raise
        fail(_message(error))
    return {flag.argument or flag.name: values[flag.name].value for flag in table}


def _define(flag: Flag, values: flags.FlagValues, arguments: list[str]) -> None:
    """Adds a flag to those of absl."""
    common = {"flag_values": values}
    if flag.name == CONFIG.name:
        argv = ["", *arguments]
        config_flags.DEFINE_config_file("config", None, flag.help, sys_argv=argv, **common)
    elif flag.choices:
        flags.DEFINE_enum(flag.name, flag.default, list(flag.choices), flag.help, **common)
    elif isinstance(flag.default, bool):
        flags.DEFINE_bool(flag.name, flag.default, flag.help, **common)
    elif isinstance(flag.default, int):
        flags.DEFINE_integer(flag.name, flag.default, flag.help, **common)
    elif isinstance(flag.default, float):
        flags.DEFINE_float(flag.name, flag.default, flag.help, **common)
    elif isinstance(flag.default, tuple):
        flags.DEFINE_list(flag.name, list(flag.default), flag.help, **common)
    else:
        flags.DEFINE_string(flag.name, flag.default, flag.help, **common)


def _check_value(flag: Flag, value) -> None:
    """Raises ValueError for a flag that is missing, or a number beyond its range."""
    if flag.default is REQUIRED and value is None:
        raise ValueError(
            f"--{flag.name} is missing; give --{flag.name}=VALUE, --help says what it is"
        )
    if flag.least is None:
        return
    if flag.most is None:
        within, words = flag.least <= value < math.inf, f"at least {_number(flag.least)}"
    else:
        within = flag.least <= value <= flag.most
        words = f"a number from {_number(flag.least)} to {_number(flag.most)}"
    if not within:
        raise ValueError(f"--{flag.name}={_number(value)}: give {words}")


def _number(value: float) -> str:
    """A number with all its digits."""
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def _message(error: Exception) -> str:
    """What absl says, and what to do."""
    message = str(error)
    if re.match(r"flag --config\.", message):
        return message + "; give a value like the one in the config file"
    return message


def help_text(doc: str, table: Sequence[Flag]) -> str:
    """The docstring of a command, then its flags with their defaults."""
    lines = [doc.strip(), "", "flags:"]
    for flag in (*table, TRACEBACK):
        choices = f" One of {', '.join(flag.choices)}." if flag.choices else ""
        default = "required" if flag.default is REQUIRED else f"default: {_shown(flag.default)}"
        name = f"--{flag.name}" if isinstance(flag.default, bool) else f"--{flag.name}=VALUE"
        text = f"{flag.help}{choices} ({default})"
        lines.append(f"  {name}")
        lines += textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def short_help(doc: str, table: Sequence[Flag], module: str, verb: str) -> str:
    """The flags of `pix2seq VERB` with an example from the docstring of its module, on a screen."""
    summary = re.split(r"[.:](?:\s|$)", " ".join(doc.split()), maxsplit=1)[0]
    parts = textwrap.wrap(
        example(doc, module, verb), SHORT_WIDTH - 4, break_on_hyphens=False, break_long_words=False
    )
    lines = [textwrap.fill(f"{summary}.", SHORT_WIDTH), "", "  " + " \\\n    ".join(parts), ""]
    distributed = [flag for flag in table if flag in DISTRIBUTED]
    for flag in (flag for flag in table if flag not in DISTRIBUTED):
        name = f"--{flag.name}" if isinstance(flag.default, bool) else f"--{flag.name}=VALUE"
        choices = f" One of {', '.join(flag.choices)}." if flag.choices else ""
        default = "required" if flag.default is REQUIRED else _shown(flag.default)
        shown = "" if flag.default in ("", ()) else f" ({default})"
        indent = " " * SHORT_COLUMN
        wrapped = textwrap.wrap(
            f"{flag.help}{choices}{shown}", SHORT_WIDTH, initial_indent=indent,
            subsequent_indent=indent,
        )  # fmt: skip
        lines += [f"  {name}".ljust(SHORT_COLUMN) + wrapped[0].strip(), *wrapped[1:]]
    if distributed:
        names = [f"--{flag.name}" for flag in distributed]
        lines += [f"  {', '.join(names)}:", " " * SHORT_COLUMN + "see docs/accelerators.md"]
    return "\n".join([*lines, "", f"python -m {module} --help says more."])


def example(doc: str, module: str, verb: str) -> str:
    """The first command line in a docstring that calls the module, as `pix2seq VERB …`."""
    match = re.search(rf"python -m {re.escape(module)}\b(.*?)(?:`|\n\n|$)", doc, re.DOTALL)
    if match is None:
        raise ValueError(f"the docstring of {module} has no `python -m {module} …` as an example")
    return " ".join(f"pix2seq {verb}{match[1]}".split())


def _shown(default) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(default) if isinstance(default, tuple) else repr(default)
