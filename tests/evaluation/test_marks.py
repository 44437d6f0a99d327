"""What is drawn of one image: objects of all tasks, and texts below."""

from pix2seq_jax.evaluation import HOST_TASKS
from pix2seq_jax.evaluation.marks import marks, rows_of

HOSTS = {name: host_task() for name, host_task in HOST_TASKS.items()}
BOX = {"image_id": 1, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
LABELS = {3: 1}


def test_captions_go_with_or_without_objects():
    texts = [{"caption": "a circle"}, {"caption": "a ring left of a star"}]
    drawn = marks({"captioning": texts}, HOSTS, LABELS, (20, 30))
    assert drawn["captions"] == ["a circle", "a ring left of a star"] and drawn["labels"] == []
    drawn = marks({"detection": [BOX], "captioning": texts[:1]}, HOSTS, LABELS, (20, 30))
    assert drawn["captions"] == ["a circle"] and drawn["labels"] == [1]


def test_rows_of_one_image():
    rows = {"detection": [BOX, BOX | {"image_id": 2}], "captioning": []}
    assert rows_of(rows, 2) == {"detection": [BOX | {"image_id": 2}], "captioning": []}
