"""What decoding needs of a device, read off the programs that evaluation and prediction run,
compiled for made-up devices."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import ml_collections

from pix2seq_jax.evaluation.decoders import make_decoder, make_encoder
from pix2seq_jax.evaluation.views import make_view
from pix2seq_jax.experiment import plan, resolve
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
    images = sharding.round_batch(mesh, config.eval.batch_size)
    cut = sharding.batch_sharding(mesh)

    def array(dtype, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=cut)

    needs = {}
    with jax.set_mesh(mesh):
        variables = train_state.abstract_variables(model, mesh=mesh)
        batch = {
            "unpadded_size": array(jnp.int32, images, 2),
            "pad_value": array(jnp.float32, images),
        }
        image = {"image": array(jnp.float32, images, *model.image_size, 3)}
        encoded = jax.eval_shape(make_encoder(model), variables, batch | image)
        memory = array(encoded.dtype, *encoded.shape)
        batch |= {"ids": array(jnp.uint32, images, 2)}
        batch |= {name: array(jnp.int32, images, 2) for name in ("orig_size", "crop_offset")}
        for name, task in tasks.items():
            section = config.tasks[name]
            size = sharding.round_batch(mesh, section.eval_batch_size or config.eval.batch_size)
            rows = {"row": array(jnp.int32, size)}
            if task.prompted:
                slots = make_view(task, section, tuple(model.image_size)).slots
                rows["boxes"] = array(jnp.float32, size, slots, 4)
                rows["labels"] = array(jnp.int32, size, slots)
                rows["scores"] = array(jnp.float32, size, slots)
            decode = make_decoder(model, task, section)
            program = decode.lower(variables, memory, batch, rows, jnp.int32(0)).compile()
            analysis = program.memory_analysis()
            needs[name] = Decoding(
                rows=size,
                memory=plan.bytes_on_a_device(memory),
                temporaries=analysis.temp_size_in_bytes,
                results=analysis.output_size_in_bytes,
            )
    return needs
