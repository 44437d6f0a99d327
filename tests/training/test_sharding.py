import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from pix2seq_jax.training import sharding, state
from tests.helpers import four_tasks


def boxed(shape, *names):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)


def specs(mesh, tree):
    return jax.tree.map(lambda s: s.spec, sharding.shardings(mesh, tree))


def test_default_mesh_is_all_devices_on_data():
    mesh = sharding.make_mesh()
    assert dict(mesh.shape) == {"data": 8}
    assert mesh.axis_types == (AxisType.Auto,)


def test_minus_one_takes_the_rest():
    assert dict(sharding.make_mesh({"data": -1, "model": 2}).shape) == {"data": 4, "model": 2}


@pytest.mark.parametrize("axes,message", [
    ({"data": 3}, "8 devices"),
    ({"data": -1, "model": 3}, "8 devices"),
    ({"data": -1, "fsdp": -1}, "8 devices"),
    ({"data": 0}, "8 devices"),
    ({"rows": 8}, "unknown axis 'rows'"),
])  # fmt: skip
def test_bad_mesh_is_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(axes)


def test_parameters_are_replicated_on_a_data_mesh():
    tree = {
        "kernel": boxed((64, 128), "embed", "mlp"),
        "bare": jax.ShapeDtypeStruct((3,), jnp.float32),
    }
    assert all(not any(spec) for spec in specs(sharding.make_mesh(), tree).values())


def test_rules_cut_parameters_over_other_axes():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "model": 2})
    tree = {
        "mlp": boxed((3, 64, 128), "layers", "embed", "mlp"),
        "odd": boxed((64, 3), "embed", "heads"),  # 3 heads on 2 devices stay whole
        "square": boxed((64, 64), "embed", "embed"),  # an axis cuts one dimension only
    }
    assert specs(mesh, tree) == {
        "mlp": P(None, ("fsdp",), ("model",)),
        "odd": P(("fsdp",), None),
        "square": P(("fsdp",), None),
    }


def test_batch_is_cut_over_the_data_axes():
    x = jnp.zeros((8, 3, 2))
    assert jax.device_put(x, sharding.batch_sharding(sharding.make_mesh())).sharding.shard_shape(
        x.shape
    ) == (1, 3, 2)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "model": 2})
    assert jax.device_put(x, sharding.batch_sharding(mesh)).sharding.shard_shape(x.shape) == (
        2,
        3,
        2,
    )
    assert jax.device_put(x, sharding.replicated(mesh)).sharding.shard_shape(x.shape) == (8, 3, 2)


def test_batch_size_must_fit_the_devices():
    mesh = sharding.make_mesh()
    sharding.check_batch(mesh, 32, accum=4)
    with pytest.raises(
        ValueError,
        match=r"batch size 30 is not a multiple of 8 .8 data-parallel devices.; use 24 or 32",
    ):
        sharding.check_batch(mesh, 30)
    with pytest.raises(
        ValueError, match=r"8 data-parallel devices x 4 gradient accumulation steps.; use 32 or 64"
    ):
        sharding.check_batch(mesh, 24, accum=4)


def test_what_the_mesh_does_not_divide_is_named():
    mesh = sharding.make_mesh({"data": 2, "model": 4})
    tree = {
        "cut": boxed((3, 64, 128), "layers", "embed", "mlp"),
        "odd": boxed((64, 6), "embed", "heads"),
        "again": boxed((6,), "heads"),
        "bare": jax.ShapeDtypeStruct((3,), jnp.float32),
    }
    assert sharding.left_whole(mesh, tree) == ["heads of 6 over model=4 (again)"]
    assert sharding.left_whole(sharding.make_mesh(), tree) == []


def test_a_model_that_the_mesh_does_not_divide_is_refused():
    model = four_tasks.tiny()
    mesh = sharding.make_mesh({"model": 8})
    words = r"heads of 2 over model=8 \(params/\S+\).*; choose config.mesh .*allow_whole=True"
    with pytest.raises(ValueError, match=words):
        state.check_divides(model, mesh=mesh, allow_whole=False)
    whole = state.check_divides(model, mesh=mesh, allow_whole=True)
    assert any(text.startswith("heads of 2 over model=8") for text in whole)
    assert state.check_divides(model, mesh=sharding.make_mesh(), allow_whole=False) == []
