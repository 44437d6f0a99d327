"""The four tasks over one tiny vocabulary, without random draws, and hand-made examples of them."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.tasks.captioning import Captioning
from pix2seq_jax.tasks.detection import Detection
from pix2seq_jax.tasks.keypoints import Keypoints
from pix2seq_jax.tasks.segmentation import Segmentation
from pix2seq_jax.training import state as train_state
from pix2seq_jax.vocab import END_PIECE, POINT_INVISIBLE, POINT_PADDING, POINT_SEPARATOR, Vocab

VOCAB = Vocab(size=170, num_bins=32, num_classes=5, coord_shift=106, text_shift=140, text_size=30)
SIDE = 32
KEYPOINTS, POINTS, PIECES, CAPTIONS = 3, 7, 6, 2
TASKS = {
    "detection": Detection(VOCAB, max_instances=6, class_corruption="none"),
    "segmentation": Segmentation(
        VOCAB, max_instances=3, max_points=POINTS, random_start=False, eos_weight=0.5
    ),
    "keypoints": Keypoints(VOCAB, max_instances=2, num_keypoints=KEYPOINTS, mask_inputs=False),
    "captioning": Captioning(VOCAB, captions_per_image=CAPTIONS, max_tokens=PIECES, input_drop=0.0),
}
LONGEST = max(task.max_len for task in TASKS.values())


def tiny(**changes) -> Pix2Seq:
    """A small model without dropout."""
    sizes = {
        "image_size": (SIDE, SIDE),
        "backbone": VitBackbone(patch_size=8),
        "vocab_size": VOCAB.size,
        "max_seq_len": LONGEST,
    }
    encoder = {"enc_layers": 1, "enc_dim": 32, "enc_mlp": 64, "enc_heads": 2}
    decoder = {"dec_layers": 1, "dec_dim": 32, "dec_mlp": 64, "dec_heads": 2}
    return Pix2Seq(
        **{**sizes, **encoder, **decoder, "drop_path": 0.0, "drop_units": 0.0, **changes}
    )


def initial(model: Pix2Seq) -> train_state.TrainState:
    """Parameters of a model without an optimizer."""
    image, tokens = jnp.zeros((1, *model.image_size, 3)), jnp.zeros((1, 1), jnp.int32)
    variables = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), image, tokens))
    return train_state.TrainState(jnp.zeros((), jnp.int32), variables["params"], {}, ())


def _outlines(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """f64[*shape,2*POINTS]: three points, then perhaps a separator and three more, padding for the
    rest."""
    points = rng.random((*shape, POINTS, 2))
    two = rng.random(shape) < 0.5
    points[:, :, 3] = np.where(two, POINT_SEPARATOR, POINT_PADDING)[..., None]
    points[:, :, 4:] = np.where(two[..., None, None], points[:, :, 4:], POINT_PADDING)
    return points.reshape(*shape, 2 * POINTS)


def _keypoints(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """f64[*shape,2*KEYPOINTS], some of them not labelled."""
    points = rng.random((*shape, KEYPOINTS, 2))
    return np.where(rng.random((*shape, KEYPOINTS, 1)) < 0.3, POINT_INVISIBLE, points).reshape(
        *shape, 2 * KEYPOINTS
    )


def _captions(rng: np.random.Generator, rows: int) -> np.ndarray:
    """i64[rows,CAPTIONS,PIECES]: no caption, or some pieces and the end."""
    pieces, lengths = (
        rng.integers(2, 30, (rows, CAPTIONS, PIECES)),
        rng.integers(0, PIECES, (rows, CAPTIONS, 1)),
    )
    place = np.arange(PIECES)
    return np.where(place < lengths, pieces, END_PIECE * (place == lengths)) * (lengths > 0)


def example(rows: int, slots: int, seed: int = 0) -> dict[str, jax.Array]:
    """All fields that the tasks read, of images with 0 to `slots` objects; zeros where there is no
    object."""
    rng = np.random.default_rng(seed)
    shape = (rows, slots)
    labels = rng.integers(1, 6, shape) * (np.arange(slots) < rng.integers(0, slots + 1, (rows, 1)))
    fields = {
        "image": rng.random((rows, SIDE, SIDE, 3)),
        "boxes": np.sort(rng.random((*shape, 2, 2)), axis=2).reshape(*shape, 4),
        "polygons": _outlines(rng, shape),
        "keypoints": _keypoints(rng, shape),
    }
    for name in ("boxes", "polygons", "keypoints"):
        fields[name] *= labels[..., None] > 0
    fields = {name: jnp.asarray(value, jnp.float32) for name, value in fields.items()}
    integers = {"labels": labels, "captions": _captions(rng, rows)}
    fields |= {name: jnp.asarray(value, jnp.int32) for name, value in integers.items()}
    return fields | {"valid": jnp.ones(rows, bool)}


def slots_of(name: str) -> int:
    """Objects per image that a task takes."""
    return TASKS[name].max_instances or 1
