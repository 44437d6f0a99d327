"""Searches the weights of tasks, one added task at a time (Pix2Seq v2, section 4.1 and figure 4).

`python -m pix2seq_jax.weight_search --config=configs/multitask.py:shapes --workdir=DIR
--ratios=0.1,0.3,0.5` goes through the tasks in an order. The first one alone has weight 1 and needs
no run. Each further one is tried with every ratio r: it gets the weight r, the tasks before it
share 1 - r in the proportions that were chosen for them, and a run in DIR/<first task>+<added
task>_<ratio> trains and evaluates that mix. The best ratio is kept, and the next task is added to
it, in runs like DIR/detection+segmentation_0.5+captioning_0.1. After detection, segmentation 0.8,
captioning 0.1 and keypoints 0.01 give the published mix (recipes.TASK_MIX).

The paper reads the best ratio off the curves, where all tasks are near their peaks. Here a rule
stands for that, see `relative`. DIR/weight_search.json, .txt and .png are written anew after each
run. The same command again goes on where it was stopped: finished runs are not repeated, the
interrupted one is resumed. A run that diverges counts as 0.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import ml_collections
from absl import flags

from pix2seq_jax.evaluation import HOST_TASKS, report
from pix2seq_jax.experiment.guard import QUIET
from pix2seq_jax.main import guarded_by_flags, start

if __name__ == "__main__":  # before TensorFlow is imported
    os.environ.update(QUIET | os.environ)

from pix2seq_jax import tasks, train
from pix2seq_jax.evaluation.metrics import coco
from pix2seq_jax.evaluation.pictures import plots
from pix2seq_jax.experiment import resolve
from pix2seq_jax.experiment.logs import log, setup_logging
from pix2seq_jax.training import trees

NAME = "weight_search"  # of the three files
ORDER = ("detection", "segmentation", "captioning", "keypoints")  # in which the paper adds them
RULE = (
    "relative: mean over the tasks of metric / best of that metric among the ratios tried; the "
    "highest is chosen"
)
# Values that change no metric: they may differ from one call to the next.
FREE = (
    *(
        "about",
        "mesh/",
        "data/hint",
        "data/workers",
        "data/check_images",
        "eval/batch_size",
        "eval/pictures",
    ),
    *(
        "eval/score_threshold",
        "train/log_steps",
        "train/checkpoint_steps",
        "train/keep_latest",
        "train/profile_at",
    ),
)

# --config, --workdir, --distributed and --traceback are those of main.
_RATIOS = flags.DEFINE_list(
    "ratios", None, "Weights to try for each added task, such as 0.1,0.3,0.5."
)
_ORDER = flags.DEFINE_list(
    "order", [], f"Tasks in the order of adding; default: those of {','.join(ORDER)} there are."
)
_STEPS = flags.DEFINE_integer("steps", 0, "Length of each run; 0: config.train.steps.")


def mixed(weights: Mapping[str, float], added: str, ratio: float) -> dict[str, float]:
    """The weights with one more task of weight `ratio`; the others share the rest in their old
    proportions."""
    return {name: weight * (1 - ratio) for name, weight in weights.items()} | {added: ratio}


def _measured(value: float | None) -> float:
    """The value, 0 where there is none."""
    return value if value is not None and math.isfinite(value) else 0.0


def relative(metrics: Sequence[Mapping[str, float | None]]) -> list[float]:
    """How good each of several runs is: the mean over its metrics of metric / best of that metric
    in these runs.

    AP and CIDEr-D have different scales, so each is measured by what could be reached. That is the
    usual mean of the relative changes by task (Maninis et al. 2019, "Attentive Single-Tasking of
    Multiple Tasks") with the best run in place of a model for that task alone. Runs that are
    compared have the same tasks, evaluated alike.

    Args:
        metrics: of each run, the higher the better, at least 0. None and NaN count as 0; a metric
            that is 0 in all runs tells nothing and is left out.

    Returns:
        Numbers in [0, 1], 0 for all where no metric tells anything.
    """
    names = dict.fromkeys(name for run in metrics for name in run)
    best = {name: max(_measured(run.get(name)) for run in metrics) for name in names}
    told = [name for name in names if best[name] > 0]
    if not told:
        return [0.0] * len(metrics)
    return [
        sum(_measured(run.get(name)) / best[name] for name in told) / len(told) for run in metrics
    ]


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


def _check_same(before: dict, now: dict, path: Path) -> None:
    """Raises ValueError where a search that was begun had another config; the weights in it are of
    no account."""
    old, new = trees.flatten_names(before), trees.flatten_names(now)
    for name in sorted(old.keys() | new.keys()):
        free = name.startswith(FREE) or (name.startswith("tasks/") and name.endswith("/weight"))
        if not free and old.get(name) != new.get(name):
            raise ValueError(
                f"{path} is of another search: config.{name.replace('/', '.')} is "
                f"{old.get(name)!r} there and {new.get(name)!r} here; use another --workdir, or "
                "the config and --steps that it was started with"
            )


def config_of(
    config: ml_collections.ConfigDict, weights: Mapping[str, float]
) -> ml_collections.ConfigDict:
    """A copy with the tasks of `weights` only, and these weights; see `experiment.select_tasks`."""
    config = resolve.select_tasks(config, weights)
    for name, weight in weights.items():
        config.tasks[name].weight = weight
    return config


def main_metrics(metrics: dict, names: Sequence[str]) -> dict[str, float]:
    """The metric of each task by its name, which says so where boxes came from the annotations;
    NaN: not measured."""
    found = report.flat(metrics)
    chosen = {}
    for name in names:
        given = f"{name}_{resolve.GROUND_TRUTH}_boxes"
        metric = f"{given if given in metrics else name}/{HOST_TASKS[name].main_metric}"
        chosen[metric] = found.get(metric, math.nan)
    return chosen


def _written(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {weight:.4g}" for name, weight in weights.items())


def table(rows: Sequence[dict]) -> str:
    """A line per run: what was added, the weights, the metrics, how good it is, and a star where it
    was chosen."""
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    lines = [("added", "ratio", "weights", *names, "relative", "")]
    for row in rows:
        values = [row["metrics"].get(name) for name in names] + [row["relative"]]
        numbers = ("-" if value is None else f"{value:.4f}" for value in values)
        lines.append(
            (
                row["task"],
                f"{row['ratio']:g}",
                _written(row["weights"]),
                *numbers,
                "*" * row["chosen"],
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = (0, 2)  # columns of words; those of numbers end alike
    padded = (
        [
            c.ljust(w) if i in left else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    )
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def as_flags(weights: Mapping[str, float], config: ml_collections.ConfigDict) -> str:
    """The weights as arguments of the main command; tasks that were not searched get none of the
    loss."""
    everything = weights | {name: 0.0 for name in config.tasks if name not in weights}
    return " ".join(
        f"--config.tasks.{name}.weight={weight:.9g}" for name, weight in everything.items()
    )


def _write(
    folder: Path,
    rows: Sequence[dict],
    weights: Mapping[str, float],
    config: ml_collections.ConfigDict,
) -> None:
    """Process 0 writes the JSON, the table and the plot; `weights` once they are final, empty
    before."""
    if jax.process_index():
        return
    content = {
        "rule": RULE,
        "weights": weights,
        "rows": rows,
        "config": json.loads(config.to_json()),
    }
    report.write_json(folder / f"{NAME}.json", content)
    shown = [
        row for row in rows if row["relative"] is not None
    ]  # others were built on a ratio that wins no longer
    text = f"{table(shown)}\n\n{RULE} (*)\n" + (
        f"\n{as_flags(weights, config)}\n" if weights else ""
    )
    partial = folder / f"{NAME}.txt.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / f"{NAME}.txt")
    plots.weight_search_plot([row | row["metrics"] for row in shown], folder / f"{NAME}.png")


def _stored(path: Path, config: ml_collections.ConfigDict) -> dict[str, dict]:
    """The rows of an earlier call by their run, not compared yet."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        unjudged = {"relative": None, "chosen": False}
        before, rows = content["config"], {row["run"]: row | unjudged for row in content["rows"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}); delete it: finished runs "
            "are then only evaluated again"
        ) from error
    _check_same(before, json.loads(config.to_json()), path)
    return rows


