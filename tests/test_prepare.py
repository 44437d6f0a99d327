"""An evaluation on shards is the one on loose files: the same metrics and results. That training
reads the same batches is tested in tests/data/shards."""

import json
import shutil

from pix2seq_jax import evaluate, train
from tests.helpers import small
from tests.helpers.prepared import prepare


def outcome(workdir) -> tuple:
    """(metrics, results) of the last evaluation of a run."""
    metrics = json.loads((workdir / "metrics.json").read_text())["detection"]
    return metrics, json.loads((workdir / "results" / "detection.json").read_text())


def test_a_run_on_shards_is_evaluated_as_on_loose_files(tmp_path):
    folder, out = small.make_shapes(tmp_path / "shapes"), tmp_path / "out"
    prepare("coco_dir", folder, out, "--images_per_shard=5")
    config = small.config("detection.py:shapes", out, data__source="array_record")
    train.run(config, tmp_path / "run")
    sharded = outcome(tmp_path / "run")
    assert sharded[0]["images"] == small.VAL_IMAGES and sharded[1]
    shutil.rmtree(tmp_path / "run" / "results")
    evaluate.run(small.config("detection.py:shapes", folder), tmp_path / "run")
    assert outcome(tmp_path / "run") == sharded
