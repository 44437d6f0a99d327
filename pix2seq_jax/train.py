"""Trains a config in a workdir, from wherever the workdir stands. Read `run` from top to bottom.

The weights of a run come from, in this order: the newest whole checkpoint of the workdir (resume),
the model that was imported into it (import_tf), another model as far as it fits (config.init_from,
a warm start), scratch. The log says which ("weights: ...").
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np

from pix2seq_jax.data import feed, pipeline
from pix2seq_jax.data.coco.json import Report
from pix2seq_jax.evaluation import in_training
from pix2seq_jax.evaluation.evaluator import Evaluator
from pix2seq_jax.experiment import checks, claim, inputs, resolve, saved_run, stopping, text_model
from pix2seq_jax.experiment.logs import (
    MetricWriter,
    Progress,
    log,
    parameter_table,
    phase,
    profiler,
    setup_logging,
)
from pix2seq_jax.experiment.workdir import CHECKPOINTS
from pix2seq_jax.official import transfer
from pix2seq_jax.tasks import TASKS
from pix2seq_jax.tasks.mixed import Mixed
from pix2seq_jax.training import checkpoint, optim, sharding, trees
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step

LOGGED_IDS = 64  # image ids named when a loss is not finite
SHOWN = ("loss", "token_accuracy", "grad_norm", "lr")  # in the log line; metrics.jsonl has all


def check_finite(step: int, metrics: dict, image_ids: dict[str, np.ndarray]) -> None:
    """Raises FloatingPointError naming step, loss, gradient norm and image ids where an update was
    not finite."""
    if float(metrics["finite"]):
        return
    ids = {name: ids[:LOGGED_IDS].tolist() for name, ids in image_ids.items()}
    raise FloatingPointError(
        f"step {step}: loss {float(metrics['loss'])}, gradient norm "
        f"{float(metrics['grad_norm'])}, image ids {ids}; the update was not applied and earlier "
        "checkpoints are whole. Look at these images, lower config.schedule.base, lengthen "
        "config.schedule.warmup, or set config.optim.clip=1.0"
    )


def passed_over(config: ml_collections.ConfigDict) -> str:
    """For the log, where the workdir has weights of its own."""
    if not config.init_from:
        return ""
    return f"; config.init_from={config.init_from!r} is ignored, it is for a new workdir"


def first_state(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    meta: dict,
    model,
    tx,
    mesh: jax.sharding.Mesh,
) -> tuple[train_state.TrainState, str]:
    """(state of step 0, where its weights come from); the optimizer is fresh. `meta` is what
    checkpoints will hold."""
    state = train_state.init_state(model, tx, jax.random.key(config.seed), mesh=mesh)
    if saved_run.is_imported(workdir):
        _, imported = saved_run.load_variables(workdir, config, model, mesh)
        state = state.replace(
            params=imported["params"], batch_stats=imported.get("batch_stats", {})
        )
        return state, "imported" + passed_over(config)
    if config.init_from:
        return transfer.start(state, config, workdir, mesh, text=meta.get("text_model"))
    return state, "from scratch"


def batch_sizes(config: ml_collections.ConfigDict) -> dict[str, int]:
    """Images in the global batches of a step, by what is trained (see `mixed`)."""
    if config.train.mixing == "data":
        return {Mixed.name: config.train.batch_size}
    return {
        name: section.batch_size or config.train.batch_size
        for name, section in config.tasks.items()
    }


def mixed(config: ml_collections.ConfigDict, tasks: dict) -> dict:
    """What the step trains: every task on a batch of its own, or ("data" mixing) all of them as
    one.

    Raises:
        ValueError: config.train.mixing is neither "batch" nor "data".
    """
    if config.train.mixing == "data":
        return {
            Mixed.name: Mixed(
                tuple(task for name, task in tasks.items() if config.tasks[name].weight)
            )
        }
    if config.train.mixing != "batch":
        raise ValueError(f"config.train.mixing={config.train.mixing!r}: give 'batch' or 'data'")
    return tasks


def images_per_step(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Images of a step by task; where all tasks share a batch, what their weights give on
    average."""
    if config.train.mixing == "data":
        return {
            name: section.weight * config.train.batch_size for name, section in config.tasks.items()
        }
    return batch_sizes(config)


