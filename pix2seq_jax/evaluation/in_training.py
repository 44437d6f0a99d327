"""The evaluations of a training run: they come after a save, may fail once, and leave when SIGTERM
comes."""

from pathlib import Path

import ml_collections
from jax import process_count

from pix2seq_jax.evaluation.evaluator import Evaluator
from pix2seq_jax.evaluation.report import flat
from pix2seq_jax.experiment import stopping
from pix2seq_jax.experiment.logs import MetricWriter, log
from pix2seq_jax.training import checkpoint

ALLOWED = 1  # failures in a row that do not end the run


class Evaluations:
    """Evaluates the saved states of a run.

    An evaluation that fails is logged with its trace, and training goes on; a second one in a row,
    or the last one, ends the run. So does the first one where there are several processes: the
    others wait in the evaluation for the one that failed. Which steps were evaluated is kept with
    the checkpoints: one that was interrupted is made up for.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        evaluator: Evaluator,
        saver: checkpoint.Checkpointer,
        terminated: stopping.Termination,
        workdir: str | Path,
        writer: MetricWriter,
    ) -> None:
        self._config, self._evaluator, self._saver = config, evaluator, saver
        self._terminated, self._workdir, self._writer = terminated, workdir, writer
        self._failed = 0

    def due(self, step: int) -> bool:
        """Whether a run evaluates at this step."""
        return step % self._config.train.eval_steps == 0 or step == self._config.train.steps

    def missing(self, step: int) -> bool:
        """Whether a run that begins at this step has to make up for its evaluation first."""
        return (
            0 < step < self._config.train.steps
            and self.due(step)
            and not self._saver.has_metrics(step)
        )

    def run(self, variables, step: int) -> dict:
        """The metrics of a step that is saved; {} where the evaluation failed.

        Raises:
            ValueError: it failed, as the one before did, or at the last step, or in one of several
                processes.
            stopping.Interrupted: SIGTERM came.
        """
        final = step >= self._config.train.steps
        limit = self._config.eval.images if final else self._config.eval.images_in_training
        report = self._evaluator.report
        options = {"limit": limit, "final": final, "leave": self._terminated.leave}
        try:
            with self._terminated.all_saved(lambda: self._finish(step)):
                metrics = report(
                    variables, step=step, workdir=self._workdir, writer=self._writer, **options
                )
        except stopping.Interrupted:
            stopping.say_saved(step, self._workdir)
            raise
        except Exception as error:
            self._count(error, step, final=final)
            return {}
        self._failed = 0
        self._saver.set_metrics(step, flat(metrics))
        return metrics

    def _finish(self, step: int) -> None:
        """Waits for the save of this step, and says so."""
        self._saver.wait()
        stopping.say_saved(step, self._workdir)

    def _count(self, error: Exception, step: int, *, final: bool) -> None:
        """Logs a failure with its trace; raises ValueError where the run has to end."""
        self._failed += 1
        log.error(
            "the evaluation of step %d failed, %d in a row", step, self._failed, exc_info=error
        )
        several = process_count() > 1
        if final or several or self._failed > ALLOWED:
            self._saver.wait()
            if final:
                which = "the last evaluation"
            else:
                which = "an evaluation" if several else f"{self._failed} evaluations in a row"
            raise ValueError(
                f"{which} failed, at step {step}: {type(error).__name__}: {error}; step {step} is "
                f"saved in {self._workdir}: correct what the log shows and run the same command, "
                "or train on with --mode=train"
            ) from error
