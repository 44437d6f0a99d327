"""The last good state is saved when an error ends a training run.

An update that is not finite is not applied, and none after it (see `step.make_step`), so the state
is good whatever the error was, unless the error deleted it.
"""

from collections.abc import Callable

import jax

from pix2seq_jax.experiment.logs import log
from pix2seq_jax.training import checkpoint, processes
from pix2seq_jax.training.state import TrainState

AGREE_SECONDS = 30  # that a process waits for the others, which may be well


def save(
    state: TrainState, saver: checkpoint.Checkpointer, write: Callable[[int, TrainState], None]
) -> None:
    """Saves a state under its own step, or says in the log why not. It never raises, because the
    error that ended the run is to be seen.

    Args:
        state: of the run as it was when the error came.
        saver: of the run; a save in the background is finished first.
        write: (step, state), begins to save.
    """
    try:
        step = _readable(state)
        log.warning("an error ends the run: %s", _saved(step, state, saver, write))
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        log.error(
            "an error ends the run, and its last state is not saved (%s); the steps since the last "
            "checkpoint are lost",
            " ".join(words.split()),
        )


def _saved(
    step: int,
    state: TrainState,
    saver: checkpoint.Checkpointer,
    write: Callable[[int, TrainState], None],
) -> str:
    """Saves the state; what was done, in words."""
    if step == 0:
        return "no step was done, and nothing is lost"
    # Only all together can save; others may have no error, or one at another step.
    processes.meet(f"an error after step {step}", seconds=AGREE_SECONDS)
    saver.wait()
    write(step, state)  # nothing, where that step is saved already
    saver.wait()
    return f"step {step} is saved; the same command goes on from there"


def _readable(state: TrainState) -> int:
    """The step of a state all of whose arrays are there.

    Raises:
        ValueError: the update that failed has consumed them.
    """
    if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
        raise ValueError("the update that failed has consumed it")
    # Waits for the updates that were sent, and raises where one of them failed.
    jax.block_until_ready(state)
    return int(state.step)
