"""Decodes a dataset once, every image exactly once on any number of hosts, and scores it.

`--mode=eval` and the training loop use the same Evaluator. It writes `metrics.json`, `results/<task>.json` in COCO's
results format and `pictures/`, prediction beside ground truth.
"""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from PIL import Image

from pix2seq_jax import experiment, sharding
from pix2seq_jax.data import feed, pipeline
from pix2seq_jax.data.images import decode_image
from pix2seq_jax.decoding import sampling
from pix2seq_jax.decoding.generate import Slots, generate
from pix2seq_jax.evaluators import coco, draw
from pix2seq_jax.telemetry import MetricWriter, log, phase, setup_logging


def make_decoder(model, task, *, sampler: sampling.Sampler, eos_bias: float, grammar: bool) -> Callable:
    """Jitted `decode(variables, batch, keys) -> dict`: task.decode of freshly generated tokens.

    `batch` is the Example dict, `keys` key[B] one per image, so that what is drawn for an image does not depend on its
    neighbours in the batch.
    """

    @jax.jit
    def decode(variables, batch, keys):
        memory = model.apply(variables, batch["image"], method="encode")
        generated = generate(
            *(model, variables, memory, task.prompt(batch)),
            max_len=task.max_len,
            sampler=sampler,
            rng=keys,
            eos_bias=eos_bias,
            allowed=task.allowed if grammar else None,
            slots=Slots(*task.slots),
        )
        return task.decode(generated.tokens[:, 0], generated.class_probs[:, 0], batch)

    return decode


def to_host(tree):
    """Arrays of all processes as numpy on every process, rows in global order."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


@jax.jit
def image_keys(seed: jax.Array, ids: jax.Array) -> jax.Array:
    """One random key per image, key[B], a function of the seed and the image's id u32[B,2] (low, high) alone."""
    key = jax.random.key(seed)
    return jax.vmap(lambda halves: jax.random.fold_in(jax.random.fold_in(key, halves[0]), halves[1]))(ids)


