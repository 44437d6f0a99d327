"""Meshes that cut more than the batch: the same numbers as one device, and no more bytes than the
rules ask for. With five layers, so that the loop over layers is what is tested."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.decoding.generate import generate
from pix2seq_jax.decoding.sampling import from_string
from pix2seq_jax.models.axes import constrain, partition_spec
from pix2seq_jax.training import compiled, optim, sharding
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step
from tests.helpers import four_tasks

ROWS, LAYERS = 16, 5
TASK = {"detection": four_tasks.TASKS["detection"]}
# Wide enough that an array with the rows of all devices is larger than any parameter.
SIZES = {"enc_dim": 64, "enc_mlp": 128, "enc_heads": 8, "dec_dim": 64, "dec_mlp": 128}
SIZES |= {"dec_heads": 8, "enc_layers": LAYERS, "dec_layers": LAYERS}
MESHES = ({"data": 8}, {"fsdp": 8}, {"model": 8}, {"data": 2, "fsdp": 2, "model": 2})


def name_of(axes: dict) -> str:
    return "-".join(f"{axis}{size}" for axis, size in axes.items())


class Run:
    """One step of the detection task on a mesh, and a decoding where it is asked for."""

    def __init__(self, axes: dict, *, devices=None, decodes: bool = False) -> None:
        mesh = sharding.make_mesh(axes, devices=devices)
        model, tx = four_tasks.tiny(**SIZES), optim.make("momentum", 1.0, momentum=0.0)
        rate = optim.schedule("none", base=1.0, batch_size=ROWS, total=10)
        step = train_step.make_step(model, TASK, tx, rate)
        batch = {"detection": four_tasks.example(ROWS, four_tasks.slots_of("detection"))}
        with jax.set_mesh(mesh):
            abstract = train_state.abstract_state(model, tx, mesh=mesh)
            before = jax.tree.map(random, abstract.params)
            zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
            layout = jax.tree.map(lambda x: x.sharding, abstract)
            state = jax.device_put(zeros.replace(params=before), layout)
            batch = jax.device_put(batch, sharding.batch_sharding(mesh))
            if decodes:
                self.logits = decoded(model, state, batch["detection"]["image"])
            jitted = train_step.jit_step(step, state, mesh=mesh)
            program = jitted.lower(state, batch, jax.random.key(1)).compile()
            after, metrics = program(state, batch, jax.random.key(1))
        self.loss = float(metrics["loss"])
        self.gradients = jax.tree.map(lambda a, b: a - np.asarray(b), before, after.params)
        self.temporaries = program.memory_analysis().temp_size_in_bytes
        self.text = program.as_text()
        self.sent = compiled.sent_by_kind(self.text)
        self.parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(before))
        self.largest = max(leaf.nbytes for leaf in jax.tree.leaves(before))


def random(like: jax.ShapeDtypeStruct) -> np.ndarray:
    """The same numbers for the same shape."""
    draw = np.random.default_rng(np.prod(like.shape, dtype=int))
    return (0.1 * draw.standard_normal(like.shape)).astype(like.dtype)


def decoded(model, state, images) -> np.ndarray:
    """Logits of eleven greedy steps."""

    def decode(variables, images):
        memory = model.apply(variables, images, method="encode")
        prompt, greedy = jnp.full((ROWS, 1), 10, jnp.int32), from_string("greedy")
        options = {"max_len": 12, "sampler": greedy, "return_logits": True}
        return generate(model, variables, memory, prompt, **options).logits

    return np.asarray(jax.jit(decode)(train_state.variables(state), images))


@pytest.fixture(scope="module")
def alone() -> Run:
    return Run({"data": 1}, devices=jax.devices()[:1], decodes=True)


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    return {name_of(axes): Run(axes, decodes=axes == MESHES[-1]) for axes in MESHES}


@pytest.mark.parametrize("name", [name_of(axes) for axes in MESHES])
def test_it_equals_one_device(name, runs, alone):
    run = runs[name]
    assert run.loss == pytest.approx(alone.loss, rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * max(np.abs(b).max(), 1e-3)),
        run.gradients,
        alone.gradients,
    )


def test_decoding_equals_one_device(runs, alone):
    logits = runs[name_of(MESHES[-1])].logits
    np.testing.assert_allclose(logits, alone.logits, atol=1e-5)
    assert logits.std(axis=0).max() > 1e-4  # images differ


def test_fsdp_holds_the_rows_of_its_device(runs):
    """Parameters cut over the devices of the batch: less memory than with whole ones, and each
    gathered for the forward and for the backward pass, its gradient added once."""
    data, fsdp = runs["data8"], runs["fsdp8"]
    assert fsdp.temporaries < 1.1 * data.temporaries
    assert fsdp.sent["all-gather"] < 2.2 * 7 / 8 * fsdp.parameters
    assert fsdp.sent["all-reduce"] < 1.1 * 2 * 7 / 8 * fsdp.parameters
    assert max(row.size for row in compiled.collectives(fsdp.text)) < 1.1 * fsdp.largest


def test_the_model_axis_gathers_no_keys_and_values(runs):
    """Only sums of activations, and what depends on the whole vocabulary."""
    sent = runs["model8"].sent
    assert sent.get("all-gather", 0.0) < 0.1 * sent["all-reduce"]


def test_arrays_are_cut_as_their_dimensions_are_named():
    sizes = {"data": 2, "model": 4}
    assert partition_spec(sizes, ("batch", None, "mlp"), (8, 3, 16)) == jax.P(
        ("data",), None, ("model",)
    )
    assert partition_spec(sizes, ("batch", "heads"), (8, 6, 5, 4)) == jax.P(("data",), None)


def test_nothing_is_constrained_on_one_device():
    x = jnp.zeros((4, 3))
    assert constrain(x, "batch") is x
    with jax.set_mesh(sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])):
        assert constrain(x, "batch") is x
