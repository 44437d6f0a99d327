"""The main command, which writes down the image ids of each step that is done, and may fail.

    python -m tests.trials.recorded IDS FAILS FLAGS...

IDS is a file to which a line `{"step": …, "ids": {task: […]}}` is added for each step, with the
rows of this process in their order. FAILS is `PROCESS:STEP`, where this process raises an error
after it has reported that step, `all:STEP`, where every one does, or `none`.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from pix2seq_jax import main
from pix2seq_jax.experiment import hooks
from pix2seq_jax.training import loop


class Recorded:
    """A feed whose image ids are kept."""

    def __init__(self, feed: Any) -> None:
        self._feed, self.ids = feed, []

    @property
    def wait_seconds(self) -> float:
        """See `data.feed.Feed`."""
        return self._feed.wait_seconds

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> tuple[Any, Mapping[str, Any]]:
        batch, host = next(self._feed)
        self.ids.append(host["image_id"].tolist())
        return batch, host


def record(file: Path, fails: str) -> None:
    """Changes the loop and its hooks."""
    train, report = loop.train, hooks.RunHooks.report
    feeds: dict[str, Recorded] = {}

    def recorded(state, update, own, rng, **options):
        feeds.update({name: Recorded(feed) for name, feed in own.items()})
        return train(state, update, feeds, rng, **options)

    def reported(self, step, metrics, waited):
        report(self, step, metrics, waited)
        ids = {name: feed.ids.pop() for name, feed in feeds.items()}
        with file.open("a") as lines:
            lines.write(json.dumps({"step": step, "ids": ids}) + "\n")
        if fails in (f"{jax.process_index()}:{step}", f"all:{step}"):
            raise OSError(f"process {jax.process_index()} was told to fail at step {step}")

    loop.train, hooks.RunHooks.report = recorded, reported


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2])
    main.main(sys.argv[3:])
