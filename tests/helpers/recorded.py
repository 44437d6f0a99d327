"""The main command, which writes down the image ids of each step that is done, and may fail.

    python -m tests.helpers.recorded IDS FAILS FLAGS...

IDS-PROCESS gets a line `{"step": …, "processes": …, "ids": {task: […]}}` for each step that is
reported, with the rows of this process in their order. FAILS is `none`, or says what happens at a
step, as in `error-1:15` or `nan-all:15`: process 1, or every process, raises an error after it has
reported step 15, or its images of step 15 are no numbers.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pix2seq_jax import main
from pix2seq_jax.experiment import hooks
from pix2seq_jax.training import loop


class Recorded:
    """A feed that keeps the image ids of its last batch.

    Attributes:
        ids: of the rows of this process.
    """

    def __init__(self, feed: Any, start: int, fails: Callable[[str, int], bool]) -> None:
        """Follows a feed whose next batch is that of step `start + 1`."""
        self._feed, self._step, self._fails, self.ids = feed, start, fails, []

    @property
    def wait_seconds(self) -> float:
        """See `data.feed.Feed`."""
        return self._feed.wait_seconds

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> tuple[Any, Mapping[str, Any]]:
        batch, host = next(self._feed)
        self.ids, self._step = host["image_id"].tolist(), self._step + 1
        if self._fails("nan", self._step):
            # All pixels of the rows of this process are padding of no number.
            batch = batch | {"pad_value": filled(batch["pad_value"], np.nan)}
            batch["unpadded_size"] = filled(batch["unpadded_size"], 0)
        return batch, host


def filled(rows: jax.Array, value: float) -> jax.Array:
    """An array with another value in the rows of this process."""
    own = [
        jax.device_put(np.full(shard.data.shape, value, rows.dtype), shard.device)
        for shard in rows.addressable_shards
    ]
    return jax.make_array_from_single_device_arrays(rows.shape, rows.sharding, own)


@contextlib.contextmanager
def recorded(file: Path, fails: str = "none") -> Iterator[None]:
    """While it is open, training writes down its image ids, and fails where it is told to.

    Args:
        file: begin of the path; the number of the process is added.
        fails: see the module.
    """
    train, report = loop.train, hooks.RunHooks.report
    feeds: dict[str, Recorded] = {}

    def failing(kind: str, step: int) -> bool:
        return fails in (f"{kind}-{who}:{step}" for who in (jax.process_index(), "all"))

    def recording(state, update, own, rng, *, start, **options):
        feeds.update({name: Recorded(feed, start, failing) for name, feed in own.items()})
        return train(state, update, feeds, rng, start=start, **options)

    def reporting(self, step, metrics, waited):
        report(self, step, metrics, waited)
        ids = {name: feed.ids for name, feed in feeds.items()}
        with Path(f"{file}-{jax.process_index()}").open("a") as lines:
            row = {"step": step, "processes": jax.process_count(), "ids": ids}
            lines.write(json.dumps(row) + "\n")
        if failing("error", step):
            raise OSError(f"process {jax.process_index()} was told to fail at step {step}")

    loop.train, hooks.RunHooks.report = recording, reporting
    try:
        yield
    finally:
        loop.train, hooks.RunHooks.report = train, report


def image_ids(file: Path) -> dict[int, dict[str, list[int]]]:
    """Image ids by step and task: the rows of process 0, then those of process 1, and so on. Of a
    step that was done again the last time counts.

    Args:
        file: as `recorded` was given.
    """
    by_process: dict[int, dict[int, dict]] = {}
    for own in file.parent.glob(f"{file.name}-*"):
        rows = [json.loads(line) for line in own.read_text().splitlines()]
        by_process[int(own.name.rpartition("-")[2])] = {row["step"]: row for row in rows}
    by_step = {}
    for step, first in sorted(by_process[0].items()):
        parts = [by_process[number][step]["ids"] for number in range(first["processes"])]
        by_step[step] = {name: [*chain(*(part[name] for part in parts))] for name in first["ids"]}
    return by_step


if __name__ == "__main__":
    with recorded(Path(sys.argv[1]), sys.argv[2]):
        main.main(sys.argv[3:])
