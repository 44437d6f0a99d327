"""The folder that predict writes: pictures, predictions.json, COCO's results, a gallery."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pix2seq_jax.evaluation.pictures import draw, pages
from pix2seq_jax.evaluation.predictions import coco_rows
from pix2seq_jax.evaluation.predictor import Prediction, Predictor
from pix2seq_jax.files.locations import readable
from pix2seq_jax.files.whole import open_whole, write_whole

THUMBNAIL = (360, 360)  # pixels of the gallery's small pictures, at most
THUMBNAILS = "thumbnails"  # their folder
CAPTION_LINES = 3  # below the frames of a video, which all have one size


class Output:
    """Writes what was predicted, image by image; use as a context manager.

    Nothing is written before there is an image. The JSON files and the gallery get their names when
    the block ends well. What it keeps of an image is its line in the gallery.
    """

    def __init__(self, folder: Path, model: Predictor, *, threshold: float, side: int = 0) -> None:
        """`side` is the largest longer side of a picture in pixels; 0: that of the image."""
        self.folder, self.model, self.threshold, self.side = folder, model, threshold, side
        self.count = 0
        self._images: list[dict] = []
        self._cards: list[str] = []
        self._images_of: Counter = Counter()
        self._stack = contextlib.ExitStack()
        self._append: list[Callable[[dict], None]] = []

    def __enter__(self) -> "Output":
        self._stack.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)

    def add(self, file: str, name: str, image_id: int, pixels: np.ndarray, objects: dict) -> dict:
        """Writes the picture `name` of an image; returns its row of predictions.json.

        Args:
            file: of the image.
            name: of the PNG.
            image_id: in COCO's results.
            pixels: u8[H,W,3].
            objects: what `Predictor.stream` gives of it.
        """
        prediction = self.row(file, image_id, pixels, objects)
        plain = {key: value for key, value in objects.items() if key != "captions"}
        picture = self.picture(pixels, plain)
        draw.captioned(picture, objects.get("captions", ())).save(self.folder / name)
        thumbnail = f"{THUMBNAILS}/{Path(name).with_suffix('.jpg')}"
        picture.thumbnail(THUMBNAIL)  # without captions, which nobody could read
        (self.folder / THUMBNAILS).mkdir(exist_ok=True)
        picture.save(self.folder / thumbnail, quality=85)
        self.card(file, name, thumbnail, Counter(prediction.names), " ".join(prediction.texts))
        return {"file": readable(file)} | prediction.to_dict()

    def picture(self, pixels: np.ndarray, objects: dict) -> Image.Image:
        """The annotated picture of an image."""
        longest = self.side or max(pixels.shape[0], pixels.shape[1], draw.SIDES[0])
        sides = min(draw.SIDES[0], longest), longest
        return self.model.picture(pixels, objects, self.threshold, sides)

    def row(
        self, file: str, image_id: int, pixels: np.ndarray, objects: dict, **more
    ) -> Prediction:
        """Writes an image to the JSON files."""
        if not self._append:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in ("predictions.json", "predictions_coco.json"):
                self._append.append(self._stack.enter_context(json_list(self.folder / name)))
        file, prediction = readable(file), self.model.prediction(objects, self.threshold)
        self._append[0]({"file": file} | more | prediction.to_dict())
        for row in coco_rows.results(prediction, image_id, self.model.config.data.category_ids):
            self._append[1](row)
        height, width = pixels.shape[:2]
        size = {"width": width, "height": height}
        self._images.append({"id": image_id, "file_name": file} | size | more)
        self.count += 1
        return prediction

    def card(self, file: str, name: str, thumbnail: str, words: Counter, text: str) -> None:
        """Adds an image or a video to the gallery."""
        self._cards.append(pages.card(file, name, thumbnail, words, text))
        self._images_of.update(set(words))

    def finish(self, skipped: Sequence[tuple[str, str]], *, what: str = "images") -> None:
        """Writes the gallery, the images that the ids of COCO's results stand for, and what was
        skipped; `what` they are."""
        data = self.model.config.data
        ids = list(data.category_ids) or range(1, len(data.category_names) + 1)
        named = zip(ids, data.category_names, strict=False)  # imported models may have more names
        categories = [{"id": int(number), "name": name} for number, name in named]
        content = {"images": self._images, "categories": categories}
        write_whole(self.folder / "images_coco.json", json.dumps(content))
        rows = [{"file": readable(file), "error": readable(why)} for file, why in skipped]
        write_whole(self.folder / "skipped.json", json.dumps(rows, indent=1))
        title = f"{self.count} {what}, weights of step {self.model.step}"
        page = pages.gallery(title, self._cards, self._images_of, skipped)
        write_whole(self.folder / "index.html", page)


def fitted(picture: Image.Image, texts: Sequence[str], size: tuple[int, int] | None) -> np.ndarray:
    """A frame u8[H,W,3] with its captions in the size (width, height) of the first one; None: it is
    the first."""
    whole = draw.captioned(picture, texts, CAPTION_LINES)
    if size is None:
        # Room for the most lines, whatever the first caption is.
        full = ["m " * 1000] * len(texts)
        size = draw.captioned(picture, full, CAPTION_LINES).size
    canvas = Image.new("RGB", size, draw.BACKGROUND)
    canvas.paste(whole, (0, 0))
    return np.asarray(canvas)


@contextlib.contextmanager
def json_list(path: Path) -> Iterator[Callable[[dict], None]]:
    """A function that appends to a JSON list, which gets its name when the block ends well."""
    with open_whole(path) as file:
        before = b"["

        def append(row: dict) -> None:
            nonlocal before
            file.write(before + json.dumps(row).encode())
            before = b", "

        yield append
        file.write(b"]" if before == b", " else b"[]")
