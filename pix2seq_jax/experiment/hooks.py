"""What happens around the steps of a training run: log lines, checkpoints, evaluations, SIGTERM."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pix2seq_jax.evaluation.in_training import Evaluations
from pix2seq_jax.experiment import emergency, feeds, stopping
from pix2seq_jax.experiment.logs import MetricWriter, Progress, phase, profiler
from pix2seq_jax.experiment.opened import OpenedRun
from pix2seq_jax.training import checkpoint, flops, processes
from pix2seq_jax.training import state as train_state

SHOWN = ("loss", "token_accuracy", "grad_norm", "lr")  # in the log line; metrics.jsonl has all


class RunHooks:
    """The hooks of training.loop for a run in a workdir."""

    def __init__(
        self,
        opened: OpenedRun,
        workdir: str | Path,
        *,
        start: int,
        saver: checkpoint.Checkpointer,
        writer: MetricWriter,
        evaluations: Evaluations | None,
        terminated: stopping.Termination,
    ) -> None:
        """Takes what it uses.

        Args:
            opened: what the run consists of.
            workdir: of the run.
            start: number of updates done.
            saver: of checkpoints.
            writer: of metrics.
            evaluations: of saved states; None for none.
            terminated: whether SIGTERM has come.
        """
        config = self._config = opened.config
        self._workdir, self._meta, self._saver, self._writer = workdir, opened.meta, saver, writer
        self._evaluations, self._terminated = evaluations, terminated
        self._tell_data = opened.tell_data
        self._images = feeds.images_per_step(config)
        self._tokens = feeds.tokens_per_step(self._images, opened.trained)
        rows = feeds.rows_of(self._images, opened.trained)
        self._flops = flops.of_step(opened.model, rows, self._images)
        self._model = opened.model
        self._profile = None
        if config.train.profile_at:
            self._profile = profiler(workdir, first_profile=config.train.profile_at)
        self._progress = Progress(
            first=start,
            total=config.train.steps,
            log_steps=config.train.log_steps,
            images_per_step=sum(self._images.values()),
            tokens_per_step=sum(self._tokens.values()),
        )

    def __enter__(self) -> "RunHooks":
        self._progress.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._progress.__exit__(*error)

    @contextlib.contextmanager
    def saves_at_an_error(self, current: Callable[[], train_state.TrainState]) -> Iterator[None]:
        """An error ends the run once the last good state is saved."""
        try:
            yield
        except Exception:
            write = functools.partial(self._saver.save, meta=self._meta)
            emergency.save(current(), self._saver, write)
            raise

    @contextlib.contextmanager
    def first_step(self) -> Iterator[None]:
        """It compiles: it gets a heartbeat and is left out of the rates."""
        with phase("first batch and compilation"), self._progress.paused():
            yield

    def compiled(self) -> None:
        """Waits for the other processes: one may compile for much longer than another."""
        processes.meet("the first step is compiled")

    def after_update(self, step: int) -> None:
        """Records a trace where one is wanted."""
        if self._profile is not None:
            self._profile(step)

    def reports(self, step: int) -> bool:
        """After the first step, every log_steps, and at the end."""
        return self._progress.due(step)

    def report(self, step: int, metrics: Mapping[str, Any], waited: float) -> None:
        """A line in the log, and one in metrics.jsonl."""
        values = {name: float(value) for name, value in metrics.items()}
        names: Sequence[str] = (*SHOWN, *(f"{task}/loss" for task in self._images))
        shown = {name: values[name] for name in names if name in values}
        work = self._flops + flops.of_logits(self._model, values["tokens"])
        rates = self._progress.report(step, shown, waited=waited, flops=work)
        if len(self._images) > 1:
            rates |= feeds.task_rates(rates["steps_per_s"], self._images, self._tokens)
        written = {f"train/{name}": value for name, value in (values | rates).items()}
        self._writer.scalars(step, written)

    def interrupted(self) -> bool:
        """Whether SIGTERM has come."""
        return self._terminated()

    def saves(self, step: int) -> bool:
        """Every checkpoint_steps, and at the end."""
        return step % self._config.train.checkpoint_steps == 0 or step == self._config.train.steps

    def save(self, step: int, state: train_state.TrainState) -> None:
        """A checkpoint; what was found in the data since the last one goes into the log."""
        self._tell_data()
        self._writer.flush()  # no step that is saved is done again, so its rows have to be there
        self._saver.save(step, state, self._meta)

    def leave(self, step: int) -> None:
        """Raises Interrupted."""
        stopping.say_saved(step, self._workdir)
        raise stopping.Interrupted

    def evaluates(self, step: int) -> bool:
        """Every eval_steps, and at the end."""
        return self._evaluations is not None and self._evaluations.due(step)

    def evaluate(self, step: int, state: train_state.TrainState) -> dict:
        """The metrics of a state, {} where the evaluation failed; its time is left out of the
        rates."""
        with self._progress.paused():
            return self._evaluations.run(train_state.variables(state), step)
