"""The files of a search for the weights of tasks: weight_search.json, .txt and .png.

A row of them is one run: `run` (its folder), `task` (the one that was added), `ratio`, `weights`,
`metrics`, `relative` (how good it is, None before it is compared) and `chosen`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import ml_collections

from pix2seq_jax.evaluation import report
from pix2seq_jax.evaluation.pictures import plots
from pix2seq_jax.experiment.task_weights import RULE, as_flags, in_words
from pix2seq_jax.files.whole import write_whole
from pix2seq_jax.training import trees

NAME = "weight_search"  # of the three files
# Values that change no metric: they may differ from one call to the next.
FREE = (
    "about",
    "mesh/",
    "data/hint",
    "data/workers",
    "data/worker_processes",
    "data/cache",
    "data/check_images",
    "eval/batch_size",
    "eval/pictures",
    "eval/score_threshold",
    "train/by_data",
    "train/log_steps",
    "train/checkpoint_steps",
    "train/keep_latest",
    "train/profile_at",
    "train/trackers",
)


def read(folder: Path, config: ml_collections.ConfigDict) -> dict[str, dict]:
    """The rows of an earlier call by their run, not compared yet; {} where there was none.

    Raises:
        ValueError: see `content`, or the file is of a search with another config.
    """
    before = content(folder)
    if not before:
        return {}
    _check_same(before["config"], json.loads(config.to_json()), folder / f"{NAME}.json")
    return before["rows"]


def content(folder: Path) -> dict[str, dict]:
    """What an earlier call wrote: `config`, and `rows` by their run, not compared yet; {} where
    there was none.

    Raises:
        ValueError: the file cannot be read.
    """
    path = folder / f"{NAME}.json"
    if not path.is_file():
        return {}
    not_compared = {"relative": None, "chosen": False}
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        rows = {row["run"]: row | not_compared for row in before["rows"]}
        return {"config": before["config"], "rows": rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}); delete it: finished runs "
            "are then only evaluated again"
        ) from error


def _check_same(before: dict, now: dict, path: Path) -> None:
    """Raises ValueError where a search that was begun had another config; the weights in it do not
    count."""
    old, new = trees.flatten_names(before), trees.flatten_names(now)
    for name in sorted(old.keys() | new.keys()):
        free = name.startswith(FREE) or (name.startswith("tasks/") and name.endswith("/weight"))
        if not free and old.get(name) != new.get(name):
            raise ValueError(
                f"{path} is of another search: config.{name.replace('/', '.')} is "
                f"{old.get(name)!r} there and {new.get(name)!r} here; use another --workdir, or "
                "the config and --steps that it was started with"
            )


def write(
    folder: Path,
    rows: Sequence[dict],
    weights: Mapping[str, float],
    config: ml_collections.ConfigDict,
) -> None:
    """Process 0 writes the JSON, the table and the plot; `weights` once they are final, empty
    before."""
    if jax.process_index():
        return
    config_values = json.loads(config.to_json())
    table_values = {"rule": RULE, "weights": weights, "rows": rows, "config": config_values}
    report.write_json(folder / f"{NAME}.json", table_values)
    # Rows that are not compared were built on a ratio that wins no longer.
    compared = [row for row in rows if row["relative"] is not None]
    text = f"{table(compared)}\n\n{RULE} (*)\n"
    if weights:
        text += f"\n{as_flags(weights, config)}\n"
    write_whole(folder / f"{NAME}.txt", text)
    plots.weight_search_plot([row | row["metrics"] for row in compared], folder / f"{NAME}.png")


def table(rows: Sequence[dict]) -> str:
    """A line per run: what was added, the weights, the metrics, how good it is, and a star where it
    was chosen."""
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    lines = [("added", "ratio", "weights", *names, "relative", "")]
    for row in rows:
        values = [row["metrics"].get(name) for name in names] + [row["relative"]]
        numbers = ["-" if value is None else f"{value:.4f}" for value in values]
        star = "*" if row["chosen"] else ""
        words = in_words(row["weights"])
        lines.append((row["task"], f"{row['ratio']:g}", words, *numbers, star))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_aligned(line, widths) for line in lines)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    """One line of the table: words begin alike, numbers end alike."""
    of_words = (0, 2)  # columns
    cells = []
    for column, (cell, width) in enumerate(zip(line, widths, strict=True)):
        cells.append(cell.ljust(width) if column in of_words else cell.rjust(width))
    return "  ".join(cells).rstrip()
