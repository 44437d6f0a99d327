"""Trains a config in a workdir, from wherever the workdir stands. Read `run` from top to bottom.

The loop itself is in training.loop, what happens around its steps in experiment.hooks, where
weights come from in experiment.start.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import ml_collections

from pix2seq_jax.config import ranges
from pix2seq_jax.config.fill import fill
from pix2seq_jax.evaluation.in_training import Evaluations
from pix2seq_jax.experiment import (
    checks,
    claim,
    feeds,
    hooks,
    lock,
    memory,
    resolve,
    sizing,
    start,
    stopping,
    text_model,
    trackers,
)
from pix2seq_jax.experiment.logs import MetricWriter, log, parameter_table, phase, setup_logging
from pix2seq_jax.experiment.opened import OpenedRun, open_run
from pix2seq_jax.experiment.workdir import CHECKPOINTS
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.training import checkpoint, loop, trees
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step


def run(
    config: ml_collections.ConfigDict, workdir: str | Path, *, evaluate_too: bool = True
) -> dict:
    """Trains to config.train.steps and returns the metrics of the evaluation there, {} without one.

    Raises:
        ValueError: config, data or workdir that do not fit, before any step; memory that does not
            suffice; two evaluations in a row that failed, or the last one, after a save.
        FloatingPointError: loss or gradient that is not finite.
        stopping.Interrupted: SIGTERM came; the last step is saved.
    """
    setup_logging()
    # Refuse what cannot work, before anything large is opened or written.
    ranges.check(config)
    config = fill(sizing.sized(config, workdir))
    mesh = checks.check(config, workdir, training=True)
    best_metric = resolve.best_metric(config)
    # Open the data.
    with phase("open the data"):
        opened = open_run(config, workdir, mesh, evaluate_too=evaluate_too)
    config = opened.config
    # Make the update.
    tx, update = resolve.make_update(config, opened.model, opened.trained)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        terminated = stack.enter_context(stopping.termination())
        # From here on the workdir belongs to this run.
        saver = stack.enter_context(_claimed(opened, workdir, best_metric))
        # Find the weights.
        state = start.restore_or_start(config, workdir, saver, opened.meta, opened.model, tx, mesh)
        first = int(state.step)
        writer = _writer(config, workdir, first)
        stack.callback(writer.close)
        _log_parameters(state, opened, mesh, writer)
        evaluations = None
        if opened.evaluator is not None:
            evaluations = Evaluations(config, opened.evaluator, saver, terminated, workdir, writer)
            if evaluations.missing(first):  # it was interrupted
                evaluations.run(train_state.variables(state), first)
        # Train.
        around = hooks.RunHooks(
            opened,
            workdir,
            start=first,
            saver=saver,
            writer=writer,
            evaluations=evaluations,
            terminated=terminated,
        )
        state, evaluation = _train(opened, state, update, tx, mesh, stack.enter_context(around))
        with phase("finish checkpoints"):
            saver.wait()
        if first >= config.train.steps:
            log.info("nothing to train: %s stands at step %d", workdir, first)
            if evaluations is not None:
                evaluation = evaluations.run(train_state.variables(state), first)
    return evaluation


@contextlib.contextmanager
def _claimed(
    opened: OpenedRun, workdir: str | Path, best_metric: str
) -> Iterator[checkpoint.Checkpointer]:
    """Writes what a run begins with, and gives what its checkpoints are saved by.

    Raises:
        ValueError: the workdir belongs to another run, or another command trains there.
    """
    keep_latest, folder = opened.config.train.keep_latest, path_of(workdir) / CHECKPOINTS
    with lock.only_training(workdir):
        claim.claim_workdir(workdir, opened.config)
        text_model.save_text(opened.text, workdir)
        opened.cache.save()
        saver = checkpoint.Checkpointer(folder, keep_latest=keep_latest, best_metric=best_metric)
        with contextlib.closing(saver):
            yield saver


def _writer(config: ml_collections.ConfigDict, workdir: str | Path, first: int) -> MetricWriter:
    """Where figures and pictures go, from step `first` on."""
    if jax.process_index():
        return MetricWriter(workdir, active=False)
    others = trackers.open_trackers(config.train.trackers, workdir, config.to_dict())
    return MetricWriter(workdir, after=first, trackers=others)


def _log_parameters(
    state: train_state.TrainState, opened: OpenedRun, mesh: jax.sharding.Mesh, writer: MetricWriter
) -> None:
    count = f"{trees.count(state.params):,}"
    log.info("%s parameters (see parameters.txt), devices %s", count, dict(mesh.shape))
    writer.text("parameters.txt", parameter_table(state.params))


def _train(
    opened: OpenedRun,
    state: train_state.TrainState,
    update: Callable,
    tx,
    mesh: jax.sharding.Mesh,
    around: hooks.RunHooks,
) -> tuple[train_state.TrainState, dict]:
    """The loop, with the feeds that it reads from."""
    config, first = opened.config, int(state.step)
    options = resolve.state_options(config)
    abstract = train_state.abstract_state(opened.model, tx, mesh=mesh, **options)
    opening = feeds.open_feeds(
        config, opened.streams, mesh, start=first, bad_images=opened.bad_images
    )
    with memory.explained(config, mesh), opening as own:
        return loop.train(
            state,
            train_step.jit_step(update, abstract, mesh=mesh, chained=True),
            own,
            jax.random.fold_in(jax.random.key(config.seed), 1),
            start=first,
            total=config.train.steps,
            hooks=around,
        )
