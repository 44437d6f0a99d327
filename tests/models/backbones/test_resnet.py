"""ResNet stems: grids of the variants, batch statistics over devices, the frozen mode."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pix2seq_jax.models.backbones.resnet import (
    BLOCKS,
    BasicBlock,
    Bottleneck,
    ConvNorm,
    ResNet,
    ResNetBackbone,
)
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.training import trees

SIZES = {
    "enc_layers": 1,
    "enc_dim": 8,
    "enc_mlp": 8,
    "enc_heads": 1,
    "dec_layers": 1,
    "dec_dim": 8,
    "dec_mlp": 8,
}
SIZES |= {
    "dec_heads": 1,
    "vocab_size": 20,
    "max_seq_len": 8,
}


def filled(shapes):
    """Arrays of the given shapes, without compiling the initialisation: kernels at random, vectors
    of ones."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(
            random.normal(0, x.size**-0.25, x.shape) if x.ndim > 1 else np.ones(x.shape), x.dtype
        ),
        nn.meta.unbox(shapes),
    )


@pytest.mark.parametrize(
    ("variant", "grid"), [("standard", (4, 7)), ("dc5", (7, 13)), ("c4", (7, 13)), ("c3", (13, 26))]
)
@pytest.mark.parametrize("depth", [18, 50])
def test_grid_of_any_image_size(variant, grid, depth):
    backbone = ResNetBackbone(depth, variant, 0.0625)
    model = Pix2Seq(image_size=(100, 201), backbone=backbone, **SIZES)
    images = jnp.zeros((2, 100, 201, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images, jnp.ones((2, 3), jnp.int32))
    memory = jax.eval_shape(lambda v: model.apply(v, images, method="encode"), variables)
    assert memory.shape == (2, grid[0] * grid[1], 8) and backbone.grid((100, 201)) == grid


@pytest.mark.parametrize(
    ("depth", "count"),
    # Of torchvision's models without their last layer. Their first group has no projection at
    # depths 18 and 34.
    [
        *[(18, 11_176_512 + 4_224), (34, 21_284_672 + 4_224)],
        *[(50, 23_508_032), (101, 42_500_160), (152, 58_143_808)],
    ],
)
def test_well_known_sizes(depth, count):
    net, images = (
        ResNet(depth, "standard", 1.0, train=False, dtype="float32", remat=False),
        jnp.zeros((1, 32, 32, 3)),
    )
    params = nn.meta.unbox(jax.eval_shape(net.init, jax.random.key(0), images))["params"]
    assert trees.count(params) == count
    last = f"group4_basic{BLOCKS[depth][3]}" if depth < 50 else f"group4_block{BLOCKS[depth][3]}"
    assert params[last]["conv2"]["conv"]["kernel"].shape == (3, 3, 512, 512)


@pytest.mark.parametrize(
    ("depth", "widths"), [(18, (83, 166, 332, 665)), (50, (332, 665, 1331, 2662))]
)
def test_channels_are_cut_to_whole_numbers_last(depth, widths):
    """As in the official release: of 64 · 1.3 · 8 = 665.6 channels 665 are left, not 8 · 83."""
    net, images = (
        ResNet(depth, "standard", 1.3, train=False, dtype="float32", remat=False),
        jnp.zeros((1, 32, 32, 3)),
    )
    params = nn.meta.unbox(jax.eval_shape(net.init, jax.random.key(0), images))["params"]
    kind = "basic" if depth == 18 else "block"
    found = [
        params[f"group{i}_{kind}1"]["shortcut"]["conv"]["kernel"].shape[-1] for i in range(1, 5)
    ]
    assert tuple(found) == widths


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_starts_as_the_identity(block):
    x = jax.random.uniform(jax.random.key(0), (1, 4, 4, 8))
    out, variables = block(features=2, outputs=8, train=False, dtype="float32").init_with_output(
        jax.random.key(1), x
    )
    np.testing.assert_array_equal(out, x)
    assert "shortcut" not in variables["params"]


@pytest.mark.parametrize(("depth", "channels"), [(50, 128), (18, 32)])
def test_dc5_dilates_what_follows_the_stride(depth, channels):
    """Same parameters and the same view of the image as 'standard', at twice the resolution."""
    images = jax.random.uniform(jax.random.key(0), (1, 64, 64, 3))
    outputs = {}
    for variant in ("standard", "dc5"):
        net = ResNet(depth, variant, 0.0625, train=False, dtype="float32", remat=False)
        variables = filled(jax.eval_shape(net.init, jax.random.key(1), images))
        outputs[variant] = jax.jit(net.apply)(variables, images)
    assert outputs["dc5"].shape == (1, 4, 4, channels)
    # A stride of 2 after which two 3×3 see each other equals a stride of 1 and a dilation of 2, at
    # every other point, as far as the padding of the strided 3×3, which is the same, is concerned.
    np.testing.assert_allclose(
        outputs["dc5"][:, ::2, ::2], outputs["standard"], rtol=1e-4, atol=1e-4
    )


def test_batch_statistics_are_those_of_all_devices():
    images = (
        jax.random.normal(jax.random.key(0), (16, 6, 6, 3)) + jnp.arange(16.0)[:, None, None, None]
    )
    module = ConvNorm(4, 3, train=True, dtype="float32")
    variables = nn.meta.unbox(module.init(jax.random.key(1), images))

    def run(variables, images):
        return module.apply(variables, images, mutable=["batch_stats"])

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    one, eight = jax.jit(run)(variables, images), jax.jit(run)(variables, spread)
    assert len(eight[0].sharding.device_set) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, eight)
    alone = run(variables, images[:2])[0]  # what a device would see without the others
    assert np.abs(alone - one[0][:2]).max() > 0.1


def test_statistics_move_only_in_training_and_not_when_frozen():
    images, tokens = (
        jax.random.uniform(jax.random.key(0), (2, 32, 32, 3)),
        jnp.ones((2, 3), jnp.int32),
    )
    backbone = ResNetBackbone(variant="c3", width=0.0625)
    model = Pix2Seq(image_size=(32, 32), backbone=backbone, **SIZES)
    variables = filled(jax.eval_shape(model.init, jax.random.key(1), images, tokens))

    def moved(model, train):
        options = {"method": "encode", "train": train, "rngs": {"dropout": jax.random.key(2)}}
        _, new = jax.jit(lambda v: model.apply(v, images, mutable=["batch_stats"], **options))(
            variables
        )
        old, new = (jax.tree.leaves(v["batch_stats"]) for v in (variables, new))
        return [bool((a != b).any()) for a, b in zip(old, new, strict=True)]

    assert all(moved(model, train=True))
    assert not any(moved(model, train=False))
    assert not any(
        moved(model.clone(backbone=dataclasses.replace(backbone, frozen_bn=True)), train=True)
    )


def test_remat_changes_nothing_but_memory():
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    results = []
    for remat in (False, True):
        net = ResNet(50, "c3", 0.0625, train=True, dtype="float32", remat=remat)
        variables = filled(jax.eval_shape(net.init, jax.random.key(1), images))

        def loss(params, net=net, variables=variables):
            out, new = net.apply({**variables, "params": params}, images, mutable=["batch_stats"])
            return (out**2).mean(), new

        results.append(jax.jit(jax.grad(loss, has_aux=True))(variables["params"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *results)
