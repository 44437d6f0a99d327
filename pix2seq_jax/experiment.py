"""From a config to its parts: sources, vocabulary, tasks, model. Shared by train, evaluate and predict.

A run's workdir holds `config.json`, the resolved config: what the data decides (classes, vocabulary, sequence length)
is filled in there, so that every later command builds the same model without the training data.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections

from pix2seq_jax import checkpoint, tasks, train_step
from pix2seq_jax.data import sources
from pix2seq_jax.data.images import check_files
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.telemetry import log
from pix2seq_jax.vocab import CLASS_SHIFT, Vocab

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"  # folder of a workdir; step 0 is an imported model, without an optimizer
# What a workdir's checkpoints depend on; the rest of a config (steps, intervals, evaluation) may change on a resume.
FIXED_BY_MODEL = ("model", "vocab")
FIXED = (*FIXED_BY_MODEL, "seed", "tasks", "train.batch_size", "train.repeats", "train.loss", "optim.name")
FREE = ("sampler", "eos_bias", "grammar", "eval_ops")  # of a task: how it is evaluated


def open_source(data: ml_collections.ConfigDict, split: str) -> sources.CocoDir:
    """The `train` or `val` source that a config's data section names."""
    if data.source != "coco_dir":
        raise ValueError(f"config.data.source={data.source!r}: only 'coco_dir' (a COCO-format folder) is known")
    images, annotations = data[f"{split}_images"], data[f"{split}_annotations"]
    for path in (annotations, images):
        if not Path(path).exists():
            raise ValueError(f"the {split} data is missing: {path} does not exist; {data.hint}")
    source = sources.CocoDir(images, annotations, label_ids=data.label_ids)
    if data.check_images:
        check_files(source.files)
    return source


