"""Detection sequences against the recorded arrays, and the properties that hold for any boxes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.tasks import TASKS
from pix2seq_jax.tasks.detection import CLASS_CORRUPTIONS, Detection
from pix2seq_jax.vocab import FAKE, NOISE_LABEL, PADDING, Vocab

VOCAB = Vocab(size=3000, num_bins=1000, num_classes=80)
SIZES = {"unpadded_size": (64, 48), "orig_size": (640, 480)}


def make_example(labels, seed=0):
    """Labels [B,N] -> an example of random boxes that lie inside the unpadded part of a 64 x 64
    image."""
    labels = np.asarray(labels, np.int32)
    rng = np.random.default_rng(seed)
    corners = (
        np.sort(rng.uniform(0, 1, (*labels.shape, 2, 2)), axis=-2)
        * np.array(SIZES["unpadded_size"])
        / 64
    )
    example = {"image": np.zeros((len(labels), 64, 64, 3), np.float32)}
    example |= {
        key: np.tile(np.array([size], np.int32), (len(labels), 1)) for key, size in SIZES.items()
    }
    example |= {"boxes": corners.reshape(*labels.shape, 4).astype(np.float32), "labels": labels}
    return jax.tree.map(jnp.asarray, example)


def one_hot_probs(labels, num_classes=80):
    """Labels i32[B,N] -> class probabilities f32[B,N,C]: 0.9 on the label, 0 everywhere for label
    0."""
    return 0.9 * jax.nn.one_hot(labels - 1, num_classes)


@pytest.mark.parametrize("bins", [1000, 500])
@pytest.mark.parametrize("noise_weight", [1.0, 0.0])
def test_encode_is_the_recorded_one(ops_golden, bins, noise_weight):
    vocab = replace(VOCAB, num_bins=bins)
    # The recording is from before the release gives padding its own weight: eos_weight 1 says the
    # same.
    task = Detection(vocab, 7, class_corruption="none", noise_weight=noise_weight, eos_weight=1.0)
    example = {
        "boxes": jnp.asarray(ops_golden["tok/bbox"]),
        "labels": jnp.asarray(ops_golden["tok/label"]),
    }
    sequences = task.encode(example, jax.random.key(0))
    np.testing.assert_array_equal(
        sequences.targets, ops_golden[f"tok/det_response/{bins}/{noise_weight}"]
    )
    np.testing.assert_array_equal(sequences.inputs, sequences.targets)
    np.testing.assert_array_equal(
        sequences.weights, ops_golden[f"tok/det_weights/{bins}/{noise_weight}"]
    )
    np.testing.assert_array_equal(sequences.prompt, [[10], [10]])


def test_reading_is_the_recorded_one(ops_golden):
    task = Detection(Vocab(size=2200, num_classes=899))
    start, stop, first, every = task.class_positions
    probs = jax.nn.softmax(ops_golden["dec/logits"].astype(np.float32))[:, first::every, start:stop]
    boxes, labels, scores = task.read(jnp.asarray(ops_golden["dec/seq"]), probs)
    np.testing.assert_array_equal(labels, ops_golden["dec/classes"])
    np.testing.assert_allclose(boxes, ops_golden["dec/bbox"], atol=1e-6)
    np.testing.assert_allclose(scores, ops_golden["dec/scores"], atol=1e-6)


def test_shapes_and_dtypes_as_promised():
    task = Detection(VOCAB, max_instances=6)
    example = make_example([[3, 1, NOISE_LABEL, 0], [0, 0, 0, 0]])
    sequences = jax.jit(task.encode)(example, jax.random.key(0))
    assert [x.shape for x in sequences] == [(2, 1), (2, 30), (2, 30), (2, 30)]
    assert [x.dtype for x in sequences] == [jnp.int32] * 3 + [jnp.float32]
    assert task.max_len == 31 and task.name == "detection" and TASKS["detection"] is Detection
    np.testing.assert_array_equal(task.prompt(example), sequences.prompt)
    assert task.prompt(example).dtype == jnp.int32


def test_decode_gives_boxes_back_within_half_a_bin():
    task = Detection(VOCAB, max_instances=5, class_corruption="none")
    example = make_example([[1, 80, 7, 33, 5]] * 3)
    targets = task.encode(example, jax.random.key(0)).targets
    out = jax.jit(task.decode)(targets, one_hot_probs(example["labels"]), example)
    pixels = np.array([640, 480, 640, 480]) * 64 / np.array([64, 48, 64, 48])
    assert np.abs(np.asarray(out["boxes"]) / pixels - example["boxes"]).max() <= 0.5 / 999 + 1e-6
    np.testing.assert_array_equal(out["labels"], example["labels"])
    np.testing.assert_allclose(out["scores"], 0.9, rtol=1e-6)
    assert {key: (value.shape, value.dtype) for key, value in out.items()} == {
        "boxes": ((3, 5, 4), jnp.float32),
        "labels": ((3, 5), jnp.int32),
        "scores": ((3, 5), jnp.float32),
    }


def test_weights_of_real_noise_and_padding():
    task = Detection(VOCAB, max_instances=4, noise_weight=0.7, eos_weight=0.2)
    weights = task.encode(make_example([[9, NOISE_LABEL, 0]]), jax.random.key(0)).weights.reshape(
        4, 5
    )
    np.testing.assert_allclose(
        weights, [[1] * 5, [0, 0, 0, 0, 0.7], [0.2] * 5, [0.2] * 5], rtol=1e-6
    )


def test_noise_boxes_keep_their_coordinates_and_aim_at_the_fake_class():
    task = Detection(VOCAB, max_instances=2, class_corruption="none")
    example = make_example([[9, NOISE_LABEL]])
    targets = task.encode(example, jax.random.key(0)).targets.reshape(2, 5)
    np.testing.assert_array_equal(targets[:, :4], VOCAB.coord_tokens(example["boxes"][0]))
    np.testing.assert_array_equal(targets[:, 4], [109, FAKE])


@pytest.mark.parametrize("mode", CLASS_CORRUPTIONS)
def test_corruption_touches_the_class_inputs_only(mode):
    task = Detection(VOCAB, max_instances=4, class_corruption=mode)
    example = make_example([[9, 80, NOISE_LABEL, 0]] * 64)
    sequences = jax.jit(task.encode)(example, jax.random.key(1))
    clean = (
        Detection(VOCAB, max_instances=4, class_corruption="none")
        .encode(example, jax.random.key(1))
        .targets
    )
    np.testing.assert_array_equal(sequences.targets, clean)
    inputs, targets = (x.reshape(64, 4, 5) for x in sequences[1:3])
    np.testing.assert_array_equal(inputs[..., :4], targets[..., :4])
    assert (inputs[:, 3] == PADDING).all()
    classes = inputs[:, :3, 4]
    start, stop = VOCAB.class_range
    assert ((classes == FAKE) | ((classes >= start) & (classes < stop))).all()
    assert (mode == "none") == bool((classes == targets[:, :3, 4]).all())


@pytest.mark.parametrize(
    ("mode", "real", "random", "fake"),
    [
        ("none", 1, 0, 0),
        ("rand_cls", 0, 1, 0),
        ("real_n_fake_cls", 0.5, 0, 0.5),
        ("rand_n_fake_cls", 0, 0.5, 0.5),
        ("real_n_rand_n_fake_cls", 0.5, 0.25, 0.25),
    ],
)
@pytest.mark.parametrize("label", [9, NOISE_LABEL])
def test_corruption_rates(mode, real, random, fake, label):
    task = Detection(VOCAB, max_instances=100, class_corruption=mode)
    example = make_example(np.full((200, 100), label))
    classes = np.asarray(jax.jit(task.encode)(example, jax.random.key(2)).inputs).reshape(-1, 5)[
        :, 4
    ]
    share = np.bincount(classes, minlength=200) / classes.size
    expected = np.zeros(200)
    expected[101:181] += random / 80
    expected[FAKE] += fake
    expected[int(VOCAB.class_tokens(label))] += real
    # 20000 draws: five standard deviations of a share of one half are 0.018, of 1/80 0.004
    np.testing.assert_allclose(share[[FAKE, 109]], expected[[FAKE, 109]], atol=0.018)
    np.testing.assert_allclose(
        np.delete(share, [FAKE, 109]), np.delete(expected, [FAKE, 109]), atol=0.004
    )


def test_draws_are_new_for_every_box_row_and_key():
    task = Detection(VOCAB, max_instances=50, class_corruption="rand_cls")
    example = make_example(np.full((4, 50), 9))
    draws = [
        np.asarray(task.encode(example, jax.random.key(seed)).inputs).reshape(4, 50, 5)[..., 4]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    matches = [
        np.mean(draws[0] == draws[2]),
        np.mean(draws[0][0] == draws[0][1]),
        np.mean(draws[0][:, 1:] == draws[0][:, :-1]),
    ]
    assert max(matches) < 0.12  # 1 / 80 by chance


def test_choice_and_class_are_drawn_independently():
    task = Detection(VOCAB, max_instances=100, class_corruption="real_n_rand_n_fake_cls")
    classes = np.asarray(
        task.encode(make_example(np.full((100, 100), 9)), jax.random.key(0)).inputs
    )[:, 4::5]
    drawn = classes[(classes != FAKE) & (classes != 109)]
    assert abs(np.mean(drawn < 141) - 0.5) < 0.05  # both halves of the classes


def test_a_row_is_drawn_alike_in_any_batch():
    task = Detection(VOCAB, max_instances=6)
    example = make_example(np.full((8, 6), 9))
    encode = jax.jit(task.encode)
    whole = encode(example, jax.random.key(3))
    part = encode(jax.tree.map(lambda x: x[:3], example), jax.random.key(3))
    np.testing.assert_array_equal(whole.inputs[:3], part.inputs)


def test_a_sharded_batch_gives_the_same_sequences():
    task = Detection(VOCAB, max_instances=6)
    example = make_example(np.full((8, 6), 9))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    sharded = jax.jit(task.encode)(jax.device_put(example, rows), jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, sharded, task.encode(example, jax.random.key(3)))


def test_images_without_objects_are_all_padding():
    task = Detection(VOCAB, max_instances=3)
    for example in (
        make_example([[0, 0, 0]]),
        {"boxes": jnp.zeros((1, 0, 4)), "labels": jnp.zeros((1, 0), jnp.int32)},
    ):
        sequences = task.encode(example, jax.random.key(0))
        assert (sequences.inputs == PADDING).all() and (sequences.targets == PADDING).all()
        np.testing.assert_allclose(sequences.weights, 0.1)


def test_altered_inference_ignores_the_sampled_class():
    task = Detection(VOCAB)
    example = make_example([[4, 5]])
    tokens = jnp.array(
        [[1100, 1200, 1300, 1400, FAKE, 1100, 1200, 1300, 1400, PADDING, 1000, 1000]]
    )
    probs = jnp.zeros((1, 2, 80)).at[0, :, [6, 2]].set(0.25).at[0, 0, 79].set(0.3)
    out = task.decode(tokens, probs, example)
    assert out["labels"].tolist() == [[80, 3]]
    np.testing.assert_allclose(out["scores"], [[0.3, 0.25]])


def test_sampled_classes_and_their_likelihoods():
    task = Detection(VOCAB)
    tokens = jnp.array(
        [[1100, 1200, 1300, 1400, token] for token in (105, FAKE, PADDING, 1200, 180)]
    ).reshape(1, 25)
    likelihoods = jnp.linspace(0.01, 0.25, 25)[None]
    for tail in (0, 3):  # tokens of an unfinished box are dropped
        out = task.decode(
            jnp.pad(tokens, ((0, 0), (0, tail))),
            jnp.pad(likelihoods, ((0, 0), (0, tail))),
            make_example([[0]]),
        )
        assert out["labels"].tolist() == [[5, 0, 0, 0, 80]]
        np.testing.assert_allclose(out["scores"], [[0.05, 0, 0, 0, 0.25]], rtol=1e-6)


def test_decoded_boxes_are_inside_the_original_image_and_never_inverted():
    task = Detection(VOCAB)
    tokens = jax.random.randint(jax.random.key(0), (4, 100), 0, VOCAB.size)
    out = task.decode(tokens, jnp.ones((4, 100)), make_example([[0]] * 4))
    boxes = np.asarray(out["boxes"])
    assert (boxes >= 0).all() and (boxes <= [640, 480, 640, 480]).all()
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


def test_the_grammar_admits_what_encode_writes():
    task = Detection(VOCAB, max_instances=4)
    targets = np.asarray(
        task.encode(make_example([[1, 80, 7, NOISE_LABEL]] * 5), jax.random.key(0)).targets
    )
    for position, column in enumerate(targets.T):
        ranges = task.allowed[position % len(task.allowed)]
        assert all(any(start <= token < stop for start, stop in ranges) for token in column)
    start, stop, first, every = task.class_positions
    assert ((start, stop), (FAKE, FAKE + 1)) == task.allowed[first] and every == len(task.allowed)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"max_instances=0: at least one box"):
        Detection(VOCAB, max_instances=0)
    with pytest.raises(
        ValueError, match=r"class_corruption='random': choose one of none, rand_cls"
    ):
        Detection(VOCAB, class_corruption="random")
    with pytest.raises(ValueError, match=r"noise_weight=-1: a token weight must be 0 or more"):
        Detection(VOCAB, noise_weight=-1)
    with pytest.raises(ValueError, match=r"eos_weight=-0.1"):
        Detection(VOCAB, eos_weight=-0.1)
    with pytest.raises(
        ValueError, match=r"3 objects per image but detection.max_instances=2; raise it, or give"
    ):
        Detection(VOCAB, max_instances=2).encode(make_example([[1, 2, 3]]), jax.random.key(0))
    with pytest.raises(
        ValueError,
        match=r"scores\[1, 2, 79\] for tokens\[1, 10\]: give class probabilities \[1, 2, 80\]",
    ):
        Detection(VOCAB).decode(
            jnp.zeros((1, 10), jnp.int32), jnp.zeros((1, 2, 79)), make_example([[1]])
        )
    with pytest.raises(ValueError, match=r"class tokens \(101, 1001\) run into"):
        Detection(Vocab(size=3000, num_classes=900))
