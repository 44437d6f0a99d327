"""A model as functions that need neither this package nor Flax: StableHLO by `jax.export`, for any
number of images, on CPU, CUDA and TPU.

An export is a folder of

- `encode.jax_export`: (weights, image f32[b,H,W,3]) -> memory f32[b,S,D],
- `decode_TASK.jax_export`: (weights, memory, fields, seed) -> results, see `decode_function`,
- `model.safetensors`: the weights by name, the first argument of both,
- `description.json`: preprocessing, vocabulary, classes,
- `load_exported.py`: calls all of it; needs jax, numpy and safetensors.

The batch b, and the objects n of prompted tasks, are symbolic. Weights are arguments, so that the
functions stay small and one file serves them all.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax import export

from pix2seq_jax.evaluation.decoders import blank_images, make_draw, read_drawn
from pix2seq_jax.experiment import resolve, saved_run, text_model
from pix2seq_jax.experiment.logs import log
from pix2seq_jax.files.whole import write_whole
from pix2seq_jax.models.attention import BLOCKWISE_FROM
from pix2seq_jax.portable import description, load_exported, weights
from pix2seq_jax.training import sharding, trees

PLATFORMS = ("cpu", "cuda", "tpu")
ENCODE_FILE = "encode.jax_export"
AS_TRAINED, GREEDY = "config", "greedy"  # samplers


def write(
    workdir: str | Path,
    out: str | Path,
    *,
    step: int = 0,
    sampler: str = AS_TRAINED,
    tasks: str = "",
    text_model_path: str = "",
    weights_only: bool = False,
) -> None:
    """Exports a model of a workdir into the folder `out`.

    Args:
        workdir: of a run or an import.
        out: new files replace old ones of the same name.
        step: of the checkpoint; 0: the newest whole one.
        sampler: "config": how the run evaluates; "greedy": one sample, the likeliest tokens.
        tasks: some of the model's tasks, joined by + or commas; "" for all.
        text_model_path: SentencePiece model, for an imported model with captions.
        weights_only: only model.safetensors.

    Raises:
        ValueError: no run there, no such task, preprocessing that cannot be exported, or
            `weights_only` for a folder that holds a whole export.
    """
    folder = Path(out)
    if weights_only and (folder / description.FILE).exists():
        raise ValueError(
            f"--out={out} holds a whole export, which would have the weights of another model; "
            "give another --out, or leave out --weights_only"
        )
    config = ml_collections.ConfigDict(saved_run.load_config(workdir).to_dict())
    text_model.take_flag(config, text_model_path, workdir)
    chosen = ml_collections.ConfigDict(config.to_dict())
    if tasks:
        chosen = resolve.select_tasks(chosen, tasks)
    if sampler == GREEDY:
        for section in chosen.tasks.values():
            section.sampler, section.num_samples = "greedy", 1
    text, mesh = text_model.load_text(chosen, workdir), sharding.make_mesh()
    with jax.set_mesh(mesh):
        model = resolve.make_model(config)
        step, variables = saved_run.load_variables(workdir, config, model, mesh, step=step)
    if not weights_only:
        # Refuses what cannot be exported, before anything is written.
        model, made = portable_model(chosen), resolve.make_tasks(chosen)
        content = description.describe(chosen, model, made, step=step, text=text)
        # It is written last, so that what is there of an export that was stopped is none.
        (folder / description.FILE).unlink(missing_ok=True)
    path = folder / weights.WEIGHTS_FILE
    # The file is the whole model, whatever tasks are exported.
    whole = saved_run.meta(config, text_model.find_text(config, workdir))
    weights.write(path, variables, config, whole)
    if not weights_only:
        write_functions(folder, chosen, variables, content)
    log.info("step %d of %s is exported to %s", step, workdir, path if weights_only else folder)


def write_functions(
    folder: Path, config: ml_collections.ConfigDict, variables, content: dict
) -> None:
    """Writes all but the weights: the functions of the tasks of a config, and `content`, their
    description."""
    model, tasks = portable_model(config), resolve.make_tasks(config)
    named = trees.flatten_names(variables)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in named.items()}
    batch, objects = export.symbolic_shape("b, n")
    picture = jax.ShapeDtypeStruct((batch, *model.image_size, 3), jnp.float32)
    encode = _exported(encode_function(model), shapes, picture)
    write_whole(folder / ENCODE_FILE, encode.serialize())
    memory = jax.ShapeDtypeStruct(encode.out_avals[0].shape, jnp.float32)
    for name, task in tasks.items():
        fields = _fields(batch, objects if task.prompted else None)
        seed = jax.ShapeDtypeStruct((), jnp.int32)
        decode = decode_function(model, task, config.tasks[name])
        made = _exported(decode, shapes, memory, fields, seed)
        write_whole(folder / content["tasks"][name]["file"], made.serialize())
        log.info("%s: %s", name, jax.tree.unflatten(made.out_tree, made.out_avals))
    shutil.copyfile(load_exported.__file__, folder / Path(load_exported.__file__).name)
    write_whole(folder / description.FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def portable_model(config: ml_collections.ConfigDict):
    """The model of a config with an attention that every platform has: a kernel is for one kind of
    device."""
    model = resolve.make_model(config)
    rows, columns = model.backbone.grid(tuple(model.image_size))
    long = (rows * columns) ** 2 >= BLOCKWISE_FROM
    if model.attention in ("plain", "blockwise"):
        return model
    return model.clone(attention="blockwise" if long else "plain")


def encode_function(model) -> Callable:
    """(weights by name, image f32[B,H,W,3] in [0,1]) -> memory f32[B,S,D]."""

    def encode(arrays, image):
        return model.apply(weights.nested(arrays), image, method="encode")

    return encode


def decode_function(model, task, section: ml_collections.ConfigDict) -> Callable:
    """(weights by name, memory f32[B,S,D], fields, seed i32[]) -> what `task.decode` gives, and
    `tokens i32[B,(N,)K,T]` and `likelihoods f32[B,(N,)K,T]` of them.

    Fields: `ids u32[B,2]` of which random draws are a function, `orig_size`, `unpadded_size` and
    `crop_offset i32[B,2]` as in `tasks.base.to_original`; for a task that objects prompt `boxes
    f32[B,N,4]` yxyx normalised to the padded image, `labels i32[B,N]` (0: none) and `scores
    f32[B,N]`.
    """
    draw = make_draw(model, task, section)

    def decode(arrays, memory, fields, seed):
        example = fields | {"image": blank_images(model, memory.shape[0])}
        drawn = draw(weights.nested(arrays), memory, example, seed)
        extra = {"tokens": drawn.tokens, "likelihoods": drawn.scores}
        return read_drawn(task, drawn, example) | extra

    return decode


def _fields(batch, objects) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of the fields of `decode_function`; `objects` None: nothing prompts."""
    struct = jax.ShapeDtypeStruct
    pairs = ("orig_size", "unpadded_size", "crop_offset")
    fields = {name: struct((batch, 2), jnp.int32) for name in pairs}
    fields["ids"] = struct((batch, 2), jnp.uint32)
    if objects is not None:
        fields["boxes"] = struct((batch, objects, 4), jnp.float32)
        fields["labels"] = struct((batch, objects), jnp.int32)
        fields["scores"] = struct((batch, objects), jnp.float32)
    return fields


def _exported(function: Callable, *shapes: Any) -> export.Exported:
    """The function for all platforms, without the mesh of this process."""
    return export.export(jax.jit(function), platforms=PLATFORMS)(*shapes)
