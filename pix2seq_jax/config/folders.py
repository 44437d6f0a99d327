"""Recognises how a data folder is laid out: which files are its splits.

Names are looked at, and of an annotation file the first image and the names of its lists. Nothing
is written. A folder in an object store is not looked at; it is taken for one in our own layout.
"""

import contextlib
import json
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pix2seq_jax.config import foreign, layouts
from pix2seq_jax.data.formats import yolo

VAL_SHARE = 0.2  # of the images of a file that says no split
# What the splits are called; where several pairs are there, the first one is read.
PAIRS = (
    ("train2017", "val2017"),
    ("train2014", "val2014"),
    ("train", "val"),
    ("train", "valid"),
    ("train", "validation"),
    ("train", "test"),
)
ROBOFLOW = "_annotations.coco.json"
FILES = {  # by the name of their paths in a config's data section, the first that exists
    "annotations": (
        "annotations/instances_{split}.json",
        "annotations/zhiyuan_objv2_{split}.json",
        f"{{split}}/{ROBOFLOW}",
        "annotations/{split}.json",
        "{split}/annotations.json",
        "instances_{split}.json",
        "{split}.json",
    ),
    "keypoints": ("annotations/person_keypoints_{split}.json", "person_keypoints_{split}.json"),
    "captions": ("annotations/captions_{split}.json", "captions_{split}.json"),
}
SPLITS = ("train", "val")
_NAMED = 3  # files that are named where more are not read
_FEW = 10  # folders in a folder, each of which is looked at
_KEYPOINTS = re.compile(rb'"keypoints"\s*:\s*\[\s*[^\]\s]')  # a list of them that is not empty
_FLAGS = "or name the files by flags, as in --config.data.train_annotations=FILE, see docs/data.md"


class Folder(NamedTuple):
    """What a folder holds.

    Attributes:
        kind: "coco_dir" or "array_record", as config.data.source; "voc" or "yolo", which `prepare`
            reads; "": nothing is recognised.
        words: one line for the log; "" where nothing is recognised.
        hint: what to do where a file of the folder is missing.
        images: folder of images by split, "train" and "val".
        annotations: files by split, then by the name of their paths in a config; those that are
            missing are named as they should be called.
        val_share: of the images, where both splits are made of the same files; else 0.
    """

    kind: str
    words: str
    hint: str
    images: Mapping[str, str]
    annotations: Mapping[str, Mapping[str, str]]
    val_share: float = 0.0


def of(name: str) -> Folder:
    """What is read for `data=NAME`: a data set that configs know, or a folder."""
    layout = layouts.LAYOUTS.get(name, {})
    if "root" in layout:
        words = f"{name} in {layout['root']}"
        return _plain("coco_dir", layout["root"], layout["splits"], layout["hint"], words)
    return recognise(name)


def recognise(root: str) -> Folder:
    """What a folder holds, see the module; nothing is raised for what is missing."""
    usual = layouts.LAYOUTS["folder"]
    if "://" in root:
        return _plain("coco_dir", root, SPLITS, usual["hint"], f"{root}, in the usual layout")
    folder = Path(root)
    if folder.is_file():
        return _plain("", root, SPLITS, f"{root} is a file; {_near(folder) or usual['hint']}")
    if not folder.is_dir():
        hint = f"the folder {root} does not exist; {usual['hint']}"
        return _plain("", root, SPLITS, hint)
    if (seen := _look(folder)) is not None:
        return seen
    nothing = f"{folder} is no data folder that is recognised"
    return _plain("", root, SPLITS, f"{nothing}; {_near(folder) or _looked_for()}")


def _look(folder: Path) -> Folder | None:
    """What a folder holds; None where nothing is recognised."""
    for look in (_shards, _splits, _single, _foreign):
        if (seen := look(folder)) is not None:
            return seen
    return None


def _plain(kind: str, root: str, splits: Sequence[str], hint: str, words: str = "") -> Folder:
    """A folder whose files are called as ours."""
    named = dict(zip(SPLITS, splits, strict=True))
    images = {key: layouts.IMAGES.format(root=root, split=name) for key, name in named.items()}
    annotations = {
        key: {kind: file.format(root=root, split=name) for kind, file in _USUAL.items()}
        for key, name in named.items()
    }
    return Folder(kind, words, hint, images, annotations)


_USUAL = layouts.ANNOTATIONS


def _shards(folder: Path) -> Folder | None:
    """What `prepare` wrote."""
    there = [split for split in SPLITS if (folder / split / "index.json").is_file()]
    if not there:
        return None
    words = f"{folder} holds the shards of `prepare` ({' and '.join(there)})"
    hint = f"the shards of {folder} lack it; prepare the data again"
    return _plain("array_record", str(folder), SPLITS, hint, words)