def tokens_per_step(images: dict[str, float], trained: dict) -> dict[str, float]:
    """Tokens that a step reads of each task, prompts and padding counted."""
    rows = {name: trained.get(name, trained.get(Mixed.name)) for name in images}
    return {
        name: number * rows[name].per_image * rows[name].max_len for name, number in images.items()
    }


def task_seed(seed: int, name: str) -> int:
    """The seed of a task's data: tasks that read the same images would else see the same ones in
    each step."""
    number = list(TASKS).index(name) if name in TASKS else 0
    return (seed + 1_000_003 * number) % 2**31 if number else seed


def open_feeds(
    config: ml_collections.ConfigDict,
    streams: dict[str, list],
    mesh,
    *,
    start: int,
    bad_images: Report | None,
) -> dict[str, feed.Feed]:
    """One feed of training batches per task, or one for all of them, from step `start` on."""
    sizes, rows = batch_sizes(config), sharding.batch_sharding(mesh)
    index, count = feed.row_block(rows)
    if config.train.mixing == "data":
        streams = {
            Mixed.name: [
                dataclasses.replace(
                    stream, weight=stream.weight * config.tasks[name].weight, task=number
                )
                for number, (name, own) in enumerate(
                    (n, s) for n, s in streams.items() if config.tasks[n].weight
                )
                for stream in own
            ]
        }
    return {
        name: feed.Feed(
            pipeline.train_dataset(
                own,
                batch_size=sizes[name],
                seed=task_seed(config.seed, name),
                start_step=start,
                repeats=config.train.repeats,
                bad_images=bad_images,
                workers=config.data.workers or None,
                process_index=index,
                process_count=count,
            ),
            rows,
        )
        for name, own in streams.items()
    }


def task_rates(
    steps_per_s: float, images: dict[str, float], tokens: dict[str, float]
) -> dict[str, float]:
    """Images and tokens per second of each task."""
    return {f"{name}/images_per_s": steps_per_s * count for name, count in images.items()} | {
        f"{name}/tokens_per_s": steps_per_s * count for name, count in tokens.items()
    }


