"""What the model asks of a backbone, and how a backbone says which values its fields may have."""

import abc
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from pix2seq_jax.models.layers import Stack

LOWEST, CHOICES = "lowest", "choices"  # keys of the metadata of a field


def at_least(lowest: float, default: float) -> Any:
    """A field of a backbone that is a number from `lowest` up."""
    return dataclasses.field(default=default, metadata={LOWEST: lowest})


def one_of(choices: tuple[Any, ...], default: Any) -> Any:
    """A field of a backbone that is one of some values."""
    return dataclasses.field(default=default, metadata={CHOICES: choices})


@dataclass(frozen=True)
class Backbone(abc.ABC):
    """What makes image tokens [B,S,D] for the transformer encoder.

    The fields of a subclass are those of `config.model.backbone` beside its `name`; each has a
    default, and is made by `at_least` or `one_of`, or is true or false.

    Attributes:
        pretrained: regex of those of the encoder's parameters, as in "stem/kernel", that an encoder
            of another library brings; "" for all.

    Raises:
        ValueError: at construction, where a field has a value that is not allowed.
    """

    pretrained: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, limits = getattr(self, field.name), field.metadata
            if CHOICES in limits and value not in limits[CHOICES]:
                raise ValueError(
                    f"model.backbone.{field.name}={value!r}; it may be one of "
                    f"{list(limits[CHOICES])}"
                )
            if LOWEST in limits and value < limits[LOWEST]:
                raise ValueError(
                    f"model.backbone.{field.name}={value}; it is at least {limits[LOWEST]:g}"
                )

    @abc.abstractmethod
    def stem(self, stack: Stack) -> nn.Module:
        """A module that takes (images f32[B,H,W,3] in [0,1], train) and returns tokens
        [B,rows·columns,D] in rows from the top left; D and the dtype are those of `stack`, the
        encoder's."""

    @abc.abstractmethod
    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of the tokens of images of (height, width) pixels."""

    def padded(self, side: int) -> int:
        """The shortest side of at least `side` pixels of images that the backbone takes."""
        return side

    def check_size(self, image_size: tuple[int, int]) -> None:  # noqa: B027
        """Raises ValueError where it cannot take images of (height, width) pixels."""

    @abc.abstractmethod
    def largest_kernel(self, dim: int) -> tuple[int, str]:
        """(a number of parameters that its largest kernel has at least for an encoder of width
        `dim`, the field that decides on it); from this follows what a run needs at least."""
