"""Training samples that are shown are those that training reads."""

import re

import jax
import numpy as np
import pytest

from pix2seq_jax.experiment import browsing, feeds, resolve
from pix2seq_jax.training import sharding
from pix2seq_jax.vocab import FAKE
from tests.helpers import multitask, small

TASKS = ("detection", "segmentation", "keypoints", "captioning")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")
    config = multitask.make(folder)
    config.tasks.detection.train_ops = config.tasks.detection.train_ops.replace(
        "pad_image(", "noise_boxes({max_instances})|pad_image("
    )
    return config


@pytest.fixture(scope="module")
def opened(config, tmp_path_factory):
    """What `browse` opens: (resolved config, text, streams)."""
    from pix2seq_jax.config.fill import fill

    return browsing._opened(fill(config), str(tmp_path_factory.mktemp("none")))


def test_a_page_of_all_tasks(config, tmp_path):
    page = browsing.browse(config, str(tmp_path / "out"), count=2).read_text()
    titles = re.findall(r"<h2>(\w+): image", page)
    assert titles == [name for name in TASKS for _ in range(2)]
    for name in re.findall(r'src="([^"]+\.jpg)"', page):
        assert (tmp_path / "out" / name).is_file()
        assert (tmp_path / "out" / name).with_suffix(".png").is_file()
    assert 'class="token noise"' in page and "http" not in page
    assert "Grey boxes are noise." in page
    with pytest.raises(ValueError, match="give at least 1"):
        browsing.browse(config, str(tmp_path / "no"), count=0)
    with pytest.raises(ValueError, match=r"nowhere/config\.json does not exist"):
        browsing.browse(config, str(tmp_path / "no"), count=1, workdir=str(tmp_path / "nowhere"))


def test_the_samples_are_those_of_training(opened):
    """The batch of a step is the one that the feed of a run gives; what is drawn is what the
    pipeline gave."""
    config, text, streams = opened
    tasks, host_tasks = resolve.make_tasks(config), browsing.make_host_tasks(config)
    mesh = sharding.make_mesh()
    opening = feeds.open_feeds(config, streams, mesh, start=3, bad_images=None)
    with jax.set_mesh(mesh), opening as own:
        batch = {name: np.asarray(x) for name, x in next(iter(own["detection"]))[0].items()}
    mine = next(browsing._batches(config, streams, tasks, "detection", 3))
    for name in ("image", "boxes", "labels"):
        np.testing.assert_array_equal(mine[name], batch[name])
    drawer = browsing._Drawer(tasks["detection"], host_tasks["detection"], config, text)
    part, _ = next(drawer.sequences(iter([mine]), 3))
    row = int(re.search(r"3\.(\d+)$", part.title)[1])
    real = mine["labels"][row] > 0
    classes = [token["text"] for token in part.tokens if token["kind"] == "class"]
    assert classes == [config.data.category_names[x - 1] for x in mine["labels"][row][real]]
    noise = [token for token in part.tokens if token["token"] == FAKE]
    assert len(noise) == np.count_nonzero(mine["labels"][row] < 0) > 0
    sides = np.array(mine["image"].shape[1:3] * 2)
    drawn = drawer._objects(
        {name: x[row : row + 1] for name, x in mine.items()},
        np.asarray(tasks["detection"].encode(mine, jax.random.key(0)).targets[row]),
        0,
        tuple(sides[:2]),
    )
    boxes, labels = mine["boxes"][row][real] * sides, mine["labels"][row][real]
    of_classes = np.array(drawn["labels"]) < len(drawer._names)
    np.testing.assert_array_equal(np.array(drawn["labels"])[of_classes], labels)
    half = sides / (config.vocab.num_bins - 1) / 2 + 1e-3
    assert (np.abs(drawn["boxes"][of_classes] - boxes) <= half).all()


def test_data_mixing_shows_each_task(opened):
    config, text, streams = opened
    config = config.copy_and_resolve_references().unlock()
    config.train.mixing, config.train.batch_size = "data", 16
    tasks, host_tasks = resolve.make_tasks(config), browsing.make_host_tasks(config)
    for name in ("captioning", "detection"):
        drawer = browsing._Drawer(tasks[name], host_tasks[name], config, text)
        part, picture = next(
            drawer.sequences(browsing._batches(config, streams, tasks, name, 0), 0)
        )
        assert part.title.startswith(name) and min(picture.size) > 0 and part.tokens
