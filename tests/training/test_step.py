import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.models.backbones.resnet import ResNetBackbone
from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.tasks.base import Sequences
from pix2seq_jax.tasks.detection import Detection
from pix2seq_jax.training import optim, sharding, trees
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step
from pix2seq_jax.vocab import Vocab
from tests.helpers import golden_import

VOCAB = Vocab(size=160, num_bins=32, num_classes=5, coord_shift=110)
NOISY_TASK = Detection(vocab=VOCAB, max_instances=3)
TASK = Detection(vocab=VOCAB, max_instances=3, class_corruption="none")
STILL = {"drop_path": 0.0, "drop_units": 0.0}
ROWS = 16
KEY = jax.random.key(0)
FINE = np.float32(1)  # the update before was finite


class Fixed(NamedTuple):
    """A task whose sequences are given."""

    sequences: Sequences

    def encode(self, example, rng):
        return self.sequences


def tiny(**changes) -> Pix2Seq:
    sizes = {
        "image_size": (16, 16),
        "backbone": VitBackbone(patch_size=8),
        "vocab_size": VOCAB.size,
        "max_seq_len": TASK.max_len,
    }
    encoder = {"enc_layers": 1, "enc_dim": 32, "enc_mlp": 64, "enc_heads": 2}
    decoder = {"dec_layers": 1, "dec_dim": 32, "dec_mlp": 64, "dec_heads": 2}
    return Pix2Seq(**{**sizes, **encoder, **decoder, **changes})


