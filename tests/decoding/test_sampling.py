"""Kept tokens against the recorded arrays, both nucleus rules, the draw itself, and the text
form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.decoding import sampling
from pix2seq_jax.decoding.sampling import MASKED, Beam, Greedy, Nucleus, TopK, from_string

SAMPLERS = [
    Greedy(),
    TopK(3),
    TopK(4, 0.5),
    Nucleus(0.5),
    Nucleus(0.5, rule="standard"),
    Nucleus(1.0, 2.0),
]


def kept(logits):
    return [np.flatnonzero(row > MASKED).tolist() for row in np.atleast_2d(logits)]


@pytest.mark.parametrize(
    ("name", "k", "p"),
    [
        ("k0_p0.01", None, 0.01),
        ("k0_p0.4", None, 0.4),
        ("k0_p0.8", None, 0.8),
        ("k0_p1.0", None, 1.0),
        ("k1_p1.0", 1, None),
        ("k5_p1.0", 5, None),
        ("k5_p0.5", 5, 0.5),
    ],
)
def test_kept_logits_are_the_recorded_ones(ops_golden, name, k, p):
    logits = jnp.asarray(ops_golden["top/in"])
    if k is not None:
        logits = TopK(k).filter(logits)
    if p is not None:
        logits = Nucleus(p).filter(logits)
    np.testing.assert_array_equal(logits, ops_golden[f"top/{name}"])


def test_greedy_keeps_the_recorded_likeliest(ops_golden):
    np.testing.assert_array_equal(
        Greedy().filter(jnp.asarray(ops_golden["top/in"])), ops_golden["top/k1_p1.0"]
    )


def test_nucleus_rules_differ_by_the_token_that_crosses_p():
    logits = jnp.log(jnp.array([0.1, 0.3, 0.4, 0.2]))
    assert kept(Nucleus(0.5).filter(logits)) == [[2]]
    assert kept(Nucleus(0.5, rule="standard").filter(logits)) == [[1, 2]]
    assert kept(Nucleus(0.75).filter(logits)) == [[1, 2]]
    assert kept(Nucleus(0.75, rule="standard").filter(logits)) == [[1, 2, 3]]
    assert kept(Nucleus(0.2).filter(logits)) == [[2]]  # at least one
    assert kept(Nucleus(0.2, rule="standard").filter(logits)) == [[2]]
    assert kept(Nucleus(1.0).filter(logits)) == [[0, 1, 2, 3]]


def test_temperature_comes_before_the_selection():
    logits = jnp.log(jnp.array([0.1, 0.3, 0.4, 0.2]))
    assert kept(Nucleus(0.5, temperature=100.0).filter(logits)) == [
        [2]
    ]  # two of four nearly equal: 0.5027 > 0.5
    assert kept(Nucleus(0.51, temperature=100.0).filter(logits)) == [[1, 2]]
    assert kept(Nucleus(0.9, temperature=0.1).filter(logits)) == [[2]]  # 0.946 > 0.9
    np.testing.assert_allclose(
        TopK(2, temperature=0.5).filter(logits)[1:3], logits[1:3] * 2, rtol=1e-6
    )


def test_equal_tokens_stay_together():
    logits = jnp.array([1.0, 0.0, 1.0, 1.0])
    assert (
        kept(TopK(2).filter(logits))
        == kept(Nucleus(0.3).filter(logits))
        == kept(Greedy().filter(logits))
        == [[0, 2, 3]]
    )


@pytest.mark.parametrize("rule", ["official", "standard"])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_the_kept_set_is_that_of_the_sorted_probabilities(rule, scale):
    logits = scale * jax.random.normal(jax.random.key(0), (4, 500))
    whole = jnp.sort(jax.nn.softmax(logits), axis=-1)[:, ::-1]
    for p in (0.1, 0.4, 0.9):
        made = kept(Nucleus(p, rule=rule).filter(logits))
        before = np.cumsum(whole, -1) - (np.asarray(whole) if rule == "standard" else 0)
        count = np.maximum((before < p).sum(-1), 1)
        order = np.argsort(-logits, axis=-1)
        wanted = [sorted(row[:n].tolist()) for row, n in zip(order, count, strict=True)]
        assert made == wanted
    for k in (1, 7, 499):
        wanted = np.sort(np.argsort(-logits, axis=-1)[:, :k], axis=-1)
        np.testing.assert_array_equal(kept(TopK(k).filter(logits)), wanted)


@pytest.mark.parametrize("sampler", [Nucleus(0.4), Nucleus(0.9, rule="standard"), TopK(40)])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])  # kept beyond the head, near it, within it
def test_of_a_wide_vocabulary_the_head_is_enough(monkeypatch, sampler, scale):
    logits = scale * jax.random.normal(jax.random.key(0), (3, 5, 500))
    keys = jax.random.split(jax.random.key(1), 3)
    needed, places = jnp.ones((3, 5), bool), jnp.tile(jnp.arange(5), (3, 1))
    every = sampling.draw(sampler, logits, keys, needed, places, 5)
    monkeypatch.setattr(sampling, "WIDE", 400)
    np.testing.assert_array_equal(sampling.draw(sampler, logits, keys, needed, places, 5), every)


def categorical(logits, rng):
    return jax.random.categorical(rng, logits)


@pytest.mark.parametrize("sampler", [Greedy(), Nucleus(0.9), TopK(40), categorical])
def test_what_is_drawn_for_a_sequence_depends_on_its_place_only(sampler):
    logits = jax.random.normal(jax.random.key(0), (3, 9, 50))
    keys, places = jax.random.split(jax.random.key(1), 3), jnp.tile(jnp.arange(9), (3, 1))
    every = sampling.draw(sampler, logits, keys, jnp.ones((3, 9), bool), places, 9)
    some = jnp.array([[8, 2], [0, 1], [5, 4]])
    left = jnp.take_along_axis(logits, some[..., None], axis=1)
    drawn = sampling.draw(sampler, left, keys, jnp.ones((3, 2), bool), some, 9)
    np.testing.assert_array_equal(drawn, jnp.take_along_axis(every, some, axis=1))


def test_a_row_that_is_not_needed_does_not_widen_the_head(monkeypatch):
    """A flat row keeps tokens beyond the head: only where it is needed does the search go there."""
    monkeypatch.setattr(sampling, "WIDE", 400)
    logits = jnp.stack([jnp.zeros(500), 30.0 * jax.random.normal(jax.random.key(0), (500,))])
    searched, least_of = [], Nucleus.least

    def least(self, logits, probs):
        jax.debug.callback(lambda: searched.append(logits.shape[-1]))
        return least_of(self, logits, probs)

    monkeypatch.setattr(Nucleus, "least", least)
    for needed, wanted in ((True, [128, 500]), (False, [128])):
        searched.clear()
        rows = jnp.array([needed, True])
        drawn = sampling._draw(Nucleus(0.9), logits, jnp.array([0.9, 0.5]), rows)
        jax.effects_barrier()
        assert sorted(searched) == wanted
        assert drawn[1] == jnp.argmax(logits[1])


def test_equal_numbers_draw_the_first_of_the_likeliest():
    logits = jnp.array([[1.0, 3.0, 2.0, 3.0], [0.0, -1.0, -2.0, -jnp.inf]])
    np.testing.assert_array_equal(Greedy()(logits), jnp.argmax(logits, -1))


def test_no_token_of_weight_zero_is_drawn_at_the_ends():
    """Numbers next to 0 and 1, and weights whose running sum is rounded."""
    weights = jnp.array([0.0, 0.0, 1e-7, 0.3, 0.0, 1 / 3, 1e-8, 0.0, 0.1, 0.0, 0.0])
    numbers = jnp.concatenate([jnp.linspace(0.0, 1.0, 1001)[:-1], jnp.array([1 - 2**-24, 1e-30])])
    drawn = sampling._place(jnp.tile(weights, (len(numbers), 1)), numbers)
    assert set(np.asarray(drawn)) <= set(np.flatnonzero(weights))
    assert {3, 5, 8} <= set(np.asarray(drawn))


def test_a_wide_vocabulary_is_not_sorted():
    """XLA takes the head of 35,000 tokens in a fiftieth of the time of a sort, if it sees it."""
    logits, keys = jnp.zeros((2, 3, 35_000)), jax.random.split(jax.random.key(0), 2)
    needed, places = jnp.ones((2, 3), bool), jnp.tile(jnp.arange(3), (2, 1))
    for sampler in (Nucleus(0.4), Nucleus(0.4, rule="standard"), TopK(5)):
        draw = jax.jit(lambda *arrays, sampler=sampler: sampling.draw(sampler, *arrays, 3))
        assert " sort(" not in draw.lower(logits, keys, needed, places).compile().as_text()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_draws_have_the_shape_and_stay_in_the_kept_set(sampler):
    logits = jax.random.normal(jax.random.key(1), (2, 3, 11))
    draws = jax.jit(sampler)(jnp.tile(logits, (200, 1, 1, 1)), jax.random.key(2))
    assert draws.shape == (200, 2, 3) and draws.dtype == jnp.int32
    allowed = kept(sampler.filter(logits).reshape(6, 11))
    for row, tokens in zip(allowed, np.asarray(draws).reshape(200, 6).T, strict=True):
        assert set(tokens) <= set(row)
        assert len(row) < 5 or len(set(tokens)) > 2  # not greedy in disguise


def test_draws_follow_the_renormalised_probabilities():
    logits = jnp.log(jnp.array([0.1, 0.3, 0.4, 0.2]))
    draws = Nucleus(0.75)(jnp.tile(logits, (20000, 1)), jax.random.key(0))
    np.testing.assert_allclose(
        np.bincount(draws, minlength=4) / 20000, [0, 3 / 7, 4 / 7, 0], atol=0.012
    )


def test_tokens_masked_by_a_grammar_are_never_drawn():
    logits = jnp.array([[5.0, -jnp.inf, 1.0, -jnp.inf]])
    for sampler in (Greedy(), TopK(4), Nucleus(1.0, 10.0), Nucleus(0.999, rule="standard")):
        draws = jnp.stack(
            [sampler(logits, rng)[0] for rng in jax.random.split(jax.random.key(3), 30)]
        )
        assert set(np.asarray(draws)) <= {0, 2}


def test_a_k_beyond_the_vocabulary_keeps_all():
    assert kept(TopK(100).filter(jnp.arange(5.0))) == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("text", "sampler"),
    [
        ("greedy", Greedy()),
        ("greedy()", Greedy()),
        ("topk(5)", TopK(5)),
        (" topk(k=5, temperature=0.7) ", TopK(5, 0.7)),
        ("topk(5,temperature=0.7)", TopK(5, 0.7)),
        ("nucleus(0.4)", Nucleus(0.4)),
        ("nucleus(p=0.8,temperature=2,rule='standard')", Nucleus(0.8, 2, "standard")),
        ("beam", Beam(4, 0.6)),
        ("beam(4, 0.6)", Beam(4, 0.6)),
        ("beam(2, length_penalty=0)", Beam(2, 0)),
    ],
)
def test_from_string(text, sampler):
    assert from_string(text) == sampler


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("beams(4)", "there is no 'beams'; choose one of greedy"),
        ("topk", "missing 1 required positional argument: 'k'"),
        ("topk(5, t=1)", "unexpected keyword argument 't'"),
        ("nucleus(0.4, p=0.5)", "multiple values for argument 'p'"),
        ("nucleus(2 + x)", "is not understood"),
        ("nucleus(0.4", "is not understood"),
        ("nucleus(0.4).filter(1)", "is not understood"),
        ("", "is not understood"),
        ("0.4", "is not understood"),
        ("topk(0)", "k=0"),
        ("topk(2.5)", "k=2.5"),
        ("nucleus(1.5)", "p=1.5"),
        ("nucleus(0)", "p=0"),
        (
            "nucleus('0.4')",
            "write one of greedy(), topk(k, temperature), nucleus(p, temperature, rule), beam(",
        ),
        ("topk(1, temperature=0)", "temperature=0"),
        ("topk(5, temperature=1e-39)", "temperature=1e-39: must be above 0, from 0.001 to 1000"),
        ("nucleus(1.0, temperature=1e9)", "temperature=1000000000.0"),
        ("nucleus(0.5, rule='other')", "choose 'official' or 'standard'"),
        ("beam(0)", "size=0"),
        ("beam(1.5)", "size=1.5"),
        ("beam(4, -0.1)", "length_penalty=-0.1"),
    ],
)
def test_from_string_refuses(text, words):
    with pytest.raises(ValueError) as caught:
        from_string(text)
    assert words in str(caught.value)
