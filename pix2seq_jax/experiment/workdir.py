"""The folder of a run as a folder: where its files are, whether it can be written, what went wrong
in it.

Imports nothing large, so that the commands can report an error before JAX is there.
"""

import json
import re
import tempfile
import traceback
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.json"
CHECKPOINTS = (
    "checkpoints"  # folder of a workdir; step 0 is an imported model, without an optimizer
)


def check_local(workdir: str | Path) -> None:
    """Raises ValueError for a workdir that is blank or not in the file system.

    A run can be read from a bucket, but metrics cannot be written there line by line.
    """
    check_named(workdir)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(workdir)):
        raise ValueError(
            f"--workdir={workdir} is an address, and what is written goes to a folder; mount the "
            "bucket (as by gcsfuse), or copy the folder there after the run"
        )


def check_named(workdir: str | Path) -> None:
    """Raises ValueError for a workdir that is blank."""
    if not str(workdir).strip():
        raise ValueError(f"--workdir={str(workdir)!r} is blank; give a folder")


def check_writable(workdir: str | Path) -> None:
    """Raises ValueError where checkpoints or files cannot be written into the workdir; leaves
    nothing behind."""
    check_local(workdir)
    if found := re.search(r"[\[\]*?]", str(Path(workdir).absolute())):
        raise ValueError(
            f"--workdir={workdir}: the path holds {found[0]!r}, which Orbax takes for a pattern, "
            "so that it could not read what it saved; give a path without any of [ ] * ?"
        )
    for folder in (Path(workdir), Path(workdir) / CHECKPOINTS):
        try:
            there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            if not there.is_dir():
                raise NotADirectoryError(f"{there} is not a folder")
            with tempfile.TemporaryFile(dir=there):
                pass
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--workdir={workdir}: {folder} cannot be written ({error}); change its "
                "permissions, or give another --workdir"
            ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a config.json; ValueError where it holds none."""
    remedy = "restore it from config.json of a copy, or retrain"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(
            f"{path} is not JSON of a config (it is nested without end); {remedy}"
        ) from error
    except ValueError as error:  # no UTF-8, or no JSON
        raise ValueError(f"{path} is not JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not an object with sections; {remedy}"
        )
    return content


def keep_trace(
    workdir: str | Path | None, error: BaseException, *, process: int | None = None
) -> Path | None:
    """Writes the whole trace of an error into the workdir, over the one of an earlier error.

    Args:
        workdir: of the command, if it has one.
        error: that was caught.
        process: number of this one, where there are several.

    Returns:
        The file; None where the folder is not the workdir of a run yet (nothing is written for
        input that is refused), or cannot be written.
    """
    if not workdir or not (Path(workdir) / CONFIG_FILE).is_file():
        return None
    path = Path(workdir) / ("error.txt" if process is None else f"error-{process}.txt")
    try:
        path.write_text(
            "".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace"
        )
    except OSError:
        return None
    return path
