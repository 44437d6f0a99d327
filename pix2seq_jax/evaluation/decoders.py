"""The device half of evaluation and prediction: jitted functions from images to memory, and from
memory to results."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec

from pix2seq_jax.decoding import sampling
from pix2seq_jax.decoding.beam import beam_search
from pix2seq_jax.decoding.generate import generate
from pix2seq_jax.decoding.options import Ranges
from pix2seq_jax.models.axes import RULES, spread_axes
from pix2seq_jax.tasks.base import Task, from_original, images
from pix2seq_jax.training import processes, sharding
from pix2seq_jax.training import state as train_state
from pix2seq_jax.vocab import Vocab


def make_encoder(model) -> Callable:
    """Jitted `encode(variables, batch) -> f32[B,S,D]`, the memory of the images of an Example
    dict.

    Where each device has images of its own, and all parameters, it encodes them by itself, so that
    attention may be a kernel that XLA cannot spread over devices.
    """

    def own(variables, pixels):
        return model.apply(variables, pixels, method="encode")

    @jax.jit
    def encode(variables, batch):
        axes, pixels, sizes = sharding.image_axes(), images(batch), spread_axes()
        if not axes or "fsdp" in sizes or len(pixels) % math.prod(sizes.values()):
            return own(variables, pixels)
        return _alone(own, axes)(variables, pixels)

    return encode


def read_sampler(
    task: Task, section: ml_collections.ConfigDict
) -> sampling.Sampler | sampling.Beam:
    """The sampler of a task's section.

    Raises:
        ValueError: one that cannot be read, with values that cannot be, or beam search for a task
            that does not write and end one sequence of an image.
    """
    field = f"config.tasks.{task.name}.sampler={section.sampler!r}"
    try:
        sampler = sampling.from_string(section.sampler)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
    if isinstance(sampler, sampling.Beam) and (task.prompted or task.eos_token is None):
        raise ValueError(f"{field}: beam search is for captions")
    return sampler


def make_decoder(
    model,
    task: Task,
    section: ml_collections.ConfigDict,
    *,
    labels: Sequence[int] | None = None,
) -> Callable:
    """Jitted `decode(variables, memory, batch, rows, seed) -> dict`: task.decode of freshly
    generated tokens.

    How tokens are drawn is in the task's section of the config. What is drawn for an image or a
    window depends on nothing else in the batch, see `row_keys`. Its arguments:
        memory: f32[B,S,D] of B images.
        batch: their fields, all but the image: `ids u32[B,2]`, `orig_size`, `unpadded_size`,
            `crop_offset`; perhaps `boxes` (normalised to the padded image), `labels`, `scores`.
        rows: `row i32[R]`, which image each row to decode is of; perhaps `boxes f32[R,N,4]` yxyx in
            pixels of the original image, `labels i32[R,N]`, `scores f32[R,N]`, which prompt.
        seed: i32[].

    With `labels` no other class is written, or chosen by its probability; None: all are.

    Raises:
        ValueError: see `read_sampler`.
    """
    draw, chosen = make_draw(model, task, section, labels=labels), class_mask(task, labels)

    @jax.jit
    def decode(variables, memory, batch, rows, seed):
        row = rows["row"]
        example = {name: jnp.take(value, row, axis=0) for name, value in batch.items()}
        example |= {name: value for name, value in rows.items() if name != "row"}
        example["image"] = blank_images(model, row.shape[0])
        if "boxes" in rows:
            example["boxes"] = from_original(rows["boxes"], example)
        images_of = jnp.take(memory, row, axis=0)
        drawn = draw(variables, images_of, example, seed)
        return read_drawn(task, drawn, example, chosen)

    return decode


def blank_images(model, batch) -> jnp.ndarray:
    """f32[B,H,W,3] for an example that is decoded: tasks read only the shape of the image, so
    nothing of this is computed."""
    return jnp.zeros((batch, *model.image_size, 3))


def make_draw(
    model,
    task: Task,
    section: ml_collections.ConfigDict,
    *,
    labels: Sequence[int] | None = None,
) -> Callable:
    """`draw(variables, memory, example, seed) -> Generated`, as the task's section says; of the
    classes only `labels` (None: all).

    Raises:
        ValueError: see `read_sampler`.
    """
    draw_rows = make_generate(model, task, section, labels=labels)

    def draw(variables, memory, example, seed):
        keys = row_keys(seed, example["ids"], example["crop_offset"], example["orig_size"])
        return _spread(draw_rows, model)(variables, memory, task.prompt(example), keys)

    return draw


def read_drawn(
    task: Task, drawn, example, chosen: np.ndarray | None = None
) -> dict[str, jnp.ndarray]:
    """What `task.decode` makes of what was drawn; of the classes only those `chosen`, see
    `class_mask`."""
    tokens, scores = drawn.tokens, drawn.class_probs if task.class_positions else drawn.scores
    if task.class_positions and chosen is not None:
        scores = jnp.where(chosen, scores, -1.0)  # below any probability
    if not task.prompted:
        tokens, scores = tokens[:, None], scores[:, None]  # [B,1,K,T]
    return task.decode(tokens, scores, example)


def _spread(draw: Callable, model) -> Callable:
    """`draw` as the devices of the mesh share it. Parameters that are cut over `fsdp` are gathered
    once, before the first token.

    Without a `model` axis each device decodes its own rows and ends when these have ended. By
    itself XLA would gather the logits of a wide vocabulary from all devices at every token, because
    it does not spread `lax.top_k` over rows, and no device would end before the last one.
    """
    axes = sharding.image_axes()
    if not axes:
        return functools.partial(_gathered, draw, model) if "fsdp" in spread_axes() else draw
    return _alone(draw, axes)


def _alone(function: Callable, axes: tuple[str, ...]) -> Callable:
    """`function(variables, *arrays)` of each device for its own rows of the arrays."""

    def run(variables, *arrays):
        cut, whole = PartitionSpec(axes), PartitionSpec()
        specs = {"in_specs": (whole, *[cut] * len(arrays)), "out_specs": cut}
        mapped = jax.shard_map(function, axis_names=set(axes), check_vma=False, **specs)
        return mapped(variables, *arrays)

    return run


def _gathered(draw: Callable, model, variables, *rest):
    """`draw` of parameters that are cut over `model` alone."""
    rules = {name: [axis for axis in axes if axis != "fsdp"] for name, axes in RULES.items()}
    mesh = jax.sharding.get_abstract_mesh()
    abstract = train_state.abstract_variables(model, mesh=mesh, rules=rules)
    layout = jax.tree.map(lambda x: x.sharding.spec, abstract["params"])
    params = lax.with_sharding_constraint(variables["params"], layout)
    return draw(variables | {"params": params}, *rest)


def make_generate(
    model,
    task: Task,
    section: ml_collections.ConfigDict,
    *,
    labels: Sequence[int] | None = None,
) -> Callable:
    """`draw(variables, memory, prompt, keys) -> Generated`, as the task's section says; of the
    classes only `labels` (None: all)."""
    sampler = read_sampler(task, section)
    allowed = task.allowed if section.grammar else None
    options = {"max_len": task.max_len, "allowed": only_classes(allowed, task.vocab, labels)}
    if isinstance(sampler, sampling.Beam):
        options |= {"beams": sampler.size, "length_penalty": sampler.length_penalty}

        def search(variables, memory, prompt, keys):
            del keys
            return beam_search(
                model, variables, memory, prompt, eos_token=task.eos_token, **options
            )

        return search
    ends = task.eos_token is not None
    options |= {"stop_at_eos": ends, "eos_token": task.eos_token if ends else 0}
    options |= {"class_positions": task.class_positions, "eos_bias": section.eos_bias}
    options |= {"sampler": sampler, "num_samples": section.num_samples}

    def sample(variables, memory, prompt, keys):
        return generate(model, variables, memory, prompt, rng=keys, **options)

    return sample


def only_classes(
    allowed: tuple[Ranges, ...] | None, vocab: Vocab, labels: Sequence[int] | None
) -> tuple[Ranges, ...] | None:
    """A grammar that may write no class but those of `labels`; all else stays as it is.

    Args:
        allowed: see `tasks.base.Task.allowed`; None: any token.
        vocab: token ranges.
        labels: 1-based; None: all classes.
    """
    if labels is None:
        return allowed
    if allowed is None:
        allowed = (((0, vocab.size),),)
    start, stop = vocab.class_range
    kept = []
    for ranges in allowed:
        own: list[tuple[int, int]] = []
        for first, end in ranges:
            own += [(first, min(end, start)), (max(first, stop), end)]
            tokens = [start + label - 1 for label in labels]
            own += [(token, token + 1) for token in tokens if first <= token < end]
        kept.append(tuple((first, end) for first, end in own if first < end))
    return tuple(kept)


def class_mask(task: Task, labels: Sequence[int] | None) -> np.ndarray | None:
    """bool[C], which of the tokens of `class_positions` are classes of `labels`; None: all."""
    if labels is None or task.class_positions is None:
        return None
    start, stop = task.class_positions[:2]
    return np.isin(np.arange(start, stop), task.vocab.class_range[0] - 1 + np.asarray(labels))


def id_halves(image_ids: np.ndarray) -> np.ndarray:
    """i64[B] -> u32[B,2], low and high half: devices have no 64-bit integers."""
    ids = np.asarray(image_ids, np.int64)
    return np.stack([ids & 0xFFFFFFFF, ids >> 32 & 0xFFFFFFFF], axis=1).astype(np.uint32)


@jax.jit
def row_keys(seed: jax.Array, ids: jax.Array, corner: jax.Array, size: jax.Array) -> jax.Array:
    """One random key per row, key[B]: a function of the seed, the image's id and the window cut
    from it alone.

    Args:
        seed: i32[].
        ids: u32[B,2], low and high half of each id.
        corner: i32[B,2], of the window, in pixels.
        size: i32[B,2], of the window, in pixels.
    """
    parts = jnp.concatenate([ids, corner.astype(jnp.uint32), size.astype(jnp.uint32)], axis=1)

    def fold(row):
        return functools.reduce(jax.random.fold_in, row, jax.random.key(seed))

    return jax.vmap(fold)(parts)


def to_host(tree):
    """Arrays of all processes as numpy on every process, rows in global order."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    _meet_once()
    return multihost_utils.process_allgather(tree, tiled=True)


@functools.cache
def _meet_once() -> None:
    """Waits for the other processes before the first exchange: one may compile for much longer than
    another."""
    processes.meet("the first results are there")


def lengthened(array: np.ndarray, size: int) -> np.ndarray:
    """Zeros behind the rows until there are `size`."""
    return np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1))


def pulled(decoded) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Arrays on the host, each after the next ones were sent to the devices, so that they never
    wait."""
    previous = None
    for one in decoded:
        if previous is not None:
            yield _pull(*previous)
        previous = one
    if previous is not None:
        yield _pull(*previous)


def _pull(cut: slice, arrays) -> tuple[slice, dict[str, np.ndarray]]:
    return cut, {
        name: np.array(value[: cut.stop - cut.start]) for name, value in to_host(arrays).items()
    }
