"""What tokens mean, in words."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pix2seq_jax.tasks import Task
from pix2seq_jax.vocab import (
    END_PIECE,
    FAKE,
    INVISIBLE,
    PADDING,
    PROMPT_CAPTIONING,
    PROMPT_DETECTION,
    PROMPT_KEYPOINTS,
    PROMPT_SEGMENTATION,
    SEPARATOR,
    Vocab,
)

SPECIAL = {
    PADDING: ("end", "end"),
    FAKE: ("noise", "noise"),
    SEPARATOR: ("separator", "separator"),
    INVISIBLE: ("invisible", "invisible"),
    PROMPT_DETECTION: ("task", "detect"),
    PROMPT_SEGMENTATION: ("task", "outline"),
    PROMPT_KEYPOINTS: ("task", "keypoints"),
    PROMPT_CAPTIONING: ("task", "caption"),
}
AXES = ("y", "x")
RUNNERS_UP = 3


class Frame(NamedTuple):
    """From coordinates of the padded image to pixels of the original: offset + value * scale.

    Attributes:
        scale: (y, x), pixels of the original that the padded image would cover.
        offset: (y, x), of the window that the model sees.
    """

    scale: Sequence[float]
    offset: Sequence[float]


class Words(NamedTuple):
    """Names of tokens.

    Attributes:
        vocab: token ranges.
        names: of the classes, that of label l at l - 1.
        text: text model (data.text.Text) or None.
    """

    vocab: Vocab
    names: Sequence[str]
    text: Any = None

    def of(self, token: int, axis: int, frame: Frame) -> dict[str, Any]:
        """`token`, `kind` (task, coordinate, class, noise, separator, invisible, text, end, or
        unused), `text`; of a coordinate `value` in [0, 1] of the padded image and `pixels` of the
        original.

        Args:
            token: of the vocabulary.
            axis: what a coordinate at its position is: 0 y, 1 x.
            frame: of the image.
        """
        row: dict[str, Any] = {"token": token}
        if token in SPECIAL:
            kind, words = SPECIAL[token]
            return row | {"kind": kind, "text": words}
        if _within(token, self.vocab.class_range):
            name = self.names[token - self.vocab.class_range[0]]
            return row | {"kind": "class", "text": name}
        if _within(token, self.vocab.coord_range):
            value = (token - self.vocab.coord_shift) / (self.vocab.num_bins - 1)
            pixels = frame.offset[axis] + value * frame.scale[axis]
            row |= {"kind": "coordinate", "text": f"{AXES[axis]} {pixels:.0f}"}
            return row | {"value": round(value, 5), "pixels": round(pixels, 2)}
        if self.vocab.text_size and _within(token, self.vocab.text_range):
            piece = token - self.vocab.text_shift
            if piece == END_PIECE:
                return row | {"kind": "end", "text": "end"}
            return row | {"kind": "text", "text": self.text.decode([piece]) if self.text else ""}
        return row | {"kind": "unused", "text": f"unused {token}"}


def axis_of(task: Task, position: int) -> int:
    """Whether a coordinate at a response position is y (0) or x (1)."""
    if task.class_positions is None:
        return position % 2
    return position % task.class_positions[3] % 2


def prompt_words(words: Words, tokens: np.ndarray, frame: Frame) -> list[dict[str, Any]]:
    """`Words.of` each token of a prompt i32[P]: the task, then y, x, y, x and a class."""
    rows = []
    for position, token in enumerate(tokens.tolist()):
        row = words.of(token, (position + 1) % 2, frame)
        if position == 0 and row["kind"] == "unused":  # of a task that is not in the table
            row |= {"kind": "task", "text": f"task {token}"}
        rows.append(row)
    return rows


def response_words(
    words: Words, task: Task, tokens: np.ndarray, logits: np.ndarray, frame: Frame
) -> list[dict[str, Any]]:
    """`Words.of` each token of a response, with its `position`, `probability` under the model (of
    all tokens) and the likeliest others, `runners_up`; with `object` where the sequence has a class
    for each.

    Args:
        words: names of tokens.
        task: that wrote them.
        tokens: i32[T], what follows an end token is left out.
        logits: f32[T,V].
        frame: of the image.
    """
    length = len(tokens)
    if task.eos_token is not None:
        ends = np.flatnonzero(tokens == task.eos_token)
        length = int(ends[0]) + 1 if len(ends) else length
    rows = []
    for position, token in enumerate(tokens[:length].tolist()):
        shifted = logits[position].astype(np.float64) - logits[position].max()
        probs = np.exp(shifted) / np.exp(shifted).sum()
        axis = axis_of(task, position)
        best = [one for one in np.argsort(-probs)[: RUNNERS_UP + 1].tolist() if one != token]
        row = {"position": position} | words.of(token, axis, frame)
        if task.class_positions is not None:
            row["object"] = position // task.class_positions[3]
        row["probability"] = round(float(probs[token]), 6)
        row["runners_up"] = [
            words.of(one, axis, frame) | {"probability": round(float(probs[one]), 6)}
            for one in best[:RUNNERS_UP]
        ]
        rows.append(row)
    return rows


def _within(token: int, limits: tuple[int, int]) -> bool:
    return limits[0] <= token < limits[1]
