"""The only owner of token integers: one vocabulary for all tasks (Pix2Seq v2, section 3.1).

Layout: special tokens below 100, class c at 100 + c, coordinate bins from `coord_shift`, text
pieces from `text_shift`. Ranges are half-open pairs `(start, stop)` of token ids.
"""

from dataclasses import dataclass
from itertools import pairwise

import jax.numpy as jnp

PADDING = 0  # also ends a detection or point sequence
PROMPT_DETECTION = 10
PROMPT_SEGMENTATION = 11
PROMPT_KEYPOINTS = 12
PROMPT_CAPTIONING = 13
FAKE = 30  # class of a noise object; stands for a dropped text token too
SEPARATOR = 40  # between the polygons of one object
INVISIBLE = 41  # keypoint that is not visible
CLASS_SHIFT = 100  # label c >= 1 is token 100 + c; label 0 is padding
PAD_PIECE, END_PIECE, UNKNOWN_PIECE = 0, 1, 2  # of a text model, before text_shift is added

# Floats below zero in point lists.
POINT_PADDING, POINT_SEPARATOR, POINT_INVISIBLE = -1.0, -2.0, -3.0
NOISE_LABEL = FAKE - CLASS_SHIFT  # label of a noise object, so that label + 100 is the fake class


@dataclass(frozen=True)
class Vocab:
    """Token ranges. Raises ValueError where ranges collide or do not fit.

    Attributes:
        size: number of tokens, V.
        num_bins: coordinate bins; the papers use 1000 (released models) and 2000 (v1, from
            scratch).
        num_classes: highest label C; labels are 1..C.
        coord_shift: token of coordinate bin 0.
        text_shift: token of text piece 0.
        text_size: number of text pieces; 0 for models without text.
    """

    size: int
    num_bins: int = 1000
    num_classes: int = 80
    coord_shift: int = 1000
    text_shift: int = 3000
    text_size: int = 0

    def __post_init__(self) -> None:
        if self.num_bins < 2:
            raise ValueError(
                f"vocab.num_bins={self.num_bins}: at least 2 coordinate bins are needed"
            )
        if self.num_classes < 1:
            raise ValueError(f"vocab.num_classes={self.num_classes}: at least one class is needed")
        ranges = {"class": self.class_range, "coordinate": self.coord_range}
        if self.text_size:
            ranges["text"] = self.text_range
        ordered = sorted(ranges.items(), key=lambda item: item[1])
        for (name, (_, stop)), (other, (start, _)) in pairwise(ordered):
            if stop > start:
                raise ValueError(
                    f"vocabulary: the {name} tokens {ranges[name]} run into the {other} tokens "
                    f"{ranges[other]}; raise vocab.coord_shift or vocab.text_shift, or use fewer "
                    "classes or bins"
                )
        name, (start, _) = ordered[0]
        if start < CLASS_SHIFT:
            raise ValueError(
                f"vocabulary: the {name} tokens {ranges[name]} run into the special tokens "
                f"0..{CLASS_SHIFT - 1}; raise vocab.coord_shift or vocab.text_shift"
            )
        name, (_, stop) = ordered[-1]
        if stop > self.size:
            raise ValueError(
                f"vocabulary: vocab.size={self.size} but {name} tokens end at {stop}; raise "
                "vocab.size"
            )

    @property
    def class_range(self) -> tuple[int, int]:
        """Token ids of labels 1..C."""
        return CLASS_SHIFT + 1, CLASS_SHIFT + 1 + self.num_classes

    @property
    def coord_range(self) -> tuple[int, int]:
        """Token ids of the coordinate bins."""
        return self.coord_shift, self.coord_shift + self.num_bins

    @property
    def text_range(self) -> tuple[int, int]:
        """Token ids of the text pieces."""
        return self.text_shift, self.text_shift + self.text_size

    def quantize(self, x: jnp.ndarray) -> jnp.ndarray:
        """Coordinates f32[...] in [0, 1] -> bins i32[...]; values outside are clipped."""
        bins = jnp.round(x * (self.num_bins - 1)).astype(jnp.int32)
        return jnp.clip(bins, 0, self.num_bins - 1)

    def dequantize(self, bins: jnp.ndarray) -> jnp.ndarray:
        """Bins i32[...] -> coordinates f32[...] in [0, 1]."""
        return bins.astype(jnp.float32) / (self.num_bins - 1)

    def coord_tokens(self, x: jnp.ndarray) -> jnp.ndarray:
        """Coordinates f32[...] in [0, 1] -> tokens i32[...]."""
        return self.quantize(x) + self.coord_shift

    def coords(self, tokens: jnp.ndarray) -> jnp.ndarray:
        """Coordinate tokens i32[...] -> f32[...] in [0, 1]; tokens outside the range are clipped to
        its ends."""
        return self.dequantize(jnp.clip(tokens - self.coord_shift, 0, self.num_bins - 1))

    def class_tokens(self, labels: jnp.ndarray) -> jnp.ndarray:
        """Labels i32[...] -> tokens i32[...]; NOISE_LABEL gives FAKE, 0 gives the token of no class
        (100)."""
        return labels + CLASS_SHIFT

    def labels(self, tokens: jnp.ndarray) -> jnp.ndarray:
        """Class tokens i32[...] -> labels i32[...] in 1..C; every other token, FAKE among them,
        gives 0."""
        start, stop = self.class_range
        return jnp.where((tokens >= start) & (tokens < stop), tokens - CLASS_SHIFT, 0)
