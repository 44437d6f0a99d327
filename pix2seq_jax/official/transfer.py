"""Warm start (`config.init_from`): the weights of another model, wherever they mean the same in
this one.

The source is the workdir of a run or of an import, `WORKDIR@STEP` for another checkpoint than its
newest, or a checkpoint directory of the official release. Classes, coordinate bins, text, image
size and sequence length may be others than there; the architecture may not. A token row is matched
by what the token stands for, see `token_rows`. What has no counterpart keeps its fresh
initialisation, and a report (REPORT in the workdir, its main lines in the log) accounts for every
parameter of both sides.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pix2seq_jax.config import ranges
from pix2seq_jax.experiment import resolve, saved_run
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.files.whole import write_whole
from pix2seq_jax.models.positions import sin_cos_1d, sin_cos_2d
from pix2seq_jax.official.source import Source, read
from pix2seq_jax.official.token_rows import Rows, describe_rows, match_tokens
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import trees

REPORT = "init_from.txt"  # in the workdir
EMBEDDING, OUTPUT_EMBEDDING = "params/decoder/embedding", "params/decoder/output_embedding"
# A row per token, per image token, per position in the sequence: the number of rows may differ.
TOKEN_TABLES = (EMBEDDING, OUTPUT_EMBEDDING, "params/decoder/output_bias")
GRID_TABLES = ("params/image_encoder/positions", "params/projection/positions")
SEQUENCE_TABLE = "params/decoder/positions"
TABLES = (*TOKEN_TABLES, *GRID_TABLES, SEQUENCE_TABLE)
# What an option of the same architecture adds or leaves out.
OPTIONAL = (*TABLES[1:], "params/image_encoder/cls_token")
# Fields of config.model that may differ without changing which parameters there are.
FREE_FIELDS = ("image_size", "vocab_size", "max_seq_len", *saved_run.FREE_OF_MODEL)
CONVENTION = "backbone.convention"  # changes what is computed, but no parameter
SHOWN_NAMES = 20  # of classes, in the report
WHAT = ("copied", "resized", "rows", "new", "dropped")  # becomes of a parameter


class Part(NamedTuple):
    """One parameter of the model.

    Attributes:
        what: one of WHAT; "rows": some rows, or other ones.
        detail: for the report.
        values: f32 of the parameter's shape; None where nothing is taken.
        taken: bool[rows], which rows of the values are taken; None for all.
    """

    what: str
    detail: str = ""
    values: np.ndarray | None = None
    taken: np.ndarray | None = None


def start(
    state: train_state.TrainState,
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    mesh: jax.sharding.Mesh,
    *,
    text: str | None = None,
) -> tuple[train_state.TrainState, str]:
    """(the fresh state with the weights of config.init_from, where they come from); writes and logs
    the report.

    Raises:
        ValueError: config.init_from is no such folder or holds no checkpoint (see `source.read`),
            or another architecture.
    """
    source, fresh = read(config.init_from, mesh), train_state.variables(state)
    named = trees.flatten_names(fresh)
    wanted = {name: leaf.shape for name, leaf in named.items()}
    parts = plan(source, config, wanted, text)
    leaves = [with_part(leaf, parts[name]) for name, leaf in named.items()]
    variables = jax.tree.unflatten(jax.tree.structure(fresh), leaves)
    if jax.process_index() == 0:
        whole = report(source, config, wanted, parts)
        write_whole(path_of(workdir) / REPORT, whole + "\n")
    short = report(source, config, wanted, parts, every=False)
    log.info("warm start, all parameters in %s; not simply copied:\n%s", REPORT, short)
    state = state.replace(params=variables["params"], batch_stats=variables.get("batch_stats", {}))
    counts = Counter(part.what for part in parts.values())
    numbers = ", ".join(f"{count} {what}" for what, count in counts.items())
    return state, f"warm start from {source.where} ({numbers})"


def plan(
    source: Source,
    config: ml_collections.ConfigDict,
    wanted: Mapping[str, tuple[int, ...]],
    text: str | None = None,
) -> dict[str, Part]:
    """What becomes of every parameter of both sides, by name.

    Args:
        source: where weights come from.
        config: of the model, resolved.
        wanted: shapes of its variables by name.
        text: its text model, as in Source; None where there is none.

    Raises:
        ValueError: another architecture.
    """
    check_architecture(source, config, wanted)
    same_text = None in (text, source.text) or text == source.text
    rows, parts = match_tokens(source.config, config, same_text=same_text), {}
    for name, shape in wanted.items():
        if name in GRID_TABLES:
            parts[name] = _grid_part(source, config, name, shape)
        elif name == SEQUENCE_TABLE:
            parts[name] = _sequence_part(source, shape)
        else:
            parts[name] = _part(source, config, name, rows)
    return parts | {name: Part("dropped") for name in source.arrays if name not in wanted}


def check_architecture(
    source: Source, config: ml_collections.ConfigDict, wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError naming the first parameter that only one side has, or whose shapes cannot
    be brought together.

    `config` is that of the model, `wanted` the shapes of its variables by name.
    """
    sides = (dict(ranges.leaves(side.model.to_dict())) for side in (source.config, config))
    conventions = [side[CONVENTION] for side in sides if CONVENTION in side]
    if len(set(conventions)) > 1:
        there, here = conventions
        raise ValueError(
            f"config.init_from: config.model.{CONVENTION} is {there!r} in {source.where} and "
            f"{here!r} in the model; set it as there, or give another config.init_from"
        )
    for name in dict.fromkeys([*wanted, *source.arrays]):
        there = source.arrays[name].shape if name in source.arrays else None
        here = wanted.get(name)
        rows = int(name in TABLES)
        if (there is None or here is None) and name in OPTIONAL:
            continue
        if there is None or here is None or there[rows:] != here[rows:]:
            there, here = ("missing" if shape is None else list(shape) for shape in (there, here))
            fields = _differing_fields(source.config, config, without=FREE_FIELDS)
            raise ValueError(
                f"config.init_from: {name} is {there} in {source.where} and {here} in the model; "
                "a warm start needs the same architecture, only vocabulary, classes, image size "
                f"and sequence length may differ. config.model: {fields or 'no field differs'}; "
                "set it as there, or give another config.init_from"
            )


