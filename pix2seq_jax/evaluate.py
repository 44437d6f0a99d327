"""Evaluates what a workdir holds: `python -m pix2seq_jax.evaluate --workdir=runs/shapes`.

Model, data and settings are those of the workdir; `--config=workdir:runs/shapes,data=my_data` takes
other data, and `--config.eval.images=100` and the like change single values. Metrics, results and
pictures are written into the workdir, as `python -m pix2seq_jax.main --mode=eval` does.
"""

from collections.abc import Sequence
from pathlib import Path

import ml_collections

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag
from pix2seq_jax.experiment.logs import MetricWriter, log, phase, setup_logging

FLAGS = (
    Flag("workdir", REQUIRED, "Folder of a run, or of an imported model."),
    command.WORKDIR_CONFIG,
    *command.DISTRIBUTED,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(run, FLAGS, __doc__, arguments)


def run(config: ml_collections.ConfigDict, workdir: str | Path) -> dict:
    """Evaluates the newest whole checkpoint of a workdir, on the data and settings of `config`;
    returns the metrics.

    Model, vocabulary and classes are those of the workdir's config.json; data and evaluation
    settings are the given ones.

    Raises:
        ValueError: no run or no whole checkpoint in the workdir, or a config of another model.
        stopping.Interrupted: SIGTERM came.
    """
    import jax

    from pix2seq_jax.config import ranges
    from pix2seq_jax.config.fill import fill
    from pix2seq_jax.evaluation.evaluator import Evaluator
    from pix2seq_jax.experiment import checks, inputs, resolve, saved_run, stopping, text_model

    setup_logging()
    ranges.check(config)
    config = saved_run.adopt(saved_run.load_config(workdir), fill(config))
    mesh = checks.check(config, workdir, training=False)
    tasks, model = resolve.make_tasks(config), resolve.make_model(config)
    resolve.check_mesh(config, model, mesh)
    with jax.set_mesh(mesh), stopping.termination() as terminated:
        with phase("open the data"):
            inputs.log_layout(config)
            text, cache = text_model.load_text(config, workdir), inputs.InputCache(workdir)
            evaluator = Evaluator(config, model, tasks, mesh, text, cache=cache)
        if evaluator.describe():
            log.warning("data: %s", evaluator.describe())
        with phase("restore"):
            step, variables = saved_run.load_variables(
                workdir, config, model, mesh, step=config.eval.step
            )
        cache.save()
        writer = MetricWriter(workdir, active=jax.process_index() == 0)
        try:
            options = {"limit": config.eval.images, "leave": terminated.leave}
            with terminated.all_saved(lambda: _say_left(step)):
                return evaluator.report(
                    variables, step=step, workdir=workdir, writer=writer, **options
                )
        except stopping.Interrupted:
            _say_left(step)
            raise
        finally:
            writer.close()


def _say_left(step: int) -> None:
    log.warning("SIGTERM: the evaluation of step %d was left, nothing of it is written", step)


if __name__ == "__main__":
    main()
