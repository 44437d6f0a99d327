"""Official checkpoints are read: the recorded ones, and changes of them."""

import shutil

import numpy as np
import pytest

from pix2seq_jax.config import layouts
from pix2seq_jax.config.fill import fill
from pix2seq_jax.experiment import resolve
from pix2seq_jax.models.positions import sin_cos_2d
from pix2seq_jax.official import importing, reader
from pix2seq_jax.official import names as official_names
from pix2seq_jax.training import trees
from tests.helpers import small
from tests.helpers.official_checkpoints import SUFFIX, VIT_B, key, random, recorded

pytestmark = pytest.mark.usefixtures("optimised")
NAMES = ("vit_tiny", "resnet_tiny", "resnet_c4_tiny")
PATCHES = 24  # of vit_tiny, 4 x 6


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
    assert made.model.backbone.name == "vit" and made.model.max_seq_len == 512
    assert (made.vocab.size, made.vocab.num_bins) == (3000, 1000)
    assert made.tasks.detection.max_instances == 100
    assert made.tasks.detection.sampler == "nucleus(0.4)"
    wide = reader.make_config({"model": config["model"] | {"image_size": [1024, 640]}})
    assert tuple(wide.model.image_size) == (1024, 640)
    assert "resize((1024, 640)" in wide.tasks.detection.eval_ops
    # This one is published, though 1333 is not whole patches.
    odd = reader.make_config({"model": VIT_B | {"image_size": 1333}})
    assert odd.model.backbone.name == "vit_crop"
    assert "pad_image(1333)" in odd.tasks.detection.eval_ops
    assert resolve.make_model(odd).image_size == (1333, 1333)


def test_published_models_equal_the_shipped_configs(vit):
    """What a published config.json decides is what `configs/detection.py` has, so both can be used
    on the workdir."""
    made = reader.make_config({"model": VIT_B})
    shipped = fill(small.load("detection.py:arch=vit-b,size=640"))
    assert made.model.to_dict() == shipped.model.to_dict() | {"vocab_size": 3000}
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


def test_the_named_checkpoint_is_taken_else_the_newest(golden_dir, tmp_path):
    folder = shutil.copytree(golden_dir / "vit_tiny", tmp_path / "copy")
    for path in folder.glob("ckpt-0.*"):
        shutil.copy(path, folder / path.name.replace("ckpt-0", "ckpt-12"))
    assert reader.find_checkpoint(str(folder)).endswith("ckpt-0")
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/ckpt-12"\n')
    assert reader.find_checkpoint(str(folder)).endswith("ckpt-12")
    (folder / "checkpoint").unlink()
    assert reader.find_checkpoint(str(folder)).endswith("ckpt-12")
