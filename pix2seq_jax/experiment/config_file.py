"""The config that --config=FILE or --config=FILE:VARIANT names, and the fields that flags set."""

import difflib
import importlib.util
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import ml_collections


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
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            return value if equals else "".join(arguments[number + 1 : number + 2])
    return None


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
            "of one"
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
