"""What an op of the preprocessing is: a function of one image and its objects, with attributes that
say what a chain of ops has to know."""

import contextlib
from typing import ClassVar

import tensorflow as tf

with contextlib.suppress(RuntimeError):  # in use by the caller already, who then has chosen
    tf.config.set_visible_devices([], "GPU")  # it would reserve the memory of every GPU it sees

Example = dict[str, tf.Tensor]  # of one image, not batched; keys as in the Example dict


class Op:
    """A frozen dataclass, called as `op(example, seed) -> example`.

    `seed` is a stateless seed i64[2] that no other op of this or any other image has; `derive`
    makes more of it. Images are u8[h,w,3] in [0,255] or f32[h,w,3] in [0,1]; resizing and cropping
    keep the type, padding gives the former.

    Attributes:
        on_image: whether the op changes the image; the others are about its objects alone.
        keeps_whole: whether tasks.base.to_original leads back from behind the op and every object
            is still there.
        per_object: whether the op makes rows of single objects: it looks at the first object alone.
        slots: so many objects of an image get through; None: all.
    """

    on_image: ClassVar[bool] = False
    keeps_whole: ClassVar[bool] = False
    per_object: ClassVar[bool] = False

    @property
    def slots(self) -> int | None:
        return None

    def __call__(self, example: Example, seed: tf.Tensor) -> Example:
        raise NotImplementedError


def derive(seed: tf.Tensor, number: int) -> tf.Tensor:
    """A further seed of the same op; `number` is 1 to 15."""
    return seed + tf.constant([number, 0], tf.int64)
