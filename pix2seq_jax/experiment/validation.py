"""Looks through a data set before anybody trains on it: where its files are, all checks, and the
report."""

import json
from pathlib import Path

from pix2seq_jax.config import folders, layouts
from pix2seq_jax.data.text import Text
from pix2seq_jax.data.validation import report
from pix2seq_jax.data.validation.checks import CHECKS
from pix2seq_jax.data.validation.dataset import TRAIN, VAL, DataSet, Options, SplitPaths
from pix2seq_jax.data.validation.findings import ERROR, run
from pix2seq_jax.data.validation.tables import CAPTIONS, INSTANCES, KEYPOINTS
from pix2seq_jax.experiment import validation_pages
from pix2seq_jax.experiment.logs import log, setup_logging
from pix2seq_jax.files.whole import write_whole

REPORT = "report.json"
SHARDS = "array_record"  # kind of a folder whose images are no files
_KINDS = {"annotations": INSTANCES, "keypoints": KEYPOINTS, "captions": CAPTIONS}


def validate(data: str, out: str = "", *, text_model: str = "", **numbers) -> bool:
    """Prints what is wrong with a data set.

    Args:
        data: the name of a data set that configs know, or a folder, see docs/data.md. Of shards
            the annotations alone are looked at.
        out: folder for report.json and a picture NAME.png for each kind of finding; "": none.
        text_model: SentencePiece model of the captions; "": one is trained from those of train.
        numbers: see `Options`.

    Returns:
        Whether there is no error.

    Raises:
        ValueError: there is no such folder or text model, or a number that cannot be.
    """
    setup_logging()
    text = Text.load(text_model) if text_model else None
    options = Options(text=text, **numbers)
    dataset = DataSet(find_paths(data), options)
    packed = folders.of(data).kind == SHARDS
    opened = options.images and not packed
    skipped = [
        check.name for check in CHECKS if (check.opens and not opened) or (check.lists and packed)
    ]
    results = [run(check, dataset) for check in CHECKS if check.name not in skipped]
    print(report.text(dataset, results, skipped))
    if out:
        content = report.content(dataset, results, skipped)
        write_whole(Path(out) / REPORT, json.dumps(content, indent=1) + "\n")
        pages = validation_pages.write(dataset, results, Path(out))
        print(f"{REPORT} and {len(pages)} pages of pictures are in {out}")
    return not report.totals(results)[ERROR]


def find_paths(data: str) -> dict[str, SplitPaths]:
    """Where the files of train and val are, or should be; a data set without splits is all train.

    Raises:
        ValueError: there is no such folder, or nothing of a data set in it.
    """
    folder = folders.of(data)
    if folder.kind in ("voc", "yolo"):
        raise ValueError(f"--data={data}: {folder.hint}, which can be validated")
    paths = {split: _paths(folder, split) for split in (TRAIN, VAL)}
    there = [split.images.is_dir() for split in paths.values()]
    there += [file.is_file() for split in paths.values() for file in split.annotations.values()]
    if not any(there):
        raise ValueError(f"--data={data} holds neither images nor annotations; {folder.hint}")
    if folder.words:
        log.info("data: %s", folder.words)
    if folder.val_share:
        log.info("data: all is looked at as train; training splits it by a seed")
        del paths[VAL]
    return paths


def _paths(folder: folders.Folder, split: str) -> SplitPaths:
    """The paths of a split; a file that holds boxes and keypoints is looked at once."""
    files = dict(folder.annotations[split])
    if files["keypoints"] == files["annotations"]:
        del files["annotations"]
    named = {_KINDS[kind]: Path(layouts.existing(file)) for kind, file in files.items()}
    return SplitPaths(Path(folder.images[split]), named)
