"""Decoding: recorded tokens, agreement with teacher forcing, and each option."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pix2seq_jax.decoding import generate as generating
from pix2seq_jax.decoding.generate import ClassPositions, Generated, generate
from pix2seq_jax.decoding.sampling import Beam, Greedy, Nucleus, TopK
from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq, field_names
from tests.helpers import golden_import

STATIC = (
    "model",
    "max_len",
    "sampler",
    "num_samples",
    "allowed",
    "return_logits",
    "class_positions",
    "stop_at_eos",
    "eos_token",
)
VOCAB = 40

run = jax.jit(generate, static_argnames=STATIC)


@pytest.fixture(scope="module")
def tiny():
    """A small model with random weights, large enough that tokens differ, and the memory of three
    images."""
    model = Pix2Seq(
        image_size=(8, 16),
        vocab_size=VOCAB,
        backbone=VitBackbone(patch_size=4),
        enc_layers=1,
        enc_dim=16,
        enc_mlp=32,
        enc_heads=2,
        dec_layers=2,
        dec_dim=16,
        dec_mlp=32,
        dec_heads=2,
        max_seq_len=24,
    )
    images = jax.random.uniform(jax.random.key(1), (3, 8, 16, 3))
    variables = nn.meta.unbox(
        jax.jit(model.init)(jax.random.key(0), images, jnp.ones((3, 2), jnp.int32))
    )
    variables["params"]["decoder"] = jax.tree.map(lambda x: 2 * x, variables["params"]["decoder"])
    memory = jax.jit(functools.partial(model.apply, method="encode"))(variables, images)
    prompt = jax.random.randint(jax.random.key(2), (3, 2, 3), 1, VOCAB)  # [B, N, P]
    return model, variables, memory, prompt


@pytest.fixture(scope="module")
def sampled(tiny):
    """Two samples of 17 tokens for each of the 3 x 2 prompts, with all that can be kept."""
    model, variables, memory, prompt = tiny
    return run(
        model,
        variables,
        memory,
        prompt,
        max_len=20,
        sampler=Nucleus(1.0),
        num_samples=2,
        rng=jax.random.key(3),
        return_logits=True,
        class_positions=ClassPositions(5, 12, 4, 5),
    )


@pytest.mark.parametrize("name", ["vit_tiny", "resnet_c4_tiny"])
def test_recorded_tokens(golden_dir, name):
    model, variables, io = golden_import.load(golden_dir / name)
    memory = jax.jit(functools.partial(model.apply, method="encode"))(variables, io["images"])
    prompt, options = io["greedy_prompt"], {"return_logits": True}
    greedy = run(model, variables, memory, prompt, max_len=17, sampler=Greedy(), **options)
    np.testing.assert_array_equal(greedy.tokens[:, 0], io["greedy_tokens"])
    np.testing.assert_allclose(greedy.logits[:, 0], io["greedy_logits"], atol=1e-4, rtol=0)
    prompt, options = io["multi_prompt"], options | {"num_samples": 2, "rng": jax.random.key(0)}
    multi = run(
        model, variables, memory, prompt, max_len=14, sampler=TopK(1, temperature=0.7), **options
    )
    assert multi.tokens.shape == (2, 3, 2, 8)
    np.testing.assert_array_equal(multi.tokens.reshape(12, 8), io["multi_tokens"])
    np.testing.assert_allclose(
        multi.logits.reshape(12, 8, 420), io["multi_logits"], atol=1e-4, rtol=0
    )


def test_decoding_equals_teacher_forcing(tiny, sampled):
    model, variables, memory, prompt = tiny
    assert sampled.tokens.shape == (3, 2, 2, 17)
    assert len(np.unique(sampled.tokens)) > 20
    assert (sampled.tokens[:, :, 0] != sampled.tokens[:, :, 1]).any()
    fed = jnp.concatenate([jnp.repeat(prompt[:, :, None], 2, axis=2), sampled.tokens], axis=-1)[
        ..., :-1
    ]
    logits = model.apply(variables, memory, fed.reshape(3, 4, -1), method="decode").reshape(
        3, 2, 2, 19, VOCAB
    )
    np.testing.assert_allclose(sampled.logits, logits[..., 2:, :], atol=1e-5, rtol=0)
    scores = jnp.take_along_axis(
        nn.softmax(logits[..., 2:, :]), sampled.tokens[..., None], axis=-1
    )[..., 0]
    np.testing.assert_allclose(sampled.scores, scores, atol=1e-6, rtol=0)


def test_class_probabilities_are_kept_at_their_positions(tiny, sampled):
    probs = nn.softmax(sampled.logits)
    assert sampled.class_probs.shape == (3, 2, 2, 3, 7)
    np.testing.assert_allclose(sampled.class_probs, probs[..., 4::5, 5:12], atol=1e-6)
    model, variables, memory, prompt = tiny
    options = {
        "max_len": 8,
        "sampler": Greedy(),
        "return_logits": True,
        "class_positions": (0, 3, 0, 2),
    }
    out = run(model, variables, memory, prompt, **options)
    np.testing.assert_allclose(out.class_probs, nn.softmax(out.logits)[..., 0::2, 0:3], atol=1e-6)


def test_greedy_tokens_are_the_likeliest_of_teacher_forcing(tiny):
    model, variables, memory, prompt = tiny
    out = run(model, variables, memory, prompt, max_len=12, sampler=Greedy(), num_samples=2)
    np.testing.assert_array_equal(out.tokens[:, :, 0], out.tokens[:, :, 1])
    fed = jnp.concatenate([prompt, out.tokens[:, :, 0]], axis=-1)[..., :-1]
    logits = model.apply(variables, memory, fed, method="decode")
    np.testing.assert_array_equal(jnp.argmax(logits[:, :, 2:], axis=-1), out.tokens[:, :, 0])


def test_objects_of_an_image_do_not_see_each_other(tiny):
    model, variables, memory, prompt = tiny
    together = run(model, variables, memory, prompt, max_len=12, sampler=Greedy())
    alone = run(model, variables, memory, prompt[:, 1], max_len=12, sampler=Greedy())
    assert alone.tokens.shape == (3, 1, 9)
    np.testing.assert_array_equal(together.tokens[:, 1], alone.tokens)


def test_an_image_is_decoded_alike_in_any_batch(tiny):
    model, variables, memory, prompt = tiny
    keys = jax.random.split(jax.random.key(5), 3)
    whole, single = (
        run(model, variables, memory[b], prompt[b], rng=keys[b], max_len=12, sampler=Nucleus(1.0))
        for b in (slice(0, 3), slice(1, 2))
    )
    np.testing.assert_array_equal(whole.tokens[1:2], single.tokens)
    assert (whole.tokens[0] != single.tokens[0]).any()


def test_eight_devices_decode_as_one(tiny):
    model, variables, memory, prompt = tiny
    memory, prompt = jnp.tile(memory, (3, 1, 1))[:8], jnp.tile(prompt, (3, 1, 1))[:8]
    keys = jax.random.split(jax.random.key(5), 8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put((memory, prompt, keys), NamedSharding(mesh, PartitionSpec("data")))
    one, eight = (
        run(model, variables, m, p, rng=k, max_len=12, sampler=Nucleus(1.0))
        for m, p, k in ((memory, prompt, keys), spread)
    )
    assert len(eight.tokens.sharding.device_set) == 8
    np.testing.assert_array_equal(one.tokens, eight.tokens)
    np.testing.assert_allclose(one.scores, eight.scores, atol=1e-6)


def test_a_sampler_may_be_any_function(tiny):
    model, variables, memory, prompt = tiny

    def sampler(logits, rng):
        return jnp.full(logits.shape[:-1], 7, jnp.int32)

    out = run(model, variables, memory, prompt, max_len=6, sampler=sampler, rng=jax.random.key(0))
    assert (out.tokens == 7).all()


def test_only_allowed_tokens(tiny, sampled):
    model, variables, memory, prompt = tiny
    options = {
        "sampler": Nucleus(1.0),
        "num_samples": 2,
        "rng": jax.random.key(3),
        "return_logits": True,
    }
    allowed = (((10, 20),), ((3, 4), (30, VOCAB)))
    out = run(model, variables, memory, prompt, max_len=20, allowed=allowed, **options)
    even, odd = out.tokens[..., 0::2], out.tokens[..., 1::2]
    assert ((even >= 10) & (even < 20)).all()
    assert ((odd == 3) | (odd >= 30)).all()
    # The logits are those of the model.
    np.testing.assert_array_equal(out.logits[..., 0, :], sampled.logits[..., 0, :])
    np.testing.assert_allclose(
        out.scores,
        np.take_along_axis(
            np.asarray(nn.softmax(out.logits)), np.asarray(out.tokens)[..., None], axis=-1
        )[..., 0],
        atol=1e-6,
    )


def test_sequences_end_when_asked_to(tiny, sampled):
    model, variables, memory, prompt = tiny
    options = {
        "sampler": Nucleus(1.0),
        "num_samples": 2,
        "rng": jax.random.key(3),
        "return_logits": True,
    }
    options |= {"class_positions": ClassPositions(5, 12, 4, 5), "max_len": 20}
    out = run(model, variables, memory, prompt, stop_at_eos=True, **options)
    after = (
        np.cumsum(np.asarray(sampled.tokens) == 0, axis=-1) - (np.asarray(sampled.tokens) == 0) > 0
    )
    assert after.any() and not after.all() and (np.asarray(sampled.tokens)[after] != 0).any()
    for mine, theirs in (
        (out.tokens, sampled.tokens),
        (out.scores, sampled.scores),
        (out.logits, sampled.logits),
    ):
        assert (np.asarray(mine)[after] == 0).all()
        np.testing.assert_allclose(np.asarray(mine)[~after], np.asarray(theirs)[~after], atol=1e-6)
    assert (np.asarray(out.class_probs)[after[..., 4::5]] == 0).all()


@pytest.mark.parametrize("sequences", [1, 2])
def test_image_keys_in_int8_are_for_one_sequence_on_a_cpu(tiny, sequences):
    """Then logits are a little off, else they are those of float32."""
    model, variables, memory, prompt = tiny
    options = {"max_len": 6, "sampler": Greedy(), "return_logits": True}
    exact, rounded = (
        run(one, variables, memory, prompt[:, :sequences, :1], **options).logits[:, :, :, 0]
        for one in (model, model.clone(cache_dtype="int8"))
    )
    off = np.abs(exact - rounded).max()
    assert 1e-4 < off < 0.02 * np.abs(exact).max() if sequences == 1 else off == 0


def test_full_blocks_in_int8_are_for_many_sequences_too(tiny, monkeypatch):
    """Logits of the first block are those of float32, later ones a little off."""
    model, variables, memory, prompt = tiny
    monkeypatch.setattr(generating, "BLOCK", 6)
    options = {"max_len": 12, "sampler": Greedy(), "return_logits": True}
    exact, rounded = (
        run(one, variables, memory, prompt, **options).logits
        for one in (model, model.clone(cache_dtype="int8"))
    )
    off = np.abs(exact - rounded).max(axis=(0, 1, 2, 4))
    first = 7 - prompt.shape[-1]  # responses to the tokens in the first block, and to the last one
    assert (off[:first] == 0).all()
    assert (off[first:] > 1e-5).all() and off.max() < 0.02 * np.abs(exact).max()


CALLS = []  # of Watched.step: sequences of an image


class Watched(Pix2Seq):
    def step(self, tokens, cache, cross_kv, index):
        jax.debug.callback(lambda _: CALLS.append(tokens.shape[1]), index, ordered=True)
        return super().step(tokens, cache, cross_kv, index)


def likeliest(logits, rng):
    """A sampler of one's own: Gumbel noise for each sequence of an image."""
    return jnp.argmax(logits + jax.random.gumbel(rng, logits.shape), axis=-1)


