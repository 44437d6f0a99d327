"""Instance segmentation on the host: masks by a vote of the samples, mask AP of COCO."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import ml_collections
import numpy as np

from pix2seq_jax.evaluation.base import HostTask, Opening, Part, Rows
from pix2seq_jax.evaluation.metrics import coco, masks


@dataclass(frozen=True)
class Segmentation(HostTask):
    """Reads instances_*.json with the outlines, and needs boxes.

    Attributes:
        mask_threshold: share of the samples that must cover a pixel (Pix2Seq v2, section 3.3).
        objects: best-scored boxes of an image that get a mask while training.
        objects_final: the same in the last evaluation, in --mode=eval and in prediction; COCO
            counts 100. Annotated boxes all get one.
    """

    mask_threshold: float = 0.5
    objects: int = 20
    objects_final: int = 100

    name: ClassVar[str] = "segmentation"
    annotations: ClassVar[str] = "annotations"
    needs_boxes: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = coco.BOX_METRICS
    main_metric: ClassVar[str] = "AP"

    def open(self, opening: Opening, section: ml_collections.ConfigDict):
        """See HostTask."""
        return opening.instances()

    @staticmethod
    def outline_points(section: ml_collections.ConfigDict) -> int:
        """See HostTask."""
        return section.max_points

    def most_objects(self, *, final: bool) -> int:
        """See HostTask."""
        return self.objects_final if final else self.objects

    def results(self, part: Part, rows: Rows) -> list[dict]:
        """Of `points f32[B,N,K,T]` and the boxes that prompted them, see tasks.segmentation."""
        results = []
        for row, slot in np.argwhere(part["labels"] > 0):
            points, size = part["points"][row, slot], rows.sizes[row]
            mask = masks.average_masks(points, *size, self.mask_threshold)
            category_id = rows.category_ids[part["labels"][row, slot] - 1]
            score = part["scores"][row, slot]
            result = masks.result(rows.image_ids[row], category_id, mask, score)
            results.append(result | {"bbox": coco.xywh(part["boxes"][row, slot])})
        return results

    def score(self, source, annotations, results, image_ids) -> dict:
        """See HostTask."""
        return coco.evaluate(annotations, results, "segm", image_ids=image_ids)

    def compare(self, source, annotations, results, image_ids) -> coco.Comparison:
        """See HostTask."""
        return coco.compare(annotations, results, "segm", image_ids=image_ids)

    @staticmethod
    def blank(
        section: ml_collections.ConfigDict, count: int, size: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """`masks` bool[count,H,W] without a pixel, which take no memory; they cannot be written
        to."""
        return {"masks": np.broadcast_to(False, (count, *size))}
