"""Official checkpoints: the recorded ones, changes of them, every way to be broken, and the
commands."""

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow as tf

from pix2seq_jax.config import layouts
from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.experiment import inputs, resolve, saved_run
from pix2seq_jax.experiment.workdir import CHECKPOINTS
from pix2seq_jax.models.positions import sin_cos_2d
from pix2seq_jax.official import importing, reader
from pix2seq_jax.official import names as official_names
from pix2seq_jax.training import checkpoint, trees
from tests.helpers import small

NAMES = ("vit_tiny", "resnet_tiny", "resnet_c4_tiny")
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
PATCHES = 24  # of vit_tiny, 4 x 6
VIT_B = {"num_encoder_layers": 12, "dim_att": 768, "dim_mlp": 3072, "num_heads": 12}
VIT_B |= {"num_decoder_layers": 6, "dim_att_dec": 512, "dim_mlp_dec": 2048, "num_heads_dec": 16}


def recorded(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """config.json and all numeric entries of a recorded checkpoint, "model/" and the suffix
    kept."""
    reader = tf.train.load_checkpoint(str(folder))
    names = [name for name in reader.get_variable_to_shape_map() if name != reader.GRAPH]
    return json.loads((folder / "config.json").read_text()), {
        name: reader.get_tensor(name) for name in names
    }


def write(folder: Path, config: dict, arrays: dict[str, np.ndarray]) -> Path:
    """A checkpoint directory; without the file `checkpoint`, as after copying by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(arrays)
    tf.raw_ops.SaveV2(
        prefix=str(folder / "ckpt-7"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(arrays[name]) for name in names],
    )
    return folder


def key(name: str) -> str:
    return f"model/{name}{SUFFIX}"


@pytest.fixture(scope="module")
def vit(golden_dir):
    """vit_tiny: config, entries, and what the official implementation computed."""
    with np.load(golden_dir / "vit_tiny" / "io.npz") as io:
        return *recorded(golden_dir / "vit_tiny"), dict(io)


@pytest.fixture
def changed(vit, tmp_path):
    """A function that writes vit_tiny with other config fields, and entries added or (None) left
    out."""

    def change(fields: dict, arrays: dict[str, np.ndarray | None]) -> Path:
        config, entries = copy.deepcopy(vit[0]), dict(vit[1])
        config["model"] |= fields
        entries |= {key(name): array for name, array in arrays.items()}
        return write(
            tmp_path / "official", config, {n: a for n, a in entries.items() if a is not None}
        )

    return change


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def apply(model, variables, io, *, method=None):
    inputs = (io["images"],) if method else (io["images"], io["seq"].astype(np.int32))
    return np.asarray(model.apply(variables, *inputs, method=method))


@pytest.mark.parametrize("name", NAMES)
def test_recorded_checkpoints(name, golden_dir):
    model, variables, config = reader.load(golden_dir / name)
    with np.load(golden_dir / name / "io.npz") as io:
        np.testing.assert_allclose(
            apply(model, variables, io, method="encode"), io["encoded"], rtol=0, atol=1e-4
        )
        np.testing.assert_allclose(apply(model, variables, io), io["logits"], rtol=0, atol=1e-4)
        assert trees.count(variables["params"]) == io["param_count"]
    assert resolve.make_model(config) == model
    assert config.vocab.num_bins == 128 and config.tasks.detection.max_instances == 9
    assert (
        config.data.category_names[:2] == ("class 1", "class 2")
        and len(config.data.category_names) == 59
    )


def test_every_variable_is_in_the_table(golden_dir):
    for name, slots in (
        ("vit_tiny", "optimizer/_variables"),
        ("resnet_c4_tiny", ".OPTIMIZER_SLOT"),
    ):
        entries = recorded(golden_dir / name)[1]
        assert any(slots in entry for entry in entries)
        imported = reader.read(golden_dir / name)
        theirs = {
            entry
            for entry in entries
            if entry.startswith("model/") and ".OPTIMIZER_SLOT" not in entry
        }
        assert len({row[0] for row in imported.mapping}) == len(imported.mapping) == len(theirs)
        assert imported.ignored == len(entries) + 1 - len(theirs)  # and the object graph
        text = importing.table(imported)
        assert text.count("\n") == len(theirs) + 1
        assert "params/decoder/body/layers/mlp/dense1/kernel[2]" in text and "[48, 96]" in text


def test_class_token(vit, changed):
    token = random(1, 32)
    for name in ("encoder/vit.Scls_token_embedding", "encoder/cls_token_emb"):
        model, variables, _ = reader.load(changed({"use_cls_token": True}, {name: token}))
        np.testing.assert_array_equal(variables["params"]["image_encoder"]["cls_token"], token)
        assert apply(model, variables, vit[2], method="encode").shape == (2, PATCHES + 1, 48)
        shutil.rmtree(changed({}, {}))


def test_learned_positions(vit, changed):
    """The tables hold the sin-cos code, so the memory must be the recorded one."""
    arrays = {
        "encoder/vit.Svis_pos_embedding": sin_cos_2d(4, 6, 32),
        "proj.Svis_pos_embedding": sin_cos_2d(4, 6, 48),
    }
    model, variables, _ = reader.load(changed({"pos_encoding": "learned"}, arrays))
    np.testing.assert_allclose(
        apply(model, variables, vit[2], method="encode"), vit[2]["encoded"], rtol=0, atol=1e-4
    )


def test_fixed_sequence_positions(changed):
    folder = changed(
        {"pos_encoding_dec": "sin_cos"}, {"decoder/ar_decoder.Sseq_pos_embedding": None}
    )
    assert "positions" not in reader.load(folder)[1]["params"]["decoder"]


def test_separate_embedding_without_bias(vit, changed):
    """The output embedding is the input's, so the logits must be the recorded ones but for the
    bias."""
    entries, io = vit[1:]
    table, bias = (
        entries[key(f"decoder/ar_decoder.S{name}")] for name in ("token_embedding", "outp_bias")
    )
    arrays = {
        "decoder/ar_decoder.Stoken_embedding": None,
        "decoder/ar_decoder.Sinp_token_embedding": table,
        "decoder/ar_decoder.Soutp_token_embedding": 2 * table,
        "decoder/ar_decoder.Soutp_bias": None,
    }
    folder = changed({"shared_decoder_embedding": False, "decoder_output_bias": False}, arrays)
    model, variables, _ = reader.load(folder)
    np.testing.assert_allclose(
        apply(model, variables, io), 2 * (io["logits"] - bias), rtol=0, atol=2e-4
    )


@pytest.mark.parametrize("mode", ["linear", "linear_p"])
def test_projections_without_mlp(mode, vit, changed):
    mlp = {
        n.removeprefix("model/").removesuffix(SUFFIX): None
        for n in vit[1]
        if n.startswith("model/proj_mlp/")
    }
    model, variables, _ = reader.load(changed({"dec_proj_mode": mode}, mlp))
    assert len(mlp) == 6 and set(variables["params"]["projection"]) == {"dense", "norm"}
    memory = apply(model, variables, vit[2], method="encode")
    if mode == "linear_p":
        plain = apply(model.copy(proj_mode="linear"), variables, vit[2], method="encode")
        np.testing.assert_allclose(memory, plain + sin_cos_2d(4, 6, 48)[None], rtol=0, atol=1e-6)


def test_old_configs_get_the_defaults_of_the_release(vit, golden_dir):
    config = {"model": {name: vit[0]["model"][name] for name in official_names.REQUIRED}}
    made = reader.make_config(config)
    assert made.model.encoder == "vit" and made.model.max_seq_len == 512
    assert (made.vocab.size, made.vocab.num_bins) == (3000, 1000)
    assert (
        made.tasks.detection.max_instances == 100 and made.tasks.detection.sampler == "nucleus(0.4)"
    )
    wide = reader.make_config({"model": config["model"] | {"image_size": [1024, 640]}})
    assert (
        tuple(wide.model.image_size) == (1024, 640)
        and "resize((1024, 640)" in wide.tasks.detection.eval_ops
    )
    odd = reader.make_config(
        {"model": VIT_B | {"image_size": 1333}}
    )  # published, though 1333 is not whole patches
    assert odd.model.encoder == "vit_crop" and "pad_image(1333)" in odd.tasks.detection.eval_ops
    assert resolve.make_model(odd).image_size == (1333, 1333)


def test_published_models_equal_the_shipped_configs(vit):
    """What a published config.json decides is what `configs/detection.py` has, so both can be used
    on the workdir."""
    made = reader.make_config({"model": VIT_B})
    shipped = small.load("detection.py:arch=vit-b,size=640")
    assert {**made.model} == {**shipped.model, "vocab_size": 3000}
    assert made.tasks.to_dict() == shipped.tasks.to_dict()
    assert made.vocab.to_dict() == shipped.vocab.to_dict() | {"num_classes": 90}
    names, ids = made.data.category_names, made.data.label_ids
    assert (names[0], names[11], names[89], ids) == (
        "person",
        "class 12",
        "toothbrush",
        tuple(range(1, 91)),
    )
    assert len(layouts.COCO_CATEGORIES) == 80
    objects = reader.make_config({"model": VIT_B, "dataset": {"name": "obj365"}})
    assert (
        objects.data.label_ids == tuple(range(1, 366))
        and objects.data.category_names[1] == "class 2"
    )


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

    def claim():
        ours = saved_run.keep_labels(config, workdir)
        resolved = resolve.resolve(ours, inputs.open_sources(ours, "train"))
        claim.claim_workdir(workdir, resolved)
        return resolved

    with pytest.raises(ValueError, match="'circle' there and 'car' in the model"):
        claim()
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["name"] = layouts.COCO_CATEGORIES[category["id"]]
    path.write_text(json.dumps(content))
    names = claim().data.category_names
    assert len(names) == 90 and names[2] == "car" and names[11] == "class 12"


def refused(folder, *parts: str) -> None:
    with pytest.raises(ValueError) as caught:
        reader.load(folder)
    for part in parts:
        assert part in str(caught.value)


def test_variables_that_only_one_side_has_are_named(changed):
    extra = "decoder/decoder/dec_layers/3/cross_ln/beta"
    refused(
        changed({}, {extra: random(48)}),
        "1 variables that the model has no place for",
        extra,
        "[48]",
    )
    refused(
        changed({}, {"proj/bias": None}),
        "no variable proj/bias [48]",
        "params/projection/dense/bias",
    )
    part = "decoder/decoder/dec_layers/1/cross_mha/_key_dense/kernel"
    refused(
        changed({}, {part: random(48, 3, 8)}),
        part,
        "[48, 3, 8] in the checkpoint and [48, 3, 16] in the model",
    )


def test_another_architecture_is_refused(golden_dir, changed, tmp_path):
    folder = shutil.copytree(golden_dir / "resnet_tiny", tmp_path / "mixed")
    shutil.copy(golden_dir / "vit_tiny" / "config.json", folder)
    refused(folder, "another architecture than its config.json says")
    refused(changed({"dim_att": 64}, {}), "another architecture")
    refused(changed({"name": "image_diffusion_model"}, {}), "config.json", "image_diffusion_model")
    refused(changed({"resnet_variant": "c5"}, {}), "config.json", "resnet_variant='c5'", "dc5")
    refused(changed({"resnet_variant": "c4", "resnet_sk_ratio": 0.06}, {}), "resnet_sk_ratio=0.06")
    refused(
        write(
            tmp_path / "other", json.loads((folder / "config.json").read_text()), {"w": random(3)}
        ),
        "no variable",
    )


def test_directories_that_are_none(golden_dir, tmp_path):
    refused(tmp_path / "nothing", "nothing is not a directory")
    refused(golden_dir / "ops.npz", "ops.npz is not a directory")
    refused(tmp_path, "config.json does not exist")
    shutil.copy(golden_dir / "vit_tiny" / "config.json", tmp_path)
    refused(tmp_path, "no checkpoint in", "ckpt-NUMBER.index")
    (tmp_path / "config.json").write_text('{"model": ')
    refused(tmp_path, "config.json is not JSON", "line 1")
    (tmp_path / "config.json").write_text("[]")
    refused(tmp_path, "holds a list, not an object")


def test_configs_that_lack_something(changed):
    folder = changed({}, {})
    config = json.loads((folder / "config.json").read_text())
    del config["model"]["dim_att"]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "config.json: its model lacks ['dim_att']")
    (folder / "config.json").write_text("{}")
    refused(folder, "config.json: it has no section 'model'")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_data(keep, golden_dir, tmp_path):
    folder = shutil.copytree(golden_dir / "vit_tiny", tmp_path / "copy")
    data = folder / "ckpt-0.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[: int(keep * data.stat().st_size)])
    refused(folder, "ckpt-0", "cut short", "copy")


def test_damaged_files(golden_dir, tmp_path):
    folder = shutil.copytree(golden_dir / "vit_tiny", tmp_path / "copy")
    data, index = folder / "ckpt-0.data-00000-of-00001", folder / "ckpt-0.index"
    whole = data.read_bytes()
    place = (
        whole.index(recorded(folder)[1][key("decoder/ar_decoder.Stoken_embedding")].tobytes()) + 400
    )
    data.write_bytes(whole[:place] + bytes(8) + whole[place + 8 :])
    refused(folder, "ckpt-0", "Checksum does not match", "copy it again")
    data.unlink()
    refused(folder, "ckpt-0")
    index.write_bytes(index.read_bytes()[:100])
    refused(folder, "ckpt-0")


def test_cloud_storage_without_access():
    refused(
        "gs://pix2seq-no-such-bucket/model",
        "gs://pix2seq-no-such-bucket/model",
        "cannot be read",
        "gcloud storage cp",
    )


def test_the_named_checkpoint_is_taken_else_the_newest(golden_dir, tmp_path):
    folder = shutil.copytree(golden_dir / "vit_tiny", tmp_path / "copy")
    for path in folder.glob("ckpt-0.*"):
        shutil.copy(path, folder / path.name.replace("ckpt-0", "ckpt-12"))
    assert reader.find_checkpoint(str(folder)).endswith("ckpt-0")
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/ckpt-12"\n')
    assert reader.find_checkpoint(str(folder)).endswith("ckpt-12")
    (folder / "checkpoint").unlink()
    assert reader.find_checkpoint(str(folder)).endswith("ckpt-12")


def test_a_full_size_import_is_quick_and_lean(tmp_path):
    config = {"model": VIT_B}
    arrays = {}
    for name, (shape, parts) in reader.wanted_variables(
        resolve.make_model(reader.make_config(config))
    ).items():
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


ENVIRONMENT = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}


def command(module: str, *args: str, code: int = 0) -> str:
    """Runs a command to its end, checks the exit code and returns what it printed."""
    line = [sys.executable, "-m", f"pix2seq_jax.{module}", *args]
    done = subprocess.run(
        line, cwd=small.ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout + done.stderr


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
    assert step == 7 and 0 < max(jax.tree.leaves(moved)) < 1e-2, (
        "fine-tuning starts from the imported weights"
    )
