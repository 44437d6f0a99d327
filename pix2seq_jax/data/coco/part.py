"""The splits of an annotation file that says none: a pure function of a seed and the ids of the
images."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from pix2seq_jax.data.coco.json import whole_numbers

_SPLITS = ("train", "val")
_SEEDS = 1000  # that are tried for a better one


@dataclass(frozen=True)
class Part:
    """The images of one split.

    An image is in val where a hash of the seed and its id is below `val_share`. So other images do
    not matter: several files of the same images are split alike, and an image that is added moves
    no other.

    Attributes:
        split: "train" or "val".
        val_share: of the images, above 0 and below 1.
        seed: of the hash.
    """

    split: str
    val_share: float
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in _SPLITS or not 0 < self.val_share < 1:
            raise ValueError(f"{self}: give train or val, and a share above 0 and below 1")

    def mine(self, ids: np.ndarray) -> np.ndarray:
        """bool[n], whether images of these ids i64[n] are in this split."""
        different, rows = np.unique(ids, return_inverse=True)
        return _in_val(different, self.val_share, self.seed)[rows] == (self.split == "val")

    def choose(self, path: PurePath, ids: np.ndarray) -> np.ndarray:
        """`mine` of all the images of a file.

        Raises:
            ValueError: one of the splits has no image; names a seed for which both have some.
        """
        mine = self.mine(ids)
        if mine.any() and not mine.all():
            return mine
        seeds = (seed for seed in range(_SEEDS) if _divides(ids, self.val_share, seed))
        better, remedy = next(seeds, None), "give a file for val"
        if better is not None:
            remedy = f"take --config.data.split_seed={better} (prepare: --split_seed={better})"
        empty = self.split if not mine.any() else next(s for s in _SPLITS if s != self.split)
        raise ValueError(
            f"annotation file {path}: none of its {len(ids)} images falls into {empty} with "
            f"split_seed={self.seed} and val_share={self.val_share:g}; {remedy}"
        )

    def cut(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """A COCO JSON with the images and annotations of this split alone; records without a whole
        number for an id are in train."""
        lists = {}
        for key, name in (("images", "id"), ("annotations", "image_id")):
            records = content[key]
            values = [record.get(name) if isinstance(record, dict) else None for record in records]
            ids, wrong = whole_numbers(values)
            mine = np.where(wrong, self.split == "train", self.mine(ids))
            lists[key] = [record for record, own in zip(records, mine, strict=True) if own]
        return dict(content) | lists


def _in_val(ids: np.ndarray, val_share: float, seed: int) -> np.ndarray:
    """bool[n] of different ids i64[n]."""
    hashes = [
        int.from_bytes(hashlib.blake2b(f"{seed}:{image_id}".encode(), digest_size=8).digest())
        for image_id in ids.tolist()
    ]
    return np.array(hashes, np.uint64) < np.uint64(val_share * 2**64)


def _divides(ids: np.ndarray, val_share: float, seed: int) -> bool:
    in_val = _in_val(np.unique(ids), val_share, seed)
    return bool(in_val.any() and not in_val.all())
