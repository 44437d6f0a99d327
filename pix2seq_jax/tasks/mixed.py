"""Several tasks in one batch of sequences: "data mixing" (Pix2Seq v2, arXiv:2206.07669, section
3.2, Algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from pix2seq_jax.tasks.base import Sequences, Task
from pix2seq_jax.vocab import PADDING

PER_OBJECT = ("boxes", "labels", "polygons", "keypoints")  # [B,N,...]


@dataclass(frozen=True)
class Mixed(Task):
    """One sequence per row, of the task that the row's `task` names. For training only.

    Of tasks with several sequences per image (one per object or caption) a row takes a random one
    that has something to learn besides padding. The part of the prompt after the task token goes
    with the response, at weight 0.

    Attributes:
        tasks: number t of them is `task` t of the example.
    """

    tasks: tuple

    name: ClassVar[str] = "mixed"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tasks, in their order."""
        return tuple(task.name for task in self.tasks)

    @property
    def max_len(self) -> int:
        """Tokens of the longest task."""
        return max(task.max_len for task in self.tasks)

    def encode(self, example: Mapping[str, jnp.ndarray], rng: jax.Array) -> Sequences:
        """Sequences of T = max_len - 1 tokens after the one of the task.

        Args:
            example: `task i32[B]`, and what each of the tasks reads; fields of other tasks may hold
                zeros.
            rng: a jax.random.key.
        """
        every = [
            self._one_each(task, example, jax.random.fold_in(rng, i))
            for i, task in enumerate(self.tasks)
        ]
        row = example["task"][None, :, None]  # i32[1,B,1]
        return Sequences(
            *(
                jnp.take_along_axis(jnp.stack(parts), row, axis=0)[0]
                for parts in zip(*every, strict=True)
            )
        )

    def _one_each(self, task, example: Mapping[str, jnp.ndarray], rng: jax.Array) -> Sequences:
        """A task's sequences, one of each image, as long as those of all tasks."""
        rng_encode, rng_row = jax.random.split(rng)
        if task.max_instances is not None:
            # The batch has room for the objects of the task that takes most.
            example = {
                k: v[:, : task.max_instances] if k in PER_OBJECT else v for k, v in example.items()
            }
        sequences = task.encode(example, rng_encode)
        if sequences.prompt.ndim == 3:  # [B,N,T]: a random one that is not all padding
            learns = jnp.any(
                (sequences.weights > 0) & (sequences.targets != PADDING), axis=-1
            )  # [B,N]
            row = jnp.argmax(jax.random.uniform(rng_row, learns.shape) + learns, axis=1)[
                :, None, None
            ]
            sequences = Sequences(
                *(jnp.take_along_axis(array, row, axis=1)[:, 0] for array in sequences)
            )
        prompt, inputs, targets, weights = sequences
        rest = prompt[:, 1:]
        missing = ((0, 0), (0, self.max_len - prompt.shape[1] - inputs.shape[1]))
        return Sequences(
            prompt=prompt[:, :1],
            inputs=jnp.pad(
                jnp.concatenate([rest, inputs], axis=1), missing, constant_values=PADDING
            ),
            targets=jnp.pad(
                jnp.concatenate([rest, targets], axis=1), missing, constant_values=PADDING
            ),
            weights=jnp.pad(jnp.concatenate([jnp.zeros(rest.shape), weights], axis=1), missing),
        )
