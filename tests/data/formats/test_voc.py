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
		<part><name>head</name>
		<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
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
    images, contents = made["train"]
    content = contents["instances"]
    assert images.resolve() == (kit / "VOC2012" / "JPEGImages").resolve()
    size = {"width": WIDTH, "height": HEIGHT}
    assert content["images"] == [
        {"id": i, "file_name": f"{name}.jpg", **size} for i, name in enumerate(SPLITS["train"], 1)
    ]
    names = ["boat", "person", "tvmonitor"]
    assert content["categories"] == [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    assert content["categories"] == made["val"][1]["instances"]["categories"]
    every = [*content["annotations"], *made["val"][1]["instances"]["annotations"]]
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


def test_a_list_may_start_with_a_mark_and_repeat_names(kit, caplog):
    path = kit / "VOC2012" / "ImageSets" / "Main" / "train.txt"
    path.write_text("\n".join([*SPLITS["train"], *SPLITS["train"]]), encoding="utf-8-sig")
    content = voc.convert(kit)["train"][1]["instances"]
    names = [f"{name}.jpg" for name in SPLITS["train"]]
    assert [image["file_name"] for image in content["images"]] == names
    assert len(content["annotations"]) == 2
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(f"{path} lists 2 names more than once, the first is 2008_000002; ")


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


@pytest.mark.parametrize("split", ["train", "val"])
def test_only_the_splits_that_are_asked_for_are_read(kit, tmp_path, split):
    """The other one may be missing."""
    other = {"train": "val", "val": "train"}[split]
    (kit / "VOC2012" / "ImageSets" / "Main" / f"{other}.txt").unlink()
    out = tmp_path / "out"
    prepare("voc", kit, out, f"--splits={split}")
    assert not (out / other).exists() and len(ImageShards(out / split)) == len(SPLITS[split])
    write_beside(tmp_path / "mine" / split, ["a"])
    prepare("voc", tmp_path / "mine", tmp_path / "shards", f"--splits={split}")
    assert len(ImageShards(tmp_path / "shards" / split)) == 1
    said = prepare("voc", kit, tmp_path / "both", code=2)
    assert f"{other}.txt cannot be read" in said


def write_beside(folder, names, box=(1, 1, 4, 4), images=".", annotations=".") -> None:
    """Images with XML files of one object each."""
    for name in names:
        for place in (images, annotations):
            (folder / place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(folder / images / f"{name}.png")
        text = OBJECT.format(name="cat", difficult=0, box=box)
        text = XML.format(name="another name", width=0, height=0, objects=text)
        (folder / annotations / f"{name}.xml").write_text(text)


@pytest.mark.parametrize("val", ["val", "valid", "test"])
def test_xml_files_beside_their_images(tmp_path, caplog, val):
    root = tmp_path / "mine"
    write_beside(root / "train", ["a", "b"])
    write_beside(root / val, ["c"])
    (root / "train" / "b.xml").unlink()
    made = voc.convert(root)
    images, contents = made["train"]
    content = contents["instances"]
    assert images == root / "train"
    assert content["images"] == [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    assert [one["bbox"] for one in content["annotations"]] == [[0, 0, 4, 4]]
    assert (
        "1 of 2 images" in caplog.text and "taken for images without objects: b.png" in caplog.text
    )
    assert [one["file_name"] for one in made["val"][1]["instances"]["images"]] == ["c.png"]
    out = tmp_path / "out"
    prepare("voc", root, out)
    source = CocoDir(ImageShards(out / "train"), out / "annotations" / "instances_train.json")
    np.testing.assert_allclose(source[0]["boxes"], [[0, 0, 4 / HEIGHT, 4 / WIDTH]])
    assert source[1]["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    "places", [(".", "."), ("images", "annotations"), ("JPEGImages", "Annotations")]
)
def test_a_folder_without_splits_is_split_by_a_seed(tmp_path, places):
    root, names = tmp_path / "mine", [f"{number:02d}" for number in range(20)]
    write_beside(root, names, images=places[0], annotations=places[1])
    (images, contents) = voc.convert(root)[""]
    assert images == root / places[0] and len(contents["instances"]["images"]) == 20
    said = prepare("voc", root, tmp_path / "out", "--val_share=0.4", "--split_seed=3")
    assert "val by share 0.4 and seed 3" in said
    sizes = []
    for split in ("train", "val"):
        path = tmp_path / "out" / "annotations" / f"instances_{split}.json"
        sizes.append(len(json.loads(path.read_text())["images"]))
    assert sum(sizes) == 20 and 2 < sizes[1] < 14
    assert sizes[0] == len(
        CocoDir(ImageShards(tmp_path / "out" / "train"), path.with_name("instances_train.json"))
    )


@pytest.mark.parametrize(
    "places", [(".", "."), ("images", "annotations"), ("JPEGImages", "Annotations")]
)
def test_folders_below_are_read(tmp_path, places, caplog):
    """The same name may be in several of them."""
    images, annotations = places
    write_beside(tmp_path, ["cam1/a", "cam2/a", "cam2/b.c"], images=images, annotations=annotations)
    (tmp_path / annotations / "cam2" / "a.xml").unlink()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / images / "d.jpg")
    for hidden in (".cache/a", "cam1/._b"):
        path = tmp_path / images / f"{hidden}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    folder, contents = voc.convert(tmp_path)[""]
    content = contents["instances"]
    assert folder == tmp_path / images
    names = ["cam1/a.png", "cam2/a.png", "cam2/b.c.png", "d.jpg"]
    assert [image["file_name"] for image in content["images"]] == names
    assert [one["image_id"] for one in content["annotations"]] == [1, 3]
    assert "2 of 4 images" in caplog.text and ": cam2/a.png, d.jpg" in caplog.text
    prepare("voc", tmp_path, tmp_path.with_name("out"), "--splits=train")
    (tmp_path / images / "cam2" / "b.c.png").unlink()
    said = prepare("voc", tmp_path, tmp_path.with_name("other"), code=2)
    assert "1 annotation files have no image of the same name" in said and "cam2/b.c.xml" in said


def test_a_folder_without_xml_below_is_left_out_and_counted(tmp_path, caplog):
    write_beside(tmp_path, ["a", "cam/b", "masks/a", "masks/b"])
    for name in ("a", "b"):
        (tmp_path / "masks" / f"{name}.xml").unlink()
    content = voc.convert(tmp_path)[""][1]["instances"]
    assert [image["file_name"] for image in content["images"]] == ["a.png", "cam/b.png"]
    assert "2 images in folders below" in caplog.text and "masks/a.png" in caplog.text


def test_folders_below_those_of_splits_are_read(tmp_path):
    write_beside(tmp_path / "train", ["cam/a", "b"])
    write_beside(tmp_path / "val", ["cam/a"], images="images", annotations="xml")
    (tmp_path / "train" / "cam" / "a.xml").rename(tmp_path / "train" / "cam" / "a.XML")
    made = voc.convert(tmp_path)
    assert made["val"][0] == tmp_path / "val" / "images"
    for split, names in (("train", ["b.png", "cam/a.png"]), ("val", ["cam/a.png"])):
        content = made[split][1]["instances"]
        assert [image["file_name"] for image in content["images"]] == names
        assert len(content["annotations"]) == len(names)


def test_no_other_layout_is_taken_for_files_beside_images(kit, tmp_path):
    """Nor is a folder of data sets taken for one of VOC."""
    assert list(voc.convert(kit)) == ["train", "val"]
    write_beside(tmp_path / "mine", ["a", "labels/b"])
    (tmp_path / "mine" / "labels" / "b.png").unlink()  # labels/ is another place
    assert list(voc.convert(tmp_path)) == ["train", "val"]
    (kit / "VOC2012").rename(kit / "VOC2007")
    with pytest.raises(ValueError, match="no folder with Annotations, ImageSets/Main and JPEGIm"):
        voc.convert(kit)
    assert len(voc.convert(tmp_path / "mine")[""][1]["instances"]["images"]) == 1
    assert voc.is_there(tmp_path / "mine")
    (tmp_path / "mine" / "labels" / "b.xml").unlink()
    (tmp_path / "apart").mkdir()
    (tmp_path / "mine").rename(tmp_path / "apart" / "mine")
    assert not voc.is_there(tmp_path / "apart") and list(voc.convert(tmp_path / "apart")) == [""]


@pytest.mark.parametrize("places", [(".", "."), ("images", "annotations")])
def test_images_of_one_split_are_not_mixed_with_others(tmp_path, places):
    images, annotations = places
    write_beside(tmp_path, ["train/a", "b"], images=images, annotations=annotations)
    said = prepare("voc", tmp_path, tmp_path.with_name("out"), code=2)
    assert f"{tmp_path / images / 'train'} is called like a split" in said
    assert "rename train to have a seed split all images" in said


def test_files_that_count_from_zero_are_seen(tmp_path, caplog):
    write_beside(tmp_path, ["a"], box=(0, 2, 4, 4))
    write_beside(tmp_path, ["b"], box=(1, 1, 4, 4))
    caplog.set_level("INFO")
    first, second = voc.convert(tmp_path)[""][1]["instances"]["annotations"]
    assert first["bbox"] == [0, 2, 4, 2] and first["area"] == 8
    assert second["bbox"] == [1, 1, 3, 3] and "pixels are counted from 0" in caplog.text
    # A box that starts before the image hides nothing.
    write_beside(tmp_path, ["c"], box=(-1, 3, 4, 4))
    boxes = [one["bbox"] for one in voc.convert(tmp_path)[""][1]["instances"]["annotations"]]
    assert boxes == [[0, 2, 4, 2], [1, 1, 3, 3], [-1, 3, 5, 1]]


def test_xml_files_and_images_that_do_not_belong_together(tmp_path):
    root = tmp_path / "mine"
    write_beside(root, ["a", "b"])
    (root / "a.png").rename(root / "c.png")
    said = prepare("voc", root, tmp_path / "out", code=2)
    assert "1 annotation files have no image of the same name" in said and "a.xml" in said
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "a.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "a.jpg")
    said = prepare("voc", root, tmp_path / "out", code=2)
    assert "belong to the same a.xml; rename one of them" in said
