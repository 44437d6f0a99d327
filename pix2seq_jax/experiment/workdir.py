"""The folder of a run as a folder: where its files are, whether it can be written, what went wrong
in it.

Imports nothing large, so that the commands can report an error before JAX is there.
"""

import contextlib
import importlib.util
import json
import os
import re
import tempfile
import traceback
from pathlib import Path, PurePath
from typing import Any

from pix2seq_jax.files.locations import is_address, path_of

CONFIG_FILE = "config.json"
STORAGE = "google.cloud.storage"  # Orbax imports it for gs://
CHECKPOINTS = (
    "checkpoints"  # folder of a workdir; step 0 is an imported model, without an optimizer
)


def check_local(workdir: str | Path, *, what: str) -> None:
    """Raises ValueError for a workdir that is blank or not in the file system, where `what` needs
    one that is."""
    check_named(workdir)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(workdir)):
        raise ValueError(
            f"--workdir={workdir} is an address, and {what} needs a folder; mount the bucket (as "
            "by gcsfuse), or copy the folder there afterwards"
        )


def _check_address(workdir: str | Path) -> None:
    """Raises ValueError for an address that runs cannot be written to: another than
    gs://BUCKET/FOLDER."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(workdir)):
        return
    if not re.fullmatch(r"gs://[^/]+/.*[^/].*", str(workdir)):
        raise ValueError(
            f"--workdir={workdir} is no address that a run is written to; give a folder, or "
            "gs://BUCKET/FOLDER"
        )
    with contextlib.suppress(ModuleNotFoundError):  # where there is no google.cloud at all
        if importlib.util.find_spec(STORAGE):
            return
    raise ValueError(
        f"--workdir={workdir} needs the package google-cloud-storage, with which Orbax looks at "
        "the bucket: pip install 'pix2seq_jax[gcs]'"
    )


def check_named(workdir: str | Path) -> None:
    """Raises ValueError for a workdir that is blank."""
    if not str(workdir).strip():
        raise ValueError(f"--workdir={str(workdir)!r} is blank; give a folder")


def check_writable(workdir: str | Path) -> None:
    """Raises ValueError where checkpoints or files cannot be written into the workdir; leaves
    nothing behind."""
    check_named(workdir)
    _check_address(workdir)
    if is_address(workdir):
        _check_bucket(workdir)
        return
    if found := re.search(r"[\[\]*?]", str(Path(workdir).absolute())):
        raise ValueError(
            f"--workdir={workdir}: the path holds {found[0]!r}, which Orbax takes for a pattern, "
            "so that it could not read what it saved; give a path without any of [ ] * ?"
        )
    for folder in (Path(workdir), Path(workdir) / CHECKPOINTS):
        check_folder(folder, flag=f"--workdir={workdir}")


def check_folder(folder: str | Path, *, flag: str) -> None:
    """Raises ValueError where a folder cannot be written into, or not be made; leaves nothing
    behind. `flag` is what names it, as in --out=DIR."""
    folder = Path(folder)
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(f"{there} is not a folder")
        with tempfile.TemporaryFile(dir=there):
            pass
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{flag}: {folder} cannot be written ({error}); change its permissions, or give "
            f"another {flag.partition('=')[0]}"
        ) from error


def _check_bucket(workdir: str | Path) -> None:
    """Raises ValueError where an object cannot be written below an address."""
    mark = path_of(workdir) / f".writable-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        mark.write_text("")
        mark.unlink()
    except Exception as error:  # object stores raise errors of their own
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"--workdir={workdir} cannot be written ({words}); check the address and your "
            "permissions, or give another --workdir"
        ) from error


def split_step(source: str) -> tuple[str, int | None]:
    """(path, step) of PATH or PATH@STEP; a folder may have an @ in its own name."""
    match = re.fullmatch(r"(.+)@(\d+)", source)
    if match is None or os.path.exists(source):
        return source, None
    return match[1], int(match[2])


def read_json(path: PurePath) -> dict[str, Any]:
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
) -> PurePath | None:
    """Writes the whole trace of an error into the workdir, over the one of an earlier error.

    Args:
        workdir: of the command, if it has one.
        error: that was caught.
        process: number of this one, where there are several.

    Returns:
        The file; None where the folder is not the workdir of a run yet (nothing is written for
        input that is refused), or cannot be written.
    """
    if not workdir:
        return None
    path = path_of(workdir) / ("error.txt" if process is None else f"error-{process}.txt")
    content = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
    try:
        if not (path.parent / CONFIG_FILE).is_file():
            return None
        path.write_bytes(content)
    except Exception:  # object stores raise errors of their own; the first error is to be seen
        return None
    return path
