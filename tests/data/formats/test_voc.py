"""PASCAL VOC in its own layout becomes COCO's JSON, pixel for pixel."""

import json

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.data.formats import voc
from pix2seq_jax.data.shards.reading import ImageShards
from tests.helpers.prepared import prepare

# As the development kit writes it.
XML = """<annotation>
	<folder>VOC2012</folder>
	<filename>{name}.jpg</filename>
	<source><database>The VOC2008 Database</database></source>
	<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
	<segmented>0</segmented>
	{objects}
</annotation>
"""
OBJECT = """<object>
		<name>{name}</name>
		<pose>Left</pose>
		<truncated>1</truncated>
		<difficult>{difficult}</difficult>
		<bndbox>
			<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>
		</bndbox>
		<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
	</object>"""
OBJECTS = {  # image -> class, difficult, xmin, ymin, xmax, ymax
    "2008_000002": [("tvmonitor", 0, (1, 1, 40, 30)), ("person", 1, (3, 4, 10, 12))],
    "2008_000007": [("boat", 0, (5.5, 6, 9.5, 20))],
    "2009_000003": [],
}
SPLITS = {"train": ["2008_000002", "2009_000003"], "val": ["2008_000007"]}
WIDTH, HEIGHT = 40, 30


@pytest.fixture
def kit(tmp_path):
    """VOCdevkit."""
    root = tmp_path / "VOCdevkit"
    folder = root / "VOC2012"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages", "SegmentationClass"):
        (folder / part).mkdir(parents=True)
    for name, objects in OBJECTS.items():
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(folder / "JPEGImages" / f"{name}.jpg")
        every = "".join(OBJECT.format(name=n, difficult=d, box=box) for n, d, box in objects)
        text = XML.format(name=name, width=WIDTH, height=HEIGHT, objects=every)
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    for split, names in SPLITS.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


@pytest.mark.parametrize("start", ["", "VOC2012", ".."])
def test_boxes_are_those_of_the_files(kit, start):
    made = voc.convert(kit / start)
    images, content = made["train"]
    assert images.resolve() == (kit / "VOC2012" / "JPEGImages").resolve()
    size = {"width": WIDTH, "height": HEIGHT}
    assert content["images"] == [
        {"id": i, "file_name": f"{name}.jpg", **size} for i, name in enumerate(SPLITS["train"], 1)
    ]
    names = ["boat", "person", "tvmonitor"]
    assert content["categories"] == [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    assert content["categories"] == made["val"][1]["categories"]
    every = [*content["annotations"], *made["val"][1]["annotations"]]
    boxes = [(one["category_id"], one["iscrowd"], one["bbox"], one["area"]) for one in every]
    assert boxes == [
        (3, 0, [0, 0, 40, 30], 1200),  # the whole image
        (2, 1, [2, 3, 8, 9], 72),
        (1, 0, [4.5, 5, 5, 15], 75),
    ]


def test_shards_of_it_are_a_source(kit, tmp_path):
    out = tmp_path / "out"
    prepare("voc", kit, out)
    before = (out / "annotations" / "instances_train.json").read_bytes()
    prepare("voc", kit, out)  # goes on
    assert (out / "annotations" / "instances_train.json").read_bytes() == before
    source = CocoDir(ImageShards(out / "train"), out / "annotations" / "instances_train.json")
    assert source.category_names == ("boat", "person", "tvmonitor") and len(source) == 2
    np.testing.assert_array_equal(source[0]["boxes"][0], [0, 0, 1, 1])
    np.testing.assert_array_equal(source[0]["is_crowd"], [False, True])
    path = kit / "VOC2012" / "Annotations" / "2008_000002.xml"
    path.write_text(path.read_text().replace("<xmin>3<", "<xmin>2<"))
    said = prepare("voc", kit, out, code=2)
    assert "instances_train.json is not what --source=" in said and "give another --out" in said
    assert json.loads(before) == json.loads(
        (out / "annotations" / "instances_train.json").read_bytes()
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("Annotations/2008_000007.xml", "<xmax>9.5<", "<xmax>x<", "xmax of boat is 'x'; give a n"),
        ("Annotations/2008_000007.xml", "<xmax>9.5<", "<xmax>2<", "boat is 5.5, 6, 2, 20 "),
        ("Annotations/2008_000007.xml", "xmax>9", "xmin>9", "2008_000007.xml cannot be read"),
        ("Annotations/2008_000007.xml", "<name>boat</name>", "", "an object has no name; add it"),
        ("ImageSets/Main/val.txt", "2008_000007", "", "val.txt lists no image; one name a line"),
        ("ImageSets/Main/val.txt", "2008", "2011", "2011_000007.xml cannot be read"),
    ],
)
def test_what_does_not_fit_is_named(kit, tmp_path, file, old, new, says):
    path = kit / "VOC2012" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert says in prepare("voc", kit, tmp_path / "out", code=2)


def test_another_folder_is_refused(tmp_path):
    said = prepare("voc", tmp_path, tmp_path / "out", code=2)
    assert "no folder with Annotations, ImageSets/Main and JPEGImages" in said
    assert "give the folder of a year, as in VOCdevkit/VOC2012" in said
