"""From the results or annotations of one image, of all tasks, to what is drawn of it."""

from collections.abc import Mapping, Sequence

from pix2seq_jax.evaluation.base import HostTask
from pix2seq_jax.evaluation.pictures.objects import drawable


def rows_of(results: Mapping[str, list[dict]], image_id: int) -> dict[str, list[dict]]:
    """The rows of one image by task."""
    return {
        name: [row for row in rows if row["image_id"] == image_id] for name, rows in results.items()
    }


def marks(
    rows: Mapping[str, list[dict]],
    host_tasks: Mapping[str, HostTask],
    label_of: Mapping[int, int],
    size: Sequence[int],
) -> dict:
    """What `draw.draw_objects` takes, and the `captions` below the picture, of the rows of one
    image.

    Args:
        rows: by task.
        host_tasks: by name.
        label_of: category id -> label; objects of other categories are left out.
        size: height and width of the image in pixels.
    """
    texts = [text for name, own in rows.items() for text in host_tasks[name].texts(own)]
    objects = {name: [row for row in own if "bbox" in row] for name, own in rows.items()}
    return drawable(objects, label_of, size) | ({"captions": texts} if texts else {})
