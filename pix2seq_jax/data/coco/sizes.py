"""Heights and widths that an annotation file gives, beside those of the image files."""

from typing import NamedTuple

import numpy as np


class Compared(NamedTuple):
    """How sizes of a JSON and of its files compare, bool[I] each; no more than one is True.

    Attributes:
        as_shown: the size is that of the turned image (EXIF orientation), not of the stored one.
        exchanged: height and width are exchanged.
        scaled: another size of the same aspect.
        wrong: anything else that differs by more than a pixel.
    """

    as_shown: np.ndarray
    exchanged: np.ndarray
    scaled: np.ndarray
    wrong: np.ndarray


def compare_sizes(sizes: np.ndarray, stored: np.ndarray, turned: np.ndarray) -> Compared:
    """Compares heights and widths of a JSON with those of the files.

    Annotations are made on the stored pixels or on those that a viewer shows (EXIF orientation);
    both are right, and a pixel more or less is no contradiction. Of the others

    - height and width exchanged: those of the file are used, and counted;
    - another size of the same aspect (annotations made on a smaller copy): that of the JSON is
      used, since the boxes are in its pixels, and counted;
    - anything else is refused: where the boxes lie is unknown.

    Args:
        sizes, stored: i[I,2] of the JSON and of the files as stored.
        turned: bool[I], whether the EXIF orientation exchanges the sides.
    """
    shown_sizes = np.where(turned[:, None], stored[:, ::-1], stored)
    as_stored = np.abs(sizes - stored).max(axis=1) <= 1
    as_shown = ~as_stored & (np.abs(sizes - shown_sizes).max(axis=1) <= 1)
    odd = ~as_stored & ~as_shown
    exchanged = odd & (np.abs(sizes - stored[:, ::-1]).max(axis=1) <= 1)
    # Sides in the same proportion, to a pixel of the larger image.
    products = sizes.astype(np.int64) * stored[:, ::-1].astype(np.int64)
    larger = np.maximum(sizes.max(axis=1), stored.max(axis=1))
    alike = np.abs(products[:, 0] - products[:, 1]) <= larger
    scaled = odd & ~exchanged & ~turned & alike
    return Compared(as_shown, exchanged, scaled, odd & ~exchanged & ~scaled)
