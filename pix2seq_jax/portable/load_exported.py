"""Calls a model that `python -m pix2seq_jax.export` wrote. Needs jax, numpy and safetensors.

    import load_exported

    model = load_exported.load("exported")             # a folder; of this file's own by default
    for row in model.predict([pixels, ...]):           # u8[h,w,3], RGB
        for one in row["objects"]:
            print(one["category"], one["score"], one["box"])  # yxyx in pixels

`prepare`, `encode` and `decode` are the steps of it. docs/export.md describes the files.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

WINDOWS = 16  # that are looked at at once; the same number always, so that nothing compiles again
MIN_WINDOW = 8.0  # pixels of a side that a window has at least
UNKNOWN, UNKNOWN_TEXT = 2, " ⁇ "  # piece of no word


def load(folder: str | Path = "") -> "Exported":
    """The model of a folder; "": that of this file.

    Raises:
        FileNotFoundError: it is not the folder of an export.
    """
    return Exported(Path(folder) if folder else Path(__file__).parent)


class Exported:
    """A model; each function compiles when it is first called with a number of images.

    Attributes:
        description: content of description.json.
        tasks: names of its tasks.
    """

    def __init__(self, folder: Path) -> None:
        self.description = json.loads((folder / "description.json").read_text(encoding="utf-8"))
        self.tasks = tuple(self.description["tasks"])
        self._weights = jax.device_put(load_file(folder / "model.safetensors"))
        self._encode = _read(folder / "encode.jax_export")
        self._decode = {
            name: _read(folder / task["file"]) for name, task in self.description["tasks"].items()
        }

    def predict(self, images: Sequence[np.ndarray], *, threshold: float = 0.3) -> list[dict]:
        """What all tasks find in images u8[h,w,3], a row of `objects` (and `caption`) for each.

        An object has `box` [ymin, xmin, ymax, xmax] in pixels, `category`, `score`, and where the
        model finds them `keypoints` [[y, x], ...] and `outlines`: for each sample a list of
        rings [[y, x], ...]. A pixel belongs to the mask where at least `mask_threshold` of the
        samples cover it. Objects that score less than the threshold are left out.

        Raises:
            ValueError: an image of another type or shape, or without a pixel.
        """
        if not len(images):
            return []
        rows, labels = [{"objects": []} for _ in images], [[] for _ in images]
        for name, task in self.description["tasks"].items():
            if task["prompted"]:
                continue
            batch = self.prepare(images, name)
            found = self.decode(name, self.encode(batch["image"]), batch)
            if task["finds_boxes"]:
                self._add_boxes(rows, labels, found, threshold)
            elif "pieces" in found:
                for row, pieces in zip(rows, found["pieces"], strict=True):
                    row["caption"] = self.text(pieces)
        for name, task in self.description["tasks"].items():
            if task["prompted"]:
                self._add_points(rows, labels, images, name)
        return rows

    def prepare(
        self, images: Sequence[np.ndarray], task: str, boxes: Sequence[Sequence[float]] = ()
    ) -> dict[str, np.ndarray]:
        """The images u8[h,w,3] as a task takes them: image f32[B,H,W,3] and the fields that lead
        from the padded image back to pixels.

        A task with `windows` takes an image and one of its boxes, yxyx in pixels, for each row.
        """
        ops = self.description["tasks"][task]["preprocessing"]
        boxes = boxes if len(boxes) else [None] * len(images)
        rows = [_prepared(*pair, ops) for pair in zip(images, boxes, strict=True)]
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        ids = np.stack([np.arange(len(rows)), np.zeros(len(rows))], axis=1)
        return batch | {"ids": ids.astype(np.uint32)}

    def encode(self, image: np.ndarray) -> jax.Array:
        """Memory f32[B,S,D] of images f32[B,H,W,3]."""
        return self._encode(self._weights, image)

    def decode(
        self,
        task: str,
        memory: jax.Array,
        batch: Mapping[str, np.ndarray],
        *,
        boxes: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        scores: np.ndarray | None = None,
        seed: int = 0,
    ) -> dict[str, np.ndarray]:
        """What a task finds, and the `tokens` that it wrote.

        Args:
            task: its name.
            memory: of `encode`.
            batch: of `prepare`.
            boxes: f32[B,N,4] that prompt, yxyx in pixels of the image.
            labels: i32[B,N] of them, 0 where there is no box.
            scores: f32[B,N] of them; None: 1.
            seed: of the random draws.
        """
        fields = {name: batch[name] for name in ("orig_size", "unpadded_size", "crop_offset")}
        fields["ids"] = batch["ids"]
        if boxes is not None:
            fields["boxes"] = _normalised(boxes, batch)
            fields["labels"] = np.asarray(labels, np.int32)
            ones = np.ones(fields["labels"].shape, np.float32)
            fields["scores"] = ones if scores is None else np.asarray(scores, np.float32)
        found = self._decode[task](self._weights, memory, fields, np.int32(seed))
        return {name: np.asarray(value) for name, value in found.items()}

    def text(self, pieces: Sequence[int]) -> str:
        """The words of pieces up to the first padding (0) or end (1)."""
        words = []
        for piece in map(int, pieces):
            if piece in (0, 1):
                break
            words.append(UNKNOWN_TEXT if piece == UNKNOWN else self.description["pieces"][piece])
        return "".join(words).replace("▁", " ").removeprefix(" ")

    def _add_boxes(
        self, rows: list[dict], labels: list[list[int]], found: Mapping, threshold: float
    ) -> None:
        """Appends the boxes to the objects of the rows, best first, and their labels to those of
        the rows: two classes may have one name."""
        names = self.description["classes"]["names"]
        arrays = (found["boxes"], found["labels"].tolist(), found["scores"])
        for row, own, boxes, drawn, scores in zip(rows, labels, *arrays, strict=True):
            for slot in np.argsort(-scores, kind="stable"):
                if scores[slot] >= threshold and drawn[slot] > 0:
                    one = {"box": boxes[slot].tolist(), "category": names[drawn[slot] - 1]}
                    row["objects"].append(one | {"score": float(scores[slot])})
                    own.append(drawn[slot])

    def _add_points(
        self,
        rows: list[dict],
        labels: list[list[int]],
        images: Sequence[np.ndarray],
        name: str,
    ) -> None:
        """Asks a prompted task about the objects of the rows, which have these labels, one at a
        time, and adds outlines or keypoints to them."""
        task, asked = self.description["tasks"][name], []
        for number, (row, own) in enumerate(zip(rows, labels, strict=True)):
            wanted = [(number, *pair) for pair in zip(row["objects"], own, strict=True)]
            if task["prompt_labels"] is not None:
                wanted = [each for each in wanted if each[2] in task["prompt_labels"]]
            asked += wanted[: task["most_objects"] or None]
        for start in range(0, len(asked), WINDOWS):
            self._ask(name, images, asked[start : start + WINDOWS])

    def _ask(self, name: str, images: Sequence[np.ndarray], asked: list[tuple]) -> None:
        """Asks about at most WINDOWS objects, each (number of its image, object, label)."""
        padded = asked + [(asked[0][0], asked[0][1], 0)] * (WINDOWS - len(asked))
        numbers, objects, labels = zip(*padded, strict=True)
        boxes = [one["box"] for one in objects]
        batch = self.prepare([images[number] for number in numbers], name, boxes)
        batch["ids"][:, 0] = numbers
        fields = {
            "boxes": np.array(boxes, np.float32)[:, None],
            "labels": np.array(labels, np.int32)[:, None],
            "scores": np.array([[one["score"]] for one in objects], np.float32),
        }
        found = self.decode(name, self.encode(batch["image"]), batch, **fields)
        for row, (_, one, _) in enumerate(asked):
            if "points" in found:
                one["outlines"] = [self._rings(sample) for sample in found["points"][row, 0]]
            if "keypoints" in found:
                one["keypoints"] = found["keypoints"][row, 0].tolist()

    def _rings(self, points: np.ndarray) -> list[list[list[float]]]:
        """The rings of one outline f32[2M], without what is reserved."""
        reserved, rings = self.description["vocabulary"]["points"], [[]]
        for pair in points.reshape(-1, 2).tolist():
            if pair[0] == reserved["padding"]:
                break
            if pair[0] == reserved["separator"]:
                rings.append([])
            elif pair[0] != reserved["invisible"]:
                rings[-1].append(pair)
        return [ring for ring in rings if ring]


def _read(path: Path) -> Any:
    """A function that is compiled once for each number of images."""
    return jax.jit(export.deserialize(bytearray(path.read_bytes())).call)


def _prepared(pixels: np.ndarray, box: Sequence[float] | None, ops: list[dict]) -> dict:
    """One image u8[h,w,3] through the ops, see description.json."""
    _check_image(pixels)
    image, corner = pixels, np.zeros(2, np.int32)
    size = np.array(pixels.shape[:2], np.int32)
    for op in ops:
        if op["op"] == "crop_to_box":
            corner, size = _window(size, box, op["scale"])
            (top, left), (height, width) = corner, size
            image = image[top : top + height, left : left + width]
        elif op["op"] == "resize":
            now = np.array(image.shape[:2], np.float32)
            ratio = np.min(np.array(op["size"], np.float32) / now)
            wanted = np.maximum(np.round(now * ratio).astype(int), 1)
            image = _resized(image, wanted, antialias=op["antialias"])
        elif op["op"] == "pad_image":
            padded = np.full((*op["size"], 3), op["value"], np.float32)
            unpadded = np.array(image.shape[:2], np.int32)
            padded[: unpadded[0], : unpadded[1]] = image.astype(np.float32) * np.float32(1 / 255)
            image = padded
    fields = {"orig_size": size, "unpadded_size": unpadded, "crop_offset": corner}
    return {"image": image} | fields


def _check_image(pixels: np.ndarray) -> None:
    """Raises ValueError for another type or shape than u8[h,w,3], or no pixel."""
    if not isinstance(pixels, np.ndarray | jax.Array):
        raise ValueError(f"an image that is {pixels!r:.80}: give u8[h,w,3], RGB")
    shaped = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size > 0
    if pixels.dtype != np.uint8 or not shaped:
        raise ValueError(f"an image of {pixels.dtype}{list(pixels.shape)}: give u8[h,w,3], RGB")


def _window(size: np.ndarray, box: Sequence[float], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(corner i32[2], size i32[2]) of the window of `scale` times a box about its centre, cut at
    the image."""
    now, (low, high) = size.astype(np.float32), np.asarray(box, np.float32).reshape(2, 2)
    least = np.minimum(MIN_WINDOW, now)
    low, high = np.clip(low, 0, now), np.clip(high, 0, now)
    centre, half = (low + high) / 2, np.maximum((high - low) * np.float32(scale), least) / 2
    corner = np.clip(np.round(centre - half), 0, now - least)
    window = np.clip(np.round(centre + half), corner + least, now) - corner
    return corner.astype(np.int32), window.astype(np.int32)


