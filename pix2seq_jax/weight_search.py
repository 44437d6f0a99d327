"""Searches the weights of tasks, one added task at a time (Pix2Seq v2, section 4.1 and figure 4).

`python -m pix2seq_jax.weight_search --config=configs/multitask.py:shapes --workdir=DIR
--ratios=0.1,0.3,0.5` goes through the tasks in an order. The first one alone has weight 1 and needs
no run. Each further one is tried with every ratio r: it gets the weight r, the tasks before it
share 1 - r in the proportions that were chosen for them, and a run in DIR/<first task>+<added
task>_<ratio> trains and evaluates that mix. The best ratio is kept, and the next task is added to
it, in runs like DIR/detection+segmentation_0.5+captioning_0.1. After detection, segmentation 0.8,
captioning 0.1 and keypoints 0.01 give the published mix (recipes.TASK_MIX).

The paper reads the best ratio off the curves, where all tasks are near their peaks. Here a rule
stands for that, see `experiment.task_weights.relative`. DIR/weight_search.json, .txt and .png are
written anew after each run. The same command again goes on where it was stopped: finished runs are
not repeated, the interrupted one is resumed. A run that diverges counts as 0.
"""

from collections.abc import Sequence
from pathlib import Path

import ml_collections

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag

FLAGS = (
    command.CONFIG,
    Flag("workdir", REQUIRED, "Folder for the runs and the results; rerun to go on."),
    Flag("ratios", (), "Weights to try for each added task, such as 0.1,0.3,0.5."),
    Flag(
        "order",
        (),
        "Tasks in the order of adding; empty: those that the config has of "
        "detection,segmentation,captioning,keypoints.",
    ),
    Flag("steps", 0, "Length of each run; 0: config.train.steps.", least=0),
    *command.DISTRIBUTED,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments)


def call(config: ml_collections.ConfigDict, workdir: str, **options) -> None:
    """Searches, and prints the weights as flags of the main command."""
    import jax

    from pix2seq_jax.experiment import task_weights

    weights = search(config, workdir, **options)
    if weights and jax.process_index() == 0:
        print(task_weights.as_flags(weights, config))


def search(config: ml_collections.ConfigDict, workdir: str | Path, **options) -> dict[str, float]:
    """The best weights by task, see `experiment.weight_search.search`."""
    from pix2seq_jax import train
    from pix2seq_jax.experiment import weight_search

    return weight_search.search(train.run, config, workdir, **options)


if __name__ == "__main__":
    main()
