"""Detection on the host: box AP of COCO; its boxes prompt other tasks."""

from dataclasses import dataclass
from typing import ClassVar

from pix2seq_jax.evaluation.base import HostTask, Part, Rows
from pix2seq_jax.evaluation.metrics import coco


@dataclass(frozen=True)
class Detection(HostTask):
    """Reads instances_*.json and finds boxes."""

    name: ClassVar[str] = "detection"
    annotations: ClassVar[str] = "annotations"
    finds_boxes: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = coco.BOX_METRICS
    main_metric: ClassVar[str] = "AP"

    def results(self, part: Part, rows: Rows) -> list[dict]:
        """Of `boxes f32[B,N,4]` yxyx in pixels, `labels i32[B,N]`, `scores f32[B,N]`."""
        boxes, labels, scores = part["boxes"], part["labels"], part["scores"]
        return coco.results(rows.image_ids, boxes, labels, scores, rows.category_ids)

    def score(self, source, annotations, results, image_ids) -> dict:
        """See HostTask."""
        return coco.evaluate_boxes(annotations, results, image_ids=image_ids)

    def compare(self, source, annotations, results, image_ids) -> coco.Comparison:
        """See HostTask."""
        return coco.compare(annotations, results, image_ids=image_ids)
