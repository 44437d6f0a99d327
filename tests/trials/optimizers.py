"""What optimizers learn on the embedded data in equal time.

    python -m tests.trials.optimizers --optimizers adamw:1e-3 muon:4e-3 --seeds 0 1 2

An optimizer is NAME:RATE[:FIELD=VALUE...], the fields those of config.optim, and `ema` that of
config.train; "schedule_free" is that of optax, which the library does not have. All get the time
that AdamW takes for `--steps` steps of the demo: first the CPU time of a step of each is measured,
in turns. Then each trains once with every seed. What is printed are the losses and accuracies of
tokens on 500 images that are not trained on, and are none of the images that the README reports on.
Choose rates with one `--draw` and compare with another. Not part of the test suite, because it
takes an hour.
"""

import argparse
import functools
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from pix2seq_jax.config import build
from pix2seq_jax.config.fill import fill
from pix2seq_jax.data.shapes import dataset
from pix2seq_jax.experiment import checks, feeds, text_model
from pix2seq_jax.experiment.opened import OpenedRun, open_run
from pix2seq_jax.training import optim, trees
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step

TASKS = ("detection", "segmentation", "keypoints", "captioning")
TIMED, HELD_OUT = 12, 10  # steps that are timed; batches that the losses are measured on
SHOWN = [f"{task}/loss" for task in TASKS] + ["token_accuracy"]


class Entry(NamedTuple):
    """An optimizer of the comparison."""

    name: str
    rate: float
    fields: dict[str, float]
    text: str = ""

    @classmethod
    def read(cls, text: str) -> "Entry":
        """See the module."""
        name, rate, *fields = text.split(":")
        pairs = (field.split("=") for field in fields)
        return cls(name, float(rate), {field: float(value) for field, value in pairs}, text)


def main() -> None:
    """Prints a row of JSON for each run, then a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--optimizers", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=500, help="of AdamW")
    parser.add_argument("--draw", type=int, default=8, help="seed of the images")
    parser.add_argument("--data", default="", help="folder of the images; kept")
    options = parser.parse_args()
    entries = [Entry.read(text) for text in options.optimizers]
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(options.data or temporary) / f"shapes{options.draw}"
        dataset.generate(data, dataset.Spec(seed=options.draw))
        comparison = Comparison(data, Path(temporary), options.steps)
        costs = comparison.costs([Entry("adamw", 1e-3, {}), *entries])
        rows = []
        for seed in options.seeds:
            for entry, cost in zip(entries, costs[1:], strict=True):
                steps = round(options.steps * costs[0] / cost)
                row = {"entry": entry.text, "steps": steps, "cpu_ms": round(1000 * cost)}
                rows.append(row | {"seed": seed} | comparison.train(entry, steps, seed))
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and extent over the seeds."""
    lines = []
    by_entry = sorted(rows, key=lambda row: row["entry"])
    for entry, group in itertools.groupby(by_entry, lambda row: row["entry"]):
        runs = list(group)
        cells = [f"{entry}", f"{runs[0]['steps']} steps", f"{runs[0]['cpu_ms']} CPU ms"]
        for name in SHOWN:
            values = [run[name] for run in runs]
            extent = f"{min(values):.3f}-{max(values):.3f}"
            cells.append(f"{name} {statistics.mean(values):.3f} ({extent})")
        lines.append(" | ".join(cells))
    return "\n".join(lines)


class Comparison:
    """The demo on two folders of images, one for training and one for the losses."""

    def __init__(self, data: Path, workdir: Path, steps: int) -> None:
        """Opens the data.

        Args:
            data: what data.shapes has written.
            workdir: for the text model.
            steps: of AdamW.
        """
        self._config = config_of(data, steps)
        self._mesh = checks.check(self._config, workdir, training=True)
        self._run = open_run(self._config, workdir, self._mesh, evaluate_too=False)
        text_model.save_text(self._run.text, workdir)
        held = ml_collections.ConfigDict(self._config.to_dict())
        held.data.text_model = str(workdir / "text.model")
        for name in [name for name in held.data if name.startswith("val_") and name != "val_share"]:
            held.data[name.replace("val_", "train_")] = held.data[name]
        other = open_run(held, workdir, self._mesh, evaluate_too=False)
        self._held_out = list(itertools.islice(self._batches(other, seed=0), HELD_OUT))

    def _batches(self, run: OpenedRun, seed: int) -> Iterator[dict[str, Any]]:
        config = ml_collections.ConfigDict(run.config.to_dict())
        config.seed = seed
        opened = feeds.open_feeds(
            config, run.streams, self._mesh, start=0, bad_images=run.bad_images
        )
        with opened as own:
            while True:
                yield {name: next(feed)[0] for name, feed in own.items()}

    def costs(self, entries: list[Entry]) -> list[float]:
        """CPU seconds of a step of each, the median of TIMED in turns."""
        batch = next(self._batches(self._run, seed=0))
        trials = [self._trial(entry, 1000) for entry in entries]
        states = [trial.start(0) for trial in trials]
        times: list[list[float]] = [[] for _ in entries]
        for _ in range(TIMED + 1):
            for number, trial in enumerate(trials):
                begin = time.process_time()
                states[number] = jax.block_until_ready(trial.step(states[number], batch, 0))
                times[number].append(time.process_time() - begin)
        return [statistics.median(row[1:]) for row in times]  # the first one compiles

    def train(self, entry: Entry, steps: int, seed: int) -> dict[str, float]:
        """The metrics on the images that were not trained on."""
        trial = self._trial(entry, steps)
        state = trial.start(seed)
        for batch in itertools.islice(self._batches(self._run, seed), steps):
            state = jax.block_until_ready(trial.step(state, batch, seed))
        return trial.measured(state, self._held_out)

    def _trial(self, entry: Entry, steps: int) -> "Trial":
        return Trial(self._run, self._mesh, entry, steps)


