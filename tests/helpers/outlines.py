"""Outlines as annotators draw them, and what a point list says."""

import numpy as np

from pix2seq_jax.vocab import POINT_PADDING, POINT_SEPARATOR

HEIGHT, WIDTH = 480, 640  # pixels of the image


def rings_of(row: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Point list -> rings in xy pixels; checks its form."""
    pairs = row.reshape(-1, 2)
    end = int(np.argmax(np.append(pairs[:, 0] == POINT_PADDING, True)))
    assert (pairs[end:] == POINT_PADDING).all()
    pairs = pairs[:end]
    cuts = np.flatnonzero(pairs[:, 0] == POINT_SEPARATOR)
    assert (pairs[cuts] == POINT_SEPARATOR).all()
    rings = (
        [np.delete(ring, 0, 0) if i else ring for i, ring in enumerate(np.split(pairs, cuts))]
        if end
        else []
    )
    assert all(len(ring) >= 3 and ring.min() >= 0 and ring.max() <= 1 for ring in rings)
    return [ring[:, ::-1] * [width, height] for ring in rings]


def blob(rng: np.random.Generator, count: int, radius: float) -> np.ndarray:
    """A wavy outline of many points, as annotators draw them."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    waves = sum(rng.normal() / k * np.cos(k * angle + rng.uniform(0, 6)) for k in range(2, 12))
    distance = radius * np.clip(1 + 0.25 * waves, 0.3, 1.6)
    centre = rng.uniform([1.7 * radius] * 2, [WIDTH - 1.7 * radius, HEIGHT - 1.7 * radius])
    return (centre + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)).round(2)
