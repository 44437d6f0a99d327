"""Beam search against every possible response, a plain search in Python, and greedy decoding."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pix2seq_jax.decoding.beam import beam_search, penalty
from pix2seq_jax.decoding.generate import generate
from pix2seq_jax.decoding.sampling import Greedy
from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq

VOCAB, EOS, LENGTH = 12, 3, 4
WORDS = (3, 4, 7, 8)  # what ALLOWED leaves
ALLOWED = (((3, 5), (7, 9)),)
SIZES = dict.fromkeys(["enc_layers", "dec_layers"], 1) | dict.fromkeys(
    ["enc_heads", "dec_heads"], 2
)
SIZES |= dict.fromkeys(["enc_dim", "dec_dim", "enc_mlp", "dec_mlp"], 8)

search = jax.jit(
    beam_search,
    static_argnames=("model", "max_len", "beams", "length_penalty", "eos_token", "allowed"),
)


def make(model, batch=5):
    """Variables, sharp enough for the order of sequences to differ between images, memory and
    prompts of two tokens."""
    images = jax.random.uniform(jax.random.key(1), (batch, 8, 8, 3))
    variables = nn.meta.unbox(
        jax.jit(model.init)(jax.random.key(0), images, jnp.ones((batch, 2), jnp.int32))
    )
    decoder = jax.tree.map(lambda x: 4 * x, variables["params"]["decoder"])
    variables["params"]["decoder"] = decoder | {"embedding": 3 * decoder["embedding"]}
    memory = jax.jit(functools.partial(model.apply, method="encode"))(variables, images)
    return variables, 3 * memory, jax.random.randint(jax.random.key(2), (batch, 2), 1, VOCAB)


@pytest.fixture(scope="module")
def tiny():
    model = Pix2Seq(
        image_size=(8, 8),
        vocab_size=VOCAB,
        backbone=VitBackbone(patch_size=4),
        max_seq_len=16,
        **SIZES,
    )
    return model, *make(model)


@pytest.fixture(scope="module")
def table(tiny):
    """For each image {response: probabilities of its tokens}, for every response up to its end, by
    teacher forcing."""
    model, variables, memory, prompt = tiny
    words = np.array(list(itertools.product(WORDS, repeat=LENGTH)), np.int32)  # [256, 4]
    batch = len(prompt)
    rows = (
        jnp.repeat(prompt[:, None], len(words), axis=1),
        jnp.tile(jnp.asarray(words), (batch, 1, 1)),
    )
    fed = jnp.concatenate(rows, axis=-1)[..., :-1]
    logits = jax.jit(functools.partial(model.apply, method="decode"))(variables, memory, fed)[
        :, :, 1:
    ]
    probs = np.take_along_axis(
        np.asarray(nn.softmax(logits), np.float64), np.tile(words, (batch, 1, 1))[..., None], -1
    )
    tables = []
    for image in probs[..., 0]:
        responses = {}
        for word, p in zip(words.tolist(), image, strict=True):
            end = word.index(EOS) + 1 if EOS in word else LENGTH
            responses[tuple(word[:end])] = p[:end]
        tables.append(responses)
    assert len(tables[0]) == 1 + 3 + 9 + 27 + 81
    return tables


def ranked(responses, alpha):
    """Responses with their score, best first."""
    scores = {r: np.log(p).sum() / ((5 + len(p)) / 6) ** alpha for r, p in responses.items()}
    return sorted(scores.items(), key=lambda item: -item[1])


def plain_search(responses, beams, alpha):
    """Beam search over a table, without stopping early: the best `beams` responses with their
    scores."""
    live, ended = [()], []
    prefixes = {r[:n]: np.log(p[:n]).sum() for r, p in responses.items() for n in range(LENGTH + 1)}
    for length in range(1, LENGTH + 1):
        grown = [(*prefix, word) for prefix in live for word in WORDS]
        kept = sorted(grown, key=lambda r: -prefixes[r])[:beams]
        live = [r for r in kept if r[-1] != EOS and length < LENGTH]
        ended += [(r, prefixes[r] / ((5 + length) / 6) ** alpha) for r in kept if r not in live]
    return sorted(ended, key=lambda item: -item[1])[:beams]


def read(out, b):
    """Responses of image b up to their end, with the probabilities of their tokens."""
    for tokens, scores in zip(
        np.asarray(out.tokens[b]).tolist(), np.asarray(out.scores[b]), strict=True
    ):
        end = tokens.index(EOS) + 1 if EOS in tokens else len(tokens)
        assert not any(tokens[end:]) and not scores[end:].any()
        yield tuple(tokens[:end]), scores[:end]


def run(tiny, **options):
    model, variables, memory, prompt = tiny
    return search(
        model, variables, memory, prompt, **{"max_len": 2 + LENGTH, "eos_token": EOS} | options
    )


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_enough_beams_find_every_response_in_order(tiny, table, alpha):
    out = run(tiny, beams=121, length_penalty=alpha, allowed=ALLOWED)
    assert out.tokens.shape == out.scores.shape == (5, 121, LENGTH)
    assert out.tokens.dtype == jnp.int32 and out.scores.dtype == jnp.float32
    assert out.class_probs is None and out.logits is None
    firsts = set()
    for b, responses in enumerate(table):
        found, expected = dict(read(out, b)), ranked(responses, alpha)
        assert found.keys() == responses.keys()
        # The order is the expected one, but for equal scores.
        scores = [dict(expected)[response] for response in found]
        np.testing.assert_allclose(scores, [score for _, score in expected], rtol=1e-5)
        assert next(iter(found)) == expected[0][0]
        for response, p in found.items():
            np.testing.assert_allclose(p, responses[response], rtol=1e-4, atol=1e-7)
        firsts.add(expected[0][0])
    assert len(firsts) > 1


@pytest.mark.parametrize(("beams", "alpha"), [(2, 0.0), (3, 0.6), (8, 2.0)])
def test_a_narrow_beam_is_the_plain_search(tiny, table, beams, alpha):
    out = run(tiny, beams=beams, length_penalty=alpha, allowed=ALLOWED)
    for b, responses in enumerate(table):
        assert [r for r, _ in read(out, b)] == [r for r, _ in plain_search(responses, beams, alpha)]


def test_the_penalty_lengthens(table):
    lengths = [np.mean([len(ranked(t, alpha)[0][0]) for t in table]) for alpha in (0.0, 5.0)]
    assert lengths[0] < lengths[1]  # or the tests above would show nothing about it
    np.testing.assert_allclose(penalty(jnp.array([1, 7, 13]), 2.0), [1, 4, 9])


def test_scores_are_those_of_teacher_forcing(tiny):
    model, variables, memory, prompt = tiny
    out = run(tiny, max_len=14, beams=4)
    fed = jnp.concatenate([jnp.repeat(prompt[:, None], 4, axis=1), out.tokens], axis=-1)[..., :-1]
    logits = jax.jit(functools.partial(model.apply, method="decode"))(variables, memory, fed)[
        :, :, 1:
    ]
    expected = np.take_along_axis(
        np.asarray(nn.softmax(logits)), np.asarray(out.tokens)[..., None], axis=-1
    )[..., 0]
    tokens = np.asarray(out.tokens)
    after = np.cumsum(tokens == EOS, axis=-1) - (tokens == EOS) > 0
    np.testing.assert_allclose(out.scores, np.where(after, 0, expected), atol=1e-5)
    sums = np.log(np.where(after, 1, expected)).sum(-1) / np.asarray(penalty((~after).sum(-1), 0.6))
    assert (np.diff(sums, axis=1) <= 1e-5).all() and (np.diff(sums, axis=1) < 0).any()
    assert len(np.unique(tokens[0], axis=0)) == 4


@pytest.mark.parametrize(("eos", "alpha"), [(EOS, 0.6), (0, 0.0)])
def test_one_beam_is_greedy(tiny, eos, alpha):
    model, variables, memory, prompt = tiny
    options = {"max_len": 14, "eos_token": eos, "allowed": (((0, 10),), ((0, VOCAB),))}
    greedy = generate(
        model, variables, memory, prompt, sampler=Greedy(), stop_at_eos=True, **options
    )
    beam = run(tiny, beams=1, length_penalty=alpha, **options)
    np.testing.assert_array_equal(beam.tokens, greedy.tokens)
    np.testing.assert_allclose(beam.scores, greedy.scores, atol=1e-6)
    assert (np.asarray(beam.tokens) == eos).any()


def test_rows_beyond_the_responses_there_are_stay_empty(tiny):
    out = run(tiny, max_len=4, beams=6, allowed=(((EOS, EOS + 2),),))  # end; 4 end; 4 4
    tokens = np.asarray(out.tokens)
    assert {tuple(row) for row in tokens[0, :3].tolist()} == {(EOS, 0), (4, EOS), (4, 4)}
    assert not tokens[:, 3:].any() and not np.asarray(out.scores)[:, 3:].any()
    assert np.isfinite(np.asarray(out.scores)).all()


def test_an_image_is_searched_alike_in_any_batch_and_on_eight_devices(tiny):
    model, variables, memory, prompt = tiny
    memory, prompt = jnp.tile(memory, (2, 1, 1))[:8], jnp.tile(prompt, (2, 1))[:8]
    options = {"max_len": 12, "beams": 3, "eos_token": EOS}
    whole = search(model, variables, memory, prompt, **options)
    part = search(model, variables, memory[2:4], prompt[2:4], **options)
    np.testing.assert_array_equal(whole.tokens[2:4], part.tokens)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put((memory, prompt), NamedSharding(mesh, PartitionSpec("data")))
    eight = search(model, variables, *spread, **options)
    assert len(eight.tokens.sharding.device_set) == 8
    np.testing.assert_array_equal(whole.tokens, eight.tokens)


def test_the_search_stops_when_nothing_can_come_before_what_has_ended():
    calls = []

    class Counting(Pix2Seq):
        def step(self, tokens, cache, cross_kv, index):
            jax.debug.callback(lambda _: calls.append(1), index)
            return super().step(tokens, cache, cross_kv, index)

    model = Counting(
        image_size=(8, 8),
        vocab_size=VOCAB,
        backbone=VitBackbone(patch_size=4),
        max_seq_len=16,
        **SIZES,
    )
    variables, memory, prompt = make(model, batch=2)

    def count(bias: float, beams: int) -> int:
        calls.clear()
        params = jax.tree.map(jnp.zeros_like, variables)  # every token alike, but for the end
        params["params"]["decoder"]["output_bias"] = jnp.zeros(VOCAB).at[EOS].set(bias)
        out = search(model, params, memory, prompt, max_len=16, beams=beams, eos_token=EOS)
        jax.block_until_ready(out)
        jax.effects_barrier()
        return len(calls)

    assert count(20.0, 1) == 1
    assert count(20.0, 4) == 2  # the end at once, and three words with an end
    assert count(-20.0, 4) == 14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beams": 0}, "size=0"),
        ({"length_penalty": -1.0}, "length_penalty=-1"),
        ({"max_len": 17}, "max_len=17"),
        ({"max_len": 2}, "max_len=2"),
        ({"eos_token": VOCAB}, "eos_token=12"),
        ({"allowed": (((0, VOCAB + 1),),)}, "is not within the vocabulary"),
        ({"prompt": jnp.ones((5, 1, 2), jnp.int32)}, "one prompt per image"),
        ({"prompt": jnp.ones((2, 2), jnp.int32)}, "prompt"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, change, message):
    model, variables, memory, prompt = tiny
    options = {"prompt": prompt, "max_len": 8} | change
    with pytest.raises(ValueError, match=message):
        beam_search(model, variables, memory, options.pop("prompt"), **options)