class Trial:
    """One optimizer on the demo's model."""

    def __init__(self, run: OpenedRun, mesh: jax.sharding.Mesh, entry: Entry, steps: int) -> None:
        """Compiles nothing yet."""
        self._run, self._mesh = run, mesh
        settings = run.config.schedule.to_dict() | {"base": entry.rate}
        settings["warmup"] = round(steps * settings["warmup"] / run.config.train.steps)
        schedule = optim.schedule(**settings, batch_size=0, total=steps)
        self._free, self._ema = entry.name == "schedule_free", entry.fields.get("ema", 0.0)
        if self._free:
            self._tx = schedule_free(entry, settings["warmup"])
        else:
            fields = {"clip": run.config.optim.clip} | entry.fields
            fields.pop("ema", None)
            self._tx = optim.make(entry.name, schedule, **fields)
        weights = {name: run.config.tasks[name].weight for name in run.trained}
        update = train_step.make_step(
            run.model, run.trained, self._tx, schedule, weights=weights, ema=self._ema
        )
        self._update = jax.jit(update, donate_argnums=0)
        self._gradients = jax.jit(train_step.make_gradients(run.model, run.trained))

    def start(self, seed: int) -> train_state.TrainState:
        """Random parameters."""
        key, averaged = jax.random.key(seed), bool(self._ema)
        return train_state.init_state(
            self._run.model, self._tx, key, mesh=self._mesh, averaged=averaged
        )

    def step(self, state: train_state.TrainState, batch: dict, seed: int) -> Any:
        """One update."""
        with jax.set_mesh(self._mesh):
            return self._update(state, batch, jax.random.key(seed + 1))[0]

    def measured(self, state: train_state.TrainState, batches: list[dict]) -> dict[str, float]:
        """Means of the metrics over batches."""
        if self._free:
            averaged = optax.contrib.schedule_free_eval_params(state.opt_state[1], state.params)
            state = state.replace(params=averaged)
        if self._ema:
            state = train_state.without_average(state.replace(params=state.average))
        with jax.set_mesh(self._mesh):
            rows = [
                self._gradients(state, batch, jax.random.key(number))[2]
                for number, batch in enumerate(batches)
            ]
        return {name: float(np.mean([row[name] for row in rows])) for name in SHOWN}


def schedule_free(entry: Entry, warmup: int) -> optax.GradientTransformation:
    """Schedule-free AdamW (Defazio et al. 2024) with the clipping and the decay of the demo."""

    def rate(step):
        return entry.rate * jnp.minimum(1.0, (step + 1.0) / max(warmup, 1))

    kernels = functools.partial(trees.mask_by_regex, pattern=optim.DECAY["kernels"])
    base = optax.chain(
        optax.scale_by_rms(decay=0.95, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(0.05, kernels),
        optax.scale_by_learning_rate(rate),
    )
    free = optax.contrib.schedule_free(base, rate, b1=entry.fields.get("beta1", 0.9))
    return optax.chain(optax.clip_by_global_norm(1.0), free)


def config_of(data: Path, steps: int) -> ml_collections.ConfigDict:
    """The demo's config on another folder."""
    config = build.build("shapes", recipe="multitask", tasks=TASKS)
    for name, value in config.data.items():
        if isinstance(value, str):
            config.data[name] = value.replace("data/shapes", str(data))
    config.train.steps = steps
    return fill(config)


if __name__ == "__main__":
    sys.exit(main())