def _grid_part(
    source: Source, config: ml_collections.ConfigDict, name: str, shape: tuple[int, ...]
) -> Part:
    """Learned positions of image tokens."""
    there, here = _grid(source.config), _grid(config)
    if name not in source.arrays:  # the code that was added instead; it is made for any grid
        code = sin_cos_2d(*here, shape[1])
        none = source.config.model.proj_mode == "linear" and name == GRID_TABLES[1]
        return Part("new") if none else Part("copied", "the fixed sin-cos code", code)
    if there == here:
        return Part("copied", "", source.arrays[name])
    table = jax.image.resize(source.arrays[name].reshape(*there, -1), (*here, shape[1]), "bilinear")
    detail = "{} x {} -> {} x {} image tokens".format(*there, *here)
    return Part("resized", detail, np.asarray(table).reshape(shape))


def _grid(config: ml_collections.ConfigDict) -> tuple[int, int]:
    """(rows, columns) of the image tokens of a model; the class token is none of them."""
    return resolve.make_model(config).bind({}).image_encoder.grid


def _sequence_part(source: Source, shape: tuple[int, ...]) -> Part:
    """Learned positions of tokens: those that both sequences have."""
    length, detail = source.config.model.max_seq_len, ""
    table = source.arrays.get(SEQUENCE_TABLE)
    if table is None:
        table, detail = sin_cos_1d(length, shape[1]), "the fixed sin-cos code"
    if length == shape[0]:
        return Part("copied", detail, table)
    common = min(length, shape[0])
    values = np.zeros(shape, np.float32)
    values[:common] = table[:common]
    rest = f"new {shape[0] - common}" if common < shape[0] else f"dropped {length - common}"
    return Part("rows", f"copied positions {common}; {rest}", values, np.arange(shape[0]) < common)


