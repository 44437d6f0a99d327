"""Keypoints of a `person_keypoints` JSON: the schema of its categories, and all annotated joints as one column.

A joint is (x, y, v) in pixels: v=0 not labelled, 1 labelled but hidden, 2 visible.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pix2seq_jax.data.coco_json import Report
from pix2seq_jax.vocab import POINT_INVISIBLE

_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)  # the word alone: left_eye, "Left eye", eye-left
_OTHER = {"left": "right", "right": "left"}


def mirrored(names: tuple[str, ...], pairs: Sequence[tuple[str, str]] = ()) -> np.ndarray:
    """i32[J], the joint that each becomes when the image is mirrored.

    Joints of a pair of names change places, and those of which `left` and `right` in the names say so. All are -1 when
    neither tells anything, or a name says a side and has no partner: then nobody can tell, and such images must not be
    mirrored.

    Raises:
        ValueError: a pair that is not two of the names, or a name in two pairs.
    """
    given = Counter(name for pair in pairs for name in pair)
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(names) or max(given[name] for name in pair) > 1:
            raise ValueError(
                f"config.data.flip_pairs has {tuple(pair)}: give pairs of keypoint names, each name once; "
                f"the names are {list(names)}"
            )
    lower = [name.lower() for name in names]
    partners = [_SIDE.sub(lambda side: _OTHER[side.group()], name) for name in lower]
    for pair in pairs:
        first, second = map(names.index, pair)
        partners[first], partners[second] = lower[second], lower[first]
    if lower == partners or not set(partners) <= set(lower):
        return np.full(len(names), -1, np.int32)
    return np.array([lower.index(partner) for partner in partners], np.int32)


class Joints:
    """The column `keypoints` of a file.

    Attributes:
        names: of the J joints.
        skeleton: pairs of joints that a bone connects, counted from 0.
        swap: i32[J], see `mirrored`.
        category_ids: the categories that have joints.
    """

    def __init__(self, path: Path, categories: list[dict], flip_pairs: Sequence[tuple[str, str]] = ()) -> None:
        """Reads the schema; ValueError where no category has keypoints, they differ between categories, or see
        `mirrored`."""
        self._path = path
        having = [record for record in categories if record.get("keypoints")]
        if not having:
            raise ValueError(
                f"annotation file {path}: no category has `keypoints`, the names of its joints; "
                "give a person_keypoints file, or open it without keypoints"
            )
        first = having[0]
        for record in having:
            if record["keypoints"] != first["keypoints"]:
                raise ValueError(
                    f"annotation file {path}: the categories {first['name']} and {record['name']} have different "
                    f"keypoints, {str(first['keypoints'])[:200]} and {str(record['keypoints'])[:200]}; "
                    "all must have the same joints in the same order"
                )
        self.names = tuple(str(name) for name in first["keypoints"])
        self.category_ids = frozenset(int(record["id"]) for record in having)
        self.skeleton = self._bones(first)
        self.swap = mirrored(self.names, flip_pairs)

    def _bones(self, category: dict) -> tuple[tuple[int, int], ...]:
        bones = category.get("skeleton") or []
        for bone in bones:
            if not (
                isinstance(bone, list) and len(bone) == 2 and all(n in range(1, len(self.names) + 1) for n in bone)
            ):
                raise ValueError(
                    f"annotation file {self._path}: the skeleton of category {category['name']} has {bone}; "
                    f"give pairs of joints counted from 1 to {len(self.names)}"
                )
        return tuple((int(a) - 1, int(b) - 1) for a, b in bones)

    def read(self, records: list[dict], ids: list, sizes: np.ndarray, report: Report) -> None:
        """Reads and checks the annotations.

        Args:
            records: annotations; those without keypoints, or of another category, have no labelled joint.
            ids: of the annotations, for errors and the report.
            sizes: i32[n,2], height and width of the image of each.

        Raises:
            ValueError: a list of keypoints is not J times three finite numbers.
        """
        if (self.swap < 0).all():
            kind = (
                "keypoints without left and right in their names, images with them are not mirrored; "
                "config.data.flip_pairs can say which ones change places"
            )
            report.add(kind, list(self.names))
        self._sizes = sizes
        self._joints = np.zeros((len(records), 3 * len(self.names)), np.float32)
        missing = []
        for row, record in enumerate(records):
            value = record.get("keypoints")
            if value:
                try:
                    self._joints[row] = np.array(value, np.float32).reshape(self._joints.shape[1])
                except (TypeError, ValueError):
                    self._joints[row] = np.nan
            elif int(record["category_id"]) in self.category_ids and not record.get("iscrowd"):
                missing.append(ids[row])
        report.add("objects without keypoints", missing)
        bad = np.flatnonzero(~np.isfinite(self._joints).all(axis=1))
        if bad.size:
            value = records[bad[0]]["keypoints"]
            number = f" are {len(value)}" if isinstance(value, list) else ""
            raise ValueError(
                f"annotation file {self._path}: the keypoints of annotation {ids[bad[0]]}{number}: {str(value)[:200]}; "
                f"give {3 * len(self.names)} finite numbers x, y, v for the {len(self.names)} joints of the category"
            )
        self._joints = self._joints.reshape(len(records), -1, 3)
        limits = sizes[:, None, ::-1]
        outside = ((self._joints[..., :2] < 0) | (self._joints[..., :2] > limits)).any(axis=-1)
        self._labelled = (self._joints[..., 2] > 0) & ~outside
        lost = np.flatnonzero((outside & (self._joints[..., 2] > 0)).any(axis=1))
        report.add("objects with keypoints outside their image, taken for not labelled", [ids[i] for i in lost])

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Labelled joints inside the image, of annotations: i64[n]."""
        return self._labelled[rows].sum(axis=-1)

    def points(self, rows: np.ndarray) -> np.ndarray:
        """f32[n,2J] of annotations: y, x normalised to the image; -3, -3 is not labelled."""
        yx = self._joints[rows][..., 1::-1] / self._sizes[rows][:, None, :]
        known = self._labelled[rows][..., None]
        return np.where(known, yx, POINT_INVISIBLE).astype(np.float32).reshape(len(rows), 2 * len(self.names))

    def of(self, row: int) -> dict:
        """`keypoints` and `num_keypoints` of one annotation as in the file."""
        joints = self._joints[row]
        return {"keypoints": joints.ravel().tolist(), "num_keypoints": int((joints[:, 2] > 0).sum())}

    def category(self, category_id: int) -> dict:
        """`keypoints` and `skeleton` of a category as in the file; {} where it has none."""
        bones = [[a + 1, b + 1] for a, b in self.skeleton]
        return {"keypoints": list(self.names), "skeleton": bones} if category_id in self.category_ids else {}
