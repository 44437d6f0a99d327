"""The hashes of the files of a checkpoint, in the form that `sha256sum -c` reads."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from etils import epath

SUMS = "SHA256SUMS"
BYTES = 2**20  # that are read at a time
# Orbax writes these two after the hashes: the time of the commit, no data.
UNHASHED = (SUMS, "_CHECKPOINT_METADATA", "commit_success.txt")


def damage(folder: epath.Path, *, item: str = "") -> str:
    """What is wrong with a checkpoint folder (or one item of it): the first odd file and its hash;
    empty if nothing."""
    if not (folder / SUMS).exists():
        return f"{folder}: {SUMS} is missing"
    text = (folder / SUMS).read_bytes().decode(errors="replace")
    lines = (line.split("  ", 1) for line in text.splitlines())
    listed = {name[0]: value for value, *name in lines if name and name[0].startswith(item)}
    actual = {f"{item}{name}": value for name, value in _hashes(folder / item).items()}
    for name in sorted(listed.keys() | actual.keys()):
        if listed.get(name) != actual.get(name):
            want, have = listed.get(name, "not listed"), actual.get(name, "no such file")
            return f"{folder / name}: SHA-256 {have}, in {SUMS}: {want}"
    return ""


def write_sums(folder: epath.Path) -> None:
    """Writes the hashes of all files of a folder into it."""
    (folder / SUMS).write_text(
        "".join(f"{value}  {name}\n" for name, value in sorted(_hashes(folder).items()))
    )


def _hashes(folder: epath.Path) -> dict[str, str]:
    """SHA-256 by name relative to the folder, of all files below it but UNHASHED; none where there
    is no folder."""

    def digest(path: epath.Path) -> str:
        whole = hashlib.sha256()
        with path.open("rb") as file:  # hashlib.file_digest takes no file of an object store
            while part := file.read(BYTES):
                whole.update(part)
        return whole.hexdigest()

    files = {
        str(path.relative_to(folder)): path for path in _files(folder) if path.name not in UNHASHED
    }
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        return dict(zip(files, pool.map(digest, files.values()), strict=True))


def _files(folder: epath.Path) -> list[epath.Path]:
    """All files below a folder, if there is one (object stores know no recursive glob)."""
    if not folder.exists():
        return []
    files = []
    for path in folder.iterdir():
        files += _files(path) if path.is_dir() else [path]
    return files