def _splits(folder: Path) -> Folder | None:
    """Files for train and val, whatever these are called."""
    every = [[_files_of(folder, split) for split in pair] for pair in PAIRS]
    numbers = [sum(bool(files) for files in pair) for pair in every]
    best = numbers.index(max(numbers))
    if not numbers[best]:
        return None
    names = dict(zip(SPLITS, PAIRS[best], strict=True))
    files = dict(zip(SPLITS, every[best], strict=True))
    images = {key: _images_of(folder, names[key], files[key]) for key in SPLITS}
    used = {path for own in files.values() for path in own.values()}
    lines = [
        f"{_listed(folder, files[key])} with images in {_relative(folder, images[key])}/"
        for key in SPLITS
        if files[key]
    ]
    return Folder(
        "coco_dir",
        f"{folder} is {_title(used)}: {'; '.join(lines)}{_unread(folder, used)}",
        "; ".join([*_hints(folder, names, files, images), _FLAGS]).removeprefix("or "),
        {key: str(path) for key, path in images.items()},
        {key: _paths(folder, names[key], files[key]) for key in SPLITS},
    )


def _paths(folder: Path, split: str, own: Mapping[str, Path]) -> dict[str, str]:
    """The annotation files of a split, with the usual names of those that are missing."""
    usual = {kind: folder / forms[0].format(split=split) for kind, forms in FILES.items()}
    return {kind: str(path) for kind, path in (usual | dict(own)).items()}


def _files_of(folder: Path, split: str) -> dict[str, Path]:
    """The annotation files of a split that are there."""
    own = {}
    for kind, forms in FILES.items():
        paths = [folder / form.format(split=split) for form in forms]
        if there := [path for path in paths if path.is_file()]:
            own[kind] = there[0]
    return own | _keypoints_of(own)


def _keypoints_of(own: Mapping[str, Path]) -> dict[str, Path]:
    """Keypoints that stand in the file of the objects, where no file of their own is there."""
    objects = own.get("annotations")
    usual = objects is None or objects.name.startswith(("instances_", "zhiyuan_"))
    if usual or "keypoints" in own or not _has_keypoints(objects):
        return {}
    return {"keypoints": objects}


def _folders(folder: Path, split: str) -> list[Path]:
    """Where the images of a split may be, the likeliest first."""
    short = re.sub(r"20\d\d$", "", split)
    names = dict.fromkeys((split, short, "val" if short.startswith("val") else short))
    own = [folder / form.format(name) for name in names for form in ("{}", "images/{}")]
    return [*own, *(folder / f"{name}/images" for name in names), folder / "images"]


def _images_of(folder: Path, split: str, files: Mapping[str, Path]) -> Path:
    """The folder of the images of a split: that in which the first one of its files is."""
    own, file = _folders(folder, split), next(iter(files.values()), None)
    there = [path for path in own if path.is_dir()]
    beside = [] if file is None else [file.parent, folder]
    usual = there[0] if there else own[0]
    return _holding([*there, *beside], file, usual)


def _holding(places: Sequence[Path], file: Path | None, usual: Path) -> Path:
    """The first of the folders in which the first image of a file is; `usual` without one.

    The names of a file may begin with folders that are not there, see coco.files.locate_names.
    """
    name = "" if file is None else _first_image(file)
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    for place in places:
        if any(place.joinpath(*parts[level:]).is_file() for level in range(len(parts))):
            return place
    return usual


def _listed(folder: Path, own: Mapping[str, Path]) -> str:
    """The annotation files of a split in few words."""
    kind, path = next(iter(own.items()))
    more = ", ".join(other for other in own if other != kind)
    return _relative(folder, path) + (f" (and {more})" if more else "")


def _title(used: set[Path]) -> str:
    if any(path.name == ROBOFLOW for path in used):
        return "a Roboflow export"
    years = any(re.search(r"20\d\d\.json$", path.name) for path in used)
    return "COCO as it is distributed" if years else "in COCO's format"


def _unread(folder: Path, used: set[Path]) -> str:
    """Names the annotation files that nothing is read of."""
    rest = [_relative(folder, path) for path in _candidates(folder) if path not in used]
    if not rest:
        return ""
    more = f" and {len(rest) - _NAMED} more" if len(rest) > _NAMED else ""
    return f"; not read: {', '.join(rest[:_NAMED])}{more}"


def _candidates(folder: Path) -> list[Path]:
    """JSON files that may hold annotations, sorted."""
    forms = ("*.json", "annotations/*.json", f"*/{ROBOFLOW}")
    return sorted({path for form in forms for path in folder.glob(form) if path.is_file()})


def _hints(
    folder: Path,
    names: Mapping[str, str],
    files: Mapping[str, Mapping[str, Path]],
    images: Mapping[str, Path],
) -> Iterator[str]:
    """What was looked for where something of a split is missing, and how to make it of the
    other."""
    for number, split in enumerate(SPLITS):
        if files[split]:
            if not images[split].is_dir():
                tried = ", ".join(
                    _relative(folder, path) for path in _folders(folder, names[split])
                )
                yield f"for the images of {split} these folders were looked for: {tried}"
            continue
        called = ", ".join(dict.fromkeys(pair[number] for pair in PAIRS))
        yield (
            f"no annotations of {split} are there: {', '.join(FILES['annotations'])} were looked "
            f"for, with {called} for {{split}}"
        )
        other = SPLITS[1 - number]
        if file := files[other].get("annotations"):
            values = {"annotations": file, "images": images[other]}
            flags = [f"--config.data.{split}_{kind}={value}" for kind, value in values.items()]
            share = f"--config.data.val_share={VAL_SHARE}"
            yield f"to split {file} by a seed: {' '.join(flags)} {share}"


