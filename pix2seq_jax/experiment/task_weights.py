"""Weights of tasks: how a task joins others, and by what rule the results of mixes are compared."""

import math
from collections.abc import Mapping, Sequence

import ml_collections

from pix2seq_jax import tasks
from pix2seq_jax.config import recipes
from pix2seq_jax.experiment import resolve
from pix2seq_jax.experiment.logs import log

ORDER = tuple(recipes.TASK_MIX)  # in which the paper adds them
RULE = (
    "relative: mean over the tasks of metric / best of that metric among the ratios tried; the "
    "highest is chosen"
)


def mixed(weights: Mapping[str, float], added: str, ratio: float) -> dict[str, float]:
    """The weights with one more task of weight `ratio`; the others share the rest in their old
    proportions."""
    return {name: weight * (1 - ratio) for name, weight in weights.items()} | {added: ratio}


def relative(metrics: Sequence[Mapping[str, float | None]]) -> list[float]:
    """How good each of several runs is: the mean over its metrics of metric / best of that metric
    in these runs.

    AP and CIDEr-D have different scales, so each is measured by what could be reached. That is the
    usual mean of the relative changes by task (Maninis et al. 2019, "Attentive Single-Tasking of
    Multiple Tasks") with the best run in place of a model for that task alone. Runs that are
    compared have the same tasks, evaluated alike.

    Args:
        metrics: of each run, the higher the better, at least 0. None and NaN count as 0; a metric
            that is 0 in all runs says nothing and is left out.

    Returns:
        Numbers in [0, 1], 0 for all where no metric says anything.
    """
    names = dict.fromkeys(name for run in metrics for name in run)
    best = {name: max(_measured(run.get(name)) for run in metrics) for name in names}
    used = [name for name in names if best[name] > 0]
    if not used:
        return [0.0] * len(metrics)
    return [
        sum(_measured(run.get(name)) / best[name] for name in used) / len(used) for run in metrics
    ]


def compare(group: Sequence[dict], *, complete: bool) -> dict:
    """Marks how good the runs of one added task are, and the best one once the group is `complete`.

    Args:
        group: a row for each run with its `metrics`; gets `relative` and `chosen`.
        complete: whether all ratios were tried.

    Returns:
        The best row; of equally good ones the first.
    """
    for row, value in zip(group, relative([row["metrics"] for row in group]), strict=True):
        row.update(relative=value, chosen=False)
    best = max(group, key=lambda row: row["relative"])
    best["chosen"] = complete
    if complete:
        for name in group[0]["metrics"]:
            if not any(_measured(row["metrics"][name]) for row in group):
                log.warning(
                    "%s is 0 with all ratios and does not count: longer runs (--steps) would show "
                    "more",
                    name,
                )
    return best


def _measured(value: float | None) -> float:
    """The value, 0 where there is none."""
    return value if value is not None and math.isfinite(value) else 0.0


def check_ratios(ratios: Sequence[float | str]) -> list[float]:
    """Sorted ratios. Raises ValueError where one is no number between 0 and 1, or where there is
    none."""
    numbers = []
    for ratio in ratios:
        try:
            numbers.append(float(ratio))
        except ValueError as error:
            raise ValueError(
                f"--ratios: {ratio!r} is no number; write --ratios=0.1,0.3,0.5"
            ) from error
        if not 0 < numbers[-1] < 1:
            raise ValueError(
                f"--ratios: {ratio} is the weight of an added task, a share of 1 that leaves "
                "something to the others: give numbers above 0 and below 1"
            )
    if not numbers:
        raise ValueError("--ratios is empty: give at least one, such as --ratios=0.1,0.3,0.5")
    return sorted(set(numbers))


def check_order(order: Sequence[str], config: ml_collections.ConfigDict) -> list[str]:
    """The order, or by default the tasks of the config as in ORDER.

    Raises:
        ValueError: an unknown task, one that the config does not have, one twice, or fewer than
            two.
    """
    order = list(order) or [name for name in ORDER if name in config.tasks]
    for name in order:
        if name not in tasks.TASKS:
            raise ValueError(
                f"--order: unknown task {name!r}; known tasks are {sorted(tasks.TASKS)}"
            )
        if name not in config.tasks:
            raise ValueError(
                f"--order: {name!r} is not in the config, which has {sorted(config.tasks)}; leave "
                "it out, or use --config=configs/multitask.py"
            )
    if len(set(order)) < max(len(order), 2):
        raise ValueError(
            f"--order={','.join(order)}: give at least two tasks of the config, each once"
        )
    return order


def with_weights(
    config: ml_collections.ConfigDict, weights: Mapping[str, float]
) -> ml_collections.ConfigDict:
    """A copy with the tasks of `weights` only, and these weights; see `resolve.select_tasks`."""
    config = resolve.select_tasks(config, weights)
    for name, weight in weights.items():
        config.tasks[name].weight = weight
    return config


def in_words(weights: Mapping[str, float]) -> str:
    """The weights for log lines and tables."""
    return ", ".join(f"{name} {weight:.4g}" for name, weight in weights.items())


def as_flags(weights: Mapping[str, float], config: ml_collections.ConfigDict) -> str:
    """The weights as arguments of the main command; tasks that were not searched get none of the
    loss."""
    everything = weights | {name: 0.0 for name in config.tasks if name not in weights}
    return " ".join(
        f"--config.tasks.{name}.weight={weight:.9g}" for name, weight in everything.items()
    )
