"""The parts of the report that are about boxes: what is taken for what, and what the errors are."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from pix2seq_jax.evaluation.metrics import errors
from pix2seq_jax.evaluation.metrics.coco import Comparison
from pix2seq_jax.evaluation.metrics.curves import Detections, ImageCounts
from pix2seq_jax.evaluation.pages.html import Page
from pix2seq_jax.evaluation.pictures import svg

MOST_CLASSES = 30  # in the matrix on the page; the CSV file has all
MOST_PAIRS = 20  # of confused classes, where the matrix is left out
PICTURES = 4  # of the best images, and of the worst
BACKGROUND, MISSED = "(background)", "(missed)"
RANKING = (
    "By F1 at IoU 0.50 of the predictions that score at least {threshold:g}. Of equal ones the "
    "best have more objects that were found, and the worst more errors."
)
MEANINGS = {
    errors.CLASS: "the box is right (IoU from 0.5 on), the class is not",
    errors.LOCALISATION: "the class is right, the box is not quite (IoU from 0.1 to 0.5)",
    errors.BOTH: "near an object (IoU from 0.1 on), but neither of the two above",
    errors.DUPLICATE: "the object was found already, by a better-scored prediction",
    errors.BACKGROUND: "there is no object near (IoU below 0.1)",
    errors.MISSED: "an object that no prediction found, in the wrong class or place either",
}


def write(
    page: Page,
    title: str,
    comparison: Comparison,
    found: Detections,
    threshold: float,
    *,
    leave: Callable[[], None],
) -> None:
    """Writes the parts into a page; `threshold` is the lowest score that counts where single
    predictions are counted."""
    _confusion(page, title, comparison, found, threshold)
    leave()
    page.heading("What the errors are")
    page.text(
        "A split after TIDE (arXiv:2008.08115). The gain is by how much AP50 would be higher "
        "without the errors of this kind, predictions of all scores counted; the numbers are of "
        f"predictions that score at least {threshold:g}."
    )
    before, gained = errors.gains(comparison, found)
    counts = Counter(one.kind for one in errors.errors(comparison, found, threshold))
    rows = [[kind, counts[kind], gained[kind], MEANINGS[kind]] for kind in errors.KINDS]
    page.table(f"{title}_errors", ("kind", "number", "gain in AP50", "what it is"), rows)
    page.charts(svg.bars(f"Gain in AP50, which is {before:.3f}", "AP50", gained))


def _confusion(
    page: Page, title: str, comparison: Comparison, found: Detections, threshold: float
) -> None:
    counts = errors.confusion(comparison, found, threshold)
    names = [one["name"] for one in comparison.truth["categories"]]
    page.heading("Confusion")
    page.text(
        "Rows are annotated objects, columns what they were called, at IoU 0.50 and scores of at "
        f"least {threshold:g}."
    )
    name, rows, columns = f"{title}_confusion", [*names, BACKGROUND], [*names, MISSED]
    if len(names) <= MOST_CLASSES:
        page.matrix(name, rows, columns, counts)
        return
    table = [[row, *map(int, line)] for row, line in zip(rows, counts, strict=True)]
    page.file(name, ("", *columns), table)
    page.link(name)
    wrong = counts[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    pairs = sorted(np.argwhere(wrong).tolist(), key=lambda pair: -wrong[tuple(pair)])
    listed = [[names[row], names[column], int(wrong[row, column])] for row, column in pairs]
    page.table(f"{title}_confused", ("class", "called", "number"), listed, MOST_PAIRS)


def ranked(counts: Sequence[ImageCounts]) -> tuple[list[ImageCounts], list[ImageCounts]]:
    """(the best images, the best first; the worst ones, the worst first), see RANKING. An image is
    in one of the two lists, and none without objects and predictions is."""
    shown = [one for one in counts if one.right + one.wrong + one.missed]
    order = sorted(shown, key=lambda one: (-one.f1, one.wrong + one.missed, -one.right))
    best = order[: min(PICTURES, (len(order) + 1) // 2)]
    rest = order[len(best) :]
    return best, rest[::-1][:PICTURES]
