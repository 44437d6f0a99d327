"""Reads checkpoints of the official TF2 release: config.json and ckpt-*, as the release writes
them."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn
from flax import traverse_util

from pix2seq_jax.config import build, layouts
from pix2seq_jax.config.fill import fill
from pix2seq_jax.data.coco.classes import UNNAMED
from pix2seq_jax.experiment import resolve
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.official import names as official_names
from pix2seq_jax.official import tasks as official_tasks
from pix2seq_jax.training import trees
from pix2seq_jax.vocab import CLASS_SHIFT

OBJECTS365_CLASSES = 365
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

COPY_FIRST = (
    "copy the folder here (`gcloud storage cp -r`) and give its local path, or log in to Google "
    "Cloud"
)


class Imported(NamedTuple):
    """What `read` gives.

    Attributes:
        model: of the checkpoint's own config.
        variables: what `model.apply` takes.
        config: complete, of a workdir that evaluates, predicts and trains.
        mapping: (name in the checkpoint, shape, ours) of every variable of the model.
        ignored: number of other entries: optimizer slots and counters.
    """

    model: Pix2Seq
    variables: dict[str, Any]
    config: ml_collections.ConfigDict
    mapping: list[tuple[str, tuple[int, ...], str]]
    ignored: int


def read(directory: str | os.PathLike) -> Imported:
    """Reads an official checkpoint directory, local or gs://. Every variable of model and
    checkpoint is accounted for.

    Raises:
        ValueError: not such a directory, a missing, broken or truncated file, a checkpoint of
            another architecture than its config says, no access. The message names the path or the
            variable.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    directory = os.fspath(directory)
    official = read_config(directory)
    prefix = find_checkpoint(directory)
    try:
        config = make_config(official)
        model = resolve.make_model(config)
        resolve.make_tasks(config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{os.path.join(directory, 'config.json')}: {error}") from error
    except (KeyError, ArithmeticError) as error:
        raise ValueError(
            f"{os.path.join(directory, 'config.json')} cannot be used ({type(error).__name__}: "
            f"{error}); give the config.json that the official run wrote"
        ) from error
    reader = open_checkpoint(prefix)
    shapes = reader.get_variable_to_shape_map()
    keys = {name: key for key in shapes if (name := official_names.variable(key))}
    wanted = wanted_variables(model)
    check_match(wanted, {name: tuple(shapes[key]) for name, key in keys.items()}, prefix)
    flat, mapping = {}, []
    for name, (shape, parts) in wanted.items():
        stacked = official_names.is_stacked(name.partition("/")[2])
        array = np.empty(shape, np.float32)
        for i, part in enumerate(parts):
            with _readable(prefix):
                array[i if stacked else ...] = reader.get_tensor(keys[part])
            mapping.append((part, tuple(shapes[keys[part]]), f"{name}[{i}]" if stacked else name))
        flat[name] = jnp.asarray(array)
    variables = traverse_util.unflatten_dict(flat, sep="/")
    return Imported(model, variables, config, mapping, len(shapes) - len(keys))


def load(directory: str | os.PathLike) -> tuple[Pix2Seq, dict[str, Any], ml_collections.ConfigDict]:
    """(model, variables, config) of an official checkpoint directory, see `read`."""
    return read(directory)[:3]


def read_config(directory: str) -> dict[str, Any]:
    """config.json of an official checkpoint directory.

    Raises:
        ValueError: no such directory, no config.json in it, or one that is not a JSON object.
    """
    import tensorflow as tf

    path = os.path.join(directory, "config.json")
    with _readable(directory):
        if not tf.io.gfile.exists(path):
            if "://" in directory:
                raise ValueError(
                    f"{path} cannot be read (it is not there, or not for you); {COPY_FIRST}"
                )
            if not tf.io.gfile.isdir(directory):
                raise ValueError(
                    f"--from={directory} is not a directory; give the folder of config.json "
                    "and ckpt-*"
                )
            raise ValueError(
                f"{path} does not exist; an official checkpoint has it beside ckpt-*.index, copy "
                f"it there (found: {sorted(tf.io.gfile.listdir(directory))[:8]})"
            )
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
    try:
        config = json.loads(content)
    except ValueError as error:  # JSON or UTF-8
        raise ValueError(f"{path} is not JSON ({error}); copy it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, not an object; copy it again")
    return config


def find_checkpoint(directory: str) -> str:
    """Prefix of the checkpoint that the file `checkpoint` names, else of the one with the highest
    number.

    Raises:
        ValueError: there is none, or one of its files is missing or shorter than its contents.
    """
    import tensorflow as tf

    with _readable(directory):
        indices = tf.io.gfile.glob(os.path.join(directory, "*.index"))
        state = tf.train.get_checkpoint_state(directory)
    prefixes = sorted((path.removesuffix(".index") for path in indices), key=_number)
    if not prefixes:
        raise ValueError(
            f"no checkpoint in {directory}: an official one has ckpt-NUMBER.index and "
            "ckpt-NUMBER.data-* beside config.json; check the path, or copy them there"
        )
    if state is None:
        return prefixes[-1]
    # The paths in the file may be those of another machine.
    named = os.path.join(directory, os.path.basename(state.model_checkpoint_path))
    if named not in prefixes:
        raise ValueError(
            f"the file {os.path.join(directory, 'checkpoint')} names {os.path.basename(named)}, "
            "whose .index is not there; copy it, or delete the file to take "
            f"{os.path.basename(prefixes[-1])}"
        )
    return named


def _number(prefix: str) -> int:
    match = re.search(r"(\d+)$", prefix)
    return int(match[1]) if match else -1


def open_checkpoint(prefix: str):
    """TensorFlow's reader of a checkpoint, once the size of its data files is what the index says.

    The size has to be looked at: a cut at the end may only hit optimizer slots, which nobody reads
    here.
    """
    import tensorflow as tf

    with _readable(prefix):
        reader = tf.train.load_checkpoint(prefix)
        files = tf.io.gfile.glob(f"{prefix}.data-*")
        have = sum(tf.io.gfile.stat(file).length for file in files)
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        need = sum(
            int(np.prod(shape, dtype=np.int64)) * dtypes[name].size
            for name, shape in shapes.items()
        )
        need += len(reader.get_tensor(GRAPH)) if GRAPH in shapes else 0
    if have < need:
        raise ValueError(
            f"{prefix}.data-* is cut short: {len(files)} files with {have:,} bytes for contents "
            f"of {need:,}; copy the checkpoint again"
        )
    return reader


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """TensorFlow's errors of files as a ValueError that names the path."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError, IndexError) as error:
        # IndexError is the reader's own "out of range".
        raise ValueError(
            f"{path} is damaged or cut short ({_first_line(error)}); copy it again"
        ) from error
    except tf.errors.OpError as error:
        remedy = COPY_FIRST if "://" in path else "check that it may be read, or copy it again"
        raise ValueError(f"{path} cannot be read ({_first_line(error)}); {remedy}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def make_config(official: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The complete config of an official one: its model, vocabulary and tasks; the rest as shipped.

    Raises:
        ValueError: see official.model_section, official.task_sections, official.num_bins and
            official_tasks.
    """
    model = official_names.model_section(official)
    sections, others = official_names.task_sections(official)
    height, width = official_names.image_size(model)
    config = build.base(build.parse("", recipe="finetune"))
    config.about = "imported; trains on by the published settings of fine-tuning"
    config.model = official_names.model_fields(model)
    names, ids = classes(official, model["coord_vocab_shift"] - CLASS_SHIFT - 1)
    trained_on = data_set(official)
    if trained_on == "objects365":
        config.data = build.data(trained_on)
    log.info("trained on %s: %d labels", trained_on or "data that are not known here", len(names))
    if not set(names) & set(layouts.COCO_CATEGORIES.values()):
        log.warning(
            "the names of the labels are not known: results on data with other classes mean nothing"
        )
    with config.data.ignore_type():  # a number, or height and width
        config.data.size = height if height == width else (height, width)
    config.data.slots = official_tasks.SLOTS
    config.data.update({"category_names": names, "category_ids": ids, "label_ids": ids})
    config.vocab = _vocabulary(model, official_names.num_bins(sections), len(names))
    weights = official_tasks.loss_weights({name: task["weight"] for name, task in sections.items()})
    for name, task in sections.items():
        section = official_tasks.SECTIONS[name](task, model["max_seq_len"])
        config.tasks[name] = section | {"weight": weights[name]}
    config.data.update(official_tasks.keypoint_fields(config))
    if "detection" not in sections:
        config.eval.boxes = "ground_truth"
    if others:
        log.warning(
            "tasks of the checkpoint that are not known here, and left out: %s", ", ".join(others)
        )
    return _filled(config).lock()


def _filled(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """`fill`, but for the warm-up: it follows the steps, which are not decided yet."""
    content = fill(config).to_dict()
    content["schedule"]["warmup"] = config.schedule.warmup
    return ml_collections.ConfigDict(content)


def classes(config: Mapping[str, Any], num_labels: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(names of labels 1, 2, …, the category ids they stand for), of an official config with room
    for `num_labels`.

    COCO's, or Objects365's without their names. Of other data, and where they do not fit, the
    classes are unknown: there are no ids, and labels follow the order of the annotations that come.
    """
    trained_on = data_set(config)
    named = layouts.COCO_CATEGORIES if trained_on == "coco" else {}
    counts = {"coco": max(layouts.COCO_CATEGORIES), "objects365": OBJECTS365_CLASSES}
    count = counts.get(trained_on, num_labels)
    if not trained_on or num_labels < count:
        return tuple(UNNAMED.format(label) for label in range(1, num_labels + 1)), ()
    labels = tuple(range(1, count + 1))
    return tuple(named.get(label, UNNAMED.format(label)) for label in labels), labels


def data_set(config: Mapping[str, Any]) -> str:
    """What an official config was trained on: "coco" (also if it does not say), "objects365", or ""
    for others."""
    sections = [config.get("dataset"), *(config.get("datasets") or [])]
    named = [
        str(s.get("tfds_name") or s.get("name") or "").lower()
        for s in sections
        if isinstance(s, dict)
    ]
    if any(re.search(r"obj(ect)?s?365|o365", name) for name in named):
        return "objects365"
    return "coco" if not any(named) or any("coco" in name for name in named) else ""


def _vocabulary(model: Mapping[str, Any], num_bins: int, num_classes: int) -> dict[str, int]:
    """The section of the vocabulary."""
    return {
        "size": model["vocab_size"],
        "num_bins": num_bins,
        "num_classes": num_classes,
        "coord_shift": model["coord_vocab_shift"],
        "text_shift": model["text_vocab_shift"],
        "text_size": max(model["vocab_size"] - model["text_vocab_shift"], 0),
    }


def wanted_variables(model: Pix2Seq) -> dict[str, tuple[tuple[int, ...], list[str]]]:
    """Our variables, "params/…" or "batch_stats/…", with their shape and the official names of
    their parts."""
    images, tokens = jnp.zeros((1, *model.image_size, 3)), jnp.zeros((1, 1), jnp.int32)
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), images, tokens))
    named = trees.flatten_names(shapes)
    options = {
        "stem_convolutions": 3 if "params/stem/resnet/stem3/conv/kernel" in named else 1,
        "shared_embedding": model.shared_embedding,
    }
    return {
        name: (
            leaf.shape,
            official_names.variables(name.partition("/")[2], layers=leaf.shape[0], **options),
        )
        for name, leaf in named.items()
    }


def check_match(
    wanted: Mapping[str, tuple], shapes: Mapping[str, tuple[int, ...]], prefix: str
) -> None:
    """Raises ValueError naming the first variable that only one side has, or whose shapes differ.

    Args:
        wanted: of `wanted_variables`.
        shapes: in the checkpoint, by official name.
        prefix: of the checkpoint.
    """
    advice = (
        "the checkpoint is of another architecture than its config.json says; put the two "
        "together that belong"
    )
    if not shapes:
        raise ValueError(
            f"{prefix} holds no variable of a model ('model/…'); give a checkpoint of the "
            "official release"
        )
    for name, (shape, parts) in wanted.items():
        shape = shape[1:] if official_names.is_stacked(name.partition("/")[2]) else shape
        for part in parts:
            if part not in shapes:
                raise ValueError(
                    f"{prefix} has no variable {part} {list(shape)} for the model's {name}: "
                    f"{advice}"
                )
            if shapes[part] != shape:
                raise ValueError(
                    f"{prefix}: {part} is {list(shapes[part])} in the checkpoint and {list(shape)} "
                    f"in the model ({name}): {advice}"
                )
    extra = sorted(set(shapes) - {part for _, parts in wanted.values() for part in parts})
    if extra:
        raise ValueError(
            f"{prefix} has {len(extra)} variables that the model has no place for, first "
            f"{extra[0]} {list(shapes[extra[0]])}: {advice}"
        )
