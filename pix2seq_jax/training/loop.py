"""The training loop. It is handed all that it uses."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import jax
import numpy as np

LOGGED_IDS = 64  # image ids named when a loss is not finite


class Hooks(Protocol):
    """What happens around the steps. All processes call all of it, in the same order."""

    def saves_at_an_error(self, current: Callable[[], Any]) -> AbstractContextManager:
        """Is open around all steps; saves `current()`, the last state, where an exception ends
        them."""

    def first_step(self) -> AbstractContextManager:
        """Is open during the first step, which compiles."""

    def compiled(self) -> None:
        """The step is compiled, and was not run yet."""

    def after_update(self, step: int) -> None:
        """A step was sent to the devices."""

    def reports(self, step: int) -> bool:
        """Whether the metrics of this step are wanted."""

    def report(self, step: int, metrics: Mapping[str, Any], waited: float) -> None:
        """Takes the metrics of a step, and the seconds that the loop has waited for data so far."""

    def interrupted(self) -> bool:
        """Whether the run has to end."""

    def saves(self, step: int) -> bool:
        """Whether this step is saved in any case."""

    def save(self, step: int, state: Any) -> None:
        """Saves a state; it may be donated right after."""

    def leave(self, step: int) -> None:
        """Ends the run, whose last step is saved, by an exception."""

    def evaluates(self, step: int) -> bool:
        """Whether this step is evaluated."""

    def evaluate(self, step: int, state: Any) -> dict:
        """The metrics of a saved state."""


def train(
    state: Any,
    update: Callable,
    feeds: Mapping[str, Any],
    rng: jax.Array,
    *,
    start: int,
    total: int,
    hooks: Hooks,
) -> tuple[Any, dict]:
    """Trains from step `start` to step `total`.

    Args:
        state: of step `start`; its buffers are donated.
        update: (state, batches by task, rng, finite) -> (state, metrics), jitted, see
            `step.jit_step`.
        feeds: by task; each gives (batch on the devices, batch on the host), and has
            `wait_seconds` (data.feed.Feed).
        rng: a jax.random.key; the update folds the step in.
        start: number of updates done.
        total: number of updates to do in all.
        hooks: see the class.

    Returns:
        The last state, and the metrics of the last evaluation, {} without one.

    Raises:
        FloatingPointError: a loss or gradient is not finite.
    """
    evaluation, pending, finite = {}, None, np.float32(1)
    with hooks.saves_at_an_error(lambda: state):
        for step in range(start + 1, total + 1):
            first = step == start + 1
            with hooks.first_step() if first else nullcontext():
                # Input: a batch of each task.
                taken = {name: next(feed) for name, feed in feeds.items()}
                batches = {name: batch for name, (batch, _) in taken.items()}
                image_ids = {name: host["image_id"] for name, (_, host) in taken.items()}
                # Update.
                if first:
                    update = update.lower(state, batches, rng, finite).compile()
                    hooks.compiled()
                state, metrics = update(state, batches, rng, finite)
                finite = metrics["finite"]
                if first:
                    jax.block_until_ready(metrics)
            # Check the step before, so that the devices never wait for the host.
            if pending is not None:
                check_finite(*pending)
            pending = step, metrics, image_ids
            hooks.after_update(step)
            # Report.
            if hooks.reports(step):
                check_finite(*pending)
                waited = sum(feed.wait_seconds for feed in feeds.values())
                hooks.report(step, metrics, waited)
            # Save, before an evaluation: that takes long, may fail and may be interrupted.
            leaves, evaluates = hooks.interrupted(), hooks.evaluates(step)
            if leaves or evaluates or hooks.saves(step):
                check_finite(*pending)
                hooks.save(step, state)
            if leaves:
                hooks.leave(step)
            # Evaluate.
            if evaluates:
                evaluation = hooks.evaluate(step, state)
    return state, evaluation


def check_finite(
    step: int, metrics: Mapping[str, Any], image_ids: Mapping[str, np.ndarray]
) -> None:
    """Raises FloatingPointError naming step, loss, gradient norm and image ids where an update was
    not finite."""
    if float(metrics["finite"]):
        return
    ids = {name: ids[:LOGGED_IDS].tolist() for name, ids in image_ids.items()}
    raise FloatingPointError(
        f"step {step}: loss {float(metrics['loss'])}, gradient norm "
        f"{float(metrics['grad_norm'])}, image ids {ids}; the update was not applied, and "
        "the state before it is saved. Look at these images, lower config.schedule.base, lengthen "
        "config.schedule.warmup, or set config.optim.clip=1.0"
    )
