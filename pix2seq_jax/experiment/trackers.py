"""Services that collect the figures of many runs, beside TensorBoard and metrics.jsonl.

`config.train.trackers` names some of TRACKERS, joined by +. A run that goes on writes into the same
run of a service, whose id is in the workdir.
"""

import importlib.util
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np

from pix2seq_jax.files.locations import path_of
from pix2seq_jax.files.whole import write_whole

FILE = "trackers.json"  # of a workdir: the id of its run, by tracker
PROJECT = "pix2seq_jax"


class Tracker(Protocol):
    """What `logs.MetricWriter` writes to, besides its own files.

    Attributes:
        package: that it needs.
        variable: of the environment that has to be set; "" for none.
        run_id: of the service.
    """

    package: str
    variable: str
    run_id: str

    def __init__(self, workdir: PurePath, config: Mapping[str, Any], run_id: str) -> None:
        """Begins a run of the service, or goes on with the one of that id (not "")."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values by name, finite ones."""

    def images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures u8[H,W,3] by name."""

    def close(self) -> None:
        """Sends what is buffered."""


class Wandb:
    """Weights & Biases. WANDB_PROJECT, WANDB_MODE=offline and the like are its own variables."""

    package, variable = "wandb", ""

    def __init__(self, workdir: PurePath, config: Mapping[str, Any], run_id: str) -> None:
        """See `Tracker`."""
        import wandb

        self._picture = wandb.Image
        self.run_id = run_id or secrets.token_hex(4)
        self._run = wandb.init(
            dir=workdir if isinstance(workdir, Path) else None,  # None: where one starts it
            id=self.run_id,
            resume="allow",
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=workdir.name,
            config=dict(config),
        )
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log({"step": step, **values})

    def images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """See `Tracker`."""
        own = {name: self._picture(picture) for name, picture in pictures.items()}
        self._run.log({"step": step, **own})

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class Mlflow:
    """MLflow, at the address in MLFLOW_TRACKING_URI."""

    package, variable = "mlflow", "MLFLOW_TRACKING_URI"

    def __init__(self, workdir: PurePath, config: Mapping[str, Any], run_id: str) -> None:
        """See `Tracker`."""
        import mlflow

        self._metric = mlflow.entities.Metric
        self._client = mlflow.MlflowClient(os.environ[self.variable])
        self.run_id = run_id
        if not run_id:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            number = (
                experiment.experiment_id if experiment else self._client.create_experiment(name)
            )
            self.run_id = self._client.create_run(number, run_name=workdir.name).info.run_id
        self._client.log_dict(self.run_id, dict(config), "config.json")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        now = int(1000 * time.time())
        rows = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics=rows)

    def images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """See `Tracker`."""
        for name, picture in pictures.items():
            self._client.log_image(self.run_id, picture, key=name, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self.run_id)


TRACKERS: dict[str, type[Tracker]] = {"wandb": Wandb, "mlflow": Mlflow}


def names_of(text: str) -> list[str]:
    """The names in config.train.trackers.

    Raises:
        ValueError: a name that is none of TRACKERS, a package that is not installed, or a variable
            that is not set.
    """
    names = [name for name in text.split("+") if name]
    for name in names:
        if name not in TRACKERS:
            raise ValueError(
                f"config.train.trackers={text!r}: {name!r} is none of {list(TRACKERS)}; join "
                "several by +"
            )
        tracker = TRACKERS[name]
        if importlib.util.find_spec(tracker.package) is None:
            raise ValueError(
                f"config.train.trackers={text!r} needs the package {tracker.package}: pip install "
                "'pix2seq_jax[trackers]'"
            )
        if tracker.variable and not os.environ.get(tracker.variable):
            raise ValueError(
                f"config.train.trackers={text!r}: the variable {tracker.variable} is not set; give "
                "it the address of the service"
            )
    return names


def open_trackers(text: str, workdir: str | Path, config: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of a run in a workdir, with the runs that they had there.

    Raises:
        ValueError: see `names_of`; or a service cannot be reached.
    """
    folder, trackers = path_of(workdir), []
    path = folder / FILE
    ids = json.loads(path.read_text()) if path.exists() else {}
    for name in names_of(text):
        try:
            tracker = TRACKERS[name](folder, config, ids.get(name, ""))
        except Exception as error:  # each service raises errors of its own
            raise ValueError(
                f"config.train.trackers={text!r}: {name} cannot be used "
                f"({type(error).__name__}: {' '.join(str(error).split())}); mend that, or leave it "
                "out"
            ) from error
        ids[name] = tracker.run_id
        trackers.append(tracker)
    if trackers:
        write_whole(path, json.dumps(ids) + "\n")
    return trackers