def _part(source: Source, config: ml_collections.ConfigDict, name: str, rows: Rows) -> Part:
    """A parameter that is no table of positions."""
    origin = name
    if name == OUTPUT_EMBEDDING and name not in source.arrays:
        origin = EMBEDDING  # a shared embedding makes the logits too
    if origin not in source.arrays:
        return Part("new")
    values = source.arrays[origin]
    if name in TOKEN_TABLES and not rows.are_equal(source.config.vocab.size):
        detail = describe_rows(rows, source.config, config)
        return Part("rows", detail, rows.take(values), rows.low >= 0)
    return Part("copied", "" if origin == name else f"from {origin}", values)


def with_part(fresh: jax.Array, part: Part) -> jax.Array:
    """A freshly initialised parameter with what the plan takes from the source, laid out as
    before."""

    def spread(values: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(
            values.shape, fresh.sharding, lambda index: values[index]
        )

    if part.values is None:
        return fresh
    values = part.values.astype(fresh.dtype, copy=False)
    if part.taken is None:
        return spread(values)
    taken = np.broadcast_to(part.taken.reshape(-1, *(1,) * (values.ndim - 1)), values.shape)
    return jax.jit(jnp.where, out_shardings=fresh.sharding)(spread(taken), spread(values), fresh)


def report(
    source: Source,
    config: ml_collections.ConfigDict,
    wanted: Mapping[str, tuple[int, ...]],
    parts: Mapping[str, Part],
    *,
    every: bool = True,
) -> str:
    """The table of a plan: a line per parameter (or only those that are not plainly copied), then
    the sums."""
    lines = [("parameter", "there", "here", "what")]
    for name, part in parts.items():
        if every or part.what != "copied" or part.detail:
            there = _shape(source.arrays[name].shape if name in source.arrays else None)
            what = f"{part.what}: {part.detail}" if part.detail else part.what
            lines.append((name, there, _shape(wanted.get(name)), what))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    text = ["  ".join((*map(str.ljust, line[:3], widths), line[3])) for line in lines]
    counts = Counter(part.what for part in parts.values())
    sums = ", ".join(f"{counts[what]} {what}" for what in WHAT)
    taken = sum(_numbers_taken(part) for part in parts.values())
    whole = sum(int(np.prod(shape)) for shape in wanted.values())
    text.append(f"parameters: {sums}; {taken:,} of {whole:,} numbers come from {source.where}")
    text += _class_lines(match_tokens(source.config, config).classes)
    text.append(f"config.model: {_differing_fields(source.config, config) or 'equal'}")
    return "\n".join(text)


def _class_lines(classes: Mapping[str, list[str]]) -> list[str]:
    """What becomes of the classes, with the first names."""
    lines = []
    for what, names in classes.items():
        more = ", ..." if len(names) > SHOWN_NAMES else ""
        shown = ", ".join(names[:SHOWN_NAMES]) or "-"
        lines.append(f"classes {what}: {len(names)} ({shown}{more})")
    return lines


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else str(list(shape))


def _numbers_taken(part: Part) -> int:
    if part.values is None:
        return 0
    return part.values.size if part.taken is None else part.values[part.taken].size


def _differing_fields(
    theirs: ml_collections.ConfigDict, ours: ml_collections.ConfigDict, *, without=()
) -> str:
    """The fields of config.model that differ, with both values."""
    sides = (json.loads(config.model.to_json()) for config in (theirs, ours))
    there, here = (dict(ranges.leaves(side)) for side in sides)
    names = [name for name in here if there.get(name) != here[name] and name not in without]
    return ", ".join(
        f"{name} is {there.get(name)!r} there and {here[name]!r} here" for name in names
    )