def example(seed: int = 0) -> dict[str, jax.Array]:
    """A batch with 0 to 3 boxes an image."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((ROWS, 3, 2, 2)), axis=2).reshape(ROWS, 3, 4)
    labels = rng.integers(1, 6, (ROWS, 3)) * (np.arange(3) < rng.integers(0, 4, (ROWS, 1)))
    return {
        "image": jnp.asarray(rng.random((ROWS, 16, 16, 3)), jnp.float32),
        "boxes": jnp.asarray(corners, jnp.float32),
        "labels": jnp.asarray(labels, jnp.int32),
        "valid": jnp.ones(ROWS, bool),
    }


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


def constant(rate: float):
    return optim.schedule("none", base=rate, batch_size=ROWS, total=1000)


def batch_on(mesh, batch):
    return jax.device_put({"detection": batch}, sharding.batch_sharding(mesh))


MODEL = tiny(**STILL)


@functools.cache
def initial_state(model=MODEL):
    """(optimizer, state), made once: compiling is what takes the time in these tests."""
    tx = optim.make("adamw", constant(3e-3), clip=1.0)
    with jax.set_mesh(one_device()):
        return tx, train_state.init_state(model, tx, KEY, mesh=one_device())


@functools.cache
def compiled_gradients(model=MODEL, tasks=("detection",), accum=1, weights=()):
    gradients = train_step.make_gradients(
        model, dict.fromkeys(tasks, TASK), accum=accum, weights=dict(weights)
    )
    return jax.jit(gradients)


def gradients_on(mesh, batch, model=MODEL, **options):
    """(gradients, batch_stats, metrics) of the detection task on a mesh, from the initial state."""
    state = jax.device_put(initial_state(model)[1], sharding.replicated(mesh))
    with jax.set_mesh(mesh):
        return compiled_gradients(model, **options)(state, batch_on(mesh, batch), KEY)


@functools.cache
def compiled_step(mesh, model, task):
    """(abstract state, step) on a mesh."""
    tx, _ = initial_state(model)
    abstract = train_state.abstract_state(model, tx, mesh=mesh)
    step = train_step.make_step(model, {"detection": task}, tx, constant(3e-3))
    return abstract, train_step.jit_step(step, abstract, mesh=mesh, chained=True)


def step_on(mesh, model=MODEL, task=TASK):
    """(initial state, step) on a mesh."""
    abstract, step = compiled_step(mesh, model, task)
    return jax.tree.map(
        lambda x, a: jax.device_put(jnp.copy(x), a.sharding), initial_state(model)[1], abstract
    ), step


def assert_same(tree, other, *, atol: float):
    """Equal to atol where below 1, relative to it above."""
    for (name, a), b in zip(trees.flatten_names(tree).items(), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=atol, rtol=atol, err_msg=name)


def assert_equal(tree, other):
    """The same bits."""
    assert jax.tree.all(
        jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), tree, other)
    )


@pytest.mark.parametrize(
    "name,decay", [("vit_tiny", "all"), ("resnet_tiny", "kernels"), ("resnet_c4_tiny", "kernels")]
)
def test_first_step_equals_the_recorded_one(golden_dir, name, decay):
    """Loss, gradient norm and the logits after one AdamW step of the official implementation."""
    model, variables, io = golden_import.load(golden_dir / name)
    tx = optim.make("adamw", 1e-3, decay=decay)
    seq = jnp.asarray(io["seq"])
    inputs = jnp.pad(seq[:, 1:], ((0, 0), (0, 1)))
    task = Fixed(
        Sequences(seq[:, :1], inputs, jnp.asarray(io["target"]), jnp.asarray(io["token_weights"]))
    )
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    state = train_state.TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params))
    if isinstance(model.backbone, ResNetBackbone):
        model = model.clone(backbone=dataclasses.replace(model.backbone, frozen_bn=True))
    step = train_step.make_step(model.clone(**STILL), {"fixed": task}, tx, constant(1e-3))
    images = jnp.asarray(io["images"])

    @jax.jit
    def step_and_look(state):
        state, metrics = step(state, {"fixed": {"image": images}}, KEY)
        return metrics, model.apply(train_state.variables(state), images, seq)

    metrics, logits = step_and_look(state)
    np.testing.assert_allclose(metrics["loss"], io["loss/xent"], rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], io["grad_global_norm"], rtol=1e-4)
    np.testing.assert_allclose(logits, io["after_step_logits"], atol=1e-4, rtol=0)


def test_one_device_equals_eight():
    one, eight = (gradients_on(mesh, example()) for mesh in (one_device(), sharding.make_mesh()))
    assert_same(one[0], eight[0], atol=1e-5)
    assert_same(one[2], eight[2], atol=1e-5)


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 4, "fsdp": 2}])
def test_batch_norm_sees_the_whole_batch_on_any_number_of_devices(axes):
    model = tiny(backbone=ResNetBackbone(variant="c3", width=0.125), **STILL)
    one, eight = (
        gradients_on(mesh, example(), model) for mesh in (one_device(), sharding.make_mesh(axes))
    )
    assert_same(one[0], eight[0], atol=1e-5)
    assert_same(one[1], eight[1], atol=1e-5)
    statistics = trees.flatten_names(one[1]).items()
    means = [leaf for name, leaf in statistics if name.endswith("mean")]
    assert means and all(bool(jnp.any(mean != 0)) for mean in means)  # 0 is where they start


def test_accumulated_gradients_are_those_of_the_whole_batch():
    whole, parts = (gradients_on(sharding.make_mesh(), example(), accum=accum) for accum in (1, 2))
    assert_same(whole[0], parts[0], atol=1e-6)
    assert_same(whole[2], parts[2], atol=1e-6)


def test_padding_rows_weigh_nothing():
    short = example() | {"valid": jnp.arange(ROWS) < 5}
    other = example(seed=1) | {"valid": jnp.zeros(ROWS, bool)}
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:5], b[5:]]), short, other)
    first, second = (gradients_on(one_device(), batch) for batch in (short, mixed))
    assert_same(first[0], second[0], atol=1e-6)
    weights = TASK.encode(short, KEY).weights
    assert float(first[2]["tokens"]) == float(second[2]["tokens"]) == int(jnp.sum(weights[:5] > 0))


def test_batch_of_padding_rows_only_is_harmless():
    grads, _, metrics = gradients_on(one_device(), example() | {"valid": jnp.zeros(ROWS, bool)})
    assert float(metrics["loss"]) == 0 and float(metrics["token_accuracy"]) == 0
    assert all(bool(jnp.all(g == 0)) for g in jax.tree.leaves(grads))


def test_tasks_add_up_by_weight():
    batches = {"a": example(1), "b": example(2)}
    single = {name: gradients_on(one_device(), batch) for name, batch in batches.items()}
    both = compiled_gradients(tasks=("a", "b"), weights=(("a", 0.3), ("b", 0.7)))
    grads, _, metrics = both(initial_state()[1], batches, KEY)
    expected = jax.tree.map(lambda a, b: 0.3 * a + 0.7 * b, single["a"][0], single["b"][0])
    assert_same(expected, grads, atol=1e-6)
    for name in "ab":
        np.testing.assert_allclose(metrics[f"{name}/loss"], single[name][2]["loss"], rtol=1e-6)
    total = 0.3 * metrics["a/loss"] + 0.7 * metrics["b/loss"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)


def test_one_batch_is_learnt_by_heart():
    mesh = sharding.make_mesh()
    state, step = step_on(mesh)
    batch = batch_on(mesh, example())
    with jax.set_mesh(mesh):
        for _ in range(400):
            state, metrics = step(state, batch, KEY, FINE)
            if metrics["token_accuracy"] > 0.99:
                break
    assert metrics["token_accuracy"] > 0.99


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_update_that_is_not_finite_leaves_the_state_alone(bad):
    mesh = sharding.make_mesh()
    batch = example()
    batch["image"] = batch["image"].at[3, 2, 2, 0].set(bad)
    state, step = step_on(mesh)
    before = jax.tree.map(np.asarray, state)
    with jax.set_mesh(mesh):
        after, metrics = step(state, batch_on(mesh, batch), KEY, FINE)
    assert float(metrics["finite"]) == 0 and not np.isfinite(metrics["loss"] + metrics["grad_norm"])
    assert_equal(before, after)
    # And so does the update that was sent before the loop knew.
    with jax.set_mesh(mesh):
        later, metrics = step(after, batch_on(mesh, example()), KEY, metrics["finite"])
    assert float(metrics["finite"]) == 0 and np.isfinite(metrics["loss"])
    assert_equal(before, later)


def test_run_is_repeatable_and_every_step_draws_anew():
    mesh = one_device()
    batch, runs = batch_on(mesh, example()), []
    for _ in range(2):
        state, step = step_on(mesh, tiny(), NOISY_TASK)
        frozen = jax.tree.map(np.asarray, state.params)
        values = []
        with jax.set_mesh(mesh):
            for _ in range(3):
                state, metrics = step(state, batch, KEY, FINE)
                values.append(float(metrics["loss"]))
                state = state.replace(params=jax.device_put(frozen, sharding.replicated(mesh)))
        runs.append((values, jax.tree.map(np.asarray, state)))
    assert runs[0][0] == runs[1][0]
    assert len(set(runs[0][0])) == 3  # same parameters and batch: only the draws differ
    assert_equal(runs[0][1], runs[1][1])


def test_cut_parameters_keep_their_layout_and_give_the_same_step():
    cut, data = sharding.make_mesh({"data": 2, "fsdp": 2, "model": 2}), sharding.make_mesh()
    results = []
    for mesh in (cut, data):
        state, step = step_on(mesh)
        layout = jax.tree.map(lambda x: x.sharding, state)
        with jax.set_mesh(mesh):
            new, metrics = step(state, batch_on(mesh, example()), KEY, FINE)
        assert jax.tree.map(lambda x: x.sharding, new) == layout
        assert any(not s.is_fully_replicated for s in jax.tree.leaves(layout.opt_state)) == (
            mesh is cut
        )
        assert jax.tree.leaves(state.params)[0].is_deleted()  # donated
        assert int(new.step) == 1
        results.append(metrics)
    assert set(metrics) == {"loss", "token_accuracy", "tokens", "grad_norm", "lr", "finite"}
    assert float(metrics["finite"]) == 1 and float(metrics["lr"]) == np.float32(3e-3)
    assert_same(results[0], results[1], atol=1e-5)


def test_state_is_created_where_it_belongs():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "model": 2})
    tx = optim.make("adamw", 1e-3)
    abstract = train_state.abstract_state(MODEL, tx, mesh=mesh)
    with jax.set_mesh(mesh):
        state = train_state.init_state(MODEL, tx, KEY, mesh=mesh)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), abstract
    )
    assert_equal(state.params, initial_state()[1].params)