def _single(folder: Path) -> Folder | None:
    """One file of each kind that names no split."""
    own = _by_kind(folder)
    if not own:
        return None
    if several := [paths for paths in own.values() if len(paths) > 1]:
        names = ", ".join(_relative(folder, path) for path in several[0][: 2 * _NAMED])
        hint = f"{folder} holds several annotation files ({names}) and none is called after a split"
        hint = f"{hint}; call them annotations/instances_train.json and _val.json, {_FLAGS}"
        return _plain("", str(folder), SPLITS, hint)
    files = {kind: paths[0] for kind, paths in own.items()}
    files |= _keypoints_of(files)
    first = next(iter(files.values()))
    inside = [path for parent in (folder / "images", folder) for path in _inside(parent)]
    places = [folder / "images", first.parent, folder, *inside]
    where = _holding(places, first, folder / "images")
    paths = _paths(folder, "train", files)
    listed = f"{_listed(folder, files)} with images in {_relative(folder, where)}/"
    words = f"{folder} has no splits: {listed}"
    hint = "its images were looked for in images/, beside the JSON and in the folders there"
    images, annotations = dict.fromkeys(SPLITS, str(where)), dict.fromkeys(SPLITS, paths)
    return Folder("coco_dir", words, f"{hint}; {_FLAGS}", images, annotations, VAL_SHARE)


def _by_kind(folder: Path) -> dict[str, list[Path]]:
    """The annotation files of a folder, by what their names say that they hold."""
    own: dict[str, list[Path]] = {}
    words = {"caption": "captions", "keypoint": "keypoints"}
    for path in _candidates(folder):
        if _holds(path, "images") and _holds(path, "annotations"):
            kinds = [kind for word, kind in words.items() if word in path.name]
            own.setdefault(kinds[0] if kinds else "annotations", []).append(path)
    return own


def _inside(folder: Path) -> list[Path]:
    """The folders in a folder, sorted."""
    return sorted(path for path in folder.glob("*") if path.is_dir())


def _foreign(folder: Path) -> Folder | None:
    """Pascal VOC or YOLO, which become shards first."""
    if (seen := foreign.recognise(folder)) is None:
        return None
    return _plain(seen.kind, str(folder), SPLITS, seen.hint)


def _near(path: Path) -> str:
    """What to give instead of a path, where the data lie one step from it; "" if they do not."""
    above = [path.parent, path.parent.parent]
    inside = _inside(path)[: _FEW + 1] if path.is_dir() else []
    near = [(folder, False) for folder in inside if len(inside) <= _FEW]
    near += [(folder, True) for folder in above]
    for folder, whole in near:
        one = _look(folder)
        if one is None or not one.kind:
            continue
        if one.kind in ("voc", "yolo"):
            if not whole or folder == path.parent:
                return one.hint
        elif Path(one.images["train"]).is_dir() and (not whole or str(path) in _parts(one)):
            return f"give data={folder}: {one.words}"
    return ""


def _parts(folder: Folder) -> set[str]:
    """Its files, and the folders that they and its images are in."""
    files = {file for own in folder.annotations.values() for file in own.values()}
    return files | {str(Path(file).parent) for file in files} | set(folder.images.values())


def _looked_for() -> str:
    """For a folder in which nothing was recognised."""
    splits = ", ".join(dict.fromkeys(name for pair in PAIRS for name in pair))
    return (
        f"looked for: {', '.join(FILES['annotations'])} with {splits} for {{split}}; a single COCO "
        "JSON in it or in annotations/; train/index.json (shards); Annotations/, ImageSets/Main/ "
        f"and JPEGImages/, or XML files beside the images (Pascal VOC); {yolo.FILE} (YOLO); "
        f"{_FLAGS}"
    )


def _relative(folder: Path, path: Path) -> str:
    """The path for a message, from the folder on."""
    return path.relative_to(folder).as_posix()


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    """The bytes of a file, which may be gigabytes; b"" for one that cannot be read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except (OSError, ValueError):  # an empty file cannot be mapped
        yield b""


def _holds(path: Path, key: str) -> bool:
    """Whether a JSON has a key anywhere."""
    with _mapped(path) as data:
        return data.find(f'"{key}"'.encode()) >= 0


def _has_keypoints(path: Path) -> bool:
    """Whether a JSON has keypoints; of objects without some, exporters write an empty list."""
    with _mapped(path) as data:
        return _KEYPOINTS.search(data) is not None


def _first_image(path: Path) -> str:
    """The first file name in a JSON; "" where there is none."""
    with _mapped(path) as data:
        start = max(data.find(b'"file_name"'), 0)
        match = re.match(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', data[start : start + 5000])
    if match is None:
        return ""
    try:
        return json.loads(match[1])
    except ValueError:
        return ""
