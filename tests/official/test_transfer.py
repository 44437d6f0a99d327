"""Warm start: rows by meaning, positions by place, refusals, the report, and train.run from a run
of its own."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

from pix2seq_jax import import_tf, train
from pix2seq_jax.data.coco.classes import UNNAMED
from pix2seq_jax.experiment import resolve, saved_run
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.models import backbones
from pix2seq_jax.official import reader, transfer
from pix2seq_jax.training import checkpoint, optim, sharding, trees
from pix2seq_jax.training import state as train_state
from tests.helpers import small

EMBEDDING, BIAS = "params/decoder/embedding", "params/decoder/output_bias"
OUTPUT_EMBEDDING, CLS_TOKEN = "params/decoder/output_embedding", "params/image_encoder/cls_token"
GRIDS = ("params/image_encoder/positions", "params/projection/positions")
SEQUENCE = "params/decoder/positions"
ANIMALS = ("Cat", "dog", "Polar_bear")


def make(names=ANIMALS, *, ids=None, bins=16, text=0, seq=32, size=64, **model):
    """A resolved config of a tiny model."""
    config = small.load("detection.py:shapes")
    config.update_from_flattened_dict(small.shrunk(config))
    config.data.category_names = tuple(names)
    config.data.category_ids = tuple(range(1, len(names) + 1) if ids is None else ids)
    fields = {
        "num_bins": bins,
        "num_classes": len(names),
        "coord_shift": 120,
        "text_shift": 200,
        "text_size": text,
    }
    config.vocab.update(fields | {"size": 200 + text})
    sizes = {"vocab_size": 200 + text, "max_seq_len": seq, "image_size": (size, size)}
    model = sizes | model
    if "backbone" in model:
        config.model.backbone = model.pop("backbone")
    config.model.update(model)
    return config


def shapes(config) -> dict[str, tuple[int, ...]]:
    model = resolve.make_model(config)
    return {name: shape for name, (shape, _) in reader.wanted_variables(model).items()}


def source(config) -> transfer.Source:
    """A model of random numbers, none of them 0."""
    rng = np.random.default_rng(3)
    arrays = {
        name: rng.uniform(1, 2, shape).astype(np.float32) for name, shape in shapes(config).items()
    }
    return transfer.Source("runs/a step 5", config, arrays)


def plan(theirs, ours):
    """(arrays of the source, what becomes of every parameter, the report)."""
    given, wanted = source(theirs), shapes(ours)
    parts = transfer.plan(given, ours, wanted)
    assert all(
        part.values is None or part.values.shape == wanted[name] for name, part in parts.items()
    )
    return given.arrays, parts, transfer.report(given, ours, wanted, parts)


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
    """(fresh variables, variables after train.first_state, where they come from)."""
    mesh = mesh or sharding.make_mesh()
    model, tx = resolve.make_model(config), optim.make(learning_rate=1e-3, **config.optim)
    fresh = train_state.variables(
        train_state.init_state(model, tx, jax.random.key(config.seed), mesh=mesh)
    )
    with jax.set_mesh(mesh):
        state, origin = train.first_state(config, workdir, {}, model, tx, mesh)
    return fresh, train_state.variables(state), origin


def test_classes_are_matched_by_name():
    arrays, parts, text = plan(make(), make(("kite", "polar bear", "CAT")))
    part = parts[EMBEDDING]
    assert part.what == "rows" and not part.known[101] and part.known[102:104].all()
    for table in (EMBEDDING, BIAS):
        values = parts[table].values
        np.testing.assert_array_equal(values[[103, 102]], arrays[table][[101, 103]])
        np.testing.assert_array_equal(values[:101], arrays[table][:101])
        np.testing.assert_array_equal(values[104:], arrays[table][104:])
    assert (
        "copied special 101, class 2, coordinate 16, unused 80; new class 1; dropped class 1"
        in text
    )
    for line in (
        "classes copied: 2 (polar bear, CAT)",
        "classes new: 1 (kite)",
        "classes dropped: 1 (dog)",
    ):
        assert line in text


def test_rows_follow_a_vocabulary_that_is_laid_out_anew():
    ours = make(text=9)
    ours.vocab.update({"coord_shift": 110, "text_shift": 300, "size": 320})
    ours.model.vocab_size = 320
    arrays, parts, _ = plan(make(text=9), ours)
    values, known = parts[EMBEDDING].values, parts[EMBEDDING].known
    np.testing.assert_array_equal(values[110:126], arrays[EMBEDDING][120:136])
    np.testing.assert_array_equal(values[300:309], arrays[EMBEDDING][200:209])
    np.testing.assert_array_equal(
        values[150:200], arrays[EMBEDDING][150:200]
    )  # stands for nothing on either side
    assert not known[126:136].any() and not known[309:].any()


def test_labels_without_a_name():
    """They are the same only in the same list of categories."""
    names = ("person", UNNAMED.format(2), "bus")
    rows = transfer.match_tokens(make(names, ids=(1, 2, 6)), make(names, ids=(1, 2, 6)))
    assert rows.matched["class"] == 3 and not rows.new and not rows.dropped
    rows = transfer.match_tokens(make(names, ids=(1, 2, 6)), make(names, ids=(1, 3, 6)))
    assert (rows.matched["class"], rows.new["class"], rows.dropped["class"]) == (2, 1, 1)
    rows = transfer.match_tokens(
        make(names, ids=(1, 2, 6)), make(("person", "class 3", "class 2"), ids=(1, 2, 6))
    )
    assert rows.low[102] == -1 and rows.low[103] == -1, (
        "'class 3' is the name of label 2 there, by chance"
    )


def test_a_name_that_two_classes_bear():
    rows = transfer.match_tokens(make(("cat", "dog", "Cat")), make(("cat", "dog", "Cat")))
    np.testing.assert_array_equal(rows.low, np.arange(200))
    rows = transfer.match_tokens(make(("cat", "dog")), make(("cat", "cat")))
    np.testing.assert_array_equal(rows.low[101:103], [101, -1])


@pytest.mark.parametrize(("there", "here"), [(16, 31), (31, 16), (16, 50), (3, 2)])
def test_bins_are_interpolated(there, here):
    arrays, parts, text = plan(make(bins=there), make(bins=here))
    places = (np.linspace(0, 1, count) for count in (here, there))
    for table in (EMBEDDING, BIAS):
        old = arrays[table][120 : 120 + there].reshape(there, -1)
        new = parts[table].values[120 : 120 + here].reshape(here, -1)
        places = np.linspace(0, 1, here), np.linspace(0, 1, there)
        expected = np.stack([np.interp(*places, column) for column in old.T], axis=1)
        np.testing.assert_allclose(new, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(new[[0, -1]], old[[0, -1]])
    assert parts[EMBEDDING].known[120 : 120 + here].all()
    assert f"resized coordinate {there} -> {here}" in text


def test_text_is_matched_by_piece_in_equal_text_models():
    same = transfer.match_tokens(make(text=12), make(text=12))
    assert same.matched["text"] == 12
    other = transfer.match_tokens(make(text=12), make(text=13))
    assert (other.matched["text"], other.new["text"], other.dropped["text"]) == (0, 13, 12)
    given, config = source(make(text=12)), make(text=12)
    for there, here, kept in (
        ("a", "a", True),
        ("a", None, True),
        (None, "a", True),
        ("a", "b", False),
    ):
        parts = transfer.plan(given._replace(text=there), config, shapes(config), here)
        assert parts[EMBEDDING].what == ("copied" if kept else "rows")
    np.testing.assert_array_equal(parts[EMBEDDING].known, np.arange(212) < 200)


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
    np.testing.assert_array_equal(part.known, np.arange(length) < common)
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


@pytest.mark.parametrize("name", ["vit_tiny", "resnet_tiny"])
def test_an_official_checkpoint_with_an_unchanged_vocabulary(name, golden_dir):
    given = transfer.read(str(golden_dir / name), sharding.make_mesh())
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


def test_an_imported_workdir_for_another_model(golden_dir, tmp_path, quick_compilation):
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


def refused(init_from, *parts):
    with pytest.raises(ValueError) as caught:
        transfer.read(str(init_from), sharding.make_mesh())
    for part in (f"config.init_from={str(init_from)!r}", *parts):
        assert part in str(caught.value)


def test_folders_that_are_no_source(golden_dir, tmp_path):
    refused(tmp_path / "gone", "gone is not a folder")
    refused(tmp_path, "neither the workdir of a run", "ckpt-*.index", "WORKDIR@STEP")
    refused(f"{golden_dir / 'vit_tiny'}@3", "@STEP is for a workdir")
    refused("gs://pix2seq-no-such-bucket/model", "cannot be read")
    shutil.copy(golden_dir / "vit_tiny" / "ckpt-0.index", tmp_path)
    refused(tmp_path, "config.json does not exist")
    workdir = tmp_path / "run"
    import_tf.run(golden_dir / "vit_tiny", workdir)
    refused(f"{workdir}@7", "step 7 cannot be used", "steps there: [0]")
    refused(workdir / "checkpoints" / "0", "neither the workdir of a run")
    (workdir / "checkpoints" / "0" / "SHA256SUMS").write_text("0  state/x\n")
    refused(workdir, "every checkpoint in", "is damaged")
    shutil.rmtree(workdir / "checkpoints")
    refused(workdir, "no checkpoint in")


def test_train_from_a_run_of_ones_own(tmp_path, caplog, quick_compilation):
    """Other classes, bins, image size; then resumed without the source, and by a config that knows
    no warm start."""
    folder = small.make_shapes(tmp_path / "shapes")
    first = str(tmp_path / "first")
    train.run(
        small.config("detection.py:shapes", folder, train__checkpoint_steps=1),
        first,
        evaluate_too=False,
    )
    newest, before = (transfer.read(name, sharding.make_mesh()) for name in (first, f"{first}@1"))
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
