"""Every published recipe: its full-size model by eval_shape, and two steps of training when
shrunk."""

from pathlib import Path

import jax
import ml_collections
import pytest

from pix2seq_jax import train
from pix2seq_jax.config import build, recipes
from pix2seq_jax.config.fill import fill
from pix2seq_jax.experiment import resolve
from pix2seq_jax.experiment.workdir import CHECKPOINTS
from pix2seq_jax.training import checkpoint, trees
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training.sharding import make_mesh
from tests.helpers import small

FILES = {"multitask": "multitask.py"}  # the others are detection.py
# As the release says.
PARAMETERS = {
    "resnet50": 36.6e6,
    "resnet50-c4": 84.7e6,
    "vit-b": 115.2e6,
    "vit-l": 341.2e6,
}
MULTITASK_PARAMETERS = 132e6  # as Pix2Seq v2 says, section 4.1
SHRUNK_SIZE = 64


def name_of(recipe, arch, size):
    return f"{FILES.get(recipe, 'detection.py')}:recipe={recipe},arch={arch},size={size}"


@pytest.mark.parametrize("recipe,arch,size", recipes.PUBLISHED)
def test_recipes_say_what_they_aim_at_and_build_their_model(recipe, arch, size):
    config = fill(small.load(name_of(recipe, arch, size)))
    assert recipes.PUBLISHED[recipe, arch, size] in config.about
    assert "not run" in config.about
    images_in_all = config.train.steps * config.train.batch_size / config.train.repeats
    epochs = {"scratch": 300, "finetune": 40, "multitask": 100}
    if recipe in epochs:
        assert images_in_all / 118_287 == pytest.approx(epochs[recipe], rel=1e-3)
    assert config.vocab.num_bins == (2000 if recipe == "scratch" else 1000)
    config.model.vocab_size = config.vocab.size
    model = resolve.make_model(config)
    assert min(model.image_size) >= size
    abstract = train_state.abstract_variables(model, mesh=make_mesh({"data": -1}))
    if recipe == "multitask":
        assert trees.count(abstract["params"]) == pytest.approx(MULTITASK_PARAMETERS, abs=0.5e6)
    elif arch in PARAMETERS:
        assert trees.count(abstract["params"]) == pytest.approx(PARAMETERS[arch], abs=0.1e6)
    images = jax.ShapeDtypeStruct((1, *model.image_size, 3), "float32")
    tokens = jax.ShapeDtypeStruct((1, 501), "int32")
    assert jax.eval_shape(model.apply, abstract, images, tokens).shape == (
        1,
        501,
        config.vocab.size,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


def shrunk(recipe, arch, size):
    config = small.load(name_of(recipe, arch, size))
    config.data.size = SHRUNK_SIZE
    config.update_from_flattened_dict(small.shrunk(config))
    if config.model.backbone.name == "resnet":
        config.model.backbone.depth = 18  # what a depth is made of is looked at above
    if "captioning" in config.tasks:
        config.vocab.size = 0  # as large as the pieces of a few captions ask for
    return config


def different_ones() -> dict[str, ml_collections.ConfigDict]:
    """The recipes that still differ when they are shrunk, by the name of the first of its kind.

    What is said about a recipe, whose data it reads and its learning rate make no other run of two
    steps.
    """
    by_content = {}
    for published in recipes.PUBLISHED:
        config = shrunk(*published)
        config.update_from_flattened_dict(small.on_folder(Path("data")))
        config.about, config.data.hint, config.schedule.base = "", "", 1e-3
        by_content.setdefault(config.to_json(sort_keys=True), (published, config))
    return {"-".join(map(str, name)): config for name, config in by_content.values()}


@pytest.mark.parametrize("config", [pytest.param(c, id=n) for n, c in different_ones().items()])
def test_recipes_train_when_shrunk(config, folder, tmp_path):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(small.on_folder(folder))
    train.run(config, tmp_path, evaluate_too=False)
    assert checkpoint.steps(tmp_path / CHECKPOINTS) == [2]


def test_recipes_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"recipe='best'.*finetune"):
        build.parse("recipe=best", recipe="finetune")


def test_combinations_without_a_published_figure_say_so():
    assert "nothing is published" in small.load("detection.py:arch=tiny,size=128").about
    assert "nothing is published" in small.load("detection.py:data=mine").about
    # The figures are of all four tasks together.
    assert "nothing is published" in small.load("captioning.py").about
