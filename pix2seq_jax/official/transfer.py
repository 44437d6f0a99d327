"""Warm start (`config.init_from`): the weights of another model, wherever they mean the same in
this one.

The source is the workdir of a run or of an import, `WORKDIR@STEP` for another checkpoint than its
newest, or a checkpoint directory of the official release. Classes, coordinate bins, text, image
size and sequence length may be others than there; the architecture may not. What has no counterpart
keeps its fresh initialisation, and a report (REPORT in the workdir, its main lines in the log)
accounts for every parameter of both sides.

A token row is matched by what the token stands for:

- special tokens (and token 100, "no class") by their number;
- classes by name; case, and which of blank, `_` and `-` is written, do not count. A label without a
  name ("class 12") is matched, by its number, only with one that has none either, and where both
  sides have the same category ids;
- coordinate bins one by one; another number of them is interpolated linearly between the bins
  beside the same place;
- text pieces by their number, where both sides have as many, and no other text model is recorded;
- tokens that stand for nothing on either side by their number, so that an equal vocabulary is
  copied as a whole.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pix2seq_jax.config import ranges
from pix2seq_jax.data.coco.classes import UNNAMED
from pix2seq_jax.experiment import resolve, saved_run
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.experiment.workdir import CHECKPOINTS, CONFIG_FILE
from pix2seq_jax.models.positions import sin_cos_1d, sin_cos_2d
from pix2seq_jax.official import reader
from pix2seq_jax.training import checkpoint, trees
from pix2seq_jax.training import state as train_state
from pix2seq_jax.vocab import CLASS_SHIFT, Vocab

REPORT = "init_from.txt"  # in the workdir
KINDS = (
    "special",
    "class",
    "coordinate",
    "text",
    "unused",
)  # of tokens, in the order of the report
EMBEDDING, OUTPUT_EMBEDDING = "params/decoder/embedding", "params/decoder/output_embedding"
TOKEN_TABLES = (EMBEDDING, OUTPUT_EMBEDDING, "params/decoder/output_bias")  # a row per token
GRID_TABLES = (
    "params/image_encoder/positions",
    "params/projection/positions",
)  # a row per image token
SEQUENCE_TABLE = "params/decoder/positions"  # a row per place in the sequence
TABLES = (*TOKEN_TABLES, *GRID_TABLES, SEQUENCE_TABLE)  # the number of rows may differ
# What an option of the same architecture adds or leaves out.
OPTIONAL = (*TABLES[1:], "params/image_encoder/cls_token")
# Fields of config.model that may differ without changing which parameters there are.
FREE_FIELDS = ("image_size", "vocab_size", "max_seq_len", *saved_run.FREE_OF_MODEL)
SHOWN_NAMES = 20  # of classes, in the report


class Source(NamedTuple):
    """Where weights come from.

    Attributes:
        where: for messages.
        config: complete, of that model.
        arrays: its variables by name, "params/…" and "batch_stats/…", on the host.
        text: its text model, as the meta data of a checkpoint hold it; None where none is recorded.
    """

    where: str
    config: ml_collections.ConfigDict
    arrays: dict[str, np.ndarray]
    text: str | None = None


class Rows(NamedTuple):
    """For every token of the model, where its row comes from.

    Attributes:
        low, high: i64[V] rows of the source, -1 for none.
        share: f32[V] of `high` in the mixture; 0 where a row is copied.
        matched, new, dropped: number of tokens by kind.
        classes: names of the classes that are copied, new and dropped.
    """

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray
    matched: Counter
    new: Counter
    dropped: Counter
    classes: dict[str, list[str]]

    def take(self, table: np.ndarray) -> np.ndarray:
        """Rows f32[V, ...] of a table of the source; those without a counterpart hold nothing of
        meaning."""
        taken = table[self.low]
        mixed = np.flatnonzero(self.share)
        share = self.share[mixed].reshape(-1, *(1,) * (table.ndim - 1))
        taken[mixed] = (1 - share) * taken[mixed] + share * table[
            self.high[mixed]
        ]  # exact where share is 1
        return taken


class Part(NamedTuple):
    """One parameter of the model.

    Attributes:
        what: "copied", "resized", "rows" (some or other ones), "new" or "dropped".
        detail: for the report.
        values: f32 of the parameter's shape; None where nothing is taken.
        known: bool[rows] of those that are taken; None for all.
    """

    what: str
    detail: str = ""
    values: np.ndarray | None = None
    known: np.ndarray | None = None


def _read_workdir(workdir: str, step: int | None, mesh: jax.sharding.Mesh) -> Source:
    """The model of a workdir that holds checkpoints."""
    config = saved_run.load_config(workdir)
    abstract = train_state.abstract_variables(resolve.make_model(config), mesh=mesh)
    on_host = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), abstract)
    step, variables, meta = checkpoint.load_variables(
        Path(workdir) / CHECKPOINTS, on_host, step=step
    )
    resolve.check_classes(meta["category_names"], config, where=f"its checkpoint of step {step}")
    return Source(
        f"{workdir} step {step}", config, trees.flatten_names(variables), meta.get("text_model")
    )


def _read_official(directory: str) -> Source:
    """The model of a checkpoint directory of the official release."""
    imported = reader.read(directory)
    arrays = {
        name: np.asarray(array) for name, array in trees.flatten_names(imported.variables).items()
    }
    return Source(f"{directory} (official checkpoint)", imported.config, arrays)


def read(init_from: str, mesh: jax.sharding.Mesh) -> Source:
    """Loads a source to the host.

    Args:
        init_from: WORKDIR, WORKDIR@STEP, or an official checkpoint directory (local or gs://).
        mesh: of the run.

    Raises:
        ValueError: there is no such folder, it is neither of these, it holds no (whole) checkpoint
            or not that step.
    """
    found = re.fullmatch(r"(.+)@(\d+)", init_from)
    path, step = (
        (found[1], int(found[2])) if found and not os.path.exists(init_from) else (init_from, None)
    )
    remote, folder = "://" in path, Path(path)
    official = remote or (any(folder.glob("*.index")) and not (folder / CHECKPOINTS).is_dir())
    try:
        if not remote and not folder.is_dir():
            raise ValueError(
                f"{path} is not a folder; give a workdir or an official checkpoint directory, or ''"
            )
        if official and step is not None:
            raise ValueError(
                "@STEP is for a workdir; of an official directory the file 'checkpoint' says which"
            )
        if official:
            return _read_official(path)
        if not (folder / CONFIG_FILE).is_file():
            raise ValueError(
                f"{path} is neither the workdir of a run (config.json and checkpoints/) nor an "
                "official checkpoint directory (config.json and ckpt-*.index); of a workdir give "
                "the folder itself, or WORKDIR@STEP"
            )
        if not checkpoint.steps(folder / CHECKPOINTS):
            raise ValueError(
                f"there is no checkpoint in {path}; train or import there first, or give "
                "another folder"
            )
        return _read_workdir(path, step, mesh)
    except ValueError as error:
        raise ValueError(f"config.init_from={init_from!r}: {error}") from error


def _plain(name: str) -> str:
    """A category's name without what is a matter of taste."""
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))


