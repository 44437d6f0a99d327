"""What a source of encoders says of itself: its names on the right, ours on the left."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Source:
    """What sources of both kinds of encoders say.

    Attributes:
        title: for messages.
        mark: a regular expression; a file is of this source if it fits a name as a whole.
        prefix: a regular expression of what may stand before all names.
        layout: 'torch' (outputs first) or 'flax' (outputs last, as in Keras).
        pixels: how images are normalised, one of pixels.NORMALISATIONS; None where models of this
            source differ in it.
        dropped: regular expressions of names that our encoder has no use for, with the reason.
        refused: those that make it another architecture, with what it is.
        facts: what the report says of conventions that the weights do not show.
    """

    title: str
    mark: str
    layout: str
    prefix: str = ""
    pixels: str | None = None
    dropped: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class VitSource(Source):
    """A vision transformer.

    Attributes:
        table: names by what they are, see the sources; {layer} counts from 0. 'qkv.kernel' and
            'qkv.bias' are queries, keys and values as one.
        prepare: brings names into the form of the table.
        eps: of its LayerNorms, where the file beside does not say.
    """

    table: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Arrays], Arrays] = dict
    eps: float = 1e-6


@dataclass(frozen=True)
class ResNetSource(Source):
    """A residual network of version 1.

    Attributes:
        stem, block, shortcut: (name of the convolution, name before the fields of its norm).
            {stage} and {index} count groups and blocks from 0, {stage1} and {index1} from 1,
            {stage2} groups from 2; {conv} convolutions from 0, {conv1} from 1.
        norm: names of scale, bias, mean and var of a norm.
        kernel, bias: what follows the name of a convolution.
        convention: of models.backbones.resnet.CONVENTIONS.
        eps: of its norms.
    """

    stem: tuple[str, str] = ("", "")
    block: tuple[str, str] = ("", "")
    shortcut: tuple[str, str] = ("", "")
    norm: tuple[str, str, str, str] = (".weight", ".bias", ".running_mean", ".running_var")
    kernel: str = ".weight"
    bias: str = ".bias"
    convention: str = "torch"
    eps: float = 1e-5


class Notes(NamedTuple):
    """What the report says beside the table.

    Attributes:
        lines: conventions, and what was made right.
        dropped: (name of the file, its shape, reason).
    """

    lines: list[str]
    dropped: list[tuple[str, tuple[int, ...], str]]


class Taken:
    """The arrays of a file, and which of them were taken.

    Attributes:
        source: of the file.
        arrays: by name, without the source's prefix.
        names: of those that were taken.
    """

    def __init__(self, source: Source, arrays: Arrays) -> None:
        self.source, self.names = source, set()
        prefix = re.compile(source.prefix)
        self.arrays = {prefix.sub("", name, count=1): array for name, array in arrays.items()}

    def take(self, name: str) -> np.ndarray | None:
        """An array, or None where there is none."""
        if name not in self.arrays:
            return None
        self.names.add(name)
        return self.arrays[name]

    def refuse(self) -> None:
        """Raises ValueError where a name belongs to another architecture."""
        for pattern, what in self.source.refused.items():
            for name in self.arrays:
                if re.search(pattern, name):
                    raise ValueError(
                        f"{name} belongs to {what}, which our encoder does not have; give an "
                        "encoder without it"
                    )

    def rest(self, also: Iterable[str] = ()) -> list[tuple[str, tuple[int, ...], str]]:
        """What was not taken, with the reason; `also` are beginnings of names of layers that ours
        has not.

        Raises:
            ValueError: something was not taken that nothing accounts for.
        """
        out = []
        for name in sorted(self.arrays.keys() - self.names):
            shape = self.arrays[name].shape
            reasons = [
                why for pattern, why in self.source.dropped.items() if re.search(pattern, name)
            ]
            if name.startswith(tuple(also)):
                reasons.append("of a group that this variant of ours does not have")
            if not reasons:
                raise ValueError(
                    f"{name} {list(shape)} has no counterpart in our encoder, so its architecture "
                    "is another one; give an encoder without it"
                )
            out.append((name, shape, reasons[0]))
        return out


def matrix(array: np.ndarray, layout: str) -> np.ndarray:
    """A kernel in our layout: [inputs,outputs], or [h,w,inputs,outputs]."""
    if layout == "flax":
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