@pytest.mark.parametrize(
    "sampler,cache_dtype", [(Nucleus(1.0), ""), (likeliest, ""), (Nucleus(1.0), "int8")]
)
def test_few_that_are_left_go_on_alone(tiny, monkeypatch, sampler, cache_dtype):
    """Of 16 sequences of an image the last four, and the last one, with the same results; in
    several blocks of the cache."""
    model, variables, memory, prompt = tiny
    model = Watched(**{name: getattr(model, name) for name in field_names()})
    model = model.clone(cache_dtype=cache_dtype)
    options = {"sampler": sampler, "num_samples": 8, "return_logits": True}
    options |= {"class_positions": ClassPositions(5, 12, 4, 5), "rng": jax.random.key(4)}
    options |= {"max_len": 24, "stop_at_eos": True, "eos_bias": 2.0}
    monkeypatch.setattr(generating, "BLOCK", 6)
    monkeypatch.setattr(generating, "NARROWED_LENGTH", 24 - prompt.shape[-1])

    def decode(narrowed: int) -> tuple[Generated, list[int]]:
        monkeypatch.setattr(generating, "NARROWED", narrowed)
        CALLS.clear()
        out = jax.jit(functools.partial(generate, model, **options))(variables, memory, prompt)
        jax.effects_barrier()
        return out, list(CALLS)

    (every, calls), (few, fewer) = decode(1000), decode(4)
    assert set(calls[1:]) == {16} and set(fewer[1:]) == {16, 4, 1} and len(fewer) == len(calls)
    assert len(np.unique(jnp.sum(every.tokens > 0, axis=-1))) > 5  # lengths
    np.testing.assert_array_equal(few.tokens, every.tokens)
    for name in ("scores", "class_probs", "logits"):
        np.testing.assert_allclose(getattr(few, name), getattr(every, name), atol=2e-5)


