"""The text model of a run with captions: where it comes from, and where it is kept."""

import base64
from pathlib import Path

import jax
import ml_collections

from pix2seq_jax.data.coco import json as coco_json
from pix2seq_jax.data.coco.part import Part
from pix2seq_jax.data.text import Text
from pix2seq_jax.evaluation import HOST_TASKS
from pix2seq_jax.experiment import saved_run
from pix2seq_jax.experiment.inputs import data_paths, part_of
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.experiment.workdir import CHECKPOINTS, split_step
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.files.whole import write_whole
from pix2seq_jax.training import checkpoint
from pix2seq_jax.vocab import UNKNOWN_PIECE


def needs_text(config: ml_collections.ConfigDict) -> bool:
    """Whether a task of the config needs a text model."""
    return any(HOST_TASKS[name].needs_text for name in config.tasks)


def _sentences(path: str, part: Part | None) -> list[str]:
    """The captions of a COCO captions JSON, or of a part of it; what is no text is left to the
    source of the captions, which refuses or counts it."""
    content = coco_json.read_json(path_of(path), ("images", "annotations"))
    records = (part.cut(content) if part else content)["annotations"]
    values = [record.get("caption") for record in records if isinstance(record, dict)]
    return [value for value in values if isinstance(value, str)]


def _no_text(workdir: str | Path) -> ValueError:
    return ValueError(
        f"{workdir} has no text model: give that of the captions by --config.data.text_model=PATH, "
        "where there is no --config by --text_model=PATH (the published models use a SentencePiece "
        "model of 32,000 pieces), or leave captioning out, as in "
        "--config=configs/workdir.py:WORKDIR,tasks=detection+segmentation, or "
        "--tasks=detection+segmentation"
    )


def _load_given(config: ml_collections.ConfigDict) -> Text:
    """The text model config.data.text_model; ValueError unless it has the pieces that a decided
    vocabulary has."""
    text, pieces = Text.load(config.data.text_model), config.vocab.text_size
    if pieces and text.size != pieces:
        raise ValueError(
            f"{text.source} has {text.size} pieces and the model's vocabulary {pieces}: every "
            "caption would be read as other words; give the text model that it was trained with, "
            "or leave captioning out, as in "
            "--config=configs/workdir.py:WORKDIR,tasks=detection+segmentation"
        )
    return text


def _stored_text(workdir: str | Path) -> Text | None:
    """The text model of a workdir that has checkpoints, or of the newest of these."""
    stored = path_of(workdir) / saved_run.TEXT_FILE
    if stored.is_file() and checkpoint.steps(path_of(workdir) / CHECKPOINTS):
        return Text.load(stored)
    if model := checkpoint.load_meta(path_of(workdir) / CHECKPOINTS).get("text_model"):
        return Text.from_bytes(base64.b64decode(model))
    return None


def open_text(config: ml_collections.ConfigDict, workdir: str | Path) -> Text | None:
    """The text model of a run: that of the workdir, else config.data.text_model, else that of
    config.init_from where it can write the training captions, else one that is trained from these.

    None without captions. The last is a pure function of them, so all hosts make the same.

    Raises:
        ValueError: another text model than that of the workdir, one that does not fit the
            vocabulary, or none for an imported model.
    """
    if not needs_text(config):
        return None
    stored, given = _stored_text(workdir), config.data.text_model
    if stored:
        if given and Text.load(given) != stored:
            raise ValueError(
                f"workdir {workdir} was started with another text model ({stored.source}) than "
                f"config.data.text_model={given}; use another --workdir, or leave "
                "config.data.text_model empty"
            )
        return stored
    if given:
        return _load_given(config)
    if saved_run.is_imported(workdir):
        raise _no_text(workdir)
    _, annotations = data_paths(config.data, "train", "captions")
    sentences = _sentences(annotations, part_of(config, "train"))
    if config.init_from and (text := _of_source(config, sentences)):
        return text
    try:
        text = Text.train(sentences, config.data.text_pieces)
    except ValueError as error:
        raise ValueError(f"annotation file {annotations}: {error}") from error
    log.info("text model of %s pieces trained from the training captions", text.size)
    return text


def _of_source(config: ml_collections.ConfigDict, sentences: list[str]) -> Text | None:
    """The text model of the run config.init_from, so that the rows of its pieces are taken over;
    None where it does not serve, and the log says why."""
    path, _ = split_step(config.init_from)
    text = _stored_text(path) if _has_checkpoints(path) else None
    if text is None:
        reason = "no workdir with one is there; --config.data.text_model=PATH gives one"
    else:
        reason = _against(text, sentences, config.vocab.text_size, path)
    if reason:
        words = "the text model of config.init_from=%r is not taken, so text starts fresh: %s"
        log.warning(words, config.init_from, reason)
        return None
    log.info("text model of %s pieces, that of config.init_from=%r", text.size, config.init_from)
    return text


def _has_checkpoints(workdir: str) -> bool:
    try:
        return (path_of(workdir) / CHECKPOINTS).is_dir()
    except Exception:  # object stores raise errors of their own
        return False  # what reads the weights says what is wrong


def _against(text: Text, sentences: list[str], room: int, workdir: str) -> str:
    """Why the text model of a workdir does not serve for some captions and a vocabulary with room
    for so many pieces (0: for any number); "" where it does."""
    if 0 < room < text.size:
        return f"it has {text.size} pieces and config.vocab.text_size is {room}"
    words = sorted(set(" ".join(sentences).split()))
    if not words:
        return "the captions have no words"
    pieces = dict(zip(words, text.encode(words), strict=True))
    unknown = [word for word in words if UNKNOWN_PIECE in pieces[word]]
    if not unknown:
        return ""
    return (
        f"it cannot write {len(unknown)} of {len(words)} words, as {', '.join(unknown[:3])}; "
        f"--config.data.text_model={workdir}/{saved_run.TEXT_FILE} takes it all the same"
    )


def load_text(config: ml_collections.ConfigDict, workdir: str | Path) -> Text | None:
    """As `find_text`; None without captions only.

    Raises:
        ValueError: there is none, or it does not fit the vocabulary.
    """
    text = find_text(config, workdir)
    if text is None and needs_text(config):
        raise _no_text(workdir)
    return text


def take_flag(config: ml_collections.ConfigDict, path: str, workdir: str | Path) -> None:
    """Puts the text model of a --text_model ("" for none) into the config of a workdir.

    Raises:
        ValueError: it cannot be read, or is another than that of the trained workdir.
    """
    if not path:
        return
    own, stored = Text.load(path), _stored_text(workdir)
    if stored and stored != own:
        raise ValueError(
            f"--text_model={path} is another text model than that of {workdir} ({stored.source}), "
            "which it was trained with; leave --text_model out"
        )
    config.data.text_model = path


def find_text(config: ml_collections.ConfigDict, workdir: str | Path) -> Text | None:
    """The text model of a trained workdir, or of its newest checkpoint; of an imported one
    config.data.text_model. None where there is none, or without captions."""
    if not needs_text(config):
        return None
    if stored := _stored_text(workdir):
        return stored
    return _load_given(config) if config.data.text_model else None


def save_text(text: Text | None, workdir: str | Path) -> None:
    """Process 0 puts the text model of a run into its workdir, in place of one that a run without
    checkpoints has left."""
    if text is not None and not jax.process_index():
        write_whole(path_of(workdir) / saved_run.TEXT_FILE, text.to_bytes())