@contextlib.contextmanager
def warming_up(progress: Progress) -> Iterator[None]:
    """The first step compiles: it gets a heartbeat and is left out of the rates."""
    with phase("first batch and compilation"), progress.paused():
        yield


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
    mesh = checks.check(config, workdir, training=True)
    best_metric = resolve.best_metric(config)
    with phase("open the data"):
        config = saved_run.keep_labels(config, workdir)
        inputs.check_paths(config, "train")
        text = text_model.open_text(config, workdir)
        cache = inputs.InputCache(workdir)
        opened = inputs.open_sources(config, "train", text, cache=cache)
        config = resolve.resolve(config, opened, text)
        tasks, model = resolve.make_tasks(config), resolve.make_model(config)
        streams = inputs.open_streams(config, opened, text, cache=cache)
        evaluator = None
        if evaluate_too:
            evaluator = Evaluator(config, model, tasks, mesh, text, cache=cache)
        for lines in filter(None, (inputs.describe(opened), evaluator and evaluator.describe())):
            log.warning("data: %s", lines)
    read = {
        (name, i): stream.source for name, own in streams.items() for i, stream in enumerate(own)
    }
    read["images"] = bad_images = inputs.bad_images(config)
    told = inputs.describe(read)
    log.info("%s", config.about)
    total, trained, images = config.train.steps, mixed(config, tasks), images_per_step(config)
    tokens = tokens_per_step(images, trained)
    schedule = optim.schedule(**config.schedule, batch_size=config.train.batch_size, total=total)
    tx = optim.make(learning_rate=schedule, **config.optim)
    step_fn = train_step.make_step(
        *(model, trained, tx, schedule),
        loss=config.train.loss,
        accum=config.train.accumulate,
        weights={name: config.tasks[name].weight if name in tasks else 1.0 for name in trained},
    )
    claim.claim_workdir(workdir, config)
    text_model.save_text(text, workdir)
    cache.save()
    keep = {"keep_latest": config.train.keep_latest, "best_metric": best_metric}
    saver = checkpoint.Checkpointer(Path(workdir) / CHECKPOINTS, **keep)
    meta = saved_run.meta(config, text)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        terminated = stack.enter_context(stopping.termination())
        stack.callback(saver.close)
        abstract = train_state.abstract_state(model, tx, mesh=mesh)
        with phase("restore"):
            restored = saver.restore_latest(abstract)
        if restored:
            state, found = restored
            resolve.check_classes(found["category_names"], config, where=f"{workdir}/checkpoints")
            origin = f"resumed at step {int(state.step)}{passed_over(config)}"
        else:
            with phase("initialise"):
                state, origin = first_state(config, workdir, meta, model, tx, mesh)
        start = int(state.step)
        log.info("weights: %s", origin)
        writer = MetricWriter(workdir, active=jax.process_index() == 0, after=start)
        stack.callback(writer.close)
        scoring = evaluator and in_training.Evaluations(
            config, evaluator, saver, terminated, workdir, writer
        )
        log.info(
            "%s parameters (see parameters.txt), devices %s",
            f"{trees.count(state.params):,}",
            dict(mesh.shape),
        )
        writer.text("parameters.txt", parameter_table(state.params))
        jitted = train_step.jit_step(step_fn, abstract, mesh=mesh)
        rng = jax.random.fold_in(jax.random.key(config.seed), 1)
        feeds = open_feeds(config, streams, mesh, start=start, bad_images=bad_images)
        feeds = {name: stack.enter_context(one) for name, one in feeds.items()}
        profile = (
            profiler(workdir, first_profile=config.train.profile_at)
            if config.train.profile_at
            else None
        )
        progress = stack.enter_context(
            Progress(
                **{"first": start, "total": total, "log_steps": config.train.log_steps},
                images_per_step=sum(images.values()),
                tokens_per_step=sum(tokens.values()),
            )
        )
        evaluation, pending, first = {}, None, True
        if scoring and scoring.missing(start):  # it was interrupted
            scoring.run(train_state.variables(state), start)
        for step in range(start + 1, total + 1):
            with warming_up(progress) if first else contextlib.nullcontext():
                given = {name: next(f) for name, f in feeds.items()}
                ids = {name: host["image_id"] for name, (_, host) in given.items()}
                state, metrics = jitted(
                    state, {name: batch for name, (batch, _) in given.items()}, rng
                )
                if first:
                    jax.block_until_ready(metrics)
            if pending:  # one step late, so that the device never waits for the host
                check_finite(*pending)
            pending, first = (step, metrics, ids), False
            if profile:
                profile(step)
            if progress.due(step):
                check_finite(*pending)
                values = {name: float(value) for name, value in metrics.items()}
                shown = {
                    name: values[name]
                    for name in (*SHOWN, *(f"{task}/loss" for task in tasks))
                    if name in values
                }
                rates = progress.report(
                    step, shown, waited=sum(f.wait_seconds for f in feeds.values())
                )
                if len(tasks) > 1:
                    rates |= task_rates(rates["steps_per_s"], images, tokens)
                writer.scalars(
                    step, {f"train/{name}": value for name, value in (values | rates).items()}
                )
            leave, due = terminated(), scoring is not None and scoring.due(step)
            # Saved first: an evaluation takes long, may fail and may be interrupted.
            if due or leave or step % config.train.checkpoint_steps == 0 or step == total:
                check_finite(*pending)
                told = inputs.tell_new(read, told)
                saver.save(step, state, meta)
            if leave:
                stopping.say_saved(step, workdir)
                raise stopping.Interrupted
            if due:
                with progress.paused():
                    evaluation = scoring.run(train_state.variables(state), step)
        with phase("finish checkpoints"):
            saver.wait()
        if start >= total:
            log.info("nothing to train: %s stands at step %d of %d", workdir, start, total)
            if scoring:
                evaluation = scoring.run(train_state.variables(state), start)
    return evaluation
