"""Images with captions: a COCO-format captions JSON and its folder of images."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import PurePath

import numpy as np

from pix2seq_jax.data.coco.files import ImageRules, Storage, read_images, storage_of
from pix2seq_jax.data.coco.json import (
    BadAnnotations,
    Report,
    annotation_ids,
    dicts,
    index_images,
    read_json,
    return_memory,
    whole_numbers,
)
from pix2seq_jax.data.source import IMAGE_FIELDS, layout
from pix2seq_jax.data.text import whole_characters
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.vocab import END_PIECE


class CocoCaptions:
    """A folder of images and a COCO-format captions JSON; images without captions are left out.

    `source[i]` gives the raw features of image i:
        image, file, image_id, orig_size: as CocoDir gives them;
        captions: i32[n,T], piece ids of all its captions, each with END_PIECE after it and cut at
            T; 0 is padding. A row of a batch has C of them: those of the epoch, so that all are
            read in time.

    Attributes:
        annotations_path: the JSON.
        image_ids: i64[len].
        files: paths, for `load`.
        references: image id -> all of its captions, as written.
        fields: what a row of a batch has of it, see data.source.
        report: what was left out or cut, kind -> count.
    """

    def __init__(
        self,
        images: str | PurePath | Storage,
        annotations: str | PurePath,
        *,
        text,
        per_image: int = 5,
        max_tokens: int = 128,
        bad_annotations: str = "error",
        image_rules: ImageRules | None = None,
    ) -> None:
        """Opens the JSON, checks it and the existence of every image, and turns the captions into
        pieces.

        Args:
            images: folder that the `file_name`s start from, or another storage of images.
            annotations: captions JSON.
            text: `encode(list of str) -> lists of piece ids` without an end (data.text.Text).
            per_image: C; COCO has five captions for most images (Pix2Seq v2, section 3.1, trains
                them together).
            max_tokens: T, the end counted.
            bad_annotations: what becomes of captions that are not text and of annotations without
                an image: "error" refuses the file, "drop" leaves them out and counts them in the
                report.
            image_rules: what becomes of images that are missing or broken; default ImageRules().

        Raises:
            ValueError: the folder, the JSON or an image is missing, the JSON is broken or not COCO,
                see `bad_annotations`, no image has a caption, or per_image or max_tokens is not
                positive.
        """
        for name, value in (("per_image", per_image), ("max_tokens", max_tokens)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.annotations_path, self.report = path_of(annotations), Report()
        self.storage = storage_of(images)
        self.fields = layout((*IMAGE_FIELDS, "captions"), C=per_image, T=max_tokens)
        content = read_json(self.annotations_path, ("images", "annotations"))
        records, storage = content["images"], self.storage
        images = read_images(self.annotations_path, storage, records, self.report, image_rules)
        self.image_ids, self.files, self.sizes, self._dropped = images
        captions = self._read_captions(content["annotations"], bad_annotations)
        del content, records
        self._drop_silent(captions)
        self._encode(captions, text)
        self.references = References(self.references)
        del captions
        return_memory()

    def _read_captions(self, listed: list, rule: str) -> dict[int, list[str]]:
        """Captions of each image, image ids in any order."""
        bad = BadAnnotations(self.annotations_path, annotation_ids(listed), rule, self.report)
        records = dicts(listed, bad)
        wanted, wrong = whole_numbers([record.get("image_id") for record in records])
        bad.add_values(wrong, records, "image_id", "a value of image_id that is no whole number")
        image = index_images(self.image_ids, wanted)
        unlisted = (image < 0) & ~bad.rows & ~np.isin(wanted, self._dropped)
        self.report.add(
            "annotations of images that are not listed, dropped", wanted[unlisted].tolist()
        )
        bad.rows |= image < 0
        values = [record.get("caption") for record in records]
        wrong = np.array([not isinstance(value, str) for value in values], bool) & ~bad.rows
        bad.add_values(wrong, records, "caption", "captions that are not text")
        captions, silent, halves = defaultdict(list), [], []
        for row in np.flatnonzero(~bad.rows).tolist():
            text = whole_characters(values[row])
            if text != values[row]:
                halves.append(bad.ids[row])
            if text.strip():
                captions[int(wanted[row])].append(text)
            else:
                silent.append(bad.ids[row])
        self.report.add("captions without words, left out", silent)
        self.report.add("captions with half a character, which is read as U+FFFD", halves)
        return captions

    def _drop_silent(self, captions: dict[int, list[str]]) -> None:
        """Leaves out the images that have no caption."""
        keep = np.array([image_id in captions for image_id in self.image_ids.tolist()], bool)
        if not keep.any():
            raise ValueError(
                f"annotation file {self.annotations_path}: no image has a caption; give a "
                "captions file"
            )
        self.report.add("images without captions, left out", self.image_ids[~keep].tolist())
        self.files = [self.files[row] for row in np.flatnonzero(keep).tolist()]
        self.image_ids, self.sizes = self.image_ids[keep], self.sizes[keep]
        self.references = {image_id: captions[image_id] for image_id in self.image_ids.tolist()}

    def _encode(self, captions: dict[int, list[str]], text) -> None:
        """All pieces end to end, since captions differ in length and are short of the longest
        allowed."""
        max_tokens = self.fields["captions"][1][1]
        taken = [captions[image_id] for image_id in self.image_ids.tolist()]
        # In one call, which is far quicker.
        pieces = text.encode([caption for own in taken for caption in own])
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
        """Raw features of one image, see the class. Raises ValueError where the file cannot be
        read."""
        return {"image": self.load(self.files[index]), **self.without_image(index)}

    def without_image(self, index: int) -> dict:
        """The raw features of one image, but for `image`: nothing is read."""
        start, stop = self._numbers[index], self._numbers[index + 1]
        captions = np.zeros((stop - start, self.fields["captions"][1][1]), np.int32)
        for row, number in enumerate(range(start, stop)):
            pieces = self._pieces[self._ends[number] : self._ends[number + 1]]
            captions[row, : len(pieces)] = pieces
        return {
            "file": self.files[index],
            "image_id": self.image_ids[index],
            "orig_size": self.sizes[index],
            "captions": captions,
        }

    def load(self, file: str) -> bytes:
        """Content of one of `files`; ValueError where it cannot be read."""
        return self.storage.load(file)

    def describe(self) -> str:
        """One line per kind of thing left out, with the first names; "" when nothing was."""
        return self.report.describe("/".join(self.annotations_path.parts[-2:]))


class References(Mapping):
    """Image id -> list of its captions, as one text: half a million Python strings take twice the
    room."""

    def __init__(self, captions: Mapping[int, list[str]]) -> None:
        """Copies the captions."""
        lasts = np.cumsum([len(own) for own in captions.values()], dtype=np.int64).tolist()
        self._places = {
            image_id: (last - len(captions[image_id]), last)
            for image_id, last in zip(captions, lasts, strict=True)
        }
        texts = [
            caption.encode("utf-8", "surrogatepass") for own in captions.values() for caption in own
        ]
        self._ends = np.cumsum([0, *map(len, texts)])
        self._texts = b"".join(texts)

    def __getitem__(self, image_id: int) -> list[str]:
        """The captions of an image as written."""
        numbers = range(*self._places[image_id])
        texts = (self._texts[self._ends[number] : self._ends[number + 1]] for number in numbers)
        return [text.decode("utf-8", "surrogatepass") for text in texts]

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
