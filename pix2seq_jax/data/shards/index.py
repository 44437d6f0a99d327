"""What a folder of shards says about itself: which shards there are, and what is in them.

plan.json         what was asked for; it is written first
NAME-00000-of-00030.array_record, ...
images.npz        a row for each image, in the order of the shards
index.json        the shards with their sizes and checksums; it is written last
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from pix2seq_jax.files.whole import save_arrays, write_whole

PLAN, INDEX, COLUMNS = "plan.json", "index.json", "images.npz"
VERSION = 1  # of these files and of the records
AGAIN = (
    "run `python -m pix2seq_jax.prepare` with the same flags again (it keeps whole shards and "
    "writes the others anew), or copy the file again"
)


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
        file: its name in the folder.
        records: how many it holds.
        bytes: its size.
        sha256: its checksum in hexadecimal digits.
    """

    file: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Index:
    """The shards of a folder and the N images in them, one after the other.

    Attributes:
        shards: in order.
        names: N names of files, from the folder of images on.
        sizes: i32[N,2], height and width in pixels as stored; 0, 0 of a broken file.
        turned: bool[N], whether the EXIF orientation exchanges them.
        errors: row -> what is wrong with the file.
    """

    shards: Sequence[Shard]
    names: Sequence[str]
    sizes: np.ndarray
    turned: np.ndarray
    errors: dict[int, str]


def write_index(folder: PurePath, index: Index) -> None:
    """Writes images.npz and index.json."""
    texts = {"names": list(index.names), "errors": sorted(index.errors.items())}
    columns = {name: _as_bytes(value) for name, value in texts.items()}
    save_arrays(folder / COLUMNS, columns | {"sizes": index.sizes, "turned": index.turned})
    content = {
        "version": VERSION,
        "images": len(index.names),
        "columns": hashlib.sha256((folder / COLUMNS).read_bytes()).hexdigest(),
        "shards": [dataclasses.asdict(shard) for shard in index.shards],
    }
    write_whole(folder / INDEX, json.dumps(content, indent=1) + "\n")


def read_index(folder: PurePath) -> Index:
    """The index of a folder.

    Raises:
        ValueError: the folder has none, or one that is damaged or of another version.
    """
    path = folder / INDEX
    if not path.exists():
        raise ValueError(
            f"{folder} has no {INDEX}: it holds no shards, or not all of them yet; {AGAIN}"
        )
    try:
        content = json.loads(_bytes(path))
        version, shards = content["version"], [Shard(**shard) for shard in content["shards"]]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); {AGAIN}") from error
    if version != VERSION:
        raise ValueError(
            f"{path} is of version {version}, this library reads version {VERSION}; "
            "prepare the data again in another folder"
        )
    columns = _read_columns(folder / COLUMNS, content["columns"])
    errors = {int(row): text for row, text in _of_bytes(columns["errors"])}
    names = _of_bytes(columns["names"])
    return Index(shards, names, columns["sizes"], columns["turned"], errors)


def _read_columns(path: PurePath, checksum: str) -> dict[str, np.ndarray]:
    """The arrays of images.npz; ValueError where they are not those that were written."""
    data = _bytes(path)
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError(f"{path} is damaged, its checksum is not that in {INDEX}; {AGAIN}")
    with np.load(io.BytesIO(data), allow_pickle=False) as content:
        return dict(content)


def _bytes(path: PurePath) -> bytes:
    """Content of a file; ValueError where it cannot be read."""
    try:
        return path.read_bytes()
    except Exception as error:  # object stores raise errors of their own
        raise ValueError(f"{path} cannot be read: {error}; {AGAIN}") from error


def _as_bytes(value) -> np.ndarray:
    """Values of a JSON as u8[bytes]."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _of_bytes(column: np.ndarray):
    """What `_as_bytes` was made of."""
    return json.loads(column.tobytes())
