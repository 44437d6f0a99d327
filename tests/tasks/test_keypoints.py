"""Joints as sequences against the recorded scores, and the properties that hold for any joints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.tasks import TASKS
from pix2seq_jax.tasks.base import read_points
from pix2seq_jax.tasks.keypoints import Keypoints
from pix2seq_jax.vocab import INVISIBLE, PADDING, PROMPT_KEYPOINTS, Vocab

VOCAB = Vocab(size=3000, num_bins=1000, num_classes=80)
JOINTS = 5
SIZES = {"unpadded_size": (64, 48), "orig_size": (640, 480), "crop_offset": (30, 7)}
CANVAS = 64
HALF_BIN = 0.5 / 999 + 1e-6
PIXELS = (
    CANVAS / np.array(SIZES["unpadded_size"]) * np.array(SIZES["orig_size"])
)  # of the original, per padded image


def make_example(labels, seed=0, hidden=0.3):
    """Labels [B,N] -> an example of objects with JOINTS joints, a share of them not labelled."""
    labels = np.asarray(labels, np.int32)
    rng = np.random.default_rng(seed)
    inside = np.array(SIZES["unpadded_size"]) / CANVAS
    corners = np.sort(rng.uniform(0, 1, (*labels.shape, 2, 2)), axis=-2) * inside
    points = rng.uniform(0, 1, (*labels.shape, JOINTS, 2)) * inside
    points[rng.uniform(size=points.shape[:-1]) < hidden] = -3
    real = (labels != 0)[..., None]
    example = {"image": np.zeros((len(labels), CANVAS, CANVAS, 3), np.float32), "labels": labels}
    example |= {
        key: np.tile(np.array([size], np.int32), (len(labels), 1)) for key, size in SIZES.items()
    }
    example["boxes"] = np.float32(corners.reshape(*labels.shape, 4) * real)
    example["keypoints"] = np.float32(points.reshape(*labels.shape, -1) * real)
    example["scores"] = np.float32(rng.uniform(0, 1, labels.shape))
    return jax.tree.map(jnp.asarray, example)


def make_task(**fields):
    return Keypoints(VOCAB, **{"max_instances": 3, "num_keypoints": JOINTS, **fields})


@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_scores_are_the_recorded_ones(ops_golden, weight):
    tokens, logits = ops_golden["pscore/seq"], ops_golden["pscore/logits"]
    likelihoods = np.take_along_axis(
        np.asarray(jax.nn.softmax(logits)), tokens[..., None], axis=-1
    )[..., 0]
    task = make_task(points_score_weight=weight)
    score = task.score(
        *(jnp.asarray(x)[:, None, None] for x in (tokens, likelihoods)),
        ops_golden["pscore/box"][:, None],
    )
    np.testing.assert_allclose(score[:, 0], ops_golden[f"pscore/{weight}"], rtol=0, atol=1e-6)


def test_shapes_and_dtypes_as_promised():
    task = make_task(max_instances=4)
    example = make_example([[3, 1, 0], [0, 0, 0]])
    sequences = jax.jit(task.encode)(example, jax.random.key(0))
    assert [x.shape for x in sequences] == [(2, 4, 6), (2, 4, 10), (2, 4, 10), (2, 4, 10)]
    assert [x.dtype for x in sequences] == [jnp.int32] * 3 + [jnp.float32]
    assert task.max_len == 16 and TASKS["keypoints"] is Keypoints and task.class_positions is None
    assert Keypoints(VOCAB).max_len == 40
    np.testing.assert_array_equal(task.prompt(example), sequences.prompt[:, :3])
    assert task.prompt(example).dtype == jnp.int32
    tokens = jnp.stack([sequences.targets[:, :3]] * 2, axis=2)
    out = jax.jit(task.decode)(tokens, jnp.ones(tokens.shape), example)
    assert {key: (value.shape, value.dtype) for key, value in out.items()} == {
        "keypoints": ((2, 3, JOINTS, 2), jnp.float32),
        "boxes": ((2, 3, 4), jnp.float32),
        "labels": ((2, 3), jnp.int32),
        "scores": ((2, 3), jnp.float32),
    }


def test_what_is_written_for_real_hidden_and_padding():
    task = make_task(max_instances=2, num_keypoints=2, invisible_weight=0.25)
    example = {
        "boxes": jnp.array([[[0.0, 0.5, 1.0, 1.0]]]),
        "labels": jnp.array([[7]]),
        "keypoints": jnp.array([[[0.0, 1.0, -3.0, -3.0]]]),
    }
    sequences = task.encode(example, jax.random.key(0))
    assert sequences.prompt.tolist() == [
        [[PROMPT_KEYPOINTS, 1000, 1500, 1999, 1999, 107], [PADDING] * 6]
    ]
    assert sequences.targets.tolist() == [[[1000, 1999, INVISIBLE, INVISIBLE], [PADDING] * 4]]
    np.testing.assert_allclose(sequences.weights, [[[1, 1, 0.25, 0.25], [0] * 4]], rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_decode_gives_joints_back_within_half_a_bin(seed):
    task, example = make_task(), make_example([[1, 80, 7]] * 5, seed=seed)
    tokens = jax.jit(task.encode)(example, jax.random.key(0)).targets[:, :, None]
    out = jax.jit(task.decode)(tokens, jnp.full(tokens.shape, 0.25), example)
    given = np.asarray(example["keypoints"], np.float64).reshape(5, 3, JOINTS, 2)
    boxes = np.asarray(example["boxes"], np.float64).reshape(5, 3, 1, 2, 2)
    expected = np.where(
        given < 0, boxes.mean(axis=-2), given
    )  # hidden ones lie in the centre of the box
    error = np.abs(np.asarray(out["keypoints"]) - expected * PIXELS - SIZES["crop_offset"])
    assert (error <= HALF_BIN * PIXELS + 1e-3).all()
    np.testing.assert_allclose(
        np.asarray(out["boxes"]).reshape(5, 3, 2, 2),
        boxes[:, :, 0] * PIXELS + SIZES["crop_offset"],
        atol=1e-3,
    )
    np.testing.assert_allclose(out["scores"], 0.25, rtol=1e-6)
    np.testing.assert_array_equal(out["labels"], example["labels"])


def test_samples_are_averaged_over_those_that_know_the_joint():
    task = make_task(num_keypoints=2, points_score_weight=0.5)
    example = make_example([[4, 0]]) | {"crop_offset": jnp.zeros((1, 2), jnp.int32)}
    samples = [[1100, 1200, 1300, 1400], [1300, 1600, 1300, INVISIBLE], [1200, 1100, 0, 120]]
    tokens = jnp.array([[samples, samples]])
    likelihoods = jnp.array([0.2, 0.4, 0.6])[None, None, :, None] * jnp.ones(tokens.shape)
    out = jax.jit(task.decode)(tokens, likelihoods, example)
    bins = np.array([[200, 300], [300, 400]])
    np.testing.assert_allclose(out["keypoints"][0, 0], bins / 999 * PIXELS, rtol=1e-5)
    np.testing.assert_allclose(
        out["scores"][0, 0], 0.5 * 0.4 + 0.5 * example["scores"][0, 0], rtol=1e-5
    )
    assert out["scores"][0, 1] == 0 and out["labels"].tolist() == [[4, 0]]


def test_decoding_garbage_stays_inside_the_window_and_is_finite():
    task, example = make_task(), make_example([[4, 0, 1]])
    decode = jax.jit(task.decode)
    for top in (VOCAB.size, 1):
        tokens = jax.random.randint(jax.random.key(0), (1, 3, 8, 2 * JOINTS), 0, top)
        out = decode(tokens, jnp.ones(tokens.shape), example)
        points = np.asarray(out["keypoints"])
        corner = np.array(SIZES["crop_offset"])
        assert (points >= corner).all() and (points <= corner + SIZES["orig_size"]).all()
        assert np.isfinite(out["scores"]).all()


def test_input_masking_touches_inputs_only_with_a_share_that_is_the_batchs():
    task, clean = make_task(), make_task(mask_inputs=False)
    example = make_example(np.full((300, 3), 9), hidden=0)
    encode, plain = jax.jit(task.encode), clean.encode(example, jax.random.key(0))
    np.testing.assert_array_equal(plain.inputs, plain.targets)
    shares = []
    for seed in range(12):
        sequences = encode(example, jax.random.key(seed))
        for field in ("prompt", "targets", "weights"):
            np.testing.assert_array_equal(getattr(sequences, field), getattr(plain, field))
        masked = np.asarray(sequences.inputs == INVISIBLE)
        assert (masked | np.asarray(sequences.inputs == sequences.targets)).all()
        # 900 draws per position: five standard deviations are 0.084
        np.testing.assert_allclose(masked.mean(axis=(0, 1)), masked.mean(), atol=0.084)
        shares.append(masked.mean())
    assert min(shares) < 0.3 and max(shares) > 0.7 and len(set(shares)) == 12


def test_a_row_is_drawn_alike_in_any_batch_and_on_any_device():
    task, example = make_task(), make_example([[9, 8, 7]] * 8)
    encode = jax.jit(task.encode)
    whole = encode(example, jax.random.key(3))
    part = encode(jax.tree.map(lambda x: x[:3], example), jax.random.key(3))
    np.testing.assert_array_equal(whole.inputs[:3], part.inputs)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    jax.tree.map(
        np.testing.assert_array_equal,
        encode(jax.device_put(example, rows), jax.random.key(3)),
        whole,
    )


def flip(pairs):
    mirrored = np.where(pairs < 0, pairs, np.stack([pairs[..., 0], 1 - pairs[..., 1]], -1))
    return mirrored[..., [0, 2, 1, 4, 3], :]


def crop(pairs):  # the middle window; what leaves it is no longer labelled
    moved = (pairs - [0.25, 0.1]) / [0.5, 0.8]
    gone = ((moved <= 0) | (moved >= 1) | (pairs < 0)).any(-1, keepdims=True)
    return np.where(gone, -3.0, moved)


@pytest.mark.parametrize(("move", "scale"), [(flip, 1.0), (crop, 2.0)])
def test_flips_and_crops_commute_with_tokens_within_half_a_bin(move, scale):
    task, example = make_task(), make_example([[1, 2, 3]] * 8)
    points = np.asarray(example["keypoints"], np.float64).reshape(8, 3, JOINTS, 2)

    @jax.jit
    def read(keypoints):
        return read_points(
            VOCAB, task.encode(example | {"keypoints": keypoints}, jax.random.key(0)).targets
        )

    def through_tokens(pairs):
        flat = jnp.asarray(pairs.reshape(8, 3, -1), jnp.float32)
        return np.asarray(read(flat), np.float64).reshape(pairs.shape)

    assert np.abs(through_tokens(move(points)) - move(points)).max() <= HALF_BIN
    np.testing.assert_array_equal(move(through_tokens(points)) < 0, move(points) < 0)
    assert np.abs(move(through_tokens(points)) - move(points)).max() <= scale * HALF_BIN


def test_the_grammar_admits_labelled_joints_and_suppresses_invisible():
    task = make_task()
    targets = np.asarray(
        task.encode(make_example([[1, 80, 7]], hidden=0), jax.random.key(0)).targets
    )
    for position in range(targets.shape[-1]):
        ranges = task.allowed[position % len(task.allowed)]
        assert all(
            any(start <= t < stop for start, stop in ranges) for t in targets[..., position].ravel()
        )
        assert not any(
            start <= token < stop for start, stop in ranges for token in (INVISIBLE, PADDING)
        )


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"keypoints.max_instances=0: at least one"):
        make_task(max_instances=0)
    with pytest.raises(ValueError, match=r"keypoints.num_keypoints=0: at least one"):
        make_task(num_keypoints=0)
    with pytest.raises(
        ValueError, match=r"keypoints.invisible_weight=-1: a token weight must be 0 or more"
    ):
        make_task(invisible_weight=-1)
    with pytest.raises(ValueError, match=r"keypoints.points_score_weight=1.5: give a share"):
        make_task(points_score_weight=1.5)
    example = make_example([[1, 2, 3]])
    with pytest.raises(
        ValueError, match=r"3 objects per image but keypoints.max_instances=1; raise it"
    ):
        make_task(max_instances=1).encode(example, jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"5 keypoints per object but keypoints.num_keypoints=17; set it"
    ):
        make_task(num_keypoints=17).encode(example, jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"8 tokens per object; keypoints.num_keypoints=5 are 10: .* max_len=16"
    ):
        make_task().decode(jnp.zeros((1, 3, 1, 8), jnp.int32), jnp.zeros((1, 3, 1, 8)), example)
    with pytest.raises(ValueError, match=r"scores\[1, 3\] for labels\[1, 3\]"):
        make_task().decode(jnp.zeros((1, 3, 1, 10), jnp.int32), jnp.zeros((1, 3)), example)
