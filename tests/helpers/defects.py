"""Defects that are planted in a clean data set of `small.make_shapes`, by the name of the check
that is to find each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN, VAL = "instances_train", "instances_val"
PERSONS, WORDS, VAL_WORDS = "person_keypoints_train", "captions_train", "captions_val"


def path_of(folder: Path, file: str) -> Path:
    """An annotation file of the folder."""
    return folder / "annotations" / f"{file}.json"


def first(content: dict) -> dict:
    """The first annotation that is no crowd."""
    return next(row for row in content["annotations"] if not row.get("iscrowd"))


def image_of(content: dict) -> dict:
    """The image of that annotation."""
    return next(row for row in content["images"] if row["id"] == first(content)["image_id"])


def annotation(**values) -> Callable[[dict], None]:
    """Changes the first annotation."""
    return lambda content: first(content).update(values)


def image(**values) -> Callable[[dict], None]:
    """Changes the first image."""
    return lambda content: image_of(content).update(values)


def category(**values) -> Callable[[dict], None]:
    """Changes the first category."""
    return lambda content: content["categories"][0].update(values)


def without(key: str) -> Callable[[dict], None]:
    """Takes a key from the first annotation."""
    return lambda content: first(content).pop(key)


def again(key: str, **values) -> Callable[[dict], None]:
    """Adds the first record of a list once more, with these values."""
    find = image_of if key == "images" else first
    return lambda content: content[key].append(find(content) | values)


def pictures(change: Callable[[Path, list[Path]], None]) -> Callable[[Path], None]:
    """Changes the image files of train; gets the folder and the sorted files."""
    return lambda folder: change(folder, sorted((folder / "train").glob("*.jpg")))


def exchange(content: dict) -> None:
    """Exchanges height and width of the first image that is no square."""
    row = next(row for row in content["images"] if row["height"] != row["width"])
    row["height"], row["width"] = row["width"], row["height"]


def halve(content: dict) -> None:
    """Halves the size of an image in the JSON."""
    row = image_of(content)
    row["height"], row["width"] = row["height"] // 2, row["width"] // 2


def many_objects(content: dict) -> None:
    """Gives an image 101 objects."""
    for number in range(101):
        box = [1 + number / 10, 2, 20, 20]
        content["annotations"].append(first(content) | {"id": 10**6 + number, "bbox": box})


def comb(content: dict) -> None:
    """An outline of so many teeth that 128 points cannot follow them."""
    teeth = np.arange(200) / 200 * 40
    up = np.stack([teeth, np.where(np.arange(200) % 2, 2.0, 40.0)], axis=1)
    ring = np.concatenate([up, [[40.0, 41.0], [0.0, 41.0]]])
    row = first(content)
    row.update(segmentation=[ring.ravel().tolist()], bbox=[0, 2, 40, 39], area=800)


def move_class(content: dict) -> None:
    """Gives the objects of the first class to the second."""
    one, other = (record["id"] for record in content["categories"][:2])
    for row in content["annotations"]:
        if row["category_id"] == one:
            row["category_id"] = other


def new_class(name: str) -> Callable[[dict], None]:
    """Adds a class without objects."""
    return lambda content: content["categories"].append({"id": 999, "name": name})


def same_category_id(content: dict) -> None:
    """Gives the first category the id of the second."""
    content["categories"][0]["id"] = content["categories"][1]["id"]


def two_classes(content: dict) -> None:
    """Adds the first box once more with another class."""
    own = first(content)["category_id"]
    other = next(record["id"] for record in content["categories"] if record["id"] != own)
    again("annotations", id=10**6, category_id=other)(content)


def unnamed_keypoints(content: dict) -> None:
    """Takes away the names of the keypoints."""
    for record in content["categories"]:
        record.pop("keypoints", None)


def fill_vocabulary(content: dict) -> None:
    """More classes than there are tokens before the coordinates."""
    content["categories"] += [{"id": 1000 + i, "name": f"class {i}"} for i in range(900)]


def nonsense(content: dict) -> None:
    """A caption in letters that no caption for training has."""
    first(content)["caption"] = "жщ фы юя"


def letters(content: dict) -> None:
    """Captions of more different letters than a text model has pieces."""
    for number, row in enumerate(content["annotations"]):
        row["caption"] = "".join(chr(0x4E00 + 90 * number + i) for i in range(90))


def drop_all(content: dict) -> None:
    """Takes the annotations of the first image."""
    gone = first(content)["image_id"]
    content["annotations"] = [r for r in content["annotations"] if r["image_id"] != gone]


def leave_crowd(content: dict) -> None:
    """Makes the annotations of the first image crowds."""
    own = first(content)["image_id"]
    for row in content["annotations"]:
        if row["image_id"] == own:
            row["iscrowd"] = 1


def save(picture: Image.Image, path: Path, **options) -> None:
    """Writes a picture over a file."""
    picture.save(path, "JPEG", **options)


def reencode(source: Path, target: Path) -> None:
    """Saves an image larger and in low quality in place of another one."""
    with Image.open(source) as picture:
        save(picture.resize((2 * picture.width, 2 * picture.height)), target, quality=60)


def turn(folder: Path, files: list[Path]) -> None:
    """Says by EXIF that an image lies on its side."""
    with Image.open(files[0]) as picture:
        exif = picture.getexif()
        exif[0x0112] = 6
        save(picture, files[0], exif=exif)


def black(width: int, height: int) -> Callable[[Path, list[Path]], None]:
    """Puts a black picture in place of the first image."""
    return lambda folder, files: save(Image.new("RGB", (width, height)), files[0])


def copy_to(name: str) -> Callable[[Path, list[Path]], None]:
    """Copies the first image to another name."""
    return lambda folder, files: shutil.copy(files[0], files[0].with_name(name))


def cut(folder: Path, files: list[Path]) -> None:
    """Cuts off the end of the first image."""
    files[0].write_bytes(files[0].read_bytes()[:-400])


def cut_unsized(folder: Path, files: list[Path]) -> None:
    """Cuts off the end of the first image, and takes its size from a JSON."""
    cut(folder, files)
    path = path_of(folder, TRAIN)
    content = json.loads(path.read_text())
    next(row for row in content["images"] if row["file_name"] == files[0].name).pop("width")
    path.write_text(json.dumps(content))


def cut_most(folder: Path, files: list[Path]) -> None:
    """Cuts off the ends of more than half of the images."""
    for file in files[: len(files) // 2 + 1]:
        cut(folder, [file])


def first_val(folder: Path) -> Path:
    """The first image of val."""
    return sorted((folder / "val").glob("*.jpg"))[0]


def same_name(folder: Path, files: list[Path]) -> None:
    """Gives an image of val the name of one of train, in the folder and in its files."""
    name, other = first_val(folder).name, files[0].name
    (folder / "val" / name).rename(folder / "val" / other)
    for file in (folder / "annotations").glob("*_val.json"):
        file.write_text(file.read_text().replace(name, other))


def other_id(content: dict) -> None:
    """Gives the first category another id, and its objects, too."""
    record = content["categories"][0]
    for row in content["annotations"]:
        if row["category_id"] == record["id"]:
            row["category_id"] = 999
    record["id"] = 999


def rare_class(content: dict) -> None:
    """A class with one object."""
    content["categories"].append({"id": 999, "name": "walrus"})
    first(content)["category_id"] = 999


FAR = [20, 20, 9, 9]
KEYPOINT_ROW = [10.0, 10.0, 2] * 17
# Name of the check -> (annotation file, what changes its content), or (None, what changes the
# folder).
DEFECTS: dict[str, tuple[str | None, Callable]] = {
    "annotations-missing": (
        None,
        lambda folder: [path.unlink() for path in (folder / "annotations").glob("*_val.json")],
    ),
    "image-folder-missing": (None, lambda folder: (folder / "val").rename(folder / "away")),
    "json-broken": (None, lambda folder: path_of(folder, TRAIN).write_text('{"images": [')),
    "list-missing": (TRAIN, lambda content: content.pop("categories")),
    "list-empty": (TRAIN, lambda content: content.update(annotations=[])),
    "record-no-object": (TRAIN, lambda content: content["annotations"].append([1, 2])),
    "image-id-invalid": (TRAIN, image(id="seven")),
    "image-name-invalid": (TRAIN, image(file_name="")),
    "image-id-duplicate": (TRAIN, again("images", file_name="other.jpg")),
    "image-listed-twice": (TRAIN, again("images")),
    "file-listed-twice": (TRAIN, again("images", id=10**9)),
    "files-disagree": (WORDS, image(file_name="other.jpg")),
    "category-id-invalid": (TRAIN, category(id=1.5)),
    "category-id-duplicate": (TRAIN, same_category_id),
    "category-name-invalid": (TRAIN, category(name=None)),
    "category-name-duplicate": (TRAIN, new_class("Person ")),
    "annotation-id-duplicate": (TRAIN, again("annotations", bbox=[1, 1, 9, 9])),
    "annotation-id-missing": (TRAIN, without("id")),
    "annotation-image-invalid": (TRAIN, annotation(image_id=None)),
    "annotation-orphan": (TRAIN, annotation(image_id=10**9)),
    "category-unknown": (TRAIN, annotation(category_id=12345)),
    "crowd-invalid": (TRAIN, annotation(iscrowd=2)),
    "box-invalid": (TRAIN, annotation(bbox=[1, 2, "wide", 4])),
    "box-empty": (TRAIN, annotation(bbox=[5, 5, 0, 7])),
    "box-outside": (TRAIN, annotation(bbox=[5000, 5, 10, 7])),
    "box-over-edge": (TRAIN, annotation(bbox=[5, 5, 2000, 7])),
    "box-slightly-over-edge": (TRAIN, annotation(bbox=[-0.5, 5, 10, 7])),
    "box-below-bin": (TRAIN, annotation(bbox=[5, 5, 0.01, 7])),
    "box-duplicate": (TRAIN, again("annotations", id=10**6)),
    "box-two-classes": (
        TRAIN,
        two_classes,
    ),
    "area-missing": (TRAIN, without("area")),
    "area-too-large": (TRAIN, annotation(area=9999)),
    "objects-over-slots": (TRAIN, many_objects),
    "image-without-objects": (TRAIN, drop_all),
    "image-nothing-to-learn": (TRAIN, leave_crowd),
    "segmentation-broken": (TRAIN, annotation(segmentation=[[1, 2, 3, 4, 5, 6, 7]])),
    "mask-size": (TRAIN, annotation(segmentation={"size": [2, 2], "counts": [1, 3]})),
    "polygon-empty": (TRAIN, annotation(segmentation=[[1, 2, 3, 4]])),
    "outline-missing": (TRAIN, without("segmentation")),
    "outline-other-than-box": (TRAIN, annotation(segmentation=[[0, 0, 3, 0, 3, 3]], bbox=FAR)),
    "outline-over-edge": (TRAIN, annotation(segmentation=[[5, 5, 300, 5, 300, 20, 5, 20]])),
    "outline-many-parts": (
        TRAIN,
        annotation(segmentation=[[x, 1, x + 0.5, 1, x, 9] for x in range(40)], bbox=[0, 1, 40, 8]),
    ),
    "outline-loses-shape": (TRAIN, comb),
    "keypoint-names-invalid": (PERSONS, unnamed_keypoints),
    "keypoints-invalid": (PERSONS, annotation(keypoints=[1, 2, 2])),
    "keypoint-visibility": (PERSONS, annotation(keypoints=[10, 10, 3] * 17)),
    "keypoints-missing": (PERSONS, without("keypoints")),
    "keypoints-unlabelled": (PERSONS, annotation(keypoints=[0] * 51, num_keypoints=0)),
    "keypoint-outside": (PERSONS, annotation(keypoints=[900.0, 10, 2] * 17)),
    "keypoint-beside-box": (PERSONS, annotation(keypoints=KEYPOINT_ROW, bbox=[30, 30, 8, 8])),
    "keypoint-count": (PERSONS, annotation(keypoints=KEYPOINT_ROW, num_keypoints=3)),
    "caption-invalid": (WORDS, annotation(caption=7)),
    "caption-blank": (WORDS, annotation(caption=" \n")),
    "caption-long": (WORDS, annotation(caption="a red circle and " * 200)),
    "caption-unknown-pieces": (VAL_WORDS, nonsense),
    "caption-unreadable": (VAL_WORDS, nonsense),
    "caption-missing": (WORDS, drop_all),
    "captions-many": (WORDS, again("annotations", id=10**6, caption="One more.")),
    "caption-duplicate": (WORDS, again("annotations", id=10**6)),
    "text-model-impossible": (WORDS, letters),
    "vocabulary-full": (TRAIN, fill_vocabulary),
    "image-missing": (None, pictures(lambda folder, files: files[0].unlink())),
    "image-unlisted": (None, pictures(copy_to("new.jpg"))),
    "image-size-missing": (TRAIN, lambda content: image_of(content).pop("width")),
    "image-size-impossible": (TRAIN, image(width=float("nan"))),
    "image-broken": (None, pictures(cut)),
    "image-broken-unsized": (None, pictures(cut_unsized)),
    "image-mostly-broken": (None, pictures(cut_most)),
    "image-size-contradicts": (TRAIN, image(width=640, height=100)),
    "image-size-exchanged": (TRAIN, exchange),
    "image-size-scaled": (TRAIN, halve),
    "image-turned": (None, pictures(turn)),
    "image-small": (None, pictures(black(20, 20))),
    "image-narrow": (None, pictures(black(400, 40))),
    "image-flat": (None, pictures(black(64, 64))),
    "image-copy": (None, pictures(lambda folder, files: shutil.copy(*files[:2]))),
    "image-near-copy": (None, pictures(lambda folder, files: reencode(*files[:2]))),
    "leak-file": (None, pictures(lambda folder, files: shutil.copy(files[0], first_val(folder)))),
    "leak-picture": (None, pictures(lambda folder, files: reencode(files[0], first_val(folder)))),
    "leak-name": (None, pictures(same_name)),
    "class-unknown": (VAL, category(name="walrus")),
    "class-other-id": (VAL, other_id),
    "class-untrained": (TRAIN, move_class),
    "class-unused": (TRAIN, new_class("walrus")),
    "class-rare": (TRAIN, rare_class),
}


def plant(folder: Path, name: str) -> str:
    """Plants the defect of a name in a copy of the clean set; returns the path that a finding of it
    must name, or ""."""
    file, change = DEFECTS[name]
    if file is None:
        change(folder)
        return ""
    path = path_of(folder, file)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return str(path)
