"""Looks through a data set before anybody trains on it: where its files are, all checks, and the
report."""

import json
from pathlib import Path

from pix2seq_jax.config import layouts
from pix2seq_jax.data.text import Text
from pix2seq_jax.data.validation import report
from pix2seq_jax.data.validation.checks import CHECKS
from pix2seq_jax.data.validation.dataset import TRAIN, VAL, DataSet, Options, SplitPaths
from pix2seq_jax.data.validation.findings import ERROR, run
from pix2seq_jax.data.validation.tables import CAPTIONS, INSTANCES, KEYPOINTS
from pix2seq_jax.experiment import validation_pages
from pix2seq_jax.files.whole import write_whole

REPORT = "report.json"
_KINDS = {"annotations": INSTANCES, "keypoints": KEYPOINTS, "captions": CAPTIONS}


def validate(data: str, out: str = "", *, text_model: str = "", **numbers) -> bool:
    """Prints what is wrong with a data set.

    Args:
        data: the name of a data set that configs know, or a folder, see docs/data.md.
        out: folder for report.json and a picture NAME.png for each kind of finding; "": none.
        text_model: SentencePiece model of the captions; "": one is trained from those of train.
        numbers: see `Options`.

    Returns:
        Whether there is no error.

    Raises:
        ValueError: there is no such folder or text model, or a number that cannot be.
    """
    text = Text.load(text_model) if text_model else None
    options = Options(text=text, **numbers)
    dataset = DataSet(find_paths(data), options)
    results = [run(check, dataset) for check in CHECKS if options.images or not check.opens]
    skipped = [check.name for check in CHECKS if check.opens and not options.images]
    print(report.text(dataset, results, skipped))
    if out:
        content = report.content(dataset, results, skipped)
        write_whole(Path(out) / REPORT, json.dumps(content, indent=1) + "\n")
        pages = validation_pages.write(dataset, results, Path(out))
        print(f"{REPORT} and {len(pages)} pages of pictures are in {out}")
    return not report.totals(results)[ERROR]


def find_paths(data: str) -> dict[str, SplitPaths]:
    """Where the files of train and val are, or should be.

    A folder may have its splits called as in any layout that the configs know: the one of which
    most is there is taken.

    Raises:
        ValueError: there is no such folder, or nothing of a data set in it.
    """
    root = Path(layouts.LAYOUTS.get(data, {}).get("root", data))
    hint = layouts.LAYOUTS.get(data, layouts.LAYOUTS["folder"])["hint"]
    if not root.is_dir():
        raise ValueError(f"--data={data}: the folder {root} does not exist; {hint}")
    choices = dict.fromkeys(layout["splits"] for layout in layouts.LAYOUTS.values())
    possible = [_paths(root, splits) for splits in reversed(choices)]
    best = max(possible, key=_number)
    if not _number(best):
        raise ValueError(f"--data={data}: {root} holds neither images nor annotations; {hint}")
    return best


def _paths(root: Path, splits: tuple[str, str]) -> dict[str, SplitPaths]:
    """The paths where the two splits are called so."""
    made = {}
    for split, name in zip((TRAIN, VAL), splits, strict=True):
        files = {}
        for key, kind in _KINDS.items():
            path = Path(layouts.ANNOTATIONS[key].format(root=root, split=name))
            files[kind] = _renamed(path)
        made[split] = SplitPaths(Path(layouts.IMAGES.format(root=root, split=name)), files)
    return made


def _renamed(path: Path) -> Path:
    """The path, or that under another name that a data set is distributed with, if that exists."""
    for usual, other in layouts.OTHER_NAMES.items():
        renamed = path.with_name(path.name.replace(usual, other))
        if not path.exists() and renamed.exists():
            return renamed
    return path


def _number(paths: dict[str, SplitPaths]) -> int:
    """How many of the files and folders are there."""
    folders = sum(split.images.is_dir() for split in paths.values())
    return folders + sum(
        path.exists() for split in paths.values() for path in split.annotations.values()
    )
