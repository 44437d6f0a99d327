"""Checkpoints: saved in the background, with hashes that are checked before they are used. The only
module that uses Orbax.

A checkpoint is a folder DIRECTORY/STEP with the items `state` (arrays) and `meta` (JSON), and
SHA256SUMS, the hashes of its files (`sha256sum -c` reads it). Orbax writes it under another name
and renames it when it is complete, so a folder with a plain step number as its name was complete
once; if it no longer agrees with its hashes, it is damaged.
"""

import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from pix2seq_jax.files.locations import absolute
from pix2seq_jax.files.whole import write_whole
from pix2seq_jax.training import hashes, step_folders, trees
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training.step_folders import steps

METRICS = "metrics.json"
PARAMS, AVERAGE = "params", "average"  # of a state

log = logging.getLogger("pix2seq_jax")


class Checkpointer:
    """Saves and restores the train state of one run in a directory of its own.

    Keeps the `keep_latest` newest steps, and of those with metrics the `keep_best` best by
    `best_metric` (higher is better). Metrics are given when a step is saved or later, by
    `set_metrics`: a run saves before it evaluates. Use as: restore_latest, then save as often as
    needed, then close.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        keep_latest: int = 2,
        best_metric: str | None = None,
        keep_best: int = 1,
    ) -> None:
        if keep_latest < 1:
            raise ValueError(
                f"keep_latest={keep_latest}: keep at least 1 checkpoint, or there is nothing "
                "to resume from"
            )
        self._directory = absolute(directory)
        self._keep_latest, self._best_metric, self._keep_best = keep_latest, best_metric, keep_best
        self._saving = 0

    @cached_property
    def _metrics(self) -> dict[int, dict[str, float | None]]:
        """What `set_metrics` was given, by step. A file that cannot be read counts as none."""
        path = self._directory / METRICS
        try:
            content = json.loads(path.read_text()) if path.exists() else {}
            return {int(step): dict(values) for step, values in content.items()}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            log.warning(
                "%s cannot be read (%s): the best checkpoint is chosen from here on", path, error
            )
            return {}

    def set_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Gives metrics (flat numbers) to a saved step; they count from the next save on. All
        processes call it.

        Orbax takes metrics only in a save, so these are in DIRECTORY/metrics.json, of the steps
        that are there.
        """
        # 32 bits: that is what the other processes get from the one that scores, and all must
        # choose the same steps.
        values = {name: float(np.float32(value)) for name, value in metrics.items()}
        self._metrics[step] = {
            name: value if math.isfinite(value) else None for name, value in values.items()
        }
        if jax.process_index():
            return
        there = {step, *steps(self._directory)}
        content = {
            str(number): values
            for number, values in sorted(self._metrics.items())
            if number in there
        }
        write_whole(self._directory / METRICS, json.dumps(content, indent=1))

    def has_metrics(self, step: int) -> bool:
        """Whether a step was evaluated."""
        return step in self._metrics or (self._directory / str(step) / "metrics").exists()

    def _score(self, step: int, metrics: Mapping[str, float] | None) -> float | None:
        """What the best steps are chosen by, from `set_metrics` or else from `metrics`, those of
        the checkpoint; None without any."""
        values = self._metrics.get(step, metrics)
        if values is None:
            return None
        value = values.get(self._best_metric)
        return -math.inf if value is None or math.isnan(value) else value

    def _on_written(self) -> None:
        """Hashes what was written. Orbax calls it in its commit thread, on process 0, just before
        the rename."""
        name = str(self._saving)
        # No glob: the path of a workdir may hold the characters that it takes for patterns.
        begins = f"{name}.orbax-checkpoint-tmp"
        unfinished = [path for path in self._directory.iterdir() if path.name.startswith(begins)]
        # Object stores write in place.
        hashes.write_sums(unfinished[0] if unfinished else self._directory / name)

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Made at the first save: when it starts it reads every checkpoint there is, damaged ones
        too."""
        policies = [LatestN(n=self._keep_latest)]
        if self._best_metric:
            policies.append(_Best(self._keep_best, self._score))
        # Without Orbax' own best_fn, which expects metrics in every save and warns where there are
        # none: the policies choose, and `save` stores the metrics.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._on_written),
        )
        return ocp.CheckpointManager(self._directory, options=options)

    def save(
        self, step: int, state: Any, meta: dict, *, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Saves in the background; returns when the state is copied, so its buffers may be donated
        right after.

        Waits for the save before. A step that is there already is left alone.

        Args:
            step: number of updates done.
            state: train state.
            meta: what JSON can hold.
            metrics: flat numbers, for `best_metric`.

        Raises:
            OSError: this save, or the one before, cannot be written.
        """
        if step in self._manager.all_steps():
            return
        self.wait()
        self._saving = step
        items = {"state": ocp.args.StandardSave(state), "meta": ocp.args.JsonSave(meta)}
        numbers = dict(metrics) if metrics else None
        if numbers:
            # Under the name and in the form that Orbax gives them.
            items["metrics"] = ocp.args.JsonSave(numbers)
        with self._failing():
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=numbers, force=True)

    def restore_latest(self, abstract_state: Any) -> tuple[Any, dict] | None:
        """(state, meta) of the newest whole checkpoint, or None where there is none or it is of
        step 0.

        Step 0 is an imported model, variables without an optimizer: `load_variables` reads it.
        Damaged checkpoints that are newer are named in the log and set aside. An average of the
        parameters starts from them where the checkpoint has none, and is left out where the run
        keeps none; the log says so.

        Args:
            abstract_state: ShapeDtypeStructs with shardings, `state.abstract_state`; any mesh
                will do.

        Raises:
            ValueError: every checkpoint is damaged, or the newest whole one is of another model.
        """
        step = newest_whole_step(self._directory, set_aside=True)
        if not step:
            return None
        return _restore_state(self._directory / str(step), abstract_state)

    def wait(self) -> None:
        """Returns when the last save is on disk.

        Raises:
            OSError: it could not be written.
        """
        if "_manager" in self.__dict__:
            with self._failing():
                self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Says which step was not saved. TensorStore raises ValueErrors for what a disk refuses."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise OSError(
                f"step {self._saving} cannot be saved in {self._directory} ({error}); free some "
                "space there, or mend what it says, and run the same command: it goes on from the "
                "last checkpoint"
            ) from error

    def close(self) -> None:
        """Waits, and frees the threads."""
        if "_manager" in self.__dict__:
            self._manager.close()


