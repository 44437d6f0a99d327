"""From a config to its parts: vocabulary, tasks, model, workdir. Shared by train, evaluate and
predict.

A run's workdir holds `config.json`, the resolved config: what the data decides (classes,
vocabulary, sequence length) is filled in there, so that every later command builds the same model
without the training data.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import ml_collections
import optax

from pix2seq_jax.config.fill import fill
from pix2seq_jax.data.coco.classes import UNNAMED
from pix2seq_jax.data.text import Text
from pix2seq_jax.evaluation import HOST_TASKS, make_host_tasks
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.tasks import TASKS, Task
from pix2seq_jax.training import optim, sharding
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step
from pix2seq_jax.vocab import CLASS_SHIFT, Vocab

# Values of config.eval.boxes; the second is part of the names of what was measured with it.
PREDICTED, GROUND_TRUTH = "predicted", "ground_truth"


def resolve(
    config: ml_collections.ConfigDict, opened: dict[str, Any], text: Text | None = None
) -> ml_collections.ConfigDict:
    """A copy of the config with classes, keypoints, vocabulary and sequence length filled in from
    the training data.

    A vocab.num_classes, vocab.size, vocab.coord_shift or vocab.text_shift of 0 means as small as
    the data allow. Raises ValueError where the vocabulary has no room for the data.
    """
    config = fill(config)
    vocab, data = config.vocab, config.data
    boxed = [source for name, source in opened.items() if HOST_TASKS[name].has_classes]
    names = tuple(boxed[0].category_names) if boxed else ()
    if 0 < vocab.num_classes < len(names):
        raise ValueError(
            f"config.vocab.num_classes={vocab.num_classes}, but the training data have "
            f"{len(names)} classes; give {len(names)} or more, or 0 for as many as there are; a "
            "workdir keeps its number, so more classes need another --workdir"
        )
    vocab.num_classes = max(vocab.num_classes, len(names), 1)
    spare = range(len(names) + 1, vocab.num_classes + 1)  # of an imported model without names
    data.category_names = (*names, *(UNNAMED.format(label) for label in spare))
    data.category_ids = tuple(boxed[0].category_ids) if boxed else tuple(data.label_ids)
    data.update({"keypoint_names": (), "keypoint_categories": (), "skeleton": ()})
    for name, host_task in make_host_tasks(config).items():
        host_task.resolve(config, opened[name])
    if text:
        if 0 < vocab.text_size < text.size:
            raise ValueError(
                f"config.vocab.text_size={vocab.text_size}, but the text model has {text.size} "
                f"pieces; give {text.size} or more, or 0 for as many as there are"
            )
        vocab.text_size = vocab.text_size or text.size
    vocab.update(laid_out(vocab))
    config.model.vocab_size = vocab.size
    # A decoder position per token; a published checkpoint keeps the longer table it was trained
    # with.
    longest = max(task.max_len for task in make_tasks(config).values())
    config.model.max_seq_len = max(config.model.max_seq_len, longest)
    return config.lock()


def laid_out(vocab: Mapping[str, int]) -> dict[str, int]:
    """The fields of a vocabulary with those that are 0 as small as the others allow."""
    sizes = dict(vocab)
    sizes["num_classes"] = max(sizes["num_classes"], 1)
    sizes["coord_shift"] = sizes["coord_shift"] or CLASS_SHIFT + 1 + sizes["num_classes"]
    coordinates_end = sizes["coord_shift"] + sizes["num_bins"]
    sizes["text_shift"] = sizes["text_shift"] or coordinates_end
    text_end = sizes["text_shift"] + sizes["text_size"] if sizes["text_size"] else 0
    sizes["size"] = sizes["size"] or max(coordinates_end, text_end)
    return sizes


def task_names(config: ml_collections.ConfigDict) -> list[str]:
    """The tasks of a config, in the order of tasks.TASKS: what detects goes before what its boxes
    prompt.

    Raises:
        ValueError: none, or one that is not known.
    """
    for name in config.tasks:
        if name not in TASKS:
            raise ValueError(f"config.tasks.{name}: unknown task; known tasks are {sorted(TASKS)}")
    if not len(config.tasks):
        raise ValueError(f"config.tasks is empty: select at least one of {sorted(TASKS)}")
    return [name for name in TASKS if name in config.tasks]


def label(config: ml_collections.ConfigDict, name: str) -> str:
    """Name of what is measured for a task: says so where boxes come from the annotations."""
    if HOST_TASKS[name].needs_boxes and config.eval.boxes == GROUND_TRUTH:
        return f"{name}_{GROUND_TRUTH}_boxes"
    return name


def best_metric(config: ml_collections.ConfigDict) -> str:
    """The metric that the best checkpoint is chosen by: config.train.best_metric, or that of the
    first task.

    Raises:
        ValueError: config.train.best_metric is nothing that an evaluation of this config measures.
    """
    chosen, names = config.train.best_metric, task_names(config)
    measured = [
        f"{label(config, name)}/{metric}" for name in names for metric in HOST_TASKS[name].metrics
    ]
    if chosen and chosen not in measured:
        raise ValueError(
            f"config.train.best_metric={chosen!r} is not measured; give one of {measured}"
        )
    return chosen or f"{label(config, names[0])}/{HOST_TASKS[names[0]].main_metric}"


def check_weights(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless the weights of the tasks are shares: at least 0, one in all."""
    weights = {name: config.tasks[name].weight for name in task_names(config)}
    total = sum(weights.values())
    if abs(total - 1) > 1e-6 or min(weights.values()) < 0:
        raise ValueError(
            f"the weights of the tasks are {weights} and sum to {total:.6g}; they are shares of "
            "the loss and must sum to 1: set config.tasks.NAME.weight"
        )


