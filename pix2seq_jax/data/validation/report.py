"""What was found, as text and as JSON."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pix2seq_jax.data.validation.dataset import TRAIN, VAL, DataSet, per_image
from pix2seq_jax.data.validation.findings import ERROR, NOTE, SEVERITIES, WARNING, Result
from pix2seq_jax.data.validation.splits import class_counts
from pix2seq_jax.data.validation.tables import CAPTIONS, KEYPOINTS, AnnotationFile

SHOWN = 3  # findings of a kind in the text
_CLASSES = 100  # lines of the histogram in the text; the JSON has all classes
_SIZES = 5  # of the most frequent sizes of images
_BAR = 40  # letters of the longest bar


def content(data: DataSet, results: Sequence[Result], skipped: Sequence[str]) -> dict:
    """The report as values of a JSON: `totals` by severity, `files`, `classes` (objects by split),
    `skipped` (names of checks that did not run), and `findings`, by name of the check."""
    return {
        "totals": totals(results),
        "files": {str(file.path): _numbers(data, file) for file in data.files},
        "classes": _classes(data),
        "skipped": list(skipped),
        "findings": {
            result.check.name: {
                "severity": result.check.severity,
                "meaning": result.check.meaning,
                "remedy": result.check.remedy,
                "total": result.total,
                "first": [finding._asdict() for finding in result.findings],
            }
            for result in results
            if result.total
        },
    }


def totals(results: Sequence[Result]) -> dict[str, int]:
    """How many errors, warnings and notes there are."""
    numbers = dict.fromkeys(SEVERITIES, 0)
    for result in results:
        numbers[result.check.severity] += result.total
    return numbers


def _classes(data: DataSet) -> dict[str, dict[str, int]]:
    """Objects of each class by split, the most frequent of train first."""
    counts = {split: class_counts(data.leading(split)) for split in data.paths}
    names = dict.fromkeys(name for own in counts.values() for name in own)
    ordered = sorted(names, key=lambda name: -counts.get(TRAIN, {}).get(name, 0))
    return {name: {split: own.get(name, 0) for split, own in counts.items()} for name in ordered}


def _numbers(data: DataSet, file: AnnotationFile) -> dict:
    """The counts of a file."""
    sizes = Counter(map(tuple, file.sizes.tolist()))
    numbers = {
        "split": file.split,
        "kind": file.kind,
        "images": len(file.images),
        "annotations": len(file.annotations),
        "sizes": {f"{width}x{height}": n for (height, width), n in sizes.most_common(_SIZES)},
        "different_sizes": len(sizes),
    }
    if file.kind == CAPTIONS:
        lengths = [len(pieces) for pieces in data.pieces.get(str(file.path), ())]
        return numbers | {"pieces_per_caption": _spread(np.array(lengths, np.int64))}
    own = per_image(file, file.objects)
    numbers |= {
        "objects": int(np.count_nonzero(file.objects)),
        "crowds": int(np.count_nonzero(file.crowd)),
        "images_without_objects": int(np.count_nonzero(own == 0)),
        "objects_per_image": _spread(own),
        "side_of_box": _spread(np.sqrt(file.boxes[file.objects, 2:].prod(axis=1)).round(1)),
        "outlines": _outlines(data, file),
    }
    if file.kind == KEYPOINTS:
        labelled = (file.keypoints.xyv[..., 2] > 0).any(axis=1) & file.objects
        numbers["objects_with_keypoints"] = int(np.count_nonzero(labelled))
    return numbers


def _spread(values: np.ndarray) -> dict[str, float]:
    """The least, the median and the most of values; {} of none."""
    if not len(values):
        return {}
    return {
        "least": values.min().item(),
        "median": float(np.median(values)),
        "most": values.max().item(),
    }


def _outlines(data: DataSet, file: AnnotationFile) -> dict:
    """How outlines are written, and what those lose that have more points than a sequence."""
    columns, loss = file.segmentations.columns, data.losses[str(file.path)]
    numbers = {
        "polygons": len(np.unique(columns["ring_rows"])),
        "run_lengths": len(columns["rle_rows"]),
        "over_points": loss.over,
        "measured": len(loss.rows),
    }
    if len(loss.rows):
        numbers |= {
            "iou_kept_mean": round(float(loss.iou.mean()), 4),
            "iou_kept_least": round(float(loss.iou.min()), 4),
        }
    return numbers


def text(data: DataSet, results: Sequence[Result], skipped: Sequence[str]) -> str:
    """The report for people: the files, the classes, then a paragraph for each kind of finding."""
    lines = []
    for file in data.files:
        lines += _file_lines(data, file)
    lines += ["", *_histogram(_classes(data))]
    for severity, meaning in SEVERITIES.items():
        own = [result for result in results if result.check.severity == severity and result.total]
        if own:
            lines += ["", f"{severity}s: {meaning}"]
        for result in own:
            lines += _finding_lines(result)
    if skipped:
        lines += ["", f"not checked, since files were not opened: {', '.join(skipped)}"]
    counts = totals(results)
    lines += ["", f"{counts[ERROR]} errors, {counts[WARNING]} warnings, {counts[NOTE]} notes"]
    return "\n".join(lines)


def _file_lines(data: DataSet, file: AnnotationFile) -> list[str]:
    numbers = _numbers(data, file)
    sizes = ", ".join(f"{size} {n}" for size, n in numbers["sizes"].items())
    lines = [
        f"{file.path}",
        f"  {numbers['images']} images, {numbers['annotations']} annotations; "
        f"{numbers['different_sizes']} sizes: {sizes}",
    ]
    if file.kind == CAPTIONS:
        return [*lines, f"  pieces of a caption: {_words(numbers['pieces_per_caption'])}"]
    lines += [
        f"  {numbers['objects']} objects, {numbers['crowds']} crowds, "
        f"{numbers['images_without_objects']} images without objects",
        f"  objects of an image: {_words(numbers['objects_per_image'])}; "
        f"side of a box in pixels: {_words(numbers['side_of_box'])}",
    ]
    own = numbers["outlines"]
    if own["polygons"] or own["run_lengths"]:
        line = f"  {own['polygons']} polygons, {own['run_lengths']} run lengths"
        line += f"; {own['over_points']} of more than {data.options.points} points"
        if own["measured"]:
            line += f"; {own['measured']} measured keep an IoU of {own['iou_kept_mean']:.3f}"
            line += f" on average, {own['iou_kept_least']:.3f} at the least"
        lines.append(line)
    if file.kind == KEYPOINTS:
        lines.append(f"  {numbers['objects_with_keypoints']} objects with labelled keypoints")
    return lines


def _words(spread: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in spread.items()) or "not known"


def _histogram(classes: dict[str, dict[str, int]]) -> list[str]:
    """A line for each class."""
    if not classes:
        return ["no classes"]
    shown = dict(list(classes.items())[:_CLASSES])
    width = max(5, *(len(name) for name in shown))
    most = max(1, *(counts.get(TRAIN, 0) for counts in shown.values()))
    lines = [f"{'class':{width}}  {TRAIN:>7}  {VAL:>7}"]
    for name, counts in shown.items():
        train, val = counts.get(TRAIN, 0), counts.get(VAL, 0)
        bar = "#" * round(_BAR * train / most)
        lines.append(f"{name:{width}}  {train:7}  {val:7}  {bar}".rstrip())
    if len(classes) > len(shown):
        lines.append(f"{len(classes) - len(shown)} more classes are in the JSON")
    return lines


def _finding_lines(result: Result) -> list[str]:
    check = result.check
    lines = [f"  {check.name}  {result.total}: {check.meaning}", f"      {check.remedy}"]
    for finding in result.findings[:SHOWN]:
        words = [finding.source]
        if finding.image_id is not None:
            words.append(f"image {finding.image_id}")
        if finding.annotation_id is not None:
            words.append(f"annotation {finding.annotation_id}")
        lines.append(f"      - {' '.join(words)}: {finding.value}")
    return lines
