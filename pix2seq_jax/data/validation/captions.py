"""Checks of captions, and of the vocabulary that classes and pieces of text are to fit into."""

from collections.abc import Iterator

import numpy as np

from pix2seq_jax.data.coco.json import shown
from pix2seq_jax.data.validation.dataset import TRAIN, DataSet, captions_of, per_image
from pix2seq_jax.data.validation.findings import ERROR, NOTE, WARNING, Batch, Check
from pix2seq_jax.data.validation.tables import AnnotationFile
from pix2seq_jax.vocab import UNKNOWN_PIECE, Vocab

_UNKNOWN_SHARE = 0.1  # of the pieces of a caption


def not_text(data: DataSet) -> Iterator[Batch]:
    """Captions that are no text."""
    for file in data.of_captions():
        odd = [not isinstance(record.get("caption"), str) for record in file.annotations]
        there = np.array([bool(record) for record in file.annotations], bool)
        yield file.of_annotations(np.array(odd, bool) & there, "caption")


def blank(data: DataSet) -> Iterator[Batch]:
    """Captions without words."""
    for file in data.of_captions():
        texts = [isinstance(record.get("caption"), str) for record in file.annotations]
        empty = [not caption.strip() for caption in captions_of(file)]
        yield file.of_annotations(np.array(texts, bool) & np.array(empty, bool), "caption")


def long(data: DataSet) -> Iterator[Batch]:
    """Captions of more pieces than a sequence holds."""
    for file in data.of_captions():
        lengths = np.array([len(pieces) for pieces in _pieces(data, file)], np.int64)
        rows = lengths > data.options.max_tokens
        yield file.of_annotations(
            rows,
            lambda row, f=file, n=lengths: (
                f"has {n[row]} pieces: {shown(f.annotations[row]['caption'])}"
            ),
        )


def _words(file: AnnotationFile, row: int) -> str:
    return shown(file.annotations[row]["caption"])


def unknown_pieces(data: DataSet) -> Iterator[Batch]:
    """Captions with characters that the text model lacks."""
    for file in data.of_captions():
        rows = np.array([UNKNOWN_PIECE in pieces for pieces in _pieces(data, file)], bool)
        yield file.of_annotations(rows, "caption")


def unreadable(data: DataSet) -> Iterator[Batch]:
    """Captions that the text model can hardly write."""
    for file in data.of_captions():
        unknown = [pieces.count(UNKNOWN_PIECE) for pieces in _pieces(data, file)]
        lengths = [len(pieces) for pieces in _pieces(data, file)]
        rows = np.array(unknown) > _UNKNOWN_SHARE * np.array(lengths)
        yield file.of_annotations(rows, "caption")


def _pieces(data: DataSet, file: AnnotationFile) -> list[list[int]]:
    """The pieces of each caption of a file; [] where there is no text model."""
    return data.pieces.get(str(file.path), [[] for _ in file.annotations])


def missing(data: DataSet) -> Iterator[Batch]:
    """Images without captions."""
    for file in data.of_captions():
        rows = (per_image(file, _worded(file)) == 0) & file.once
        yield file.of_images(rows, lambda row: f"images[{row}] has no caption with words")


def many(data: DataSet) -> Iterator[Batch]:
    """Images with more captions than one epoch reads."""
    for file in data.of_captions():
        counts = per_image(file, _worded(file))
        rows = counts > data.options.captions
        yield file.of_images(rows, lambda row, c=counts: f"has {c[row]} captions")


def doubles(data: DataSet) -> Iterator[Batch]:
    """Captions that an image has twice."""
    for file in data.of_captions():
        keys = zip(file.index.tolist(), captions_of(file), strict=True)
        first: dict = {}
        again = [first.setdefault(key, row) != row for row, key in enumerate(keys)]
        yield file.of_annotations(np.array(again, bool) & _worded(file), "caption")


def _worded(file: AnnotationFile) -> np.ndarray:
    """bool[n], captions with words."""
    return np.array([bool(caption.strip()) for caption in captions_of(file)], bool)


def no_text_model(data: DataSet) -> Iterator[Batch]:
    """Captions that no text model can be trained from."""
    for file in data.of_captions():
        if file.split == TRAIN:
            yield file.of_file([data.text_fault] if data.text_fault else [])


def vocabulary(data: DataSet) -> Iterator[Batch]:
    """Classes, bins and pieces that do not fit into the vocabulary."""
    file = data.leading(TRAIN)
    if file is not None:
        classes = len(file.class_names)
        pieces = data.text.size if data.text else 0
        try:
            Vocab(
                size=data.options.vocab_size,
                num_bins=data.options.bins,
                num_classes=max(classes, 1),
                text_size=pieces,
            )
        except ValueError as error:
            yield file.of_file([f"{classes} classes, {pieces} pieces of text: {error}"])


CHECKS = (
    Check("caption-invalid", ERROR, "captions that are no text", "write a text", not_text),
    Check(
        "caption-blank",
        WARNING,
        "captions without words; they are left out",
        "remove them",
        blank,
    ),
    Check(
        "caption-long",
        WARNING,
        "captions of more pieces than a sequence holds; they are cut",
        "shorten them, or raise config.tasks.captioning.max_tokens",
        long,
    ),
    Check(
        "caption-unknown-pieces",
        NOTE,
        "captions with characters that the text model lacks",
        "nothing needs to be done if they are rare; they become one piece, unknown",
        unknown_pieces,
    ),
    Check(
        "caption-unreadable",
        WARNING,
        "captions of which more than a tenth is unknown to the text model",
        "give a text model for this language by --config.data.text_model",
        unreadable,
    ),
    Check(
        "caption-missing",
        WARNING,
        "images of a captions file without a caption; they are left out",
        "add captions, or take the images out of the file",
        missing,
    ),
    Check(
        "captions-many",
        NOTE,
        "images with more captions than one epoch reads; they are read in turn",
        "nothing needs to be done",
        many,
    ),
    Check(
        "caption-duplicate",
        NOTE,
        "captions that their image has twice",
        "nothing needs to be done",
        doubles,
    ),
    Check(
        "text-model-impossible",
        ERROR,
        "files of captions that no text model can be trained from; captions were not measured",
        "give a text model by --text_model and --config.data.text_model",
        no_text_model,
    ),
    Check(
        "vocabulary-full",
        ERROR,
        "classes, bins and pieces of text do not fit into the vocabulary",
        "raise config.vocab.size and its shifts, or use fewer classes, bins or pieces",
        vocabulary,
    ),
)