def select_tasks(
    config: ml_collections.ConfigDict, names: Iterable[str] | str
) -> ml_collections.ConfigDict:
    """A copy of a config with only some of its tasks; their weights sum to one again.

    Without detection, boxes are those of the annotations, as in the configs of single tasks.

    Args:
        config: with all of its tasks.
        names: of tasks; a text is the value of the flag --tasks, names joined by + or commas.

    Raises:
        ValueError: no name, or one that is no task of the config.
    """
    config, have = ml_collections.ConfigDict(config.to_dict()), task_names(config)
    chosen = _names_of_flag(names) if isinstance(names, str) else list(names)
    for name in chosen or [""]:
        if name not in have:
            is_task = "a task that this model was not trained on" if name in TASKS else "no task"
            value = f"--tasks={names}" if isinstance(names, str) else f"tasks={'+'.join(chosen)}"
            raise ValueError(
                f"{value}: {name!r} is {is_task}; it has {have}; join some of them by + or commas"
            )
    config.tasks = {name: config.tasks[name] for name in have if name in chosen}
    total = sum(section.weight for section in config.tasks.values())
    for section in config.tasks.values():
        section.weight = section.weight / total if total else 1 / len(config.tasks)
    finds_boxes = any(HOST_TASKS[name].finds_boxes for name in chosen)
    if not finds_boxes and config.eval.boxes == PREDICTED:
        config.eval.boxes = GROUND_TRUTH
    task, _, metric = config.train.best_metric.partition("/")
    task = task.removesuffix(f"_{GROUND_TRUTH}_boxes")
    config.train.best_metric = f"{label(config, task)}/{metric}" if task in chosen else ""
    return config


def _names_of_flag(text: str) -> list[str]:
    return [name.strip() for name in text.replace(",", "+").split("+")]


def make_tasks(config: ml_collections.ConfigDict) -> dict[str, Task]:
    """The tasks of a resolved config by name."""
    vocab = Vocab(**config.vocab)
    made = {}
    for name in task_names(config):
        task, section = TASKS[name], config.tasks[name]
        fields = [field.name for field in dataclasses.fields(task) if field.name != "vocab"]
        made[name] = task(vocab=vocab, **{field: section[field] for field in fields})
    return made


def make_model(config: ml_collections.ConfigDict) -> Pix2Seq:
    """The model of a resolved config."""
    return Pix2Seq.from_config(config.model)


def make_mesh(config: ml_collections.ConfigDict) -> jax.sharding.Mesh:
    """The mesh of a run."""
    return sharding.make_mesh({axis: config.mesh[axis] for axis in sharding.AXES})


def check_mesh(config: ml_collections.ConfigDict, model: Pix2Seq, mesh: jax.sharding.Mesh) -> None:
    """Names in the log what the mesh does not divide and every device holds whole.

    Raises:
        ValueError: there is some, and config.mesh.allow_whole is off.
    """
    allow = config.mesh.allow_whole
    for whole in train_state.check_divides(model, mesh=mesh, allow_whole=allow):
        log.warning("mesh: %s does not divide: it stays whole on every device", whole)


def make_update(
    config: ml_collections.ConfigDict, model: Pix2Seq, trained: Mapping[str, Task]
) -> tuple[optax.GradientTransformation, Callable]:
    """(optimizer, function of one step, to be jitted) of a resolved config.

    Args:
        trained: the tasks by what has a batch of its own. Those that share one share its weight,
            too.

    Raises:
        ValueError: config.optim.frozen matches no parameter, or all.
    """
    schedule = optim.schedule(
        **config.schedule, batch_size=config.train.batch_size, total=config.train.steps
    )
    options = config.optim.to_dict()
    frozen = options.pop("frozen")
    optim.check_frozen(train_state.parameter_names(model), frozen)
    encoder = {"encoder_layers": model.enc_layers, "pretrained": model.backbone.pretrained}
    tx = optim.make(learning_rate=schedule, **encoder, **options)
    weights = {name: config.tasks[name].weight if name in config.tasks else 1.0 for name in trained}
    update = train_step.make_step(
        model,
        trained,
        tx,
        schedule,
        loss=config.train.loss,
        accum=config.train.accumulate,
        weights=weights,
        frozen=frozen,
        ema=config.train.ema,
    )
    return tx, update


def state_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The keyword arguments of `training.state.abstract_state` and `init_state` that a config
    decides."""
    return {"averaged": config.train.ema > 0, "frozen": config.optim.frozen}


def check_classes(names, config: ml_collections.ConfigDict, *, where: str) -> None:
    """Raises ValueError unless `names` are the classes that a resolved config was made for, in the
    same order.

    A label that either side has no name for agrees with any name.
    """
    expected, there = tuple(config.data.category_names), tuple(names)
    for label, (ours, theirs) in enumerate(itertools.zip_longest(expected, there), 1):
        if ours != theirs and UNNAMED.format(label) not in (ours, theirs):
            raise ValueError(
                f"{where} has {len(there)} classes, the model has {len(expected)}; the first that "
                f"differ are {theirs!r} there and {ours!r} in the model; give the annotations "
                "it was trained for, or another --workdir"
            )