def resolve(config: ml_collections.ConfigDict, source: sources.CocoDir) -> ml_collections.ConfigDict:
    """A copy of the config with classes, vocabulary and sequence length filled in from the training data.

    A vocab.size or vocab.coord_shift of 0 means as small as the classes allow.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    vocab, names = config.vocab, tuple(source.category_names)
    vocab.num_classes = max(vocab.num_classes, len(names))
    spare = range(len(names) + 1, vocab.num_classes + 1)  # of an imported model without names
    config.data.category_names = (*names, *(sources.UNNAMED.format(label) for label in spare))
    config.data.category_ids = tuple(source.category_ids)
    vocab.coord_shift = vocab.coord_shift or CLASS_SHIFT + 1 + vocab.num_classes
    vocab.size = vocab.size or vocab.coord_shift + vocab.num_bins
    config.model.vocab_size = vocab.size
    # A decoder position per token; a published checkpoint keeps the longer table it was trained with.
    longest = max(task.max_len for task in make_tasks(config).values())
    config.model.max_seq_len = max(config.model.max_seq_len, longest)
    return config.lock()


def make_tasks(config: ml_collections.ConfigDict) -> dict[str, object]:
    """The tasks of a resolved config by name."""
    vocab = Vocab(**config.vocab)
    made = {}
    for name, section in config.tasks.items():
        if name not in tasks.TASKS:
            raise ValueError(f"config.tasks.{name}: unknown task; known tasks are {sorted(tasks.TASKS)}")
        task = tasks.TASKS[name]
        made[name] = task(
            vocab=vocab, **{f.name: section[f.name] for f in dataclasses.fields(task) if f.name != "vocab"}
        )
    if not made:
        raise ValueError(f"config.tasks is empty: select at least one of {sorted(tasks.TASKS)}")
    return made


def make_model(config: ml_collections.ConfigDict) -> Pix2Seq:
    """The model of a resolved config."""
    return Pix2Seq.from_config(config.model)


def load_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """The resolved config of a workdir. Raises ValueError where there is none or it cannot be read."""
    path = Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist: {workdir} is not the workdir of a run; train first, or fix --workdir")
    try:
        config = ml_collections.ConfigDict(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); restore it from config.json of a copy, or retrain") from error
    if "init_from" not in config:  # early runs did not record it
        config.init_from = ""
    return config.lock()


def check_classes(names, config: ml_collections.ConfigDict, *, where: str) -> None:
    """Raises ValueError unless `names` are the classes that a resolved config was made for, in the same order.

    A label that either side has no name for agrees with any name.
    """
    known, found = tuple(config.data.category_names), tuple(names)
    for label, pair in enumerate(itertools.zip_longest(known, found), 1):
        if pair[0] != pair[1] and sources.UNNAMED.format(label) not in pair:
            raise ValueError(
                f"{where} has {len(found)} classes, the model has {len(known)}; the first that differ are {pair[1]!r} "
                f"there and {pair[0]!r} in the model; give the annotations it was trained for, or another --workdir"
            )


def label_ids(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """Category ids that the labels of a resolved config stand for, () for the order of the annotations."""
    return tuple(config.data.label_ids) if "label_ids" in config.data else ()  # early runs did not record it


def keep_labels(config: ml_collections.ConfigDict, workdir: str | Path) -> ml_collections.ConfigDict:
    """A copy of the config with as many labels, for the same category ids, as the run in the workdir has, if any."""
    config = ml_collections.ConfigDict(config.to_dict())
    if (Path(workdir) / CONFIG_FILE).is_file():
        saved = load_config(workdir)
        config.vocab.num_classes = saved.vocab.num_classes
        config.data.label_ids = label_ids(saved)
    return config


def is_imported(workdir: str | Path) -> bool:
    """Whether the workdir holds variables that were imported, and not trained since."""
    return checkpoint.steps(Path(workdir) / CHECKPOINTS) == [0]


def save_config(workdir: str | Path, config: ml_collections.ConfigDict) -> None:
    """Process 0 writes config.json as a whole, so that a stop in between leaves the old one."""
    if jax.process_index():
        return
    path = Path(workdir) / CONFIG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(config.to_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def claim_workdir(workdir: str | Path, config: ml_collections.ConfigDict) -> None:
    """Writes config.json into the workdir, or checks that the one there is of the same model, data and tasks.

    Raises:
        ValueError: the workdir belongs to a run with other classes or another value of something in FIXED; for an
            imported model that was not trained yet, in FIXED_BY_MODEL.
    """
    path = Path(workdir) / CONFIG_FILE
    new = dict(_flat(json.loads(config.to_json())))
    if path.is_file() and checkpoint.steps(Path(workdir) / CHECKPOINTS):  # a run that saved nothing binds nobody
        saved, fixed_names = load_config(workdir), FIXED_BY_MODEL if is_imported(workdir) else FIXED
        old = dict(_flat(json.loads(saved.to_json())))
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) == new.get(name):
                continue
            fixed = any(name == part or name.startswith(part + ".") for part in fixed_names)
            if fixed and not (name.startswith("tasks.") and name.endswith(FREE)):
                raise ValueError(
                    f"workdir {workdir} holds another run: config.{name} is {old.get(name)!r} there and "
                    f"{new.get(name)!r} here; use another --workdir, or the config that it was started with"
                )
            log.info("config.%s changed since the last run: %r -> %r", name, old.get(name), new.get(name))
        where = f"workdir {workdir} holds another run: the training data"
        check_classes(config.data.category_names, saved, where=where)
    save_config(workdir, config)


def adopt(saved: ml_collections.ConfigDict, given: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The given config with the model, vocabulary and classes of a saved, resolved one.

    Raises:
        ValueError: the given config asks for another architecture, or for tasks that the model was not trained on.
    """
    config = ml_collections.ConfigDict(given.to_dict())
    decided = ("vocab_size", "max_seq_len")  # by the training data
    for name, value in json.loads(given.model.to_json()).items():
        if name not in decided and json.loads(saved.model.to_json()).get(name) != value:
            raise ValueError(
                f"the checkpoint was trained with config.model.{name}={saved.model.get(name)!r}, not {value!r}; "
                "evaluate it with the config that it was trained with (--config=configs/workdir.py:WORKDIR)"
            )
    for name in given.tasks:
        if name not in saved.tasks:
            raise ValueError(f"the checkpoint was trained on the tasks {sorted(saved.tasks)}, not on {name!r}")
    config.model, config.vocab = saved.model, saved.vocab
    config.data.category_names = tuple(saved.data.category_names)
    config.data.category_ids = tuple(saved.data.category_ids)
    config.data.label_ids = label_ids(saved)
    return config.lock()


def load_variables(
    workdir: str | Path, config: ml_collections.ConfigDict, model: Pix2Seq, mesh, *, step: int = 0
) -> tuple[int, dict]:
    """(step, variables) of a checkpoint of a workdir, the newest whole one for step 0, placed on the mesh.

    Raises:
        ValueError: there is none, or it is of another model or of other classes.
    """
    folder = Path(workdir) / CHECKPOINTS
    step, loaded, meta = checkpoint.load_variables(
        folder, train_step.abstract_variables(model, mesh=mesh), step=step or None
    )
    check_classes(meta["category_names"], config, where=f"checkpoint {folder / str(step)}")
    return step, loaded


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names and values of nested dictionaries."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
