"""One step, and a decoding, on a mesh of made-up devices: to compare meshes with one device."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from pix2seq_jax.decoding import generate as generating
from pix2seq_jax.decoding.sampling import from_string
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.training import compiled, optim, sharding
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step
from tests.helpers import four_tasks

TASK = {"detection": four_tasks.TASKS["detection"]}


def name_of(axes: dict) -> str:
    return "-".join(f"{axis}{size}" for axis, size in axes.items())


class Run:
    """One step of the detection task on a mesh, and a decoding where it is asked for.

    Parameters are normal numbers of this scale, those that scale norms about 1.
    """

    def __init__(
        self,
        model: Pix2Seq,
        axes: dict,
        *,
        rows: int,
        scale: float = 0.1,
        devices=None,
        decodes: bool = False,
    ) -> None:
        mesh = sharding.make_mesh(axes, devices=devices)
        tx = optim.make("momentum", 1.0, momentum=0.0)
        rate = optim.schedule("none", base=1.0, batch_size=rows, total=10)
        step = train_step.make_step(model, TASK, tx, rate)
        batch = {"detection": four_tasks.example(rows, four_tasks.slots_of("detection"))}
        with jax.set_mesh(mesh):
            abstract = train_state.abstract_state(model, tx, mesh=mesh)
            before = jax.tree.map_with_path(lambda *x: random(*x, scale), abstract.params)
            zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
            layout = jax.tree.map(lambda x: x.sharding, abstract)
            state = jax.device_put(zeros.replace(params=before), layout)
            batch = jax.device_put(batch, sharding.batch_sharding(mesh))
            if decodes:
                images = batch["detection"]["image"]
                in_int8 = model.clone(kernel_dtype="int8", cache_dtype="int8")
                self.logits = decoded(model, state, images)
                self.int8_logits = decoded(in_int8, state, images)
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


def random(path: tuple, like: jax.ShapeDtypeStruct, scale: float) -> np.ndarray:
    """The same numbers for the same shape."""
    draw = np.random.default_rng(np.prod(like.shape, dtype=int))
    numbers = scale * draw.standard_normal(like.shape, dtype=np.float32)
    return (numbers + (getattr(path[-1], "key", "") == "scale")).astype(like.dtype)


def decoded(model: Pix2Seq, state, images) -> np.ndarray:
    """Logits of eleven greedy steps."""

    def decode(variables, images):
        memory = model.apply(variables, images, method="encode")
        prompt, greedy = jnp.full((len(images), 1), 10, jnp.int32), from_string("greedy")
        options = {"max_len": 12, "sampler": greedy, "return_logits": True}
        return generating.generate(model, variables, memory, prompt, **options).logits

    with mock.patch.object(generating, "BLOCK", 7):  # two of them
        return np.asarray(jax.jit(decode)(train_state.variables(state), images))