def _resized(image: np.ndarray, size: np.ndarray, *, antialias: bool) -> np.ndarray:
    """u8[h,w,3] -> u8[size,3], bilinear, half-pixel centres, rounded to the nearest."""
    rows, columns = (
        _shares(now, int(wanted), antialias)
        for now, wanted in zip(image.shape[:2], size, strict=True)
    )
    made = np.einsum("yh,hwc->ywc", rows, image.astype(np.float32), optimize=True)
    made = np.einsum("xw,ywc->yxc", columns, made, optimize=True)
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def _shares(length: int, wanted: int, antialias: bool) -> np.ndarray:
    """f32[wanted,length]: the share of each pixel of a line in each pixel of the resized line."""
    scale = length / wanted
    reach = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(wanted) + 0.5) * scale
    distance = np.abs(np.arange(length)[None] + 0.5 - centres[:, None]) / reach
    shares = np.maximum(1 - distance, 0)
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def _normalised(boxes: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """Boxes f32[B,N,4] in pixels of the image -> normalised to the padded image."""
    corner, window, unpadded = (
        np.tile(batch[name].astype(np.float32), (1, 2))[:, None]
        for name in ("crop_offset", "orig_size", "unpadded_size")
    )
    padded = np.tile(np.array(batch["image"].shape[1:3], np.float32), 2)
    inside = np.clip(np.asarray(boxes, np.float32) - corner, 0, window)
    return inside / window * (unpadded / padded)
