"""Rows of a token table by what the tokens stand for, from one vocabulary to another.

- special tokens (and token 100, "no class") by their number;
- classes by name; case, and which of blank, `_` and `-` is written, do not count. A label without a
  name ("class 12") is matched, by its number, only with one that has none either, and where both
  sides have the same category ids;
- coordinate bins one by one; another number of them is interpolated linearly between the two bins
  on either side of the same coordinate;
- text pieces by their number, where both sides have as many, and no other text model is recorded;
- tokens that stand for nothing on either side by their number, so that an equal vocabulary is
  copied as a whole.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import ml_collections
import numpy as np

from pix2seq_jax.data.coco.classes import UNNAMED
from pix2seq_jax.vocab import CLASS_SHIFT, Vocab

# Kinds of tokens, in the order of the report.
KINDS = ("special", "class", "coordinate", "text", "unused")


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
        rows = table[self.low]
        mixed = np.flatnonzero(self.share)
        share = self.share[mixed].reshape(-1, *(1,) * (table.ndim - 1))
        # exact where share is 1
        rows[mixed] = (1 - share) * rows[mixed] + share * table[self.high[mixed]]
        return rows

    def are_equal(self, size: int) -> bool:
        """Whether every row of a table of `size` tokens is copied to its own number."""
        in_order = size == len(self.low) and (self.low == np.arange(size)).all()
        return bool(in_order and not self.share.any())


def match_tokens(
    theirs: ml_collections.ConfigDict, ours: ml_collections.ConfigDict, *, same_text: bool = True
) -> Rows:
    """Where the rows of our token tables come from, by the resolved configs of both sides.

    `same_text`: whether text pieces are matched where there are as many.
    """
    there, here = meanings(theirs), meanings(ours)
    pairs = {key: there[key] for key in here if key in there and (same_text or key[0] != "text")}
    new, dropped = ([key for key in side if key not in pairs] for side in (here, there))
    low = np.full(ours.vocab.size, -1, np.int64)
    low[[here[key] for key in pairs]] = list(pairs.values())
    high, share = low.copy(), np.zeros(len(low), np.float32)
    if theirs.vocab.num_bins != ours.vocab.num_bins:
        bins = slice(*Vocab(**ours.vocab).coord_range)
        low[bins], high[bins], share[bins] = _mixed_bins(theirs, ours)
        new, dropped = ([key for key in side if key[0] != "coordinate"] for side in (new, dropped))
    classes = {
        "copied": _class_names(ours, here, pairs),
        "new": _class_names(ours, here, new),
        "dropped": _class_names(theirs, there, dropped),
    }
    counts = [Counter(key[0] for key in keys) for keys in (pairs, new, dropped)]
    return Rows(low, high, share, *counts, classes)


def meanings(config: ml_collections.ConfigDict) -> dict[tuple, int]:
    """(kind, …) -> token, for all tokens of a resolved config; equal keys of two configs mean the
    same."""
    vocab, ids, times = Vocab(**config.vocab), tuple(config.data.category_ids), Counter()
    tokens: dict[tuple, int] = {("special", token): token for token in range(CLASS_SHIFT + 1)}
    for label, name in enumerate(config.data.category_names, 1):
        key = ("class", ids, label)
        if name != UNNAMED.format(label):
            # Of a name that several classes bear, the first is the first there, and so on.
            times[_plain(name)] += 1
            key = ("class", _plain(name), times[_plain(name)])
        tokens[key] = CLASS_SHIFT + label
    for kind, (start, stop) in (("coordinate", vocab.coord_range), ("text", vocab.text_range)):
        # Bins and pieces mean the same only where there are as many.
        tokens |= {(kind, stop - start, token - start): token for token in range(start, stop)}
    used = set(tokens.values())
    return tokens | {("unused", token): token for token in range(vocab.size) if token not in used}


def _plain(name: str) -> str:
    """A category's name without what is a matter of taste."""
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))


def _mixed_bins(
    theirs: ml_collections.ConfigDict, ours: ml_collections.ConfigDict
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of our bins, as low, high and share of `Rows`, the two of their bins around it."""
    coordinates = np.linspace(0, theirs.vocab.num_bins - 1, ours.vocab.num_bins)  # in their bins
    below = np.minimum(coordinates.astype(np.int64), theirs.vocab.num_bins - 2)
    low = below + theirs.vocab.coord_shift
    return low, low + 1, coordinates - below


def _class_names(
    config: ml_collections.ConfigDict, tokens: dict[tuple, int], keys: Iterable[tuple]
) -> list[str]:
    """Names of the classes among some keys of `meanings`, which gave `tokens`."""
    names = config.data.category_names
    return [names[tokens[key] - CLASS_SHIFT - 1] for key in keys if key[0] == "class"]


def describe_rows(
    rows: Rows, theirs: ml_collections.ConfigDict, ours: ml_collections.ConfigDict
) -> str:
    """Numbers of tokens by kind."""
    parts = []
    for what, counts in (("copied", rows.matched), ("new", rows.new), ("dropped", rows.dropped)):
        numbers = [f"{kind} {counts[kind]}" for kind in KINDS if counts[kind]]
        if numbers:
            parts.append(f"{what} {', '.join(numbers)}")
    if theirs.vocab.num_bins != ours.vocab.num_bins:
        parts.insert(1, f"resized coordinate {theirs.vocab.num_bins} -> {ours.vocab.num_bins}")
    return "; ".join(parts)
