"""Caption sequences: tokens and weights of every kind of row, the dropped inputs, and the way back
to pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.tasks import TASKS
from pix2seq_jax.tasks.captioning import Captioning
from pix2seq_jax.vocab import FAKE, PADDING, PROMPT_CAPTIONING, Vocab

SHIFT, PIECES = 300, 50
VOCAB = Vocab(
    size=SHIFT + PIECES,
    num_bins=100,
    num_classes=20,
    coord_shift=200,
    text_shift=SHIFT,
    text_size=PIECES,
)
# Ended, ended, cut, none.
CAPTIONS = np.array([[[5, 6, 7, 1], [8, 1, 0, 0], [9, 2, 5, 5], [0, 0, 0, 0]]], np.int32)


def make_task(**fields):
    return Captioning(VOCAB, **{"captions_per_image": 5, "max_tokens": 6} | fields)


def encode(task, captions=CAPTIONS, seed=0):
    return jax.jit(task.encode)({"captions": jnp.asarray(captions)}, jax.random.key(seed))


def test_targets_and_weights():
    task = make_task(eos_weight=0.2)
    sequences = encode(task)
    s = SHIFT
    expected = [
        [s + 5, s + 6, s + 7, s + 1, 0, 0],
        [s + 8, s + 1, 0, 0, 0, 0],
        [s + 9, s + 2, s + 5, s + 5, 0, 0],
        [0] * 6,
        [0] * 6,
    ]
    np.testing.assert_array_equal(sequences.targets[0], expected)
    weights = [[1, 1, 1, 0.2, 0, 0], [1, 0.2, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [0] * 6, [0] * 6]
    np.testing.assert_allclose(sequences.weights[0], weights, rtol=1e-6)


@pytest.mark.parametrize("padding_weight", [0.0, 1.0])
def test_a_caption_has_the_published_sum_of_weights(padding_weight):
    """12 pieces, the end and 115 padding tokens weigh 12 + 0.1 + 115 in the release; no caption, no
    weight."""
    captions = np.zeros((1, 2, 128), np.int32)
    captions[0, 0, :13] = [*range(5, 17), 1]
    task = make_task(max_tokens=128, padding_weight=padding_weight)
    sums = jnp.sum(encode(task, captions).weights, axis=-1)[0]
    np.testing.assert_allclose(sums, [12.1 + 115 * padding_weight, 0, 0, 0, 0], rtol=1e-6)


def test_shapes_and_dtypes_as_promised():
    task = make_task()
    sequences = encode(task, np.tile(CAPTIONS, (2, 1, 1)))
    assert [x.shape for x in sequences] == [(2, 5, 1), (2, 5, 6), (2, 5, 6), (2, 5, 6)]
    assert [x.dtype for x in sequences] == [jnp.int32] * 3 + [jnp.float32]
    assert (sequences.prompt == PROMPT_CAPTIONING).all()
    assert task.max_len == 7 and task.eos_token == SHIFT + 1 and task.class_positions is None
    assert TASKS["captioning"] is Captioning and Captioning.name == "captioning"
    prompt = task.prompt({"image": jnp.zeros((3, 4, 4, 3))})
    assert (
        prompt.shape == (3, 1) and prompt.dtype == jnp.int32 and (prompt == PROMPT_CAPTIONING).all()
    )
    assert task.allowed == (((SHIFT + 1, SHIFT + PIECES),),)


def test_no_drop_reads_what_is_written():
    sequences = encode(make_task(input_drop=0.0))
    np.testing.assert_array_equal(sequences.inputs, sequences.targets)


def test_dropped_inputs():
    captions = np.tile(CAPTIONS, (500, 1, 1))
    sequences = encode(make_task(), captions)
    inputs, targets = np.asarray(sequences.inputs), np.asarray(sequences.targets)
    dropped = inputs == FAKE
    np.testing.assert_array_equal(inputs[~dropped], targets[~dropped])
    assert not dropped[targets == PADDING].any()
    # Each of 10 pieces in 500 rows: five standard deviations of a share of one half are 0.11; of
    # all 5000 draws 0.035.
    shares = dropped.mean(axis=0)[targets[0] != PADDING]
    np.testing.assert_allclose(shares, 0.5, atol=0.11)
    assert abs(shares.mean() - 0.5) < 0.035
    pairs = dropped[:, 0, :3].astype(float)
    assert abs(np.corrcoef(pairs.T)[np.triu_indices(3, 1)]).max() < 0.2
    assert (
        np.asarray(encode(make_task(input_drop=1.0)).inputs)[0, 0] == [FAKE] * 4 + [PADDING] * 2
    ).all()
    assert (encode(make_task(), captions, seed=1).inputs != sequences.inputs).any()


def test_a_row_is_drawn_alike_in_any_batch():
    captions = np.tile(CAPTIONS, (8, 1, 1))
    np.testing.assert_array_equal(
        encode(make_task(), captions).inputs[:3], encode(make_task(), captions[:3]).inputs
    )


def test_a_sharded_batch_gives_the_same_sequences():
    captions = np.tile(CAPTIONS, (8, 1, 1))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    sharded = jax.jit(make_task().encode)(
        {"captions": jax.device_put(captions, rows)}, jax.random.key(0)
    )
    jax.tree.map(np.testing.assert_array_equal, sharded, encode(make_task(), captions))


def test_decode_gives_the_pieces_back():
    task = make_task()
    targets = encode(task).targets  # [1, C, T]: every caption as the first of one sample
    tokens = jnp.swapaxes(targets, 0, 1)
    out = jax.jit(task.decode)(tokens, jnp.ones(tokens.shape), {})
    assert (
        out["pieces"].shape == (5, 6)
        and out["pieces"].dtype == jnp.int32
        and list(out) == ["pieces"]
    )
    np.testing.assert_array_equal(out["pieces"][:4, :4], CAPTIONS[0])
    assert (out["pieces"][:, 4:] == 0).all() and (out["pieces"][4] == 0).all()


def test_decode_takes_the_first_sample_and_nothing_after_the_end():
    first = [SHIFT + 5, SHIFT + 1, SHIFT + 6, SHIFT + 1, SHIFT + 7, 0]
    tokens = jnp.array([[first, [SHIFT + 9] * 6]])
    np.testing.assert_array_equal(
        make_task().decode(tokens, None, {})["pieces"], [[5, 1, 0, 0, 0, 0]]
    )


def test_tokens_that_are_no_piece_are_left_out():
    s = SHIFT
    tokens = jnp.array(
        [
            [[s + 5, 0, s, FAKE, s + 6, s + PIECES]],
            [[150, s + 2, 250, s + PIECES - 1, s + 1, s + 5]],
        ]
    )
    expected = [[5, 6, 0, 0, 0, 0], [2, PIECES - 1, 1, 0, 0, 0]]
    np.testing.assert_array_equal(make_task().decode(tokens, None, {})["pieces"], expected)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"vocab": Vocab(size=2000)}, "vocab.text_size=0"),
        ({"captions_per_image": 0}, "captions_per_image=0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"input_drop": 1.5}, "input_drop=1.5"),
        ({"eos_weight": -0.1}, "eos_weight=-0.1"),
    ],
)
def test_fields_out_of_range(fields, words):
    with pytest.raises(ValueError, match=words):
        Captioning(**{"vocab": VOCAB} | fields)


def test_captions_that_do_not_fit():
    with pytest.raises(
        ValueError, match=r"4 captions per image but captioning\.captions_per_image=3"
    ):
        encode(make_task(captions_per_image=3))
    with pytest.raises(ValueError, match=r"4 pieces but captioning\.max_tokens=3"):
        encode(make_task(max_tokens=3))