def test_decoding_stops_early():
    """When all sequences have ended the model is not called again."""
    sizes = dict.fromkeys(["enc_layers", "dec_layers", "enc_heads", "dec_heads"], 1)
    sizes |= dict.fromkeys(["enc_dim", "dec_dim", "enc_mlp", "dec_mlp"], 8)
    model = Watched(
        image_size=(4, 4),
        vocab_size=VOCAB,
        backbone=VitBackbone(patch_size=4),
        max_seq_len=24,
        **sizes,
    )
    prompt = jnp.ones((2, 1), jnp.int32)
    variables = nn.meta.unbox(model.init(jax.random.key(0), jnp.ones((2, 4, 4, 3)), prompt))

    def count(**options) -> int:
        CALLS.clear()
        memory = jnp.ones((2, 1, 8))
        out = run(
            model, variables, memory, prompt, max_len=24, sampler=Greedy(), eos_bias=1e3, **options
        )
        assert (out.tokens == 0).all()
        jax.effects_barrier()
        return len(CALLS)

    assert count(stop_at_eos=True) == 1
    assert count() == 23


def test_end_of_sequence_bias(tiny, sampled):
    model, variables, memory, prompt = tiny
    options = {"max_len": 20, "sampler": Nucleus(1.0), "num_samples": 2, "rng": jax.random.key(3)}
    options |= {"return_logits": True, "class_positions": ClassPositions(5, 12, 4, 5)}
    assert (sampled.tokens == 0).any() and (sampled.tokens != 0).any()
    assert (run(model, variables, memory, prompt, eos_bias=-1e3, **options).tokens != 0).all()
    biased = run(model, variables, memory, prompt, eos_bias=1e3, **options)
    assert (biased.tokens == 0).all()
    # The scores are those of the raw logits.
    np.testing.assert_allclose(biased.scores, nn.softmax(biased.logits)[..., 0], atol=1e-6)


