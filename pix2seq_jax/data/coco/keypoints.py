"""Keypoints of a `person_keypoints` JSON: the schema of its categories, and all annotated joints as
one column.

A joint is (x, y, v) in pixels: v=0 not labelled, 1 labelled but hidden, 2 visible.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pix2seq_jax.data.coco.json import BadAnnotations, Report, has, number_rows, shown
from pix2seq_jax.data.coco.person import COCO_KEYPOINTS as COCO_KEYPOINTS
from pix2seq_jax.vocab import POINT_INVISIBLE

_SIDE = re.compile(
    r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE
)  # the word alone: left_eye, "Left eye", eye-left
_OTHER = {"left": "right", "right": "left"}


def mirrored(names: tuple[str, ...], pairs: Sequence[tuple[str, str]] = ()) -> np.ndarray:
    """i32[J], the joint that each becomes when the image is mirrored.

    Joints of a pair of names change places, and those of which `left` and `right` in the names say
    so. All are -1 when neither tells anything, or a name says a side and has no partner: then
    nobody can tell, and such images must not be mirrored.

    Raises:
        ValueError: a pair that is not two of the names, or a name in two pairs.
    """
    given = Counter(name for pair in pairs for name in pair)
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(names) or max(given[name] for name in pair) > 1:
            raise ValueError(
                f"config.data.flip_pairs has {tuple(pair)}: give pairs of keypoint names, each "
                f"name once; the names are {list(names)}"
            )
    lower = [name.lower() for name in names]
    partners = [_SIDE.sub(lambda side: _OTHER[side.group()], name) for name in lower]
    for pair in pairs:
        first, second = map(names.index, pair)
        partners[first], partners[second] = lower[second], lower[first]
    if lower == partners or not set(partners) <= set(lower):
        return np.full(len(names), -1, np.int32)
    return np.array([lower.index(partner) for partner in partners], np.int32)


def read_keypoints(records: list[dict], number: int, bad: BadAnnotations) -> dict[str, np.ndarray]:
    """The keypoints of all annotations.

    Args:
        records: annotations.
        number: J, of joints.
        bad: gets the annotations whose keypoints are not J times three finite numbers.

    Returns:
        keypoints: f32[n,3J], x, y, v, zero where an annotation has none; has_keypoints: bool[n].
    """
    rows = np.array(
        [row for row, record in enumerate(records) if record.get("keypoints")], np.int64
    )
    joints = np.zeros((len(records), 3 * number), np.float32)
    joints[rows] = number_rows([records[row]["keypoints"] for row in rows.tolist()], 3 * number)
    wrong = rows[np.isnan(joints[rows]).any(axis=1)]
    if len(wrong):
        record = records[wrong[0]]
        value = record["keypoints"]
        text = f" are {len(value)}" if isinstance(value, list) else ""
        bad.add(
            wrong,
            (
                f"keypoints that are not {3 * number} finite numbers x, y, v for the {number} "
                "joints of the category"
            ),
            f"the keypoints of {bad.name(wrong[0])}{text}: {shown(value)}",
        )
    present = np.zeros(len(records), bool)
    present[rows] = True
    return {"keypoints": joints, "has_keypoints": present}


def _is_bone(bone, number: int) -> bool:
    """Whether it is a pair of joints, counted from 1 to `number`."""
    if not isinstance(bone, list) or len(bone) != 2:
        return False
    return all(isinstance(joint, int | float) and joint in range(1, number + 1) for joint in bone)


class Joints:
    """The keypoints of a file: their schema, and those of the annotations of a source.

    Attributes:
        names: of the J joints.
        skeleton: pairs of joints that a bone connects, counted from 0.
        swap: i32[J], see `mirrored`.
        category_ids: the categories that have joints.
    """

    def __init__(
        self, path: Path, categories: list[dict], flip_pairs: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Reads the schema.

        Args:
            path: of the file, for errors.
            categories: with ids that are whole numbers.
            flip_pairs: see `mirrored`.

        Raises:
            ValueError: no category has keypoints, they are no names, they differ between
                categories, a skeleton is no list of pairs of them, or see `mirrored`.
        """
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
                    f"annotation file {path}: the categories {first['name']} and {record['name']} "
                    f"have different keypoints, {shown(first['keypoints'])} and "
                    f"{shown(record['keypoints'])}; all must have the same joints in the same "
                    "order"
                )
        self.names = self._read_names(first)
        self.category_ids = frozenset(int(record["id"]) for record in having)
        self.skeleton = self._bones(first)
        self.swap = mirrored(self.names, flip_pairs)

    def _read_names(self, category: dict) -> tuple[str, ...]:
        names = category["keypoints"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"annotation file {self._path}: category {category['name']} "
                f"{has(category, 'keypoints')}; give a list of the names of its joints"
            )
        double = [name for name, count in Counter(names).items() if count > 1]
        if double:
            raise ValueError(
                f"annotation file {self._path}: category {category['name']} has {double[0]!r} "
                f"{names.count(double[0])} times among its keypoints; give each name once"
            )
        return tuple(names)

    def _bones(self, category: dict) -> tuple[tuple[int, int], ...]:
        """Pairs of joints counted from 0; the file counts from 1."""
        bones, number = category.get("skeleton") or [], len(self.names)
        wrong = [] if isinstance(bones, list) else [bones]
        if not wrong:
            wrong = [bone for bone in bones if not _is_bone(bone, number)]
        if wrong:
            raise ValueError(
                f"annotation file {self._path}: the skeleton of category {category['name']} has "
                f"{shown(wrong[0])}; give pairs of joints counted from 1 to {number}"
            )
        return tuple((int(a) - 1, int(b) - 1) for a, b in bones)

    def take(
        self,
        columns: dict[str, np.ndarray],
        rows: np.ndarray,
        ids: np.ndarray,
        sizes: np.ndarray,
        wanted: np.ndarray,
        report: Report,
    ) -> None:
        """Takes the keypoints of the annotations of a source.

        Args:
            columns: see `read_keypoints`.
            rows: i64[n], the source's annotations among those of the file.
            ids: of the source's annotations, for the report.
            sizes: i32[n,2], height and width of the image of each.
            wanted: bool[n], the objects that should have keypoints.
            report: gets those that have none, and keypoints outside their image.
        """
        if (self.swap < 0).all():
            kind = (
                "keypoints without left and right in their names, images with them are not "
                "mirrored; config.data.flip_pairs can say which ones change places"
            )
            report.add(kind, list(self.names))
        self._sizes = sizes
        self._joints = columns["keypoints"][rows].reshape(len(rows), -1, 3)
        report.add(
            "objects without keypoints", ids[wanted & ~columns["has_keypoints"][rows]].tolist()
        )
        limits = sizes[:, None, ::-1]
        outside = ((self._joints[..., :2] < 0) | (self._joints[..., :2] > limits)).any(axis=-1)
        self._labelled = (self._joints[..., 2] > 0) & ~outside
        lost = (outside & (self._joints[..., 2] > 0)).any(axis=1)
        report.add(
            "objects with keypoints outside their image, taken for not labelled", ids[lost].tolist()
        )

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Labelled joints inside the image, of annotations: i64[n]."""
        return self._labelled[rows].sum(axis=-1)

    def points(self, rows: np.ndarray) -> np.ndarray:
        """f32[n,2J] of annotations: y, x normalised to the image; -3, -3 is not labelled."""
        yx = self._joints[rows][..., 1::-1] / self._sizes[rows][:, None, :]
        known = self._labelled[rows][..., None]
        return (
            np.where(known, yx, POINT_INVISIBLE)
            .astype(np.float32)
            .reshape(len(rows), 2 * len(self.names))
        )

    def of(self, row: int) -> dict:
        """`keypoints` and `num_keypoints` of one annotation as in the file."""
        joints = self._joints[row]
        return {
            "keypoints": joints.ravel().tolist(),
            "num_keypoints": int((joints[:, 2] > 0).sum()),
        }

    def category(self, category_id: int) -> dict:
        """`keypoints` and `skeleton` of a category as in the file; {} where it has none."""
        bones = [[a + 1, b + 1] for a, b in self.skeleton]
        return (
            {"keypoints": list(self.names), "skeleton": bones}
            if category_id in self.category_ids
            else {}
        )
