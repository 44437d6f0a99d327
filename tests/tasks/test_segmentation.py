"""Outlines as sequences against the recorded arrays, and the properties that hold for any
polygons."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.tasks import TASKS
from pix2seq_jax.tasks.base import read_points
from pix2seq_jax.tasks.segmentation import Segmentation, rotate_rings
from pix2seq_jax.vocab import NOISE_LABEL, PADDING, SEPARATOR, Vocab

VOCAB = Vocab(size=3000, num_bins=1000, num_classes=80)
SIZES = {"unpadded_size": (64, 48), "orig_size": (640, 480), "crop_offset": (30, 7)}
CANVAS = 64
HALF_BIN = 0.5 / 999 + 1e-6


def make_polygons(shape, slots, rng):
    """Random polygons f64[*shape,2*slots] in the unpadded part: one or two rings, then perhaps
    padding."""
    points = rng.uniform(0, 1, (*shape, slots, 2)) * np.array(SIZES["unpadded_size"]) / CANVAS
    for index in np.ndindex(*shape):
        used = rng.integers(4, slots + 1)
        if used >= 7 and rng.integers(2):
            points[(*index, rng.integers(3, used - 3))] = -2
        points[index][used:] = -1
    return points.reshape(*shape, 2 * slots)


def make_example(labels, slots=12, seed=0):
    """Labels [B,N] -> an example of objects inside the unpadded part of a 64 x 64 image; zeros for
    label 0."""
    labels = np.asarray(labels, np.int32)
    rng = np.random.default_rng(seed)
    corners = (
        np.sort(rng.uniform(0, 1, (*labels.shape, 2, 2)), axis=-2)
        * np.array(SIZES["unpadded_size"])
        / CANVAS
    )
    real = (labels != 0)[..., None]
    example = {"image": np.zeros((len(labels), CANVAS, CANVAS, 3), np.float32), "labels": labels}
    example |= {
        key: np.tile(np.array([size], np.int32), (len(labels), 1)) for key, size in SIZES.items()
    }
    example["boxes"] = np.float32(corners.reshape(*labels.shape, 4) * real)
    example["polygons"] = np.float32(make_polygons(labels.shape, slots, rng) * real)
    example["scores"] = np.float32(rng.uniform(0, 1, labels.shape))
    return jax.tree.map(jnp.asarray, example)


def rings(points):
    """A list f32[2M] with reserved floats -> its rings, each a list of (y, x)."""
    found = [[]]
    for y, x in np.asarray(points).reshape(-1, 2).tolist():
        if y == -1:
            break
        if y == -2:
            found.append([])
        else:
            found[-1].append((y, x))
    return found


def to_pixels(points):
    """f32[...,2M] normalised -> pixels of the original, as to_original should do it; reserved
    floats stay."""
    pairs = np.asarray(points, np.float64).reshape(*points.shape[:-1], -1, 2)
    unpadded, original, offset = (
        np.array(SIZES[key]) for key in ("unpadded_size", "orig_size", "crop_offset")
    )
    return np.where(pairs < 0, pairs, pairs * CANVAS / unpadded * original + offset).reshape(
        points.shape
    )


def test_encode_is_the_recorded_one(ops_golden):
    task = Segmentation(VOCAB, max_instances=7, max_points=12, random_start=False)
    example = {
        key: jnp.asarray(ops_golden[f"tok/{name}"])
        for key, name in (("boxes", "bbox"), ("polygons", "points"))
    }
    example["labels"] = jnp.asarray(ops_golden["tok/label"])
    sequences = task.encode(example, jax.random.key(0))
    np.testing.assert_array_equal(sequences.prompt, ops_golden["tok/inst_prompt"])
    np.testing.assert_array_equal(sequences.targets, ops_golden["tok/points_response"])
    np.testing.assert_array_equal(sequences.inputs, sequences.targets)
    np.testing.assert_array_equal(task.prompt(example), sequences.prompt)
    np.testing.assert_array_equal(
        sequences.weights, np.repeat(ops_golden["tok/label"] > 0, 24).reshape(2, 7, 24)
    )


def test_reading_is_the_recorded_one(ops_golden):
    points = read_points(VOCAB, jnp.asarray(ops_golden["tok/points_response"]))
    # One unit in the last place: XLA divides by multiplying with the reciprocal.
    np.testing.assert_allclose(points, ops_golden["tok/points_decoded"], rtol=0, atol=6e-8)
    np.testing.assert_array_equal(points < 0, ops_golden["tok/points_decoded"] < 0)


def test_shapes_and_dtypes_as_promised():
    task = Segmentation(VOCAB, max_instances=4, max_points=16)
    example = make_example([[3, 1, 0], [0, 0, 0]])
    sequences = jax.jit(task.encode)(example, jax.random.key(0))
    assert [x.shape for x in sequences] == [(2, 4, 6), (2, 4, 32), (2, 4, 32), (2, 4, 32)]
    assert [x.dtype for x in sequences] == [jnp.int32] * 3 + [jnp.float32]
    assert (
        task.max_len == 38
        and TASKS["segmentation"] is Segmentation
        and task.class_positions is None
    )
    np.testing.assert_array_equal(task.prompt(example), sequences.prompt[:, :3])
    assert task.prompt(example).dtype == jnp.int32
    tokens = jnp.stack([sequences.targets[:, :3]] * 5, axis=2)
    out = jax.jit(task.decode)(tokens, jnp.ones(tokens.shape), example)
    assert {key: (value.shape, value.dtype) for key, value in out.items()} == {
        "points": ((2, 3, 5, 32), jnp.float32),
        "boxes": ((2, 3, 4), jnp.float32),
        "labels": ((2, 3), jnp.int32),
        "scores": ((2, 3), jnp.float32),
    }


@pytest.mark.parametrize("seed", range(3))
def test_decode_gives_polygons_back_within_half_a_bin(seed):
    task = Segmentation(VOCAB, max_instances=4, max_points=12, random_start=False)
    example = make_example([[1, 80, 7, 33]] * 5, seed=seed)
    tokens = task.encode(example, jax.random.key(0)).targets[:, :, None]
    out = jax.jit(task.decode)(tokens, jnp.ones(tokens.shape), example)
    expected = to_pixels(example["polygons"])
    pixels_per_bin = CANVAS / np.array(SIZES["unpadded_size"]) * np.array(SIZES["orig_size"])
    error = np.abs(np.asarray(out["points"][:, :, 0]) - expected).reshape(-1, 2)
    assert (error <= HALF_BIN * pixels_per_bin + 1e-3).all()
    np.testing.assert_array_equal(out["points"][:, :, 0] < 0, expected < 0)
    np.testing.assert_allclose(
        out["boxes"], to_pixels(example["boxes"]), atol=1e-3
    )  # given, not decoded
    np.testing.assert_array_equal(out["labels"], example["labels"])
    np.testing.assert_array_equal(out["scores"], example["scores"])


def test_weights_of_points_end_and_padding_objects():
    task = Segmentation(VOCAB, max_instances=3, max_points=6, random_start=False, eos_weight=0.3)
    example = make_example([[9, NOISE_LABEL]], slots=4)
    example["polygons"] = jnp.array([[[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -1, -1]] * 2])
    sequences = task.encode(example, jax.random.key(0))
    np.testing.assert_allclose(
        sequences.weights[0], [[1] * 6 + [0.3] * 6, [0] * 12, [0] * 12], rtol=1e-6
    )
    for tokens in (sequences.prompt, sequences.inputs, sequences.targets):
        assert (tokens[0, 1:] == PADDING).all()


@pytest.mark.parametrize("padding_weight", [0.0, 0.5, 1.0])
def test_a_padding_object_has_the_published_sum_of_weights(padding_weight):
    """128 points: the release weighs the 261 tokens after the first one of a padding object (PARITY
    of the papers)."""
    task = Segmentation(
        VOCAB, max_instances=2, max_points=128, random_start=False, padding_weight=padding_weight
    )
    example = make_example([[9]], slots=256)
    example["polygons"] = jnp.full((1, 1, 256), -1.0).at[0, 0, :6].set(0.5)
    sums = jnp.sum(task.encode(example, jax.random.key(0)).weights, axis=-1)[0]
    np.testing.assert_allclose(sums, [256, 261 * padding_weight], rtol=1e-6)


def test_an_object_without_a_point_weighs_nothing():
    task = Segmentation(VOCAB, max_instances=1, max_points=4, padding_weight=1.0)
    example = make_example([[9]]) | {"polygons": jnp.full((1, 1, 8), -1.0)}
    sequences = task.encode(example, jax.random.key(0))
    assert (
        (sequences.weights == 0).all()
        and (sequences.targets == PADDING).all()
        and sequences.prompt[0, 0, 5] == 109
    )


def test_random_starts_keep_the_cyclic_order_of_every_ring():
    example = make_example(np.full((6, 5), 9))
    turned = np.asarray(jax.jit(rotate_rings)(example["polygons"], jax.random.key(1)))
    np.testing.assert_array_equal(
        turned < 0, example["polygons"] < 0
    )  # separators and padding stay where they are
    shifts = []
    for old, new in zip(example["polygons"].reshape(30, -1), turned.reshape(30, -1), strict=True):
        assert len(rings(old)) == len(rings(new))
        for ring, other in zip(rings(old), rings(new), strict=True):
            shift = ring.index(other[0])
            assert other == ring[shift:] + ring[:shift]
            shifts.append(shift / len(ring))
    assert len(set(shifts)) > 10 and min(shifts) == 0 and max(shifts) > 0.5


def test_every_start_is_as_likely_and_the_two_rings_draw_apart():
    ring = np.arange(8).reshape(4, 2) / 10
    points = np.concatenate([ring, [[-2, -2]], ring, [[-1, -1]]]).ravel()
    turned = np.asarray(
        rotate_rings(jnp.tile(jnp.asarray(points, jnp.float32), (40, 100, 1)), jax.random.key(0))
    )
    first, second = (
        np.rint(turned[..., 0] * 5).astype(int),
        np.rint(turned[..., 10] * 5).astype(int),
    )
    share = np.bincount((4 * first + second).ravel(), minlength=16) / 4000
    np.testing.assert_allclose(share, 1 / 16, atol=0.02)  # five standard deviations


def test_a_polygon_without_separator_or_padding_turns_as_a_whole():
    points = jnp.tile(jnp.arange(10.0) / 10, (1, 50, 1))
    turned = np.asarray(rotate_rings(points, jax.random.key(0)))
    starts = np.rint(turned[0, :, 0] * 10).astype(int)
    assert set(starts) == {0, 2, 4, 6, 8}
    for start, row in zip(starts, turned[0], strict=True):
        np.testing.assert_array_equal(row, np.roll(points[0, 0], -start))


def test_random_start_may_be_switched_off_and_draws_anew():
    example = make_example([[9, 8, 7]])
    tasks = [Segmentation(VOCAB, 3, 12, random_start=on) for on in (True, False)]
    keys = [jax.random.key(seed) for seed in (0, 1)]
    on, off = ([np.asarray(task.encode(example, key).targets) for key in keys] for task in tasks)
    np.testing.assert_array_equal(off[0], off[1])
    assert (on[0] != on[1]).any() and (np.sort(on[0]) == np.sort(off[0])).all()


def test_a_row_is_drawn_alike_in_any_batch_and_on_any_device():
    task = Segmentation(VOCAB, max_instances=3, max_points=12)
    example = make_example([[9, 8, 7]] * 8)
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


def flip(points):
    pairs = points.reshape(*points.shape[:-1], -1, 2)
    return np.where(pairs < 0, pairs, np.stack([pairs[..., 0], 1 - pairs[..., 1]], -1)).reshape(
        points.shape
    )


def crop(points):  # the middle window of half the height and 0.8 of the width
    pairs = points.reshape(*points.shape[:-1], -1, 2)
    moved = np.clip((pairs - [0.25, 0.1]) / [0.5, 0.8], 0, 1)
    return np.where(pairs < 0, pairs, moved).reshape(points.shape)


@pytest.mark.parametrize(("move", "scale"), [(flip, 1.0), (crop, 2.0)])
def test_flips_and_crops_commute_with_tokens_within_half_a_bin(move, scale):
    task = Segmentation(VOCAB, max_instances=4, max_points=12, random_start=False)
    example = make_example([[1, 2, 3, 4]] * 8)
    polygons = np.asarray(example["polygons"], np.float64)

    @jax.jit
    def read(polygons):
        return read_points(
            VOCAB, task.encode(example | {"polygons": polygons}, jax.random.key(0)).targets
        )

    def through_tokens(points):
        return np.asarray(read(jnp.asarray(points, jnp.float32)), np.float64)

    assert np.abs(through_tokens(move(polygons)) - move(polygons)).max() <= HALF_BIN
    assert np.abs(move(through_tokens(polygons)) - move(polygons)).max() <= scale * HALF_BIN


def test_the_grammar_admits_what_encode_writes():
    task = Segmentation(VOCAB, max_instances=5, max_points=14)
    targets = np.asarray(
        task.encode(make_example([[1, 80, 7, 5, 0]] * 5), jax.random.key(0)).targets
    )
    assert (targets == SEPARATOR).any() and (targets == PADDING).any()
    for position in range(targets.shape[-1]):
        ranges = task.allowed[position % len(task.allowed)]
        assert all(
            any(start <= t < stop for start, stop in ranges) for t in targets[..., position].ravel()
        )
    assert VOCAB.class_range not in {pair for ranges in task.allowed for pair in ranges}


def test_decoding_garbage_gives_points_inside_the_window_or_reserved_floats():
    task = Segmentation(VOCAB)
    example = make_example([[4, 0], [5, 6]])
    tokens = jax.random.randint(jax.random.key(0), (2, 2, 3, 256), 0, VOCAB.size)
    out = jax.jit(task.decode)(tokens, jnp.ones(tokens.shape), example)
    points = np.asarray(out["points"]).reshape(2, 2, 3, 128, 2)
    reserved = np.isin(points, (-1, -2, -3))
    low, high = np.array(SIZES["crop_offset"]), np.array(SIZES["crop_offset"]) + SIZES["orig_size"]
    assert (((points >= low) & (points <= high)) | reserved).all()
    assert (points[0, 1] == -1).all() and out["scores"][0, 1] == 0


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"segmentation.max_instances=0: at least one object"):
        Segmentation(VOCAB, max_instances=0)
    with pytest.raises(ValueError, match=r"segmentation.max_points=2: a polygon has at least 3"):
        Segmentation(VOCAB, max_points=2)
    with pytest.raises(
        ValueError, match=r"segmentation.eos_weight=-1: a token weight must be 0 or more"
    ):
        Segmentation(VOCAB, eos_weight=-1)
    example = make_example([[1, 2, 3]])
    with pytest.raises(
        ValueError, match=r"3 objects per image but segmentation.max_instances=2; raise it"
    ):
        Segmentation(VOCAB, max_instances=2).encode(example, jax.random.key(0))
    with pytest.raises(
        ValueError,
        match=r"polygons of 24 numbers per object but segmentation.max_points=11 allows 22",
    ):
        Segmentation(VOCAB, max_points=11).encode(example, jax.random.key(0))
    with pytest.raises(ValueError, match=r"polygons of 23 numbers"):
        odd = example | {"polygons": example["polygons"][..., 1:]}
        Segmentation(VOCAB).encode(odd, jax.random.key(0))
    with pytest.raises(ValueError, match=r"tokens\[1, 3, 8\] .* \[B,N,K,T\]"):
        Segmentation(VOCAB).decode(jnp.zeros((1, 3, 8), jnp.int32), jnp.zeros((1, 3, 8)), example)
