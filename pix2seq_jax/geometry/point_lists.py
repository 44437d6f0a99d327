"""Point lists, the outlines that the model gets and gives: made of rings and turned back into them.

A point list holds the rings of one object as y, x, y, x, ... with the reserved floats of vocab. A
ring is as in `geometry.rings`.
"""

import numpy as np

from pix2seq_jax.vocab import POINT_INVISIBLE, POINT_PADDING, POINT_SEPARATOR


def point_list(rings: list[np.ndarray], size: np.ndarray, max_points: int) -> np.ndarray:
    """Rings -> f32[2*max_points]: y, x normalised to the image and clipped to it, separators
    between, padding after.

    Args:
        size: height and width of the image.
    """
    points = np.full((max_points, 2), POINT_PADDING, np.float32)
    end = 0
    for ring in rings:
        if end:
            points[end], end = POINT_SEPARATOR, end + 1
        points[end : end + len(ring)] = np.clip(ring[:, ::-1] / size, 0, 1)
        end += len(ring)
    return points.ravel()


def split_rings(points) -> list[np.ndarray]:
    """The polygons of one object.

    Args:
        points: f32[T], y, x, ... with the reserved floats of vocab: POINT_PADDING in either place
            of a pair ends the points, POINT_SEPARATOR begins another polygon, and POINT_INVISIBLE
            leaves the point out, like a number that is not finite.

    Returns:
        [f64[n,2]] as x, y; polygons of fewer than three points have no area and are left out.

    Raises:
        ValueError: points that are no list of pairs.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 1 or points.size % 2:
        raise ValueError(
            f"points{list(points.shape)}: give y, x, y, x, ... of one object, of one sample"
        )
    pairs = points.reshape(-1, 2)
    ends = np.flatnonzero((pairs == POINT_PADDING).any(axis=1))
    pairs = pairs[: ends[0]] if ends.size else pairs
    cuts = np.flatnonzero((pairs == POINT_SEPARATOR).any(axis=1))
    reserved = np.isin(pairs, (POINT_SEPARATOR, POINT_INVISIBLE)).any(axis=1)
    usable = np.isfinite(pairs).all(axis=1) & ~reserved
    parts = zip(np.split(pairs, cuts), np.split(usable, cuts), strict=True)
    rings = [part[rows][:, ::-1] for part, rows in parts]  # as x, y
    return [ring for ring in rings if len(ring) >= 3]
