"""A data set as the checks see it: its annotation files, and what its images hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pix2seq_jax.data.text import Text
from pix2seq_jax.data.validation import likeness
from pix2seq_jax.data.validation.likeness import Look, Pair
from pix2seq_jax.data.validation.simplified import Loss, measure
from pix2seq_jax.data.validation.tables import CAPTIONS, AnnotationFile
from pix2seq_jax.vocab import END_PIECE

TRAIN, VAL = "train", "val"


@dataclass(frozen=True)
class Options:
    """What the data are to fit into.

    Attributes:
        slots: objects per image.
        points: of an outline, separators counted.
        bins: coordinate bins.
        max_tokens: pieces of a caption, its end counted.
        captions: per image, that one epoch reads.
        vocab_size: tokens of the vocabulary.
        text_pieces: size of the text model that is trained where none is given; 0: by the number of
            captions.
        text: the text model; None: one is trained from the training captions.
        images: whether image files are opened.
    """

    slots: int = 100
    points: int = 128
    bins: int = 1000
    max_tokens: int = 128
    captions: int = 5
    vocab_size: int = 35_000
    text_pieces: int = 0
    text: Text | None = None
    images: bool = True

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("points", 3), ("bins", 2), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name}={getattr(self, name)}: must be at least {least}")


class SplitPaths(NamedTuple):
    """Where a split is: the folder of its images, and its annotation files by kind."""

    images: Path
    annotations: Mapping[str, Path]


class ListedImage(NamedTuple):
    """An image file that a split has."""

    split: str
    path: str


class DataSet:
    """The annotation files of a data set.

    Attributes:
        paths: by split.
        files: that exist.
        options: what the data are to fit into.
    """

    def __init__(self, paths: Mapping[str, SplitPaths], options: Options) -> None:
        """Reads the annotation files; raises nothing for what is wrong with them."""
        self.paths, self.options = paths, options
        self.files = [
            AnnotationFile(split, kind, path, split_paths.images)
            for split, split_paths in paths.items()
            for kind, path in split_paths.annotations.items()
            if path.exists()
        ]

    def of_objects(self) -> Iterator[AnnotationFile]:
        """The files that hold boxes."""
        return (file for file in self.files if file.kind != CAPTIONS)

    def of_captions(self) -> Iterator[AnnotationFile]:
        """The files that hold captions."""
        return (file for file in self.files if file.kind == CAPTIONS)

    def of(self, split: str) -> list[AnnotationFile]:
        """The files of a split."""
        return [file for file in self.files if file.split == split]

    def leading(self, split: str) -> AnnotationFile | None:
        """The file that tells the classes of a split: the first that has boxes."""
        return next((file for file in self.of_objects() if file.split == split), None)

    @cached_property
    def images(self) -> list[ListedImage]:
        """The image files that are there, once for each split that lists them."""
        listed = (ListedImage(file.split, path) for file in self.files for path in file.files)
        return [image for image in dict.fromkeys(listed) if image.path]

    @cached_property
    def looks(self) -> dict[str, Look]:
        """What the image files hold, by their paths."""
        paths = list(dict.fromkeys(image.path for image in self.images))
        return dict(zip(paths, likeness.look_at(paths), strict=True))

    @cached_property
    def pairs(self) -> list[Pair]:
        """Pairs of `images` that are alike."""
        looks = [self.looks[image.path] for image in self.images]
        return likeness.pairs(looks, [image.split for image in self.images])

    @cached_property
    def losses(self) -> dict[str, Loss]:
        """What outlines lose, by the path of their file."""
        return {str(f.path): measure(f, self.options.points) for f in self.of_objects()}

    @property
    def text(self) -> Text | None:
        """The text model; None where there are no captions to train one from, or `text_fault`."""
        return self._text[0]

    @property
    def text_fault(self) -> str:
        """Why no text model can be trained from the captions; "" where one can."""
        return self._text[1]

    @cached_property
    def _text(self) -> tuple[Text | None, str]:
        if self.options.text:
            return self.options.text, ""
        sentences = [
            caption
            for file in self.of_captions()
            if file.split == TRAIN
            for caption in captions_of(file)
            if caption.strip()
        ]
        try:
            return (Text.train(sentences, self.options.text_pieces) if sentences else None), ""
        except ValueError as error:  # more characters than pieces
            return None, str(error)

    @cached_property
    def pieces(self) -> dict[str, list[list[int]]]:
        """Piece ids of the captions, their end among them, by the path of the file."""
        if self.text is None:
            return {}
        return {
            str(file.path): [[*own, END_PIECE] for own in self.text.encode(captions_of(file))]
            for file in self.of_captions()
        }


def captions_of(file: AnnotationFile) -> list[str]:
    """The captions of a file; "" for what is no text."""
    values = (record.get("caption") for record in file.annotations)
    return [value if isinstance(value, str) else "" for value in values]


def per_image(file: AnnotationFile, rows: np.ndarray) -> np.ndarray:
    """How many of the annotations bool[n] each image has: i64[I]."""
    index = file.index[rows]
    return np.bincount(index[index >= 0], minlength=len(file.images))
