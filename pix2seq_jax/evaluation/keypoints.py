"""Keypoints on the host: their names and deviations, keypoint AP of COCO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_collections
import numpy as np

from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.data.coco.person import COCO_KEYPOINTS
from pix2seq_jax.evaluation.base import HostTask, Opening, Part, Rows
from pix2seq_jax.evaluation.metrics import coco
from pix2seq_jax.experiment.logs import log

UNKNOWN_SIGMA = 0.05  # of a keypoint that COCO does not have; between its eyes and its hips


@dataclass(frozen=True)
class Keypoints(HostTask):
    """Reads person_keypoints_*.json and needs boxes.

    Attributes:
        objects: best-scored boxes of an image that get keypoints; COCO counts 20.
        sigmas: standard deviation of each keypoint in OKS, relative to the object's size; () for
            COCO's, by name.
    """

    objects: int = 20
    sigmas: tuple[float, ...] = ()

    name: ClassVar[str] = "keypoints"
    annotations: ClassVar[str] = "keypoints"
    needs_boxes: ClassVar[bool] = True
    lists_all_classes: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = coco.KEYPOINT_METRICS
    main_metric: ClassVar[str] = "AP"
    from_data: ClassVar[tuple[str, ...]] = ("num_keypoints", "sigmas")
    min_keypoints: ClassVar[int] = 1

    def open(self, opening: Opening, section: ml_collections.ConfigDict) -> CocoDir:
        """See HostTask."""
        paths, pairs = opening.paths(self.annotations), opening.flip_pairs
        return CocoDir(*paths, keypoints=True, flip_pairs=pairs, **opening.labels, **opening.reads)

    def resolve(self, config: ml_collections.ConfigDict, source: CocoDir) -> None:
        """Names, number and deviations of the keypoints, and the classes that have them."""
        data, section = config.data, config.tasks[self.name]
        data.keypoint_names, data.skeleton = source.keypoint_names, source.skeleton
        data.keypoint_categories = tuple(
            data.category_ids[label - 1] for label in source.keypoint_labels
        )
        section.num_keypoints = len(source.keypoint_names)
        section.sigmas = keypoint_sigmas(source.keypoint_names, tuple(section.sigmas))

    @staticmethod
    def check(names: Any, config: ml_collections.ConfigDict, *, where: str) -> None:
        """The keypoints must be those that a resolved config was made for, in its order. Imported
        models have a number and no names."""
        number = config.tasks[Keypoints.name].num_keypoints
        expected, there = list(config.data.keypoint_names), list(names.keypoint_names)
        if len(there) != number or (expected and there != expected):
            raise ValueError(
                f"{where} has the keypoints {there} and the model {expected or number}; give the "
                "annotations that it was trained for, in the same order, or leave keypoints out of "
                "the tasks"
            )

    @staticmethod
    def count_unseen(source: CocoDir) -> None:
        """People without keypoints."""
        source.count_unlabelled()

    def prompting(self, data: ml_collections.ConfigDict, category_ids: list[int]) -> list[int]:
        """Labels of the classes that have keypoints."""
        return [category_ids.index(category_id) + 1 for category_id in data.keypoint_categories]

    def prompts(self, annotation: Mapping[str, Any]) -> bool:
        """Objects with a labelled keypoint."""
        return bool(annotation.get("num_keypoints"))

    def most_objects(self, *, final: bool) -> int:
        """See HostTask."""
        return self.objects

    def results(self, part: Part, rows: Rows) -> list[dict]:
        """Of `keypoints f32[B,N,J,2]` yx in pixels and the boxes that prompted them."""
        results = []
        for row, slot in np.argwhere(part["labels"] > 0):
            points = np.asarray(part["keypoints"][row, slot], np.float64)[:, ::-1]  # x, y
            visible = np.concatenate([points.round(4), np.ones((len(points), 1))], axis=1)
            results.append(
                {
                    "image_id": int(rows.image_ids[row]),
                    "category_id": int(rows.category_ids[part["labels"][row, slot] - 1]),
                    "keypoints": visible.ravel().tolist(),
                    "score": float(f"{part['scores'][row, slot]:.9g}"),
                    "bbox": coco.xywh(part["boxes"][row, slot]),
                }
            )
        return results

    def score(self, source, annotations, results, image_ids) -> dict:
        """See HostTask."""
        sigmas = keypoint_sigmas(source.keypoint_names, tuple(self.sigmas))
        return coco.evaluate(annotations, results, "keypoints", image_ids=image_ids, sigmas=sigmas)

    def compare(self, source, annotations, results, image_ids) -> coco.Comparison:
        """See HostTask."""
        sigmas = keypoint_sigmas(source.keypoint_names, tuple(self.sigmas))
        return coco.compare(annotations, results, "keypoints", image_ids=image_ids, sigmas=sigmas)

    @staticmethod
    def blank(
        section: ml_collections.ConfigDict, count: int, size: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """`keypoints` f64[count,J,2] and `visible` bool[count,J], of which none counts."""
        shape = (count, section.num_keypoints)
        return {"keypoints": np.zeros((*shape, 2)), "visible": np.zeros(shape, bool)}


def keypoint_sigmas(names: tuple[str, ...], given: tuple[float, ...]) -> tuple[float, ...]:
    """Deviations of keypoints: the given ones, or COCO's by name.

    Raises:
        ValueError: another number of them than keypoints.
    """
    if given and len(given) != len(names):
        raise ValueError(
            f"config.tasks.keypoints.sigmas has {len(given)} values for the {len(names)} keypoints "
            f"{list(names)}"
        )
    of_coco = dict(zip(COCO_KEYPOINTS["names"], COCO_KEYPOINTS["sigmas"], strict=True))
    others = [name for name in names if name not in of_coco]
    if others and not given:
        log.warning("sigmas of the keypoints %s are not known: %s each", others, UNKNOWN_SIGMA)
    return given or tuple(of_coco.get(name, UNKNOWN_SIGMA) for name in names)
