"""What decoding needs of a device, read off the programs that evaluation and prediction run,
compiled for made-up devices."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from pix2seq_jax.evaluation.decoders import make_decoder, make_encoder
from pix2seq_jax.evaluation.views import make_view
from pix2seq_jax.experiment import plan, resolve
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.tasks import Task
from pix2seq_jax.training import sharding
from pix2seq_jax.training import state as train_state


@dataclass(frozen=True)
class Decoding:
    """What the decoder of a task needs on each device, in bytes, besides the parameters.

    Attributes:
        rows: that all devices decode at a time.
        memory: the encoded images.
        temporaries: of the program, the caches of keys and values among them.
        results: what is given to the host.
    """

    rows: int
    memory: int
    temporaries: int
    results: int


def decoding(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> dict[str, Decoding]:
    """Compiles the decoder of each task.

    Args:
        config: as `plan.assumed` gives it.
        mesh: of the devices.

    Raises:
        ValueError: a sampler or preprocessing that cannot be.
    """
    model, tasks = resolve.make_model(config), resolve.make_tasks(config)
    needs = {}
    with jax.set_mesh(mesh):
        variables = train_state.abstract_variables(model, mesh=mesh)
        memory, batch = _encoded(config, model, variables, mesh)
        for name, task in tasks.items():
            rows = _rows(config, model, task, mesh)
            decode = make_decoder(model, task, config.tasks[name])
            program = decode.lower(variables, memory, batch, rows, jnp.int32(0)).compile()
            analysis = program.memory_analysis()
            needs[name] = Decoding(
                rows=rows["row"].shape[0],
                memory=plan.bytes_on_a_device(memory),
                temporaries=analysis.temp_size_in_bytes,
                results=analysis.output_size_in_bytes,
            )
    return needs


def _encoded(
    config: ml_collections.ConfigDict, model: Pix2Seq, variables: Any, mesh: jax.sharding.Mesh
) -> tuple[jax.ShapeDtypeStruct, dict[str, jax.ShapeDtypeStruct]]:
    """The memory of a batch of images, and its other fields as `decoders.make_decoder` takes
    them."""
    size = sharding.round_batch(mesh, config.eval.batch_size)
    pairs = ("unpadded_size", "orig_size", "crop_offset")
    batch = {name: _array(mesh, jnp.int32, size, 2) for name in pairs}
    batch |= {
        "pad_value": _array(mesh, jnp.float32, size),
        "ids": _array(mesh, jnp.uint32, size, 2),
    }
    image = {"image": _array(mesh, jnp.float32, size, *model.image_size, 3)}
    encoded = jax.eval_shape(make_encoder(model), variables, batch | image)
    return _array(mesh, encoded.dtype, *encoded.shape), batch


def _rows(
    config: ml_collections.ConfigDict, model: Pix2Seq, task: Task, mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """The rows that are decoded at a time, with prompts where the task has them."""
    section = config.tasks[task.name]
    size = sharding.round_batch(mesh, section.eval_batch_size or config.eval.batch_size)
    rows = {"row": _array(mesh, jnp.int32, size)}
    if task.prompted:
        slots = make_view(task, section, tuple(model.image_size)).slots
        rows["boxes"] = _array(mesh, jnp.float32, size, slots, 4)
        rows["labels"] = _array(mesh, jnp.int32, size, slots)
        rows["scores"] = _array(mesh, jnp.float32, size, slots)
    return rows


def _array(mesh: jax.sharding.Mesh, dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    """Cut over the images."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch_sharding(mesh))
