"""Batch size, steps, learning rate and evaluations of a run on data that nothing was published for,
and whether it recomputes activations: by the numbers of its images and the devices.

The numbers are pure functions; `experiment.sizing` counts the images and says the reasons.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from pix2seq_jax.config import recipes

# The fields that are chosen, by the value that asks for it.
FIELDS = {"train.batch_size": 0, "train.steps": 0, "schedule.base": 0.0, "train.eval_steps": 0}
REMAT = "model.remat"  # goes with the batch
# Images of an accelerator: a step of ViT-B on 16 of 640 pixels took 52 GiB in bfloat16, and a tenth
# of that with `remat` (benchmarks/README.md).
PER_DEVICE = 16
CPU_BATCH = 8  # images of all cores, whose memory is that of everything else, too
EVALUATIONS, EVAL_STEPS = 10, 5_000  # in a run; the most steps from one to the next
# Of the trained rows, the most images that are evaluated in all: an image is decoded token by token
# there, which costs more than a row of a step.
EVALUATED_SHARE = 0.1
ROUND = 100  # steps


class _Start(NamedTuple):
    """How long and how fast a model learns from some weights; the rate and the most steps are those
    of the recipe."""

    words: str
    recipe: str
    epochs: int
    least_steps: int


# By whether training starts from the weights of a whole model. The least steps are ours: with fewer
# a sequence model of a handful of images has not begun to learn.
_STARTS = {
    True: _Start("with the weights of a whole model", "finetune", recipes.FINETUNE_EPOCHS, 1_000),
    False: _Start("from scratch", "scratch", recipes.SCRATCH_EPOCHS, 5_000),
}


class Devices(NamedTuple):
    """What computes a batch.

    Attributes:
        count: of devices, of which CPUs share their cores.
        accelerators: whether they are no CPUs.
        multiple: the batch is a multiple of it.
    """

    count: int
    accelerators: bool
    multiple: int


class Evaluated(NamedTuple):
    """Images of an evaluation.

    Attributes:
        each: on the way; 0 where nobody knows.
        last: at the end.
    """

    each: int
    last: int


class Choice(NamedTuple):
    """The value of a field, and why."""

    field: str
    value: float
    reason: str


def choose(
    given: Mapping[str, float],
    images: int,
    devices: Devices,
    *,
    repeats: int,
    pretrained: bool,
    evaluated: Evaluated,
) -> list[Choice]:
    """The values of the FIELDS that are 0, in an order in which each follows from those before.

    - Batch: 16 images on each accelerator or 8 on CPUs in all, but not more than the published 128
      or than there are images; then down to a multiple, at least one.
    - Steps: 40 epochs with the weights of a whole model, as published for fine-tuning, and 300 from
      scratch, in full hundreds; at least 1,000 and 5,000, and at most as many as the recipe has for
      COCO.
    - Rate: 1e-4 for 128 images with the weights of a whole model, 1e-3 for 256 from scratch, times
      the root of batch / published batch, in two digits. The root suits AdamW, whose steps have a
      length that does not depend on the gradient's: so the noise of as many images adds up alike.
    - Evaluations: ten in a run, or one every 5,000 steps; fewer where they would evaluate more
      images than a tenth of the rows that are trained; at least the one at the end.

    Args:
        given: by field; 0 for what is to be chosen.
        images: in the training data.
        devices: that compute a batch.
        repeats: rows of a batch for each of its images.
        pretrained: whether training starts from the weights of a whole model; those of an encoder
            alone do not count, since the decoder learns from scratch.
        evaluated: images of an evaluation.
    """
    values, start = dict(given), _STARTS[pretrained]
    rules = {
        "train.batch_size": lambda: _batch(images * repeats, devices),
        "train.steps": lambda: _steps(images * repeats, values["train.batch_size"], start),
        "schedule.base": lambda: _rate(values["train.batch_size"], start),
        "train.eval_steps": lambda: _eval_steps(
            int(values["train.steps"]), values["train.batch_size"], evaluated
        ),
    }
    chosen = []
    for field, rule in rules.items():
        if not values[field]:
            values[field], reason = rule()
            chosen.append(Choice(field, values[field], reason))
    return chosen


def recomputed(given: Mapping[str, float], devices: Devices) -> list[Choice]:
    """REMAT as it goes with a batch that `choose` gives accelerators: on. Nothing on CPUs, or where
    the batch is given or it is on already.

    Args:
        given: by field, REMAT among them.
        devices: that compute a batch.
    """
    if not devices.accelerators or given["train.batch_size"] or given[REMAT]:
        return []
    reason = (
        "for the chosen batch on accelerators; a step of ViT-B at 640 pixels took a tenth of the "
        "memory and four fifths of the time with it. With a --config.train.batch_size of your own "
        "it stays as it is given"
    )
    return [Choice(REMAT, True, reason)]


def _batch(rows: int, devices: Devices) -> tuple[int, str]:
    most = recipes.RECIPES["finetune"]["batch_size"]
    wanted, words = CPU_BATCH, f"{CPU_BATCH} on CPUs"
    if devices.accelerators:
        wanted = PER_DEVICE * devices.count
        words = f"{PER_DEVICE} on each accelerator, of which there are {devices.count}"
    batch = max(min(wanted, most, rows) // devices.multiple, 1) * devices.multiple
    reason = f"{words}; at most {most} and the {rows:,} images of an epoch"
    if devices.multiple > 1:
        reason += f"; in multiples of {devices.multiple}, as devices and accumulation cut it"
    return batch, reason


def _steps(rows: int, batch: float, start: _Start) -> tuple[int, str]:
    most = recipes.RECIPES[start.recipe]["steps"]
    wanted = math.ceil(start.epochs * rows / batch / ROUND) * ROUND
    steps = min(max(wanted, start.least_steps), most)
    return steps, (
        f"{start.epochs} epochs {start.words}, {rows:,} images x {start.epochs} / {batch:g} a step "
        f"in full hundreds; at least {start.least_steps:,}, at most {most:,}"
    )


def _rate(batch: float, start: _Start) -> tuple[float, str]:
    recipe = recipes.RECIPES[start.recipe]
    rate = recipe["base"] * math.sqrt(batch / recipe["batch_size"])
    return float(f"{rate:.2g}"), (
        f"{recipe['base']:g} {start.words} x the root of {batch:g} / {recipe['batch_size']} images"
    )


def _eval_steps(steps: int, batch: float, evaluated: Evaluated) -> tuple[int, str]:
    every, rows = min(math.ceil(steps / EVALUATIONS), EVAL_STEPS), int(steps * batch)
    most = count = math.ceil(steps / every)
    if evaluated.each:
        left = int(EVALUATED_SHARE * rows) - evaluated.last
        count = max(min(left // evaluated.each + 1, most), 1)
    if count == most:
        reason = f"{most} evaluations in {steps:,} steps, one at least every {EVAL_STEPS:,}"
        return every, reason
    every = math.ceil(steps / count)
    limit = f"at most {EVALUATED_SHARE:g} of the {rows:,} rows that are trained"
    if count == 1:
        reason = f"one evaluation, at the end, of {evaluated.last:,} images; with more of them"
        return every, f"{reason} evaluated images would not be {limit}"
    reason = f"{count} evaluations of {evaluated.each:,} images, the last of {evaluated.last:,}"
    return every, f"{reason}, not {most}: evaluated images are {limit}"