@dataclasses.dataclass(frozen=True)
class _Best:
    """Orbax' policy that keeps the `count` steps of the highest score; of equal ones the latest."""

    count: int
    score: Callable[[int, Any], float | None]

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Of each checkpoint, whether it is kept."""
        del context
        scores = {one.step: self.score(one.step, one.metrics) for one in checkpoints}
        ranked = sorted(
            (step for step, score in scores.items() if score is not None), key=scores.get
        )
        return [one.step in ranked[-self.count :] for one in checkpoints]


def load_variables(
    directory: epath.PathLike, abstract: Mapping[str, Any], *, step: int | None = None
) -> tuple[int, dict[str, Any], dict]:
    """(step, variables, meta) of a checkpoint without its optimizer, for evaluation: the averaged
    parameters where it has some. Changes nothing on disk.

    Args:
        directory: that a Checkpointer wrote.
        abstract: {"params": …, "batch_stats": …} of ShapeDtypeStructs with shardings,
            `state.abstract_variables`; those without a sharding become NumPy arrays.
        step: default the newest whole one.

    Raises:
        ValueError: no whole checkpoint, the one asked for is damaged or missing, or it is of
            another model.
    """
    directory = absolute(directory)
    if step is None:
        step = newest_whole_step(directory)
        if step is None:
            raise ValueError(f"no checkpoint in {directory}: train first, or check the path")
    elif step not in (there := steps(directory)):
        raise ValueError(f"{directory} has no checkpoint of step {step}; steps there: {there}")
    elif damage := hashes.damage(directory / str(step)):
        raise ValueError(f"step {step} cannot be used: {damage}; steps there: {steps(directory)}")
    folder, wanted = directory / str(step), dict(abstract)
    averaged = PARAMS in wanted and _has_average(folder)
    if averaged:
        wanted[AVERAGE] = wanted.pop(PARAMS)
    state, meta = _restore(folder, wanted, partial=True)
    if averaged:
        state[PARAMS] = state.pop(AVERAGE)
    return step, state, meta


def load_meta(directory: epath.PathLike) -> dict:
    """`meta` of the newest whole checkpoint; {} where there is none."""
    step = newest_whole_step(directory)
    if step is None:
        return {}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        folder = absolute(directory) / str(step)
        return checkpointer.restore(folder, ocp.args.Composite(meta=ocp.args.JsonRestore())).meta


def newest_whole_step(directory: epath.PathLike, *, set_aside: bool = False) -> int | None:
    """The newest step whose files agree with their hashes, or None where no step was ever saved.

    Damaged steps are named in the log; empty folders are passed over. Process 0 looks, all
    processes get its answer.

    Args:
        set_aside: rename the damaged steps to `STEP.damaged1` and so on; of older steps only
            metrics are looked at.

    Raises:
        ValueError: there are checkpoints, but every one is damaged.
    """
    directory, damaged = epath.Path(directory), []
    newest = -1  # no checkpoint; -2: all are damaged
    if jax.process_index() == 0:
        for step in steps(directory):
            damage = hashes.damage(directory / str(step))
            if not damage:
                newest = step
                break
            damaged.append(damage)
            log.warning("checkpoint of step %d is damaged and not used: %s", step, damage)
        if newest < 0 and damaged:
            newest = -2
        elif set_aside:
            step_folders.remove_unfinished(directory)
            for step in steps(directory):
                # Orbax reads the metrics of all steps when it starts to save, and fails where it
                # cannot.
                if step > newest or hashes.damage(directory / str(step), item="metrics/"):
                    log.warning(
                        "checkpoint of step %d is damaged: moved to %s",
                        step,
                        step_folders.set_aside(directory / str(step)),
                    )
    if jax.process_count() > 1:
        newest = int(multihost_utils.broadcast_one_to_all(np.int32(newest)))
    if newest == -2:
        raise ValueError(
            f"every checkpoint in {directory} is damaged "
            f"({'; '.join(damaged) or 'see process 0'}); restore one from a copy, or delete the "
            "folder to start from scratch"
        )
    return None if newest < 0 else newest


def _restore_state(folder: epath.Path, abstract: Any) -> tuple[Any, dict]:
    """(state, meta) of a checkpoint folder, with an average where `abstract` has one."""
    has, wants = _has_average(folder), isinstance(abstract, train_state.AveragedState)
    if has == wants:
        return _restore(folder, abstract, partial=False)
    if has:
        log.warning(
            "%s has averaged parameters and config.train.ema is 0: the average ends here, and the "
            "parameters themselves are evaluated from now on",
            folder,
        )
        state, meta = _restore(folder, train_state.with_average(abstract), partial=False)
        return train_state.without_average(state), meta
    log.warning(
        "%s has no averaged parameters: the average (config.train.ema) starts from the parameters "
        "there",
        folder,
    )
    state, meta = _restore(folder, train_state.without_average(abstract), partial=False)
    return train_state.with_average(state), meta


def _restore(folder: epath.Path, wanted: Any, *, partial: bool) -> tuple[Any, dict]:
    """(state or the wanted part of it, meta) of a checkpoint folder."""
    handler = ocp.PyTreeCheckpointHandler()
    saved = handler.metadata(folder / "state").tree
    _check_matches(saved, wanted, folder, partial=partial)
    if partial:
        layout = ocp.checkpoint_utils.construct_restore_args(wanted)
        state = ocp.args.PyTreeRestore(wanted, restore_args=layout, partial_restore=True)
    else:
        state = ocp.args.StandardRestore(wanted)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(
            folder, ocp.args.Composite(state=state, meta=ocp.args.JsonRestore())
        )
    return restored.state, restored.meta


def _has_average(folder: epath.Path) -> bool:
    """Whether a checkpoint folder holds averaged parameters."""
    saved = ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree
    return any(name.startswith(f"{AVERAGE}/") for name in trees.flatten_names(saved))


def _check_matches(saved: Any, wanted: Any, folder: epath.Path, *, partial: bool) -> None:
    """Raises ValueError naming the first array that the checkpoint and the model do not share, with
    both shapes."""

    def described(tree: Any) -> dict[str, str]:
        return {
            name: f"{leaf.dtype}{list(leaf.shape)}"
            for name, leaf in trees.flatten_names(tree).items()
        }

    saved, wanted = described(saved), described(wanted)
    names = list(wanted) if partial else list(dict.fromkeys([*wanted, *saved]))
    for name in names:
        there, here = saved.get(name, "missing"), wanted.get(name, "missing")
        if there != here:
            raise ValueError(
                f"{folder} is of another model or optimizer: {name} is {there} in the checkpoint "
                f"and {here} in the model; use the config that it was trained with (classes and "
                "vocabulary too), or another workdir"
            )
