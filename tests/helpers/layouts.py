"""The embedded data in the layouts in which people have theirs."""

import json
import shutil
from pathlib import Path

from PIL import Image

from tests.helpers import small


def coco(shapes: Path, folder: Path, images: str = "{split}2017") -> Path:
    """As COCO is distributed."""
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        where = folder / images.format(split=split)
        shutil.copytree(shapes / split, where, dirs_exist_ok=True)
        for file in (shapes / "annotations").glob(f"*_{split}.json"):
            shutil.copy(file, folder / "annotations" / f"{file.stem}2017.json")
    return folder


def all_in_one(shapes: Path, folder: Path) -> Path:
    """All images in images/; those of val are numbered on, so that names differ."""
    coco(shapes, folder, "images/{split}")
    for split in ("train", "val"):
        for file in (folder / "images" / split).iterdir():
            file.rename(folder / "images" / f"{split}_{file.name}")
        (folder / "images" / split).rmdir()
        for path in (folder / "annotations").glob(f"*_{split}2017.json"):
            content = json.loads(path.read_text())
            for record in content["images"]:
                record["file_name"] = f"{split}_{record['file_name']}"
            path.write_text(json.dumps(content))
    return folder


def roboflow(shapes: Path, folder: Path) -> Path:
    """A Roboflow export; its one file has boxes, outlines and keypoints."""
    for split, name in (("train", "train"), ("val", "valid")):
        shutil.copytree(shapes / split, folder / name)
        (folder / name / "_annotations.coco.json").write_text(json.dumps(_merged(shapes, split)))
    return folder


def _merged(shapes: Path, split: str) -> dict:
    """The instances with the keypoints of those that have some."""
    files = [shapes / "annotations" / f"{kind}_{split}.json" for kind in small.KINDS.values()]
    instances, persons = (json.loads(file.read_text()) for file in files[:2])
    own = {(row["image_id"], *row["bbox"]): row for row in persons["annotations"]}
    for row in instances["annotations"]:
        more = own.get((row["image_id"], *row["bbox"]), {})
        row |= {key: more[key] for key in ("keypoints", "num_keypoints") if key in more}
    schema = {one["id"]: one for one in persons["categories"]}
    instances["categories"] = [schema.get(one["id"], one) for one in instances["categories"]]
    return instances


def one_file(shapes: Path, folder: Path, images: int = 0) -> Path:
    """One JSON beside the folder of images; only the first `images` of them, 0 for all."""
    shutil.copytree(shapes / "train", folder / "images")
    content = _merged(shapes, "train")
    if images:
        content["images"] = content["images"][:images]
        listed = {one["id"] for one in content["images"]}
        rows = [row for row in content["annotations"] if row["image_id"] in listed]
        content["annotations"] = rows
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


def several_kinds(shapes: Path, folder: Path) -> Path:
    """As CVAT exports it, with a file of each kind."""
    shutil.copytree(shapes / "train", folder / "images" / "default")
    (folder / "annotations").mkdir()
    for file in small.KINDS.values():
        source = shapes / "annotations" / f"{file}_train.json"
        shutil.copy(source, folder / "annotations" / f"{file}_default.json")
    return folder


def voc(shapes: Path, folder: Path) -> Path:
    """Two images of each split in Pascal VOC's layout, below VOCdevkit."""
    root = folder / "VOCdevkit" / "VOC2012"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / part).mkdir(parents=True)
    for split in ("train", "val"):
        names = []
        for file in sorted((shapes / split).glob("*.jpg"))[:2]:
            names.append(f"{split}_{file.stem}")
            shutil.copy(file, root / "JPEGImages" / f"{names[-1]}.jpg")
            (root / "Annotations" / f"{names[-1]}.xml").write_text(
                "<annotation><object><name>thing</name><bndbox><xmin>2</xmin><ymin>3</ymin>"
                "<xmax>20</xmax><ymax>30</ymax></bndbox></object></annotation>"
            )
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
    return folder


def voc_beside(shapes: Path, folder: Path) -> Path:
    """XML files beside their images, as Roboflow exports them."""
    source = voc(shapes, folder / "kit") / "VOCdevkit" / "VOC2012"
    for split, name in (("train", "train"), ("val", "valid")):
        (folder / name).mkdir()
        for line in (source / "ImageSets" / "Main" / f"{split}.txt").read_text().splitlines():
            shutil.move(source / "JPEGImages" / f"{line}.jpg", folder / name)
            shutil.move(source / "Annotations" / f"{line}.xml", folder / name)
    shutil.rmtree(folder / "kit")
    return folder


def yolo(shapes: Path, folder: Path) -> Path:
    """Two images of each split in YOLO's layout, with the paths that Roboflow writes."""
    for split, name in (("train", "train"), ("val", "valid")):
        for part in ("images", "labels"):
            (folder / name / part).mkdir(parents=True)
        for file in sorted((shapes / split).glob("*.jpg"))[:2]:
            with Image.open(file) as image:
                image.save(folder / name / "images" / file.name)
            (folder / name / "labels" / f"{file.stem}.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    text = "train: ../train/images\nval: ../valid/images\nnames: [thing]\n"
    (folder / "data.yaml").write_text(text)
    return folder


def yolo_named(shapes: Path, folder: Path) -> Path:
    """The same where data.yaml is called after the data."""
    (yolo(shapes, folder) / "data.yaml").rename(folder / "things.yaml")
    (folder / "other.yaml").write_text("train: 3\n")
    return folder


WITH_SPLITS = {
    "coco": coco,
    "below_images": lambda shapes, folder: coco(shapes, folder, "images/{split}2017"),
    "below_images_short": lambda shapes, folder: coco(shapes, folder, "images/{split}"),
    "all_in_images": all_in_one,
    "roboflow": roboflow,
    "ours": shutil.copytree,
}
WITHOUT_SPLITS = {"one_file": one_file, "several_kinds": several_kinds}
FOREIGN = {"voc": (voc, voc_beside), "yolo": (yolo, yolo_named)}
