"""Images with captions: a COCO-format captions JSON and its folder of images."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from pix2seq_jax.data.coco_json import Report, column, read_file, read_images, read_json, rows_of_images
from pix2seq_jax.data.sources import IMAGE_FIELDS
from pix2seq_jax.vocab import END_PIECE


class CocoCaptions:
    """A folder of images and a COCO-format captions JSON; images without captions are left out.

    `source[i]` gives the raw features of image i:
        image, file, image_id, orig_size: as CocoDir gives them;
        captions: i32[n,T], piece ids of all its captions, each with END_PIECE after it and cut at T; 0 is padding.
        A row of a batch has C of them: those that the epoch has come to, so that all are read in time.

    Attributes:
        annotations_path: the JSON.
        image_ids: i64[len].
        files: paths.
        references: image id -> all of its captions, as written.
        fields: what a row of a batch has of it, see data.sources.
        report: what was left out or cut, kind -> count.
    """

    def __init__(
        self, images: str | Path, annotations: str | Path, *, text, per_image: int = 5, max_tokens: int = 128
    ) -> None:
        """Opens the JSON, checks it and the existence of every image, and turns the captions into pieces.

        Args:
            images: folder that the `file_name`s start from.
            annotations: captions JSON.
            text: `encode(list of str) -> lists of piece ids` without an end (data.text.Text).
            per_image: C; COCO has five captions for most images (Pix2Seq v2, section 3.1, trains them together).
            max_tokens: T, the end counted.

        Raises:
            ValueError: the folder, the JSON or an image is missing, the JSON is broken or not COCO, a caption is not
                text, no image has one, or per_image or max_tokens is not positive.
        """
        for name, value in (("per_image", per_image), ("max_tokens", max_tokens)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.annotations_path, self.report = Path(annotations), Report()
        self.fields = IMAGE_FIELDS | {"captions": (np.int32, (per_image, max_tokens))}
        content = read_json(self.annotations_path, ("images", "annotations"))
        self.image_ids, self.files, self.sizes = read_images(
            self.annotations_path, Path(images), content["images"], self.report
        )
        captions = self._read_captions(content["annotations"])
        self._drop_silent(captions)
        self._encode(captions, text)

    def _read_captions(self, records: list) -> dict[int, list[str]]:
        """Captions of each image, image ids in any order."""
        path = self.annotations_path
        rows, image = rows_of_images(path, self.image_ids, records, self.report)
        records = [records[row] for row in rows.tolist()]
        values = column(path, records, "caption", "annotations")
        ids = [record.get("id", row) for record, row in zip(records, rows.tolist(), strict=True)]
        wrong = [i for i, value in enumerate(values) if not isinstance(value, str)]
        if wrong:
            raise ValueError(
                f"annotation file {path}: {len(wrong)} captions are not text, first: annotation {ids[wrong[0]]} has "
                f"caption {str(values[wrong[0]])[:200]}; correct or remove these annotations"
            )
        self.report.add("captions without words, left out", [ids[i] for i, v in enumerate(values) if not v.strip()])
        captions = defaultdict(list)
        for image_id, value in zip(self.image_ids[image].tolist(), values, strict=True):
            if value.strip():
                captions[image_id].append(value)
        return captions

    def _drop_silent(self, captions: dict[int, list[str]]) -> None:
        """Leaves out the images that have no caption."""
        keep = np.array([image_id in captions for image_id in self.image_ids.tolist()], bool)
        if not keep.any():
            raise ValueError(f"annotation file {self.annotations_path}: no image has a caption; give a captions file")
        self.report.add("images without captions, left out", self.image_ids[~keep].tolist())
        self.files = [file for file, kept in zip(self.files, keep, strict=True) if kept]
        self.image_ids, self.sizes = self.image_ids[keep], self.sizes[keep]
        self.references = {image_id: captions[image_id] for image_id in self.image_ids.tolist()}

    def _encode(self, captions: dict[int, list[str]], text) -> None:
        """All pieces end to end, since captions differ in length and are short of the longest allowed."""
        max_tokens = self.fields["captions"][1][1]
        taken = [captions[image_id] for image_id in self.image_ids.tolist()]
        pieces = text.encode([caption for own in taken for caption in own])  # in one call, which is far quicker
        numbers = np.cumsum([0, *map(len, taken)])
        owners = np.repeat(self.image_ids, np.diff(numbers))
        long = [int(owners[i]) for i, ids in enumerate(pieces) if len(ids) >= max_tokens]
        self.report.add(f"captions of more than {max_tokens} tokens, cut (named by image)", long)
        ended = [[*ids, END_PIECE][:max_tokens] for ids in pieces]
        self._pieces = np.array([piece for ids in ended for piece in ids], np.int32)
        self._ends = np.cumsum([0, *map(len, ended)])
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> dict:
        """Raw features of one image, see the class. Raises ValueError where the file cannot be read."""
        start, stop = self._numbers[index], self._numbers[index + 1]
        captions = np.zeros((stop - start, self.fields["captions"][1][1]), np.int32)
        for row, number in enumerate(range(start, stop)):
            pieces = self._pieces[self._ends[number] : self._ends[number + 1]]
            captions[row, : len(pieces)] = pieces
        return {
            "image": read_file(self.files[index]),
            "file": self.files[index],
            "image_id": self.image_ids[index],
            "orig_size": self.sizes[index],
            "captions": captions,
        }

    def describe(self) -> str:
        """One line per kind of thing left out, with the first names; "" when nothing was."""
        return self.report.describe(self.annotations_path.name)
