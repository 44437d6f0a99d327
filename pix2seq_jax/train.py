"""Trains a config in a workdir, from wherever the workdir stands. Read `run` from top to bottom.

The loop itself is in training.loop, what happens around its steps in experiment.hooks, where
weights come from in experiment.start.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_collections

from pix2seq_jax.config import ranges
from pix2seq_jax.config.fill import fill
from pix2seq_jax.data.coco.json import Report
from pix2seq_jax.data.text import Text
from pix2seq_jax.evaluation.evaluator import Evaluator
from pix2seq_jax.evaluation.in_training import Evaluations
from pix2seq_jax.experiment import (
    checks,
    claim,
    feeds,
    hooks,
    inputs,
    resolve,
    saved_run,
    start,
    stopping,
    text_model,
)
from pix2seq_jax.experiment.logs import MetricWriter, log, parameter_table, phase, setup_logging
from pix2seq_jax.experiment.workdir import CHECKPOINTS
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.tasks import Task
from pix2seq_jax.training import checkpoint, loop, optim, trees
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step


@dataclass(frozen=True)
class Opened:
    """What a run consists of, once its data are open.

    Attributes:
        config: resolved.
        text: text model; None without captions.
        tasks: by name.
        model: to be trained.
        streams: of training data by task.
        evaluator: None where nothing is evaluated.
        bad_images: counts those that cannot be read; None where they are errors.
        sources: all that is read, by a name.
        cache: of what was learned about the files.
    """

    config: ml_collections.ConfigDict
    text: Text | None
    tasks: dict[str, Task]
    model: Pix2Seq
    streams: dict[str, list]
    evaluator: Evaluator | None
    bad_images: Report | None
    sources: dict[Any, Any]
    cache: inputs.InputCache


def run(
    config: ml_collections.ConfigDict, workdir: str | Path, *, evaluate_too: bool = True
) -> dict:
    """Trains to config.train.steps and returns the metrics of the evaluation there, {} without one.

    Raises:
        ValueError: config, data or workdir that do not fit, before any step; two evaluations in a
            row that failed, or the last one, after a save.
        FloatingPointError: loss or gradient that is not finite.
        stopping.Interrupted: SIGTERM came; the last step is saved.
    """
    setup_logging()
    # Refuse what cannot work, before anything large is opened or written.
    ranges.check(config)
    config = fill(config)
    mesh = checks.check(config, workdir, training=True)
    best_metric = resolve.best_metric(config)
    # The data decide the classes, the vocabulary and the length of sequences.
    with phase("open the data"):
        opened = _open(config, workdir, mesh, evaluate_too=evaluate_too)
    config, model = opened.config, opened.model
    log.info("%s", config.about)
    # The update.
    schedule = optim.schedule(
        **config.schedule, batch_size=config.train.batch_size, total=config.train.steps
    )
    tx = optim.make(learning_rate=schedule, **config.optim)
    trained = feeds.trained_tasks(config, opened.tasks)
    update = _make_update(config, model, trained, tx, schedule)
    # From here on the workdir belongs to this run.
    claim.claim_workdir(workdir, config)
    text_model.save_text(opened.text, workdir)
    opened.cache.save()
    meta = saved_run.meta(config, opened.text)
    saver = checkpoint.Checkpointer(
        Path(workdir) / CHECKPOINTS, keep_latest=config.train.keep_latest, best_metric=best_metric
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        terminated = stack.enter_context(stopping.termination())
        stack.callback(saver.close)
        # The weights.
        state = start.restore_or_start(config, workdir, saver, meta, model, tx, mesh)
        first = int(state.step)
        writer = MetricWriter(workdir, active=jax.process_index() == 0, after=first)
        stack.callback(writer.close)
        count = f"{trees.count(state.params):,}"
        log.info("%s parameters (see parameters.txt), devices %s", count, dict(mesh.shape))
        writer.text("parameters.txt", parameter_table(state.params))
        evaluations = None
        if opened.evaluator is not None:
            evaluations = Evaluations(config, opened.evaluator, saver, terminated, workdir, writer)
            if evaluations.missing(first):  # it was interrupted
                evaluations.run(train_state.variables(state), first)
        # Train.
        own = feeds.open_feeds(
            config, opened.streams, mesh, start=first, bad_images=opened.bad_images
        )
        for one in own.values():
            stack.enter_context(one)
        around = hooks.RunHooks(
            config,
            workdir,
            trained,
            own,
            start=first,
            meta=meta,
            saver=saver,
            writer=writer,
            evaluations=evaluations,
            terminated=terminated,
            tell_data=inputs.Teller(opened.sources),
        )
        abstract = train_state.abstract_state(model, tx, mesh=mesh)
        state, evaluation = loop.train(
            state,
            train_step.jit_step(update, abstract, mesh=mesh),
            own,
            jax.random.fold_in(jax.random.key(config.seed), 1),
            start=first,
            total=config.train.steps,
            hooks=stack.enter_context(around),
        )
        with phase("finish checkpoints"):
            saver.wait()
        if first >= config.train.steps:
            text = "nothing to train: %s stands at step %d of %d"
            log.info(text, workdir, first, config.train.steps)
            if evaluations is not None:
                evaluation = evaluations.run(train_state.variables(state), first)
    return evaluation


def _open(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    mesh: jax.sharding.Mesh,
    *,
    evaluate_too: bool,
) -> Opened:
    """Opens the data; what was repaired or dropped in them goes into the log."""
    config = saved_run.keep_labels(config, workdir)
    inputs.check_paths(config, "train")
    text, cache = text_model.open_text(config, workdir), inputs.InputCache(workdir)
    sources = inputs.open_sources(config, "train", text, cache=cache)
    config = resolve.resolve(config, sources, text)
    tasks, model = resolve.make_tasks(config), resolve.make_model(config)
    streams = inputs.open_streams(config, sources, text, cache=cache)
    descriptions, evaluator = [inputs.describe(sources)], None
    if evaluate_too:
        evaluator = Evaluator(config, model, tasks, mesh, text, cache=cache)
        descriptions.append(evaluator.describe())
    for lines in filter(None, descriptions):
        log.warning("data: %s", lines)
    read = {
        (name, number): stream.source
        for name, own in streams.items()
        for number, stream in enumerate(own)
    }
    bad_images = inputs.bad_images(config)
    read["images"] = bad_images
    return Opened(config, text, tasks, model, streams, evaluator, bad_images, read, cache)


def _make_update(config: ml_collections.ConfigDict, model, trained, tx, schedule):
    """The function of one step, to be jitted. Tasks that share a batch share its weight, too."""
    weights = {name: config.tasks[name].weight if name in config.tasks else 1.0 for name in trained}
    return train_step.make_step(
        model,
        trained,
        tx,
        schedule,
        loss=config.train.loss,
        accum=config.train.accumulate,
        weights=weights,
    )