def decode_all(decode: Callable, variables, batches, mesh: jax.sharding.Mesh, *, seed: int) -> dict[str, np.ndarray]:
    """Everything `decode` gives, for every valid row of the batches, with `image_id i64[I]`; on every process."""
    rows, parts = sharding.batch_sharding(mesh), []
    with feed.Feed(batches, rows) as pairs:
        for batch, host in pairs:
            # 64-bit ids travel as two halves; through the devices, so that their order is that of the boxes.
            halves = np.stack([host["image_id"] & 0xFFFFFFFF, host["image_id"] >> 32 & 0xFFFFFFFF], axis=1)
            halves = feed.to_global(halves.astype(np.uint32), rows)
            decoded = decode(variables, batch, image_keys(seed, halves))
            part = to_host({**decoded, "valid": batch["valid"], "ids": halves})
            low, high = part.pop("ids").astype(np.int64).T
            part["image_id"] = low | high << 32
            valid = part.pop("valid")
            parts.append({name: value[valid] for name, value in part.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Evaluator:
    """Box AP of a model on the validation source of a config; compiles once, can be called at many steps."""

    def __init__(self, config: ml_collections.ConfigDict, model, tasks: dict, mesh: jax.sharding.Mesh) -> None:
        self.source = experiment.open_source(config.data, "val")
        experiment.check_classes(self.source.category_names, config, where=config.data.val_annotations)
        self._config, self._mesh = config, mesh
        self._section = config.tasks.detection
        self._decode = make_decoder(
            *(model, tasks["detection"]),
            sampler=sampling.from_string(self._section.sampler),
            eos_bias=self._section.eos_bias,
            grammar=self._section.grammar,
        )

    def detect(self, variables, *, limit: int = 0) -> dict[str, np.ndarray]:
        """Boxes of the first `limit` images (0: all): image_id i64[I], boxes f32[I,N,4] yxyx px, labels, scores."""
        batches = pipeline.eval_dataset(
            *(self.source, self._section.eval_ops),
            batch_size=sharding.round_batch(self._mesh, self._config.eval.batch_size),
            limit=limit or None,
            workers=self._config.data.workers or None,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        found = decode_all(self._decode, variables, batches, self._mesh, seed=self._config.seed)
        # The annotations may have fewer classes than an imported model; the others cannot be scored.
        known = found["labels"] <= len(self.source.category_ids)
        return found | {"labels": np.where(known, found["labels"], 0)}

    def report(self, variables, *, step: int, workdir: str | Path, writer: MetricWriter, limit: int = 0) -> dict:
        """Evaluates, logs, and writes metrics.json, results/ and pictures/; returns evaluators.coco's metrics."""
        with phase(f"evaluate step {step} on {min(limit or len(self.source), len(self.source))} images"):
            found = self.detect(variables, limit=limit)
            rows = (found[name] for name in ("image_id", "boxes", "labels", "scores"))
            results = coco.results(*rows, self.source.category_ids)
            metrics = coco.evaluate_boxes(self.source.coco_dict(), results, image_ids=found["image_id"].tolist())
        writer.scalars(step, {f"eval/{name}": value for name, value in flat(metrics).items()})
        log.info("step %d, box AP by class:\n%s", step, coco.table(metrics))
        if jax.process_index() == 0:
            folder = Path(workdir)
            write_json(folder / "results" / "detection.json", results)
            summary = {"step": step, "seed": self._config.seed, "sampler": self._section.sampler, "detection": metrics}
            write_json(folder / "metrics.json", coco.json_safe(summary))
            sheet = self._draw(found, folder / "pictures")
            if sheet is not None:
                writer.images(step, {"eval/detection": np.asarray(sheet)})
        return metrics

    def _draw(self, found: dict[str, np.ndarray], folder: Path) -> Image.Image | None:
        """Saves prediction beside ground truth of the first images, and gives them on one sheet."""
        count = min(self._config.eval.pictures, len(found["image_id"]))
        folder.mkdir(parents=True, exist_ok=True)
        pictures = []
        index = {image_id: number for number, image_id in enumerate(self.source.image_ids.tolist())}
        for row in range(count):
            raw = self.source[index[int(found["image_id"][row])]]
            image = decode_image(raw["image"], raw["file"], tuple(raw["orig_size"]))
            truth = {
                "boxes": raw["boxes"] * np.tile(raw["orig_size"], 2),
                "labels": raw["labels"],
                "is_crowd": raw["is_crowd"],
            }
            predicted = {name: found[name][row] for name in ("boxes", "labels", "scores")}
            title = Path(raw["file"]).name
            threshold = self._config.eval.score_threshold
            names = self.source.category_names
            pictures.append(draw.side_by_side(image, predicted, truth, names, threshold=threshold, title=title))
            pictures[-1].save(folder / f"{found['image_id'][row]}.png")
        return draw.contact_sheet(pictures) if pictures else None


def flat(metrics: dict) -> dict[str, float]:
    """The numbers of a metrics dictionary, without the table of classes."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def write_json(path: Path, content) -> None:
    """Replaces the file as a whole, so that a stop in between leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1 if isinstance(content, dict) else None), encoding="utf-8")
    partial.replace(path)


def run(config: ml_collections.ConfigDict, workdir: str | Path) -> dict:
    """Evaluates the newest whole checkpoint of a workdir, on the data and settings of `config`; returns the metrics.

    Model, vocabulary and classes are those of the workdir's config.json; data and evaluation settings are the given
    ones.

    Raises:
        ValueError: no run or no whole checkpoint in the workdir, or a config of another model.
    """
    setup_logging()
    config = experiment.adopt(experiment.load_config(workdir), config)
    mesh = sharding.make_mesh(config.mesh.to_dict())
    tasks, model = experiment.make_tasks(config), experiment.make_model(config)
    with jax.set_mesh(mesh):
        with phase("open the data"):
            evaluator = Evaluator(config, model, tasks, mesh)
        if evaluator.source.describe():
            log.warning("data: %s", evaluator.source.describe())
        with phase("restore"):
            step, variables = experiment.load_variables(workdir, config, model, mesh, step=config.eval.step)
        writer = MetricWriter(workdir, active=jax.process_index() == 0)
        try:
            return evaluator.report(variables, step=step, workdir=workdir, writer=writer, limit=config.eval.images)
        finally:
            writer.close()
