"""What a training run consists of, once its data are open: the data decide the classes, the
vocabulary and the length of sequences."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_collections

from pix2seq_jax.data.coco.json import Report
from pix2seq_jax.data.text import Text
from pix2seq_jax.evaluation.evaluator import Evaluator
from pix2seq_jax.experiment import feeds, inputs, resolve, saved_run, text_model, unused
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.tasks import Task


@dataclass(frozen=True)
class OpenedRun:
    """See the module.

    Attributes:
        config: resolved.
        text: text model; None without captions.
        trained: the tasks by what has a batch of its own.
        model: to be trained.
        streams: of training data by task.
        evaluator: None where nothing is evaluated.
        bad_images: counts those that cannot be read; None where they are errors.
        tell_data: logs what was found in the data since the last call.
        cache: of what was learned about the files.
    """

    config: ml_collections.ConfigDict
    text: Text | None
    trained: dict[str, Task]
    model: Pix2Seq
    streams: dict[str, list]
    evaluator: Evaluator | None
    bad_images: Report | None
    tell_data: inputs.Teller
    cache: inputs.InputCache

    @property
    def meta(self) -> dict[str, Any]:
        """What checkpoints hold besides the state."""
        return saved_run.meta(self.config, self.text)


def open_run(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    mesh: jax.sharding.Mesh,
    *,
    evaluate_too: bool,
) -> OpenedRun:
    """Opens the data; what was repaired or dropped in them goes into the log.

    Raises:
        ValueError: data that do not fit; sizes of the model that the mesh does not divide.
    """
    config = saved_run.keep_labels(config, workdir)
    inputs.log_layout(config)
    inputs.check_paths(config, "train")
    text, cache = text_model.open_text(config, workdir), inputs.InputCache(workdir)
    sources = inputs.open_sources(config, "train", text, cache=cache)
    config = resolve.resolve(config, sources, text)
    tasks, model = resolve.make_tasks(config), resolve.make_model(config)
    resolve.check_mesh(config, model, mesh)
    streams = inputs.open_streams(config, sources, text, cache=cache)
    descriptions, evaluator = [inputs.describe(sources)], None
    if evaluate_too:
        evaluator = Evaluator(config, model, tasks, mesh, text, cache=cache)
        descriptions.append(evaluator.describe())
    for lines in filter(None, descriptions):
        log.warning("data: %s", lines)
    log.info("%s", config.about)
    for line in (*unused.settings(config), *unused.opposed(config, tasks)):
        log.warning("%s", line)
    read = {
        (name, number): stream.source
        for name, own in streams.items()
        for number, stream in enumerate(own)
    }
    bad_images = inputs.bad_images(config)
    read["images"] = bad_images
    trained = feeds.trained_tasks(config, tasks)
    return OpenedRun(
        config, text, trained, model, streams, evaluator, bad_images, inputs.Teller(read), cache
    )
