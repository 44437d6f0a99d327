"""Imported models as workdirs: their labels, fine-tuning, size and time, and the command."""

import json
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from pix2seq_jax.config import layouts
from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.experiment import claim, inputs, resolve, saved_run
from pix2seq_jax.experiment.workdir import CHECKPOINTS
from pix2seq_jax.official import names as official_names
from pix2seq_jax.official import reader
from pix2seq_jax.training import checkpoint
from tests.helpers import small
from tests.helpers.commands import command
from tests.helpers.official_checkpoints import VIT_B, key, write
from tests.helpers.refusals import LOADING

pytestmark = LOADING


def test_labels_of_an_imported_model_are_category_ids(tmp_path):
    folder = small.make_shapes(tmp_path / "shapes")
    source = CocoDir(
        folder / "val", folder / "annotations" / "instances_val.json", label_ids=range(1, 91)
    )
    plain = CocoDir(folder / "val", folder / "annotations" / "instances_val.json")
    assert (source.category_names[2], source.category_names[1]) == ("circle", "class 2")
    for i in range(len(source)):
        np.testing.assert_array_equal(
            source[i]["labels"], np.take(plain.category_ids, plain[i]["labels"] - 1)
        )
    assert source.coco_dict() == plain.coco_dict()


def test_the_shipped_config_finetunes_an_imported_workdir(tmp_path):
    folder, workdir = small.make_shapes(tmp_path / "shapes"), tmp_path / "run"
    saved_run.save_config(workdir, reader.make_config({"model": VIT_B}))
    (workdir / CHECKPOINTS / "0" / "state").mkdir(parents=True)
    config = small.load("detection.py:arch=vit-b,size=640")
    config.update_from_flattened_dict(small.on_folder(folder) | {"train.batch_size": 4})

    def claimed():
        ours = saved_run.keep_labels(config, workdir)
        resolved = resolve.resolve(ours, inputs.open_sources(ours, "train"))
        claim.claim_workdir(workdir, resolved)
        return resolved

    with pytest.raises(ValueError, match="'circle' there and 'car' in the model"):
        claimed()
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["name"] = layouts.COCO_CATEGORIES[category["id"]]
    path.write_text(json.dumps(content))
    names = claimed().data.category_names
    assert len(names) == 90 and names[2] == "car" and names[11] == "class 12"


def test_a_full_size_import_is_quick_and_lean(tmp_path):
    config = {"model": VIT_B}
    arrays, model = {}, resolve.make_model(reader.make_config(config))
    for name, (shape, parts) in reader.wanted_variables(model).items():
        shape = shape[1:] if official_names.is_stacked(name.partition("/")[2]) else shape
        arrays |= {key(part): np.ones(shape, np.float32) for part in parts}
    write(tmp_path / "official", config, arrays)
    peak = (
        "print([line for line in open('/proc/self/status') if "
        "line.startswith('VmHWM')][0].split()[1])"
    )
    code = (
        f"from pix2seq_jax import import_tf as i; i.run('{tmp_path}/official', '{tmp_path}/run'); "
        f"{peak}"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=small.ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert "369 variables, 115,169,976 parameters" in lines[-2]
    assert time.monotonic() - start < 60 and int(lines[-1]) < 2_000_000, f"{lines[-1]} kB"


def test_import_evaluate_finetune_resume(golden_dir, tmp_path):
    folder, workdir = small.make_shapes(tmp_path / "shapes"), tmp_path / "run"
    arguments = [f"--from={golden_dir / 'vit_tiny'}", f"--workdir={workdir}"]
    assert "encoder/stem_conv/kernel" in command("import_tf", *arguments)
    assert "holds a run already" in command("import_tf", *arguments, code=2)
    changes = {
        "train.batch_size": 8,
        "eval.batch_size": 8,
        "schedule.warmup": 1,
        "eval.pictures": 1,
    }
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    main = (
        f"--config={small.ROOT}/configs/workdir.py:{workdir},data={folder}",
        f"--workdir={workdir}",
        *flags,
    )
    assert "AP50" in command("main", *main, "--mode=eval")
    assert json.loads((workdir / "metrics.json").read_text())["step"] == 0
    out = tmp_path / "out"
    command(
        "predict",
        f"--workdir={workdir}",
        f"--images={folder}/val/*",
        "--limit=2",
        f"--out={out}",
        "--threshold=0",
    )
    found = json.loads((out / "predictions.json").read_text())
    assert all(thing["category"].startswith("class ") for row in found for thing in row["objects"])
    _, before, _ = reader.load(golden_dir / "vit_tiny")
    assert "weights: imported" in command("main", *main, "--mode=train", "--config.train.steps=5")
    assert "resumed at step 5" in command("main", *main, "--mode=train", "--config.train.steps=7")
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), before
    )
    step, after, _ = checkpoint.load_variables(workdir / CHECKPOINTS, shapes)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, after)
    # Fine-tuning starts from the imported weights.
    assert step == 7 and 0 < max(jax.tree.leaves(moved)) < 1e-2
