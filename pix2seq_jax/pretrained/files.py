"""Reads a file of weights into arrays by name: safetensors, npz, or Keras' h5. No pickle is ever
loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".pickle")
CONVERT = (
    'convert it where torch is installed and you trust it: python -c "import torch, '
    "safetensors.torch as s; w = torch.load('FILE', map_location='cpu', weights_only=True); "
    "w = w.get('model', w); s.save_file({k: v.contiguous().clone() for k, v in w.items()}, "
    "'FILE.safetensors')\""
)


class File(NamedTuple):
    """What a file and the JSON files of the library beside it hold.

    Attributes:
        path: as given.
        arrays: f32, or integers, by name.
        beside: config.json and preprocessor_config.json of the same folder, merged; may be empty.
    """

    path: str
    arrays: dict[str, np.ndarray]
    beside: dict[str, Any]


def read(path: str) -> File:
    """Reads a file of weights.

    Raises:
        ValueError: there is no such file, its format is not read, or it is damaged.
    """
    check_path(path)
    try:
        read_as = READERS[Path(path).suffix](path)
        arrays = {name: _as_float32(name, array) for name, array in read_as.items()}
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ValueError(
            f"config.init_encoder={path!r} cannot be read: {error}; get the file again, or convert "
            "it to safetensors"
        ) from error
    if not arrays:
        raise ValueError(f"config.init_encoder={path!r} holds no arrays; give a file of weights")
    return File(path, arrays, _beside(path))


def check_path(path: str) -> None:
    """Refuses a path by its name, before anything is opened.

    Raises:
        ValueError: there is no such file, or its format is not read.
    """
    suffix = Path(path).suffix
    if suffix in PICKLES:
        raise ValueError(
            f"config.init_encoder={path!r} is a pickle, which could run any program when it is "
            f"loaded; {CONVERT}"
        )
    if Path(path).is_dir():
        inside = sorted(p.name for p in Path(path).iterdir() if p.suffix in READERS)
        raise ValueError(
            f"config.init_encoder={path!r} is a folder; give the file of weights in it"
            + (f", as {inside[0]}" if inside else f"; {', '.join(READERS)} are read")
        )
    if not Path(path).is_file():
        raise ValueError(f"config.init_encoder={path!r} does not exist; give a file of weights")
    if suffix == ".keras":
        raise ValueError(
            f"config.init_encoder={path!r} is a .keras of Keras 3, whose weights have no names "
            "of layers; write them by model.save('FILE.h5') where Keras is installed"
        )
    if suffix not in READERS:
        raise ValueError(
            f"config.init_encoder={path!r} is of an unknown format {suffix!r}; "
            f"{', '.join(READERS)} are read"
        )


def _safetensors(path: str) -> dict[str, np.ndarray]:
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict


def _npz(path: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive}


def _h5(path: str) -> dict[str, np.ndarray]:
    """Arrays as "layer/weight", without the groups that Keras adds around them."""
    arrays = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            parts = name.removesuffix(":0").split("/")
            whole = name if parts[0] == "optimizer_weights" else "/".join(parts[-2:])
            arrays[whole] = np.asarray(item)

    with h5py.File(path, "r") as file:
        file.visititems(take)
    return arrays


READERS: dict[str, Callable[[str], dict[str, np.ndarray]]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".h5": _h5,
    ".hdf5": _h5,
}


def _as_float32(name: str, array: np.ndarray) -> np.ndarray:
    """float16, bfloat16 and float64 as float32; integers as they are.

    NumPy writes bfloat16 into an npz as two bytes without a type.

    Raises:
        ValueError: bytes without a type that are not two.
    """
    if array.dtype.type is np.void:
        if array.dtype.itemsize != 2:
            raise ValueError(
                f"{name} holds {array.dtype.itemsize} bytes a number, without a type; only two, "
                "those of bfloat16, are read"
            )
        array = array.view(jnp.bfloat16)
    if array.dtype == np.float32 or array.dtype.kind not in "fV":
        return array
    return array.astype(np.float32)


def _beside(path: str) -> dict[str, Any]:
    content = {}
    for name in ("config.json", "preprocessor_config.json"):
        file = Path(path).parent / name
        if file.is_file():
            try:
                read_json = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{file}, beside config.init_encoder: {error}; mend it") from error
            content |= read_json if isinstance(read_json, dict) else {}
    return content