def meanings(config: ml_collections.ConfigDict) -> dict[tuple, int]:
    """(kind, …) -> token, for all tokens of a resolved config; equal keys of two configs mean the
    same."""
    vocab, ids, times = Vocab(**config.vocab), tuple(config.data.category_ids), Counter()
    found: dict[tuple, int] = {("special", token): token for token in range(CLASS_SHIFT + 1)}
    for label, name in enumerate(config.data.category_names, 1):
        key = ("class", ids, label)
        if name != UNNAMED.format(label):
            times[_plain(name)] += (
                1  # a name that several classes bear: the first is the first there, and so on
            )
            key = ("class", _plain(name), times[_plain(name)])
        found[key] = CLASS_SHIFT + label
    for kind, (start, stop) in (("coordinate", vocab.coord_range), ("text", vocab.text_range)):
        found |= {(kind, token - start): token for token in range(start, stop)}
    used = set(found.values())
    return found | {("unused", token): token for token in range(vocab.size) if token not in used}


def match_tokens(
    theirs: ml_collections.ConfigDict, ours: ml_collections.ConfigDict, *, same_text: bool = True
) -> Rows:
    """Where the rows of our token tables come from, by the resolved configs of both sides.

    `same_text`: whether text pieces are matched where there are as many.
    """
    there, here = meanings(theirs), meanings(ours)
    bins = theirs.vocab.num_bins, ours.vocab.num_bins
    separate = {"coordinate"} if bins[0] != bins[1] else set()
    if not same_text or theirs.vocab.text_size != ours.vocab.text_size:
        separate.add("text")
    pairs = {key: there[key] for key in here if key in there and key[0] not in separate}
    low = np.full(ours.vocab.size, -1, np.int64)
    low[[here[key] for key in pairs]] = list(pairs.values())
    high, share = low.copy(), np.zeros(len(low), np.float32)
    new, dropped = (Counter(key[0] for key in side if key not in pairs) for side in (here, there))
    if "coordinate" in separate:
        place = np.linspace(0, bins[0] - 1, bins[1])  # of our bins among theirs
        below = np.minimum(place.astype(np.int64), bins[0] - 2)
        mine = slice(*Vocab(**ours.vocab).coord_range)
        low[mine], high[mine] = (
            below + theirs.vocab.coord_shift,
            below + 1 + theirs.vocab.coord_shift,
        )
        share[mine] = place - below
        del new["coordinate"], dropped["coordinate"]

    def named(config, side: Mapping[tuple, int], taken: bool) -> list[str]:
        names = config.data.category_names
        return [
            names[t - CLASS_SHIFT - 1]
            for key, t in side.items()
            if key[0] == "class" and (key in pairs) == taken
        ]

    classes = {"copied": named(ours, here, True), "new": named(ours, here, False)}
    classes["dropped"] = named(theirs, there, False)
    return Rows(low, high, share, Counter(key[0] for key in pairs), new, dropped, classes)