def test_another_token_may_end_a_sequence(tiny, sampled):
    model, variables, memory, prompt = tiny
    tokens = np.asarray(sampled.tokens)
    eos = int(np.bincount(tokens[tokens > 0]).argmax())
    options = {"max_len": 20, "sampler": Nucleus(1.0), "num_samples": 2, "rng": jax.random.key(3)}
    out = run(model, variables, memory, prompt, stop_at_eos=True, eos_token=eos, **options)
    after = np.cumsum(tokens == eos, axis=-1) - (tokens == eos) > 0
    assert after.any() and not after.all()
    assert (tokens[~after] == 0).any()  # padding no longer ends a sequence
    np.testing.assert_array_equal(out.tokens, np.where(after, 0, tokens))
    np.testing.assert_allclose(out.scores, np.where(after, 0, sampled.scores), atol=1e-6)
    never = run(model, variables, memory, prompt, eos_bias=-1e3, eos_token=eos, **options)
    assert (never.tokens != eos).all() and (never.tokens == 0).any()
    assert (
        run(model, variables, memory, prompt, eos_bias=1e3, eos_token=eos, **options).tokens == eos
    ).all()


def test_bfloat16(tiny):
    model, variables, memory, prompt = tiny
    half = model.clone(dtype="bfloat16")
    out = run(half, variables, memory, prompt, max_len=8, sampler=Greedy(), return_logits=True)
    assert out.logits.dtype == out.scores.dtype == jnp.float32
    first = model.apply(variables, memory, prompt, method="decode")[:, :, -1]
    np.testing.assert_allclose(out.logits[:, :, 0, 0], first, atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_len": 25}, "max_len=25"),
        ({"max_len": 3}, "max_len=3"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"allowed": (((0, VOCAB + 1),),)}, "is not within the vocabulary"),
        ({"allowed": ((),)}, "without any token"),
        ({"sampler": Nucleus(0.5)}, "give rng"),
        ({"rng": jnp.zeros(2, jnp.uint32)}, "rng is uint32"),
        ({"class_positions": ClassPositions(0, VOCAB + 1, 0, 1)}, "class_positions"),
        ({"eos_token": VOCAB}, "eos_token=40"),
        ({"sampler": Beam(4)}, "beam_search"),
        ({"prompt": jnp.ones((2, 3), jnp.int32)}, "prompt"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, change, message):
    model, variables, memory, prompt = tiny
    options = {"prompt": prompt, "max_len": 8, "sampler": Greedy()} | change
    with pytest.raises(ValueError, match=message):
        generate(model, variables, memory, options.pop("prompt"), **options)
