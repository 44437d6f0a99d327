"""A page of pictures for each kind of finding in a data set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pix2seq_jax.data.coco.files import read_file
from pix2seq_jax.data.images import decode_image
from pix2seq_jax.data.validation.dataset import DataSet
from pix2seq_jax.data.validation.findings import Finding, Result
from pix2seq_jax.data.validation.tables import CAPTIONS, KEYPOINTS, AnnotationFile
from pix2seq_jax.evaluation.pictures.draw import captioned, contact_sheet, draw_objects
from pix2seq_jax.files.whole import open_whole

MOST, COLUMNS = 12, 4  # pictures of a page, and in a row
SIDES = (280, 280)  # the longer side of a picture in pixels
RED = 1  # a label whose colour is one (pictures.marks.color)
BROKEN = (96, 32, 32)  # colour of what cannot be decoded


def write(data: DataSet, results: Sequence[Result], out: Path) -> list[Path]:
    """Writes OUT/NAME.png for every check whose findings have pictures; returns the paths.

    A picture has the box and the keypoints of the annotation that it is about, in vermillion, or
    all boxes of its image, each class in its colour. Pages that an earlier call wrote of what is no
    longer found are removed.
    """
    files = {str(file.path): file for file in data.files}
    pages = []
    for result in results:
        shown = [(finding, path) for finding in result.findings for path in finding.files][:MOST]
        page = out / f"{result.check.name}.png"
        if not shown:
            page.unlink(missing_ok=True)
        else:
            tiles = [_tile(finding, path, files.get(finding.source)) for finding, path in shown]
            pages.append(page)
            with open_whole(page) as stream:
                contact_sheet(tiles, COLUMNS).save(stream, "PNG")
    return pages


def _tile(finding: Finding, path: str, source: AnnotationFile | None) -> Image.Image:
    """One image with its boxes, and what was found below it."""
    name = Path(path).name
    words = finding.value if finding.value.startswith(name) else f"{name}: {finding.value}"
    size, objects = None, {}
    if source is not None and source.kind != CAPTIONS:
        row = next(number for number, own in enumerate(source.files) if own == path)
        size, objects = tuple(source.sizes[row].tolist()), _boxes(finding, source, row)
    try:
        image = decode_image(read_file(path), path, size)
    except ValueError:
        objects, image = {}, np.full((SIDES[0] // 2, SIDES[0], 3), BROKEN, np.uint8)
    return captioned(draw_objects(image, objects, sides=SIDES), [words])


def _boxes(finding: Finding, source: AnnotationFile, row: int) -> dict:
    """What `draw_objects` takes: the object of the annotation, or all of the image."""
    rows = np.flatnonzero((source.index == row) & ~np.isnan(source.boxes).any(axis=1))
    if finding.annotation_id is None:
        labels = 1 + source.category_id[rows] % 50
        return {"boxes": source.corners[rows], "labels": labels}
    rows = rows[source.ids[rows] == finding.annotation_id]
    objects = {"boxes": source.corners[rows], "labels": np.full(len(rows), RED)}
    if source.kind == KEYPOINTS and len(rows):
        xyv = source.keypoints.xyv[rows]
        objects |= {"keypoints": xyv[..., 1::-1], "visible": xyv[..., 2] > 0}
    return objects
