"""A new task is two files, a line in each of two tables, and a config: here, counting objects."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest

from pix2seq_jax import evaluate, train
from pix2seq_jax.config import build, sections
from pix2seq_jax.evaluation import HOST_TASKS
from pix2seq_jax.evaluation.base import HostTask
from pix2seq_jax.tasks import TASKS
from pix2seq_jax.tasks.base import Sequences, Task, first_sample
from pix2seq_jax.vocab import Vocab
from tests.helpers import small

PROMPT = 20  # a token that no other task has


@dataclass(frozen=True)
class Counting(Task):
    """The device half, as tasks/counting.py would be: how many objects of a class are there?"""

    vocab: Vocab
    counted: int = 1  # label

    name: ClassVar[str] = "counting"
    max_len: ClassVar[int] = 2

    def encode(self, example: Mapping[str, jnp.ndarray], rng: jax.Array) -> Sequences:
        number = jnp.sum(example["labels"] == self.counted, axis=1, keepdims=True)  # [B,1]
        tokens = (self.vocab.coord_range[0] + number).astype(jnp.int32)
        return Sequences(self.prompt(example), tokens, tokens, jnp.ones(tokens.shape))

    def prompt(self, example: Mapping[str, jnp.ndarray]) -> jnp.ndarray:
        return jnp.full((example["image"].shape[0], 1), PROMPT, jnp.int32)

    def decode(self, tokens, scores, example) -> dict[str, jnp.ndarray]:
        return {"number": first_sample(tokens, scores)[0][:, 0] - self.vocab.coord_range[0]}


@dataclass(frozen=True)
class HostCounting(HostTask):
    """The host half, as evaluation/counting.py would be."""

    name: ClassVar[str] = "counting"
    annotations: ClassVar[str] = "annotations"
    metrics: ClassVar[tuple[str, ...]] = ("error",)
    main_metric: ClassVar[str] = "error"

    def results(self, part, rows) -> list[dict]:
        numbers = zip(rows.image_ids, part["number"].tolist(), strict=True)
        return [{"image_id": int(image_id), "number": number} for image_id, number in numbers]

    def score(self, source, annotations, results, image_ids) -> dict:
        wanted = {image_id: 0 for image_id in image_ids}
        for row in self.truth(source, annotations, image_ids):
            wanted[row["image_id"]] += row["category_id"] == source.category_ids[0]
        errors = [abs(row["number"] - wanted[row["image_id"]]) for row in results]
        return {"error": sum(errors) / len(errors)}

    def texts(self, rows) -> list[str]:
        return [f"{row['number']} objects" for row in rows if "number" in row]


def get_config(arg: str = ""):
    """The config file, as configs/counting.py would be."""
    config = build.build(arg, recipe="multitask", tasks=("detection",))
    config.tasks.counting = sections.section(
        Counting,
        HostCounting,
        train_ops="decode|resize({size})|pad_image({side})|pad_objects({slots})",
        eval_ops="decode|resize({size})|pad_image({side})",
        sampler="greedy",
    )
    config.tasks.detection.weight = config.tasks.counting.weight = 0.5
    return config


@pytest.fixture
def fifth(monkeypatch):
    """The line in each table."""
    monkeypatch.setitem(TASKS, Counting.name, Counting)
    monkeypatch.setitem(HOST_TASKS, HostCounting.name, HostCounting)


def test_it_trains_evaluates_and_is_in_the_metrics(fifth, tmp_path):
    folder = small.make_shapes(tmp_path / "shapes")
    config = get_config("shapes")
    config.update_from_flattened_dict(small.shrunk(config) | small.on_folder(folder))
    metrics = train.run(config, tmp_path / "run")
    assert metrics["counting"]["error"] >= 0
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["counting"] == metrics["counting"] and "AP" in written["detection"]
    rows = json.loads((tmp_path / "run" / "results" / "counting.json").read_text())
    assert len(rows) == small.VAL_IMAGES
    losses = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert "train/counting/loss" in json.loads(losses[0])
    again = evaluate.run(config, tmp_path / "run")
    assert again["counting"] == metrics["counting"]


def test_it_is_unknown_without_its_lines(tmp_path):
    folder = small.make_shapes(tmp_path / "shapes")
    config = get_config("shapes")
    config.update_from_flattened_dict(small.shrunk(config) | small.on_folder(folder))
    with pytest.raises(ValueError, match="counting: unknown task"):
        train.run(config, tmp_path / "run")
