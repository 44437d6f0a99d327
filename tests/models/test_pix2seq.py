"""Sizes, options, modes and refusals of the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from pix2seq_jax.config import architectures
from pix2seq_jax.models import backbones, pix2seq
from pix2seq_jax.models.backbones.vit import VitCropBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.training import flops

TINY = {
    "image_size": (16, 24),
    "backbone": {"name": "vit", "patch_size": 8},
    "vocab_size": 30,
    "max_seq_len": 12,
    "enc_layers": 1,
    "enc_dim": 16,
    "enc_mlp": 32,
    "enc_heads": 2,
    "dec_layers": 1,
    "dec_dim": 8,
    "dec_mlp": 16,
    "dec_heads": 2,
}
TINY = pix2seq.complete(TINY)
POSITIONS = ("image_encoder/positions", "projection/positions")
RESNET = backbones.complete({"name": "resnet"})
IMAGES = jax.random.uniform(jax.random.key(0), (2, 16, 24, 3))
TOKENS = jax.random.randint(jax.random.key(1), (2, 5), 0, 30)


def build(**changes):
    """The tiny model with some fields changed, and random variables; compiling its own
    initialisation takes longer."""
    model, random = Pix2Seq.from_config(TINY | changes), np.random.default_rng(0)
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(2), IMAGES, TOKENS))
    return model, jax.tree.map(
        lambda x: jnp.asarray(random.normal(0, 0.2, x.shape), x.dtype), shapes
    )


def apply(model, variables, *args, **options):
    """`model.apply`, compiled."""
    return jax.jit(functools.partial(model.apply, **options))(variables, *args)


@pytest.mark.parametrize(
    ("architecture", "trainable", "total"),
    [
        ("vit-b", 115_169_976, 115_169_976),
        ("resnet50", 36_587_768, 36_640_888),
        ("resnet50-c4", 84_697_592, 84_728_184),
        ("vit-l", 341_161_912, 341_161_912),  # the paper: 341 M
    ],
)
def test_published_sizes(architecture, trainable, total):
    sizes = {"image_size": (640, 640), "vocab_size": 3000, "max_seq_len": 512}
    model = Pix2Seq.from_config(architectures.section(architecture) | sizes)
    variables = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, 640, 640, 3)), jnp.ones((1, 2), jnp.int32)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == trainable
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == total


@pytest.mark.parametrize(
    ("changes", "added", "removed", "tokens"),
    [
        ({"use_cls_token": True}, {"image_encoder/cls_token"}, set(), 7),
        ({"pos_encoding": "learned"}, {*POSITIONS}, set(), 6),
        ({"dec_pos_encoding": "sin_cos"}, set(), {"decoder/positions"}, 6),
        ({"shared_embedding": False}, {"decoder/output_embedding"}, set(), 6),
        ({"output_bias": False}, set(), {"decoder/output_bias"}, 6),
        ({"proj_mode": "linear"}, set(), {"projection/mlp"}, 6),
        (
            {"proj_mode": "linear_p", "pos_encoding": "learned", "use_cls_token": True},
            {"image_encoder/cls_token", *POSITIONS},
            {"projection/mlp"},
            7,
        ),
    ],
)
def test_options(changes, added, removed, tokens):
    (_, default), (model, variables) = build(), build(**changes)
    names, other = (
        set(traverse_util.flatten_dict(v["params"], sep="/")) for v in (default, variables)
    )
    assert other - names == added
    assert {name for name in names - other if not name.startswith(tuple(removed) or "-")} == set()
    assert all(any(name.startswith(r) for name in names - other) for r in removed)
    assert jax.eval_shape(
        functools.partial(model.apply, method="encode"), variables, IMAGES
    ).shape == (2, tokens, 8)
    grads = jax.jit(jax.grad(lambda v: (model.apply(v, IMAGES, TOKENS) ** 2).sum()))(variables)
    for name, grad in traverse_util.flatten_dict(grads["params"], sep="/").items():
        assert np.abs(grad).max() > 0 or name.endswith(("key/bias", "key_bias")), name


@pytest.mark.parametrize(("mode", "differ"), [("mlp", True), ("linear_p", True), ("linear", False)])
def test_projection_adds_positions_unless_linear(mode, differ):
    """Where the encoder gives the same vector for every token, only the positions of the projection
    make them differ."""
    model, variables = build(proj_mode=mode)
    # All tokens leave the encoder as the same vector.
    variables["params"]["image_encoder"]["norm"]["scale"] *= 0
    memory = apply(model, variables, IMAGES, method="encode")
    assert (np.abs(memory - memory[:, :1]).max() > 1e-3) == differ


def test_vit_crop_does_not_look_at_parts_of_patches():
    model, variables = build()
    wide = model.clone(backbone=VitCropBackbone(patch_size=8), image_size=(23, 25))
    images = jnp.pad(IMAGES, ((0, 0), (0, 7), (0, 1), (0, 0)), constant_values=0.5)
    cropped, whole = (apply(m, variables, x, TOKENS) for m, x in ((wide, images), (model, IMAGES)))
    np.testing.assert_allclose(cropped, whole, atol=1e-5)


def test_parameters_start_as_published():
    model = Pix2Seq.from_config(
        TINY | {"vocab_size": 3000, "dec_dim": 32, "dec_mlp": 64, "enc_layers": 2}
    )
    params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), IMAGES, TOKENS))["params"]
    for name in ("embedding", "output_bias"):
        values = params["decoder"][name]
        assert np.abs(values).max() <= 0.04
        # 0.8796: the deviation of a normal distribution that is cut off at two deviations.
        np.testing.assert_allclose(np.std(values), 0.02 * 0.8796, rtol=0.05)
    limit = np.sqrt(6 / (8 * 8 * 3 + 8 * 8 * 16))
    assert 0.95 * limit < np.abs(params["stem"]["kernel"]).max() <= limit
    flat = traverse_util.flatten_dict(params, sep="/")
    assert all((flat[name] == 0).all() for name in flat if name.endswith("/bias"))
    assert all((flat[name] == 1).all() for name in flat if name.endswith("/scale"))
    kernels = params["image_encoder"]["layers"]["mlp"]["dense1"]["kernel"]
    assert kernels.shape == (2, 16, 32) and (kernels[0] != kernels[1]).any()


def test_every_parameter_names_its_axes():
    model = Pix2Seq.from_config(TINY)
    boxed = jax.eval_shape(model.init, jax.random.key(0), IMAGES, TOKENS)
    leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))
    assert all(
        isinstance(leaf, nn.Partitioned) and len(leaf.names) == leaf.value.ndim for leaf in leaves
    )
    query = boxed["params"]["image_encoder"]["layers"]["attention"]["query"]["kernel"]
    assert query.names == ("layers", "embed", "heads", "head_dim")


def test_sequences_of_one_image_equal_single_sequences():
    model, variables = build()
    tokens = jax.random.randint(jax.random.key(3), (2, 3, 5), 0, 30)
    many = apply(model, variables, IMAGES, tokens)
    assert many.shape == (2, 3, 5, 30)
    np.testing.assert_allclose(many[:, 1], apply(model, variables, IMAGES, tokens[:, 1]), atol=1e-5)


def test_the_future_is_hidden():
    model, variables = build()
    changed = TOKENS.at[:, 4].set((TOKENS[:, 4] + 1) % 30)
    before, after = (apply(model, variables, IMAGES, tokens) for tokens in (TOKENS, changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4] != after[:, 4]).any()


@pytest.mark.parametrize("attention", ["plain", "blockwise"])
def test_remat_gives_the_same_gradients_and_computes_again(attention):
    grads, products, kept, norms = {}, {}, {}, {}
    for remat in ("none", "elementwise", "all"):
        fields = {"drop_path": 0.2, "enc_layers": 5, "attention": attention}
        if remat != "none":
            fields |= {"remat": True, "remat_policy": remat}
        model, variables = build(**fields)
        run = functools.partial(
            model.apply, method="encode", train=True, rngs={"dropout": jax.random.key(4)}
        )
        gradient = jax.jit(jax.grad(lambda v, run=run: (run(v, IMAGES) ** 2).sum()))
        grads[remat] = gradient(variables)
        program = jax.make_jaxpr(gradient)(variables)
        products[remat] = flops.of_program(program.jaxpr)
        norms[remat] = str(program).count("= rsqrt")
        kept[remat] = gradient.lower(variables).compile().memory_analysis().temp_size_in_bytes
    for remat in ("elementwise", "all"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
            grads["none"],
            grads[remat],
        )
    assert products["none"] <= products["elementwise"] < products["all"]
    assert norms["none"] == norms["elementwise"] < norms["all"]
    assert kept["all"] < kept["elementwise"] < kept["none"]


@pytest.mark.parametrize("rate", ["drop_path", "drop_units", "drop_att"])
def test_dropout_only_in_training(rate):
    rates = {"drop_path": 0.0, "drop_units": 0.0, "drop_att": 0.0}
    (model, variables), (plain, _) = build(**rates | {rate: 0.5}), build(**rates)
    run = jax.jit(
        lambda key: model.apply(variables, IMAGES, TOKENS, train=True, rngs={"dropout": key})
    )
    # Without any rate training needs no key.
    still = apply(plain, variables, IMAGES, TOKENS, train=True)
    one, two = run(jax.random.key(0)), run(jax.random.key(1))
    assert (one != two).any() and (one != still).any()
    np.testing.assert_array_equal(one, run(jax.random.key(0)))
    np.testing.assert_allclose(apply(model, variables, IMAGES, TOKENS), still, atol=1e-6)


def test_bfloat16_keeps_float32_parameters_and_logits():
    model, variables = build(dtype="bfloat16")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    logits = apply(model, variables, IMAGES, TOKENS)
    memory = jax.eval_shape(functools.partial(model.apply, method="encode"), variables, IMAGES)
    assert logits.dtype == memory.dtype == jnp.float32
    full = apply(build()[0], variables, IMAGES, TOKENS)
    assert 0 < np.abs(logits - full).max() < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_size": (16, 20)},
            r"\(16, 20\) is not divisible by model.backbone.patch_size=8.*\(16, 24\)",
        ),
        (
            {"image_size": (16, 7), "backbone": {"name": "vit_crop", "patch_size": 8}},
            r"\(16, 7\) holds no patch of model.backbone.patch_size=8",
        ),
        ({"backbone": RESNET | {"width": 0.01}}, "model.backbone.width=0.01; .* at least 0.03125"),
        ({"enc_heads": 3}, "enc_dim=16 is not divisible by model.enc_heads=3"),
        ({"dec_mlp": 20}, "dec_mlp=20 is not divisible by model.dec_dim=8; give a multiple"),
        ({"backbone": {"name": "swin"}}, "model.backbone.name='swin'; it may be one of"),
        ({"backbone": {"patch_size": 8}}, "model.backbone.name=None; it may be one of"),
        ({"backbone": {"name": "vit"}}, r"'vit' has exactly \['patch_size'\]"),
        ({"backbone": RESNET | {"patch_size": 8}}, r"has the fields \['convention', 'depth', .*"),
        ({"backbone": {"name": "vit", "patch_size": 0}}, "model.backbone.patch_size=0; .* least 1"),
        ({"proj_mode": "conv"}, "model.proj_mode='conv'"),
        ({"backbone": RESNET | {"depth": 42}}, "model.backbone.depth=42; it may be one of"),
        ({"dtype": "float16"}, "model.dtype='float16'"),
        ({"drop_path": 1.0}, "model.drop_path=1.0"),
        ({"widht": 3}, r"unknown keys \['widht'\]"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Pix2Seq.from_config(TINY | changes)


def test_a_field_left_out_is_named():
    with pytest.raises(ValueError, match="lacks \\['vocab_size'\\]"):
        Pix2Seq.from_config({name: value for name, value in TINY.items() if name != "vocab_size"})


@pytest.mark.parametrize(
    ("images", "tokens", "message"),
    [
        (IMAGES[..., :1], TOKENS, r"\(2, 16, 24, 1\).*\(B, 16, 24, 3\)"),
        (IMAGES[:, :8], TOKENS, r"\(2, 8, 24, 3\)"),
        (IMAGES, jnp.ones((2, 13), jnp.int32), "13 tokens does not fit model.max_seq_len=12"),
        (IMAGES, TOKENS[:1], "1 images.*2"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(images, tokens, message):
    model, variables = build()
    with pytest.raises(ValueError, match=message):
        model.apply(variables, images, tokens)