def _trained(
    config: ml_collections.ConfigDict, weights: Mapping[str, float], workdir: Path
) -> dict | None:
    """The main metrics of a run with these weights, or None where SIGTERM stopped it.

    A run whose loss is no longer finite is over: nothing is measured of it, which counts as 0.
    """
    try:
        metrics = train.run(config_of(config, weights), workdir)
    except FloatingPointError as error:
        log.warning("%s diverged and counts as 0: %s", workdir, error)
        return coco.json_safe(main_metrics({}, list(weights)))
    return coco.json_safe(main_metrics(metrics, list(weights))) if metrics else None


def _compare(group: Sequence[dict], *, last: bool) -> dict:
    """Marks how good the runs of one added task are, and the best one once the `last` was made;
    returns the best."""
    for row, value in zip(group, relative([row["metrics"] for row in group]), strict=True):
        row.update(relative=value, chosen=False)
    best = max(group, key=lambda row: row["relative"])  # the first of equals: the smallest ratio
    best["chosen"] = last
    for name in group[0]["metrics"] if last else ():
        if not any(_measured(row["metrics"][name]) for row in group):
            log.warning(
                "%s is 0 with all ratios and does not count: longer runs (--steps) would tell more",
                name,
            )
    return best


def _rounds(
    order: Sequence[str], ratios: Sequence[float]
) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Each added task with its (number of the run, ratio)."""
    for turn, added in enumerate(order[1:]):
        yield added, list(enumerate(ratios, turn * len(ratios) + 1))


def search(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    ratios: Sequence[float | str],
    order: Sequence[str] = (),
    steps: int = 0,
) -> dict[str, float]:
    """Trains a run for every ratio of every added task, and returns the weights that were found.

    Args:
        config: of several tasks; their weights in it are of no account.
        workdir: for the runs and the results. Further tasks at the end of the order may be asked
            for in a later call, and more ratios; where another one wins, the tasks after it are
            tried anew.
        ratios: weights to try, each between 0 and 1; of equally good ones the smallest is chosen.
        order: of adding; (): the config's tasks as in ORDER.
        steps: length of each run; 0: config.train.steps.

    Returns:
        Weights by task, which sum to 1; {} where SIGTERM stopped the search.

    Raises:
        ValueError: ratios, order or config that do not fit, or a workdir of another search.
    """
    setup_logging()
    folder, ratios, order = Path(workdir), check_ratios(ratios), check_order(order, config)
    config = ml_collections.ConfigDict(config.to_dict())
    config.train.steps = steps or config.train.steps
    done = _stored(folder / f"{NAME}.json", config)
    weights, total, base = {order[0]: 1.0}, (len(order) - 1) * len(ratios), order[0]
    for added, attempts in _rounds(order, ratios):
        group = []
        for number, ratio in attempts:
            mix, run = mixed(weights, added, ratio), f"{base}+{added}_{ratio}"
            head = f"run {number} of {total}, {added} added with ratio {ratio:g} ({_written(mix)})"
            log.info(
                "%s: %s",
                head,
                "was done before" if run in done else f"{config.train.steps} steps in {run}",
            )
            if run not in done:
                metrics = _trained(config, mix, folder / run)
                if metrics is None:
                    log.warning("%s: stopped; run the same command to go on", head)
                    return {}
                done[run] = {
                    "run": run,
                    "task": added,
                    "ratio": ratio,
                    "weights": mix,
                    "metrics": metrics,
                }
            group.append(done[run])
            best = _compare(group, last=len(group) == len(ratios))
            _write(folder, list(done.values()), {}, config)
        weights, base = best["weights"], best["run"]
        log.info("%s gets ratio %g\n%s\n%s (*)", added, best["ratio"], table(group), RULE)
    _write(folder, list(done.values()), weights, config)
    log.info(
        "weights: %s; table and plot are %s", _written(weights), folder / f"{NAME}.{{txt,png}}"
    )
    return weights


def main(argv: list[str]) -> None:
    """The command; an error of the user's input is one line, not a trace."""
    given = flags.FLAGS

    def run() -> None:
        if len(argv) > 1 or given["mode"].present:
            raise ValueError(
                f"unknown arguments {argv[1:] or '--mode'}: flags look like --workdir=DIR"
            )
        weights = search(
            given.config,
            given.workdir,
            ratios=_RATIOS.value,
            order=_ORDER.value,
            steps=_STEPS.value,
        )
        if weights and jax.process_index() == 0:
            print(as_flags(weights, given.config))

    guarded_by_flags(run)


if __name__ == "__main__":
    start(main, ("config", "workdir", "ratios"))
