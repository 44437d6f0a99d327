"""The report of an evaluation, from the files that it left."""

import json
from pathlib import Path, PurePath

import ml_collections

from pix2seq_jax.evaluation import make_host_tasks
from pix2seq_jax.evaluation.pages import build
from pix2seq_jax.evaluation.report import results_file
from pix2seq_jax.experiment import inputs, saved_run, text_model
from pix2seq_jax.experiment.logs import log, phase, setup_logging
from pix2seq_jax.experiment.resolve import GROUND_TRUTH, label
from pix2seq_jax.experiment.workdir import check_named
from pix2seq_jax.files.locations import path_of


def run(workdir: str | Path, boxes: str = "predicted") -> PurePath:
    """Writes report.html of a workdir; returns its path.

    Args:
        workdir: of a run that was evaluated.
        boxes: "ground_truth" for the report of an evaluation with annotated boxes, where the model
            has boxes of its own.

    Raises:
        ValueError: the workdir was not evaluated, one of its files is missing or of another
            evaluation, or the data are not there any more.
    """
    setup_logging()
    check_named(workdir)
    saved_run.load_config(workdir)  # that there is a run
    folder, suffix, flag = path_of(workdir), "", ""
    if boxes == GROUND_TRUTH:
        suffix, flag = f"_{GROUND_TRUTH}_boxes", f" --config.eval.boxes={GROUND_TRUTH}"
    remedy = f"evaluate with `pix2seq eval --workdir={workdir}{flag}`"
    looked_at = _read(folder / f"report{suffix}" / build.INPUTS, remedy)
    metrics = _read(folder / f"metrics{suffix}.json", remedy)
    config = ml_collections.ConfigDict(looked_at["config"])
    names = list(make_host_tasks(config))
    results = {name: _read(folder / results_file(config, name), remedy) for name in names}
    if missing := [name for name in names if label(config, name) not in metrics]:
        raise ValueError(
            f"{folder / f'metrics{suffix}.json'} has no {label(config, missing[0])!r}: it is of "
            f"another evaluation; {remedy}"
        )
    with phase("open the data"):
        inputs.check_paths(config, "val")
        text = text_model.load_text(config, workdir)
        sources = inputs.open_sources(config, "val", text)
    annotations = {
        name: sources[name].coco_dict()
        for name, host_task in make_host_tasks(config).items()
        if host_task.has_classes
    }
    image_ids = looked_at["image_ids"]
    with phase("report"):
        path = build.write(
            folder, build.Evaluated(config, sources, annotations, results, image_ids, metrics)
        )
    log.info("the report is %s", path)
    return path


def _read(path: PurePath, remedy: str):
    """The content of a JSON file of an evaluation."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: no report can be made without it; {remedy}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no UTF-8, or no JSON
        raise ValueError(f"{path} is not JSON ({error}); {remedy}") from error
