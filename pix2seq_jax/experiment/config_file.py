"""The config that --config=FILE or --config=FILE:VARIANT names, and the fields that flags set."""

import difflib
import importlib.util
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import ml_collections

ROOT = Path(__file__).parents[1]  # the package
# An installed package has the shipped configs in it, a checkout beside it.
SHIPPED = (ROOT / "configs", ROOT.parent / "configs")


def shipped() -> dict[str, Path]:
    """The shipped configs by name, as in "detection"."""
    folder = next((path for path in SHIPPED if path.is_dir()), SHIPPED[0])
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def completed(arguments: Sequence[str], *, of_workdir: bool = False) -> list[str]:
    """The arguments with the path of a config where the name of a shipped one is given.

    `detection:shapes` and, where there is no such file, `configs/detection.py:shapes` name the
    shipped one.

    Args:
        arguments: of the command line.
        of_workdir: whether the config of --workdir is taken where none is given.
    """
    arguments, path = list(arguments), _path(arguments)
    if path is None:
        workdir = _value(arguments, "workdir")
        if of_workdir and workdir:
            return [f"--config={shipped()['workdir']}:{workdir}", *arguments]
        return arguments
    name, colon, variant = path.partition(":")
    stem = re.fullmatch(r"(?:configs/)?(\w+?)(?:\.py)?", name)
    named = stem is not None and ("/" in name) == name.endswith(".py")
    if not named or Path(name).is_file() or stem[1] not in shipped():
        return arguments
    whole = f"{shipped()[stem[1]]}{colon}{variant}"
    row = next(i for i, text in enumerate(arguments) if _names(text, "config"))
    if "=" in arguments[row]:
        arguments[row] = f"--config={whole}"
    else:
        arguments[row + 1] = whole
    return arguments


def check(arguments: Sequence[str]) -> None:
    """Loads the config that the arguments name, if any, and looks up the fields that they set.

    Raises:
        ValueError: see `load`; or a flag --config.NAME of a section or field that it does not have.
    """
    path = _path(arguments)
    if path is None:
        return
    config = load(path)
    for argument in arguments:
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match:
            _check_field(config, argument, match[1])


def _path(arguments: Sequence[str]) -> str | None:
    """The value of the flag --config; None where it is not given."""
    return _value(arguments, "config")


def _value(arguments: Sequence[str], flag: str) -> str | None:
    """The value of a flag; None where it is not given."""
    for number, argument in enumerate(arguments):
        _, equals, value = argument.partition("=")
        if _names(argument, flag):
            return value if equals else "".join(arguments[number + 1 : number + 2])
    return None


def _names(argument: str, flag: str) -> bool:
    """Whether an argument is a flag, with its value or before it."""
    return argument.partition("=")[0] in (f"--{flag}", f"-{flag}")


def _check_field(config: ml_collections.ConfigDict, argument: str, name: str) -> None:
    """Raises ValueError where there is no field `name`, its sections joined by dots."""
    content = config
    for part in name.split("."):
        names = sorted(content) if isinstance(content, ml_collections.ConfigDict) else []
        if part not in names:
            near = difflib.get_close_matches(part, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {names}"
            raise ValueError(f"{argument}: there is no section or field {part!r}; {hint}")
        content = content[part]


def load(path: str) -> ml_collections.ConfigDict:
    """The config of FILE or FILE:VARIANT.

    Raises:
        ValueError: there is no such file, or it has a mistake, or no get_config that returns a
            config.
    """
    file, colon, variant = path.partition(":")
    module = _module(path, file)
    try:
        module.__spec__.loader.exec_module(module)
        if "get_config" not in vars(module):
            raise ValueError(
                f"{file} has no function get_config; write `def get_config(arg=''):` that "
                "returns a config"
            )
        config = module.get_config(variant) if colon else module.get_config()
    except ValueError as error:
        raise ValueError(f"--config={path}: {error}") from error
    except Exception as error:  # the file is code: anything can be wrong in it
        raise ValueError(
            f"--config={path}: {_line(error, file)} raises {type(error).__name__} ({error}); "
            "correct the file"
        ) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(
            f"--config={path}: get_config returns a {type(config).__name__}; it must return a "
            "ConfigDict, as configs/detection.py does"
        )
    return config


def _module(path: str, file: str) -> ModuleType:
    """The module of a config file, not run yet."""
    if not Path(file).is_file():
        raise ValueError(
            f"--config={path}: there is no file {file!r}; give one of configs/*.py, or a copy "
            f"of one, or the name of a shipped one: {', '.join(shipped())}"
        )
    spec = importlib.util.spec_from_file_location("config_file", file)
    if spec is None:
        raise ValueError(
            f"--config={path}: {file} is no Python file; give one of configs/*.py, or a copy of one"
        )
    return importlib.util.module_from_spec(spec)


def _line(error: Exception, file: str) -> str:
    """Where in the file an error was raised."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno} of {file}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return f"line {lines[-1]} of {file}" if lines else file
