"""Captions on the host: from pieces to words, BLEU, CIDEr-D and ROUGE-L."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import ml_collections

from pix2seq_jax.data.coco.captions import CocoCaptions
from pix2seq_jax.evaluation.base import HostTask, Opening, Part, Rows
from pix2seq_jax.evaluation.metrics import captions


@dataclass(frozen=True)
class Captioning(HostTask):
    """Reads captions_*.json and needs a text model."""

    name: ClassVar[str] = "captioning"
    annotations: ClassVar[str] = "captions"
    needs_text: ClassVar[bool] = True
    has_classes: ClassVar[bool] = False
    lists_all_classes: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = captions.METRICS
    main_metric: ClassVar[str] = "CIDEr-D"

    def open(self, opening: Opening, section: ml_collections.ConfigDict) -> CocoCaptions:
        """See HostTask."""
        reads = {name: opening.reads[name] for name in ("bad_annotations", "image_rules")}
        return CocoCaptions(
            *opening.paths(self.annotations),
            text=opening.text,
            per_image=section.captions_per_image,
            max_tokens=section.max_tokens,
            **reads,
        )

    def results(self, part: Part, rows: Rows) -> list[dict]:
        """[{image_id, caption}] of `pieces i32[B,T]`."""
        return [
            {"image_id": int(image_id), "caption": rows.text.decode(pieces.tolist())}
            for image_id, pieces in zip(rows.image_ids, part["pieces"], strict=True)
        ]

    def score(self, source: CocoCaptions, annotations, results, image_ids) -> dict:
        """See HostTask."""
        references = {image_id: source.references[image_id] for image_id in image_ids}
        return captions.score(
            references, {result["image_id"]: result["caption"] for result in results}
        )

    def truth(self, source: CocoCaptions, annotations, image_ids) -> list[dict]:
        """All captions of the images."""
        return [
            {"image_id": image_id, "caption": text}
            for image_id in image_ids
            for text in source.references.get(image_id, ())
        ]

    def texts(self, rows: Sequence[dict]) -> list[str]:
        """The captions."""
        return [row["caption"] for row in rows]
