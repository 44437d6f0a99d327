"""Configs of earlier versions are read as today's."""

import dataclasses
import json
import shutil

import jax
import pytest

from pix2seq_jax.experiment import claim, earlier, resolve, saved_run
from pix2seq_jax.models import backbones, pix2seq
from pix2seq_jax.models.backbones import BACKBONES
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training.sharding import make_mesh
from tests.helpers import small

FLAT = {
    "encoder": "vit",
    "patch_size": 8,
    "resnet_depth": 34,
    "resnet_variant": "c4",
    "resnet_width": 0.5,
    "frozen_bn": True,
    "enc_dim": 16,
}


@pytest.mark.parametrize(
    "name,backbone",
    [
        ("vit", {"patch_size": 8}),
        ("vit_crop", {"patch_size": 8}),
        ("resnet", {"depth": 34, "variant": "c4", "width": 0.5, "frozen_bn": True}),
    ],
)
def test_flat_fields_go_to_the_section_of_their_backbone(name, backbone):
    upgraded = earlier.upgrade_model(FLAT | {"encoder": name})
    assert upgraded == {"enc_dim": 16, "backbone": {"name": name, **backbone}}
    assert earlier.upgrade_model(upgraded) == upgraded
    fields = {field.name for field in dataclasses.fields(BACKBONES[name])}
    later = set(saved_run.EARLIER_RESNET) if name == "resnet" else set()
    assert set(upgraded["backbone"]) == {"name", *fields} - later


def test_an_earlier_resnet_is_the_official_one(golden_dir, tmp_path):
    shutil.copytree(golden_dir / "workdir_0_1", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    content["model"]["encoder"] = "resnet"
    path.write_text(json.dumps(content))
    config = saved_run.load_config(tmp_path / "run")
    assert config.model.backbone.convention == "official" and config.model.stem_norm


@pytest.mark.parametrize("section", [{}, {"enc_dim": 3}, {"backbone": 3, "encoder": "vit"}])
def test_what_is_not_of_the_earlier_form_stays(section):
    assert earlier.upgrade_model(section) == section


@pytest.mark.parametrize("name", ["swin", 3, None, ["vit"]])
def test_an_encoder_that_never_was_keeps_its_name(name):
    assert earlier.upgrade_model({"encoder": name, "patch_size": 8}) == {"backbone": {"name": name}}


def test_a_recorded_workdir_is_read(golden_dir):
    """Its flat section gives a model with the variables that its checkpoint has."""
    workdir = golden_dir / "workdir_0_1"
    recorded = json.loads((workdir / "config.json").read_text())["model"]
    assert "backbone" not in recorded
    config = saved_run.load_config(workdir)
    assert config.model.backbone.to_dict() == {
        "name": recorded["encoder"],
        "patch_size": recorded["patch_size"],
    }
    assert set(config.model) == set(pix2seq.field_names())
    model, mesh = resolve.make_model(config), make_mesh({"data": -1})
    step, variables = saved_run.load_variables(workdir, config, model, mesh)
    assert step > 0
    wanted = train_state.abstract_variables(model, mesh=mesh)
    assert jax.tree.map(lambda x: x.shape, variables) == jax.tree.map(lambda x: x.shape, wanted)


def test_a_recorded_workdir_may_be_resumed_and_evaluated(golden_dir, tmp_path):
    """Claiming the workdir with today's form of its config finds no difference in the model."""
    workdir = shutil.copytree(golden_dir / "workdir_0_1", tmp_path / "run")
    config = saved_run.load_config(workdir)
    claim.claim_workdir(workdir, config)
    assert saved_run.load_config(workdir) == config
    config.init_from = "runs/other"  # passed over, since there are weights
    claim.claim_workdir(workdir, config)
    assert saved_run.load_config(workdir).init_from == ""
    assert saved_run.adopt(config, config).model == config.model


def test_frozen_statistics_may_change_where_the_weights_stay():
    saved = small.load("detection.py:arch=resnet50,size=64")
    saved.data.update(dict.fromkeys(("keypoint_names", "keypoint_categories", "skeleton"), ()))
    saved.data.update({"category_names": ("a",), "category_ids": (1,)})
    given = saved.copy_and_resolve_references()
    given.model.backbone.frozen_bn = True
    assert saved_run.adopt(saved, given).model.backbone.frozen_bn
    given.model.backbone.depth = 34
    with pytest.raises(ValueError, match=r"trained with config.model.backbone.depth=50, not 34"):
        saved_run.adopt(saved, given)
    given.model.backbone = backbones.complete({"name": "vit"})
    with pytest.raises(ValueError, match=r"config.model.backbone.name='resnet', not 'vit'"):
        saved_run.adopt(saved, given)
