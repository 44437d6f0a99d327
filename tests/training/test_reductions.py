"""What devices send each other in a training step, read off the compiled program."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from pix2seq_jax.training import optim, sharding
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step
from pix2seq_jax.training.compiled import collectives, sent_by_kind
from tests.helpers import four_tasks

ROWS = 16


def compiled_step(mesh, accum: int) -> tuple[int, str]:
    """(bytes of the parameters, program) of a step of the four tasks."""
    model, tx = four_tasks.tiny(), optim.make("adamw", 1e-3)
    rate = optim.schedule("none", base=1e-3, batch_size=ROWS, total=10)
    step = train_step.make_step(model, four_tasks.TASKS, tx, rate, accum=accum)
    rows = sharding.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        state = train_state.abstract_state(model, tx, mesh=mesh)
        batches = {
            name: jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows),
                four_tasks.example(ROWS, four_tasks.slots_of(name)),
            )
            for name in four_tasks.TASKS
        }
        jitted = train_step.jit_step(step, state, mesh=mesh)
        lowered = jitted.lower(state, batches, jax.random.key(0))
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(state.params))
    return size, lowered.compile().as_text()


def test_gradients_are_added_once_a_step():
    """Four tasks in two parts each: eight additions would be, and were, eight times the bytes."""
    parameters, program = compiled_step(sharding.make_mesh(), accum=2)
    rows = collectives(program)
    assert {row.kind for row in rows} == {"all-reduce"}
    assert {row.computation for row in rows} == {"ENTRY"}  # none is in a loop
    total = sum(row.size for row in rows)
    assert parameters <= total < 1.01 * parameters


@pytest.mark.parametrize("axis", ["fsdp", "model"])
def test_gradients_of_cut_parameters_are_added_once_over_data(axis):
    """In the loops the two devices that share the parameters talk to each other, and no others."""
    parameters, program = compiled_step(sharding.make_mesh({"data": 4, axis: 2}), accum=2)
    rows = collectives(program)
    assert {row.devices for row in rows if row.computation != "ENTRY"} == {2}
    total = sum(row.size for row in rows if row.computation == "ENTRY" and row.devices == 4)
    assert parameters / 2 <= total < 0.65 * parameters  # some are too small to be cut


def test_additions_inside_loops_are_seen():
    mesh = sharding.make_mesh()
    function = jax.shard_map(
        lambda x: jax.lax.fori_loop(0, 5, lambda i, x: jax.lax.psum(jnp.sin(x) + i, "data"), x),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
        check_vma=False,
    )
    with jax.set_mesh(mesh):
        program = jax.jit(function).lower(jnp.zeros((8, 3))).compile().as_text()
    [row] = collectives(program)
    assert row.computation != "ENTRY" and row.kind == "all-reduce" and row.size == 3 * 4
    assert row.devices == 8
    assert sent_by_kind(program) == {"all-reduce": 5 * 2 * 7 / 8 * 12}  # five turns
