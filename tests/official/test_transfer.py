"""Warm start: positions by place, refusals, the report, and train.run from a run of its own."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

from pix2seq_jax import import_tf, train
from pix2seq_jax.experiment import resolve, saved_run
from pix2seq_jax.experiment import start as run_start
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.models import backbones
from pix2seq_jax.official import transfer
from pix2seq_jax.official.source import read
from pix2seq_jax.training import checkpoint, optim, sharding, trees
from pix2seq_jax.training import state as train_state
from tests.helpers import small
from tests.helpers.warm_start import BIAS, EMBEDDING, make, plan, shapes, source

OUTPUT_EMBEDDING, CLS_TOKEN = "params/decoder/output_embedding", "params/image_encoder/cls_token"
GRIDS = ("params/image_encoder/positions", "params/projection/positions")
SEQUENCE = "params/decoder/positions"


def apply(config, variables, *, image_seed=0):
    """Logits of some images and tokens."""
    model, rng = resolve.make_model(config), np.random.default_rng(image_seed)
    images = rng.uniform(size=(2, *model.image_size, 3)).astype(np.float32)
    return np.asarray(model.apply(variables, images, rng.integers(0, 150, (2, 9)).astype(np.int32)))


def taken(parts) -> dict:
    """Variables of a plan in which everything is taken."""
    flat = {name: part.values for name, part in parts.items() if part.what != "dropped"}
    return traverse_util.unflatten_dict(flat, sep="/")


def start(config, workdir, mesh=None):
    """(fresh variables, variables after run_start.first_state, where they come from)."""
    mesh = mesh or sharding.make_mesh()
    options = {name: value for name, value in config.optim.items() if name != "frozen"}
    model, tx = resolve.make_model(config), optim.make(learning_rate=1e-3, **options)
    fresh = train_state.variables(
        train_state.init_state(model, tx, jax.random.key(config.seed), mesh=mesh)
    )
    with jax.set_mesh(mesh):
        state, origin = run_start.first_state(config, workdir, {}, model, tx, mesh)
    return fresh, train_state.variables(state), origin


@pytest.mark.parametrize("cls", [False, True])
def test_learned_positions_are_resized(cls):
    learned = {"pos_encoding": "learned", "use_cls_token": cls}
    theirs, ours = make(**learned), make(image_size=(96, 80), **learned)
    arrays, parts, text = plan(theirs, ours)
    for name in GRIDS:
        expected = jax.image.resize(arrays[name].reshape(4, 4, 16), (6, 5, 16), "bilinear").reshape(
            30, 16
        )
        np.testing.assert_array_equal(parts[name].values, expected)
        assert parts[name].what == "resized"
    if cls:
        np.testing.assert_array_equal(parts[CLS_TOKEN].values, arrays[CLS_TOKEN])
    assert "4 x 4 -> 6 x 5" in text and "image_size is [64, 64] there and [96, 80] here" in text
    turned = plan(make(image_size=(32, 64), **learned), make(image_size=(64, 32), **learned))[1]
    assert turned[GRIDS[0]].what == "resized", "as many tokens, but another grid"


@pytest.mark.parametrize("length", [20, 50])
def test_positions_of_a_longer_or_shorter_sequence(length):
    arrays, parts, text = plan(make(), make(seq=length))
    common, part = min(length, 32), parts[SEQUENCE]
    np.testing.assert_array_equal(part.values[:common], arrays[SEQUENCE][:common])
    np.testing.assert_array_equal(part.taken, np.arange(length) < common)
    assert (
        "copied positions 32; new 18" if length == 50 else "copied positions 20; dropped 12"
    ) in text


def test_options_of_the_same_architecture():
    """What an option adds starts so that the model computes what the source does, where that can
    be."""
    theirs = make()
    ours = make(pos_encoding="learned", shared_embedding=False)
    given = source(theirs)
    parts = transfer.plan(given, ours, shapes(ours))
    before = apply(theirs, traverse_util.unflatten_dict(given.arrays, sep="/"))
    np.testing.assert_allclose(apply(ours, taken(parts)), before, rtol=0, atol=1e-4)
    assert parts[OUTPUT_EMBEDDING].detail == f"from {EMBEDDING}"
    back = plan(ours, theirs)[1]
    assert {name for name, part in back.items() if part.what == "dropped"} == {
        *GRIDS,
        OUTPUT_EMBEDDING,
    }
    assert plan(make(output_bias=False), theirs)[1][BIAS].what == "new"
    fixed = plan(make(dec_pos_encoding="sin_cos"), theirs)[1][SEQUENCE]
    assert fixed.what == "copied" and "sin-cos" in fixed.detail


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"dec_layers": 2}, ("[1, ", "[2, ", "dec_layers is 1 there and 2 here")),
        (
            {"enc_dim": 32, "enc_mlp": 64},
            ("enc_dim is 16 there and 32 here", "enc_mlp is 32 there and 64 here"),
        ),
        ({"dec_heads": 4}, ("dec_heads is 2 there and 4 here",)),
        (
            {"backbone": {"name": "vit", "patch_size": 8}},
            ("params/stem/kernel is [16, 16, 3, 16]", "[8, 8, 3, 16]", "patch_size is 16 there"),
        ),
        (
            {"backbone": backbones.complete({"name": "resnet"})},
            ("missing", "backbone.name is 'vit' there and 'resnet' here"),
        ),
        (
            {"proj_mode": "linear"},
            ("params/projection/mlp", "and missing in the model", "proj_mode is 'mlp' there"),
        ),
    ],
)
def test_another_architecture_is_refused(fields, parts):
    with pytest.raises(ValueError) as caught:
        plan(make(), make(**fields))
    for part in (*parts, "runs/a step 5", "same architecture", "config.init_from"):
        assert part in str(caught.value)


def test_another_convention_of_resnets_is_refused():
    """It changes what is computed, and no parameter shows it."""
    fields = {"name": "resnet", "width": 1 / 16}
    theirs = make(backbone=backbones.complete(fields))
    with pytest.raises(ValueError, match=r"convention is 'official' in runs/a .* 'torch' in the"):
        plan(theirs, make(backbone=backbones.complete(fields | {"convention": "torch"})))


@pytest.mark.parametrize("name", ["vit_tiny", "resnet_tiny"])
def test_an_official_checkpoint_with_an_unchanged_vocabulary(name, golden_dir):
    given = read(str(golden_dir / name), sharding.make_mesh())
    wanted = shapes(given.config)
    parts = transfer.plan(given, given.config, wanted)
    assert any(path.startswith("batch_stats/") for path in parts) == (name == "resnet_tiny")
    for path, part in parts.items():
        np.testing.assert_array_equal(part.values, given.arrays[path])
    with np.load(golden_dir / name / "io.npz") as io:
        logits = resolve.make_model(given.config).apply(
            taken(parts), io["images"], io["seq"].astype(np.int32)
        )
        np.testing.assert_allclose(np.asarray(logits), io["logits"], rtol=0, atol=1e-4)
    text = transfer.report(given, given.config, wanted, parts)
    assert f"parameters: {len(parts)} copied, 0 resized, 0 rows, 0 new, 0 dropped" in text
    assert text.count("\n") == len(parts) + 5 and text.endswith("config.model: equal")
    assert len(transfer.report(given, given.config, wanted, parts, every=False).splitlines()) == 6


def test_an_imported_workdir_for_another_model(golden_dir, tmp_path):
    """Other classes, bins, sequence length and image size; on a mesh that cuts the tables."""
    imported = import_tf.run(golden_dir / "vit_tiny", tmp_path / "imported")
    theirs = saved_run.load_config(tmp_path / "imported").unlock()
    names = list(theirs.data.category_names)
    names[4], names[9] = "Traffic light", "person"
    theirs.data.category_names = tuple(names)
    saved_run.save_config(tmp_path / "imported", theirs)
    ours = theirs.copy_and_resolve_references()
    ours.init_from = f"{tmp_path / 'imported'}@0"
    ours.data.category_names, ours.data.category_ids = (
        ("person", "kite", "traffic_light"),
        (1, 2, 3),
    )
    ours.vocab = {
        "size": 256,
        "num_bins": 50,
        "num_classes": 3,
        "coord_shift": 104,
        "text_shift": 256,
        "text_size": 0,
    }
    ours.model.update({"vocab_size": 256, "max_seq_len": 64, "image_size": (32, 32)})
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "model": 2})
    fresh, variables, origin = start(ours, tmp_path / "run", mesh)
    assert origin.startswith(f"warm start from {tmp_path / 'imported'} step 0 (")
    old, fresh, new = (trees.flatten_names(tree) for tree in (imported.variables, fresh, variables))
    assert old.keys() == new.keys()
    for name in new:
        assert new[name].sharding == fresh[name].sharding
        if new[name].shape == old[name].shape:
            np.testing.assert_array_equal(new[name], old[name])
    for name in (EMBEDDING, BIAS):
        rows, before, start_of = (np.asarray(tree[name]) for tree in (new, old, fresh))
        np.testing.assert_array_equal(rows[:101], before[:101])
        np.testing.assert_array_equal(rows[[101, 103]], before[[110, 105]])
        np.testing.assert_array_equal(rows[102], start_of[102])
        np.testing.assert_array_equal(rows[[104, 153]], before[[160, 160 + 127]])
        np.testing.assert_array_equal(rows[154:160], start_of[154:160])
    np.testing.assert_array_equal(new[SEQUENCE][:48], old[SEQUENCE])
    np.testing.assert_array_equal(new[SEQUENCE][48:], fresh[SEQUENCE][48:])
    text = (tmp_path / "run" / transfer.REPORT).read_text()
    assert "class 2, coordinate" not in text and "resized coordinate 128 -> 50" in text
    assert "dropped class 57, text 120" in text and "0 resized, 3 rows" in text


def test_train_from_a_run_of_ones_own(tmp_path, caplog):
    """Other classes, bins, image size; then resumed without the source, and by a config that knows
    no warm start."""
    folder = small.make_shapes(tmp_path / "shapes")
    first = str(tmp_path / "first")
    train.run(
        small.config("detection.py:shapes", folder, train__checkpoint_steps=1),
        first,
        evaluate_too=False,
    )
    newest, before = (read(name, sharding.make_mesh()) for name in (first, f"{first}@1"))
    assert (newest.where, before.where) == (f"{first} step 2", f"{first} step 1")
    assert all(isinstance(array, np.ndarray) for array in newest.arrays.values())
    assert (newest.arrays[EMBEDDING] != before.arrays[EMBEDDING]).any()
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    names = [category["name"] for category in content["categories"]]
    content["categories"][1]["name"], content["categories"][2]["name"] = "blob", names[2].upper()
    path.write_text(json.dumps(content))
    changed = {"init_from": first, "vocab__num_bins": 64, "model__image_size": (64, 64)}
    section = small.load("detection.py:shapes").tasks.detection
    for name in ("train_ops", "eval_ops"):
        changed[f"tasks__detection__{name}"] = section[name].replace("48", "64")
    config = small.config("detection.py:shapes", folder, **changed)
    caplog.set_level("INFO", logger="pix2seq_jax")
    log.addHandler(caplog.handler)
    try:
        train.run(config, tmp_path / "second", evaluate_too=False)
        assert f"weights: warm start from {first} step 2 (" in caplog.text
        assert (
            "resized coordinate 48 -> 64" in caplog.text and "classes new: 1 (blob)" in caplog.text
        )
        shutil.rmtree(first)
        config.train.steps = 3
        train.run(config, tmp_path / "second", evaluate_too=False)
        assert (
            "weights: resumed at step 2; config.init_from=" in caplog.text
            and "is ignored" in caplog.text
        )
        saved = json.loads((tmp_path / "second" / "config.json").read_text())
        assert saved.pop("init_from") == first
        (tmp_path / "second" / "config.json").write_text(json.dumps(saved))
        config.train.steps, config.init_from = 4, ""
        train.run(config, tmp_path / "second", evaluate_too=False)
        assert caplog.text.splitlines()[-1] and "weights: resumed at step 3" in caplog.text
        assert saved_run.load_config(tmp_path / "second").init_from == ""
        config.init_from = first
        with pytest.raises(ValueError, match="first is not a folder"):
            train.run(config, tmp_path / "third", evaluate_too=False)
    finally:
        log.removeHandler(caplog.handler)
    assert not checkpoint.steps(tmp_path / "third" / "checkpoints")
