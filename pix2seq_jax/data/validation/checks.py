"""All checks. The table of each module stands at its end: a new check is a function and an entry
there."""

from pix2seq_jax.data.validation import (
    boxes,
    captions,
    images,
    keypoints,
    outlines,
    records,
    splits,
)

CHECKS = (
    *records.CHECKS,
    *images.CHECKS,
    *boxes.CHECKS,
    *outlines.CHECKS,
    *keypoints.CHECKS,
    *captions.CHECKS,
    *splits.CHECKS,
)
