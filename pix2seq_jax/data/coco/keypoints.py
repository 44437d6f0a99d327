"""Keypoints of a `person_keypoints` JSON: the schema of its categories, and the keypoints of all
annotations as one column.

A keypoint is (x, y, v) in pixels: v=0 not labelled, 1 labelled but hidden, 2 visible.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pix2seq_jax.data.coco.json import BadAnnotations, Report, has, number_rows, shown
from pix2seq_jax.vocab import POINT_INVISIBLE

# The word alone: left_eye, "Left eye", eye-left.
_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


class Keypoints:
    """The keypoints of a file: their schema, and those of the annotations of a source.

    Attributes:
        names: of the J keypoints.
        skeleton: pairs of keypoints that a bone connects, counted from 0.
        swap: i32[J], see `mirrored`.
        category_ids: the categories that have keypoints.
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
                f"annotation file {path}: no category has `keypoints`, a list of their names; "
                "give a person_keypoints file, or open it without keypoints"
            )
        first = having[0]
        for record in having:
            if record["keypoints"] != first["keypoints"]:
                raise ValueError(
                    f"annotation file {path}: the categories {first['name']} and {record['name']} "
                    f"have different keypoints, {shown(first['keypoints'])} and "
                    f"{shown(record['keypoints'])}; all must have the same names in the same "
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
                f"{has(category, 'keypoints')}; give a list of their names"
            )
        double = [name for name, count in Counter(names).items() if count > 1]
        if double:
            raise ValueError(
                f"annotation file {self._path}: category {category['name']} has {double[0]!r} "
                f"{names.count(double[0])} times among its keypoints; give each name once"
            )
        return tuple(names)

    def _bones(self, category: dict) -> tuple[tuple[int, int], ...]:
        """Pairs of keypoints counted from 0; the file counts from 1."""
        bones, number = category.get("skeleton") or [], len(self.names)
        wrong = [] if isinstance(bones, list) else [bones]
        if not wrong:
            wrong = [bone for bone in bones if not _is_bone(bone, number)]
        if wrong:
            raise ValueError(
                f"annotation file {self._path}: the skeleton of category {category['name']} has "
                f"{shown(wrong[0])}; give pairs of keypoints counted from 1 to {number}"
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
        missing = wanted & ~columns["has_keypoints"][rows]
        report.add("objects without keypoints", ids[missing].tolist())
        self._sizes = sizes
        self._xyv = columns["keypoints"][rows].reshape(len(rows), len(self.names), 3)
        xy, labelled = self._xyv[..., :2], self._xyv[..., 2] > 0
        outside = ((xy < 0) | (xy > sizes[:, None, ::-1])).any(axis=-1)
        self._labelled = labelled & ~outside
        kind = "objects with keypoints outside their image, taken for not labelled"
        report.add(kind, ids[(outside & labelled).any(axis=1)].tolist())

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Labelled keypoints inside the image, of annotations: i64[n]."""
        return self._labelled[rows].sum(axis=-1)

    def points(self, rows: np.ndarray) -> np.ndarray:
        """f32[n,2J] of annotations: y, x normalised to the image; -3, -3 is not labelled."""
        yx = self._xyv[rows][..., 1::-1] / self._sizes[rows][:, None, :]
        points = np.where(self._labelled[rows][..., None], yx, POINT_INVISIBLE)
        return points.astype(np.float32).reshape(len(rows), 2 * len(self.names))

    def of(self, row: int) -> dict:
        """`keypoints` and `num_keypoints` of one annotation as in the file."""
        xyv = self._xyv[row]
        return {"keypoints": xyv.ravel().tolist(), "num_keypoints": int((xyv[:, 2] > 0).sum())}

    def category(self, category_id: int) -> dict:
        """`keypoints` and `skeleton` of a category as in the file; {} where it has none."""
        if category_id not in self.category_ids:
            return {}
        bones = [[a + 1, b + 1] for a, b in self.skeleton]
        return {"keypoints": list(self.names), "skeleton": bones}


def _is_bone(bone, number: int) -> bool:
    """Whether it is a pair of keypoints, counted from 1 to `number`."""
    if not isinstance(bone, list) or len(bone) != 2:
        return False
    return all(isinstance(end, int | float) and end in range(1, number + 1) for end in bone)


def mirrored(names: tuple[str, ...], pairs: Sequence[tuple[str, str]] = ()) -> np.ndarray:
    """i32[J], the keypoint that each becomes when the image is mirrored.

    The two of a pair of names are exchanged, and those whose names differ in `left` and `right`
    alone. All are -1 where there are neither, or where a name says a side and has no partner: such
    images must not be mirrored.

    Raises:
        ValueError: a pair that is not two of the names, or a name in two pairs.
    """
    times = Counter(name for pair in pairs for name in pair)
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(names) or max(times[name] for name in pair) > 1:
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
        number: J, of keypoints.
        bad: gets the annotations whose keypoints are not J times three finite numbers.

    Returns:
        keypoints: f32[n,3J], x, y, v, zero where an annotation has none; has_keypoints: bool[n].
    """
    present = np.array([bool(record.get("keypoints")) for record in records], bool)
    rows = np.flatnonzero(present)
    values = np.zeros((len(records), 3 * number), np.float32)
    values[rows] = number_rows([records[row]["keypoints"] for row in rows.tolist()], 3 * number)
    wrong = rows[np.isnan(values[rows]).any(axis=1)]
    if len(wrong):
        value = records[wrong[0]]["keypoints"]
        length = f" are {len(value)}" if isinstance(value, list) else ""
        what = f"keypoints that are not {3 * number} finite numbers x, y, v for the {number}"
        first = f"the keypoints of {bad.name(wrong[0])}{length}: {shown(value)}"
        bad.add(wrong, f"{what} keypoints of the category", first)
    return {"keypoints": values, "has_keypoints": present}
