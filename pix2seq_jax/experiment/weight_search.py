"""The search for the weights of tasks, one added task at a time (Pix2Seq v2, section 4.1)."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ml_collections

from pix2seq_jax.config import ranges
from pix2seq_jax.evaluation import HOST_TASKS, report
from pix2seq_jax.evaluation.metrics import coco
from pix2seq_jax.experiment import resolve, sizing, task_weights, weight_table
from pix2seq_jax.experiment.logs import log, setup_logging
from pix2seq_jax.experiment.workdir import check_local

Train = Callable[[ml_collections.ConfigDict, Path], dict]


def search(
    train: Train,
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    ratios: Sequence[float | str],
    order: Sequence[str] = (),
    steps: int = 0,
) -> dict[str, float]:
    """Trains a run for every ratio of every added task, and returns the best weights.

    Args:
        train: trains a config in a workdir and returns its metrics by task; {} where SIGTERM
            stopped it.
        config: of several tasks; their weights in it do not count.
        workdir: for the runs and the results. Further tasks at the end of the order may be asked
            for in a later call, and more ratios; where another one wins, the tasks after it are
            tried anew.
        ratios: weights to try, each between 0 and 1; of equally good ones the smallest is chosen.
        order: of adding; (): the config's tasks as in `task_weights.ORDER`.
        steps: length of each run; 0: config.train.steps.

    Returns:
        Weights by task, which sum to 1; {} where SIGTERM stopped the search.

    Raises:
        ValueError: ratios, order or config that do not fit, or a workdir of another search.
    """
    setup_logging()
    check_local(workdir, what="a search for weights")
    folder, ratios = Path(workdir), task_weights.check_ratios(ratios)
    order = task_weights.check_order(order, config)
    config = _sized(config, steps, folder)
    rows = weight_table.read(folder, config)
    # The first task alone has weight 1 and needs no run.
    weights, base = {order[0]: 1.0}, order[0]
    number, total = 0, (len(order) - 1) * len(ratios)
    for added in order[1:]:
        # Every ratio is tried on top of the best mix of the tasks before.
        group = []
        for ratio in ratios:
            number, run = number + 1, f"{base}+{added}_{ratio}"
            mix = task_weights.mixed(weights, added, ratio)
            row = {"run": run, "task": added, "ratio": ratio, "weights": mix}
            if not _try(train, config, folder, rows, row, f"run {number} of {total}"):
                return {}
            group.append(rows[run])
            best = task_weights.compare(group, complete=len(group) == len(ratios))
            weight_table.write(folder, list(rows.values()), {}, config)
        weights, base = best["weights"], best["run"]
        text = f"{weight_table.table(group)}\n{task_weights.RULE} (*)"
        log.info("%s gets ratio %g\n%s", added, best["ratio"], text)
    weight_table.write(folder, list(rows.values()), weights, config)
    files = folder / f"{weight_table.NAME}.{{txt,png}}"
    log.info("weights: %s; table and plot are %s", task_weights.in_words(weights), files)
    return weights


def _sized(
    config: ml_collections.ConfigDict, steps: int, folder: Path
) -> ml_collections.ConfigDict:
    """A copy of so many steps (0: its own), with the numbers of the search that was begun there, or
    those of `sizing`: all runs have the same."""
    config = ml_collections.ConfigDict(config.to_dict())
    config.train.steps = steps or config.train.steps
    ranges.check(config)
    if begun := weight_table.content(folder):
        before = ml_collections.ConfigDict(begun["config"])
        return sizing.as_saved(config, before, folder)
    return sizing.sized(config, "")


def _try(
    train: Train,
    config: ml_collections.ConfigDict,
    folder: Path,
    rows: dict[str, dict],
    row: dict,
    head: str,
) -> bool:
    """Puts the row of a run with its metrics into `rows`, unless it is there from an earlier call.

    Returns False where SIGTERM stopped the run. `head` begins the log lines.
    """
    words = task_weights.in_words(row["weights"])
    head = f"{head}, {row['task']} added with ratio {row['ratio']:g} ({words})"
    if row["run"] in rows:
        log.info("%s: was done before", head)
        return True
    log.info("%s: %d steps in %s", head, config.train.steps, row["run"])
    metrics = _metrics_of_run(train, config, row["weights"], folder / row["run"])
    if metrics is None:
        log.warning("%s: stopped; run the same command to go on", head)
        return False
    rows[row["run"]] = row | {"metrics": metrics}
    return True


def _metrics_of_run(
    train: Train, config: ml_collections.ConfigDict, weights: Mapping[str, float], workdir: Path
) -> dict | None:
    """The main metrics of a run with these weights, or None where SIGTERM stopped it.

    A run whose loss is no longer finite is over: nothing is measured of it, which counts as 0.
    """
    try:
        metrics = train(task_weights.with_weights(config, weights), workdir)
    except FloatingPointError as error:
        log.warning("%s diverged and counts as 0: %s", workdir, error)
        return coco.json_safe(_main_metrics({}, list(weights)))
    return coco.json_safe(_main_metrics(metrics, list(weights))) if metrics else None


def _main_metrics(metrics: dict, names: Sequence[str]) -> dict[str, float]:
    """The metric of each task by its name, which says so where boxes came from the annotations;
    NaN: not measured."""
    numbers, chosen = report.flat(metrics), {}
    for name in names:
        annotated = f"{name}_{resolve.GROUND_TRUTH}_boxes"
        label = annotated if annotated in metrics else name
        metric = f"{label}/{HOST_TASKS[name].main_metric}"
        chosen[metric] = numbers.get(metric, math.nan)
    return chosen
