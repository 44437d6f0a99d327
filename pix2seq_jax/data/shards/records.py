"""One image as a record of a shard: what is known of it, its annotations, and the file as stored.

A record is a number of 4 bytes (the lowest first), so many bytes of JSON in UTF-8, and the bytes of
the image file. The JSON is an object:
    name: of the file, from the folder of images on, with slashes;
    height, width: in pixels as stored, 0 where the file cannot be decoded;
    turned: whether the EXIF orientation exchanges them;
    error: what is wrong with the file, "" for nothing;
    annotations: kind ("instances", "person_keypoints", "captions") -> {"image": its entry in the
        list `images` of the annotation file, "annotations": those of the image}.
"""

import json
import struct
from typing import Any

_LENGTH = struct.Struct("<I")


def pack(known: dict[str, Any], image: bytes) -> bytes:
    """A record, see the module."""
    text = json.dumps(known, ensure_ascii=False, separators=(",", ":"))
    encoded = text.encode("utf-8", "surrogatepass")
    return b"".join([_LENGTH.pack(len(encoded)), encoded, image])


def image_of(record: bytes) -> bytes:
    """The image file of a record."""
    (length,) = _LENGTH.unpack_from(record)
    return record[_LENGTH.size + length :]


def known_of(record: bytes) -> dict[str, Any]:
    """The JSON of a record."""
    (length,) = _LENGTH.unpack_from(record)
    encoded = record[_LENGTH.size : _LENGTH.size + length]
    return json.loads(encoded.decode("utf-8", "surrogatepass"))