def describe_rows(
    rows: Rows, theirs: ml_collections.ConfigDict, ours: ml_collections.ConfigDict
) -> str:
    """Numbers of tokens by kind."""
    parts = []
    for what, counts in (("copied", rows.matched), ("new", rows.new), ("dropped", rows.dropped)):
        if any(counts.values()):
            parts.append(
                f"{what} {', '.join(f'{kind} {counts[kind]}' for kind in KINDS if counts[kind])}"
            )
    if theirs.vocab.num_bins != ours.vocab.num_bins:
        parts.insert(1, f"resized coordinate {theirs.vocab.num_bins} -> {ours.vocab.num_bins}")
    return "; ".join(parts)


def differing_fields(
    theirs: ml_collections.ConfigDict, ours: ml_collections.ConfigDict, *, without=()
) -> str:
    """The fields of config.model that differ, with both values."""
    sides = (json.loads(config.model.to_json()) for config in (theirs, ours))
    there, here = (dict(ranges.leaves(side)) for side in sides)
    names = [name for name in here if there.get(name) != here[name] and name not in without]
    return ", ".join(
        f"{name} is {there.get(name)!r} there and {here[name]!r} here" for name in names
    )


def check_architecture(
    source: Source, config: ml_collections.ConfigDict, wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError naming the first parameter that only one side has, or whose shapes cannot
    be brought together.

    `config` is that of the model, `wanted` the shapes of its variables by name.
    """
    for name in dict.fromkeys([*wanted, *source.arrays]):
        there = source.arrays[name].shape if name in source.arrays else None
        here = wanted.get(name)
        rows = int(name in TABLES)
        if (there is None or here is None) and name in OPTIONAL:
            continue
        if there is None or here is None or there[rows:] != here[rows:]:
            there, here = ("missing" if shape is None else list(shape) for shape in (there, here))
            fields = differing_fields(source.config, config, without=FREE_FIELDS)
            raise ValueError(
                f"config.init_from: {name} is {there} in {source.where} and {here} in the model; "
                "a warm start needs the same architecture, only vocabulary, classes, image size "
                f"and sequence length may differ. config.model: {fields or 'no field differs'}; "
                "set it as there, or give another config.init_from"
            )


def _grid(config: ml_collections.ConfigDict) -> tuple[int, int]:
    """(rows, columns) of the image tokens of a model; the class token is none of them."""
    return resolve.make_model(config).bind({}).image_encoder.grid


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


def _sequence_part(source: Source, shape: tuple[int, ...]) -> Part:
    """Learned positions of tokens: the places that both sequences have."""
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
    rows = match_tokens(
        source.config, config, same_text=None in (text, source.text) or text == source.text
    )
    equal = (
        source.config.vocab.size == len(rows.low) and (rows.low == np.arange(len(rows.low))).all()
    )
    equal, parts = equal and not rows.share.any(), {}
    for name, shape in wanted.items():
        # A shared embedding makes the logits too.
        given = EMBEDDING if name == OUTPUT_EMBEDDING and name not in source.arrays else name
        if name in GRID_TABLES:
            parts[name] = _grid_part(source, config, name, shape)
        elif name == SEQUENCE_TABLE:
            parts[name] = _sequence_part(source, shape)
        elif given not in source.arrays:
            parts[name] = Part("new")
        elif name in TOKEN_TABLES and not equal:
            detail, table = describe_rows(rows, source.config, config), source.arrays[given]
            parts[name] = Part("rows", detail, rows.take(table), rows.low >= 0)
        else:
            parts[name] = Part(
                "copied", "" if given == name else f"from {given}", source.arrays[given]
            )
    return parts | {name: Part("dropped") for name in source.arrays if name not in wanted}


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
            there, here = source.arrays.get(name), wanted.get(name)
            shapes = (
                "-" if there is None else str(list(there.shape)),
                "-" if here is None else str(list(here)),
            )
            lines.append(
                (name, *shapes, f"{part.what}: {part.detail}" if part.detail else part.what)
            )
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    text = ["  ".join((*map(str.ljust, line[:3], widths), line[3])) for line in lines]
    counts = Counter(part.what for part in parts.values())
    given = [part for part in parts.values() if part.values is not None]
    taken = sum(
        part.values.size if part.known is None else part.values[part.known].size for part in given
    )
    whole = sum(int(np.prod(shape)) for shape in wanted.values())
    sums = ", ".join(
        f"{counts[what]} {what}" for what in ("copied", "resized", "rows", "new", "dropped")
    )
    text.append(f"parameters: {sums}; {taken:,} of {whole:,} numbers come from {source.where}")
    for what, names in match_tokens(source.config, config).classes.items():
        more = ", ..." if len(names) > SHOWN_NAMES else ""
        text.append(f"classes {what}: {len(names)} ({', '.join(names[:SHOWN_NAMES]) or '-'}{more})")
    text.append(f"config.model: {differing_fields(source.config, config) or 'equal'}")
    return "\n".join(text)


def place(fresh: jax.Array, part: Part) -> jax.Array:
    """A freshly initialised parameter with what the plan takes from the source, laid out as
    before."""

    def spread(values: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(
            values.shape, fresh.sharding, lambda index: values[index]
        )

    if part.values is None:
        return fresh
    values = part.values.astype(fresh.dtype, copy=False)
    if part.known is None:
        return spread(values)
    known = np.broadcast_to(part.known.reshape(-1, *(1,) * (values.ndim - 1)), values.shape)
    return jax.jit(jnp.where, out_shardings=fresh.sharding)(spread(known), spread(values), fresh)


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
        ValueError: config.init_from is no such folder or holds no checkpoint (see `read`), or
            another architecture.
    """
    source, fresh = read(config.init_from, mesh), train_state.variables(state)
    named = trees.flatten_names(fresh)
    wanted = {name: leaf.shape for name, leaf in named.items()}
    parts = plan(source, config, wanted, text)
    leaves = [place(leaf, parts[name]) for name, leaf in named.items()]
    variables = jax.tree.unflatten(jax.tree.structure(fresh), leaves)
    if jax.process_index() == 0:
        Path(workdir).mkdir(parents=True, exist_ok=True)
        (Path(workdir) / REPORT).write_text(
            report(source, config, wanted, parts) + "\n", encoding="utf-8"
        )
    shown = report(source, config, wanted, parts, every=False)
    log.info("warm start, all parameters in %s; not simply copied:\n%s", REPORT, shown)
    state = state.replace(params=variables["params"], batch_stats=variables.get("batch_stats", {}))
    counts = Counter(part.what for part in parts.values())
    return (
        state,
        (
            f"warm start from {source.where} "
            f"({', '.join(f'{n} {what}' for what, n in counts.items())})"
        ),
    )
