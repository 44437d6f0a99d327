"""Beam search: the most probable sequences, for their length, that a search of fixed width finds.

Length penalty after Wu et al. (Google's neural machine translation, arXiv:1609.08144), section 7.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from pix2seq_jax.decoding.generate import Generated, prepare
from pix2seq_jax.decoding.options import Ranges, check_lengths, grammar_table
from pix2seq_jax.decoding.sampling import Beam
from pix2seq_jax.models.cached import Cache, take_rows
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.vocab import PADDING

NOTHING = -jnp.inf  # rank of a row that holds no sequence


def beam_search(
    model: Pix2Seq,
    variables: Any,
    memory: jnp.ndarray,
    prompt: jnp.ndarray,
    *,
    max_len: int,
    beams: int = 4,
    length_penalty: float = 0.6,
    eos_token: int = PADDING,
    allowed: tuple[Ranges, ...] | None = None,
) -> Generated:
    """The best responses to the prompts by log probability / ((5 + length) / 6) ** length_penalty.

    In every turn the `beams` most probable continuations are kept; those that end are set aside,
    the best `beams` of them. An image is done when no unfinished sequence can come before the last
    of these. A response of max_len - P tokens ends there; the length counts the end token. One beam
    is greedy decoding; as many beams as there are responses find the best for certain. Pure; under
    jit all but variables, memory and prompt are static.

    Args:
        model, variables: the model and its variables.
        memory: f32[B,S,D] of `encode`; the beams of an image share it and its keys and values.
        prompt: i32[B,P].
        max_len: prompt and response tokens together.
        beams: K, sequences kept and returned.
        length_penalty: exponent; 0 for none, more favours longer responses.
        eos_token: ends a sequence.
        allowed: tokens of response position t are in the half-open ranges allowed[t %
            len(allowed)]; None for all. The probabilities are those of the model over the whole
            vocabulary.

    Returns:
        Generated with tokens i32[B,K,T], best first, PADDING after the end, and scores f32[B,K,T],
        the probability of each token, 0 after the end; T = max_len - P. Where the grammar allows
        fewer than K responses the last rows are all PADDING with scores 0. No class_probs, no
        logits.

    Raises:
        ValueError: shapes, lengths, ranges, beams or penalty that do not fit.
    """
    Beam(beams, length_penalty)  # raises for what is out of range
    if prompt.ndim != 2:
        raise ValueError(
            f"prompt{list(prompt.shape)}: beam search takes one prompt per image, i32[B,P]"
        )
    check_lengths(model, memory, prompt, max_len, eos_token)
    grammar = grammar_table(allowed, model.vocab_size)
    batch, prompt_len = prompt.shape
    variables, cross_kv = prepare(model, variables, memory, beams)

    def step(state: State, tokens: jnp.ndarray, index: jnp.ndarray | int) -> State:
        logits, cache = model.apply(variables, tokens, state.cache, cross_kv, index, method="step")
        return _extend(state.replace(cache=cache), logits, grammar, length_penalty, eos_token)

    rows = jnp.repeat(prompt[:, None], beams, axis=1)  # [B,K,P]
    cache = model.empty_cache(batch * beams, max_len - 1)  # the last token is never read
    state = step(_start(rows[..., -1], max_len - prompt_len, cache), rows, 0)
    state = lax.while_loop(
        lambda s: jnp.any(s.live.rank > NOTHING),
        lambda s: step(s, s.last[..., None], prompt_len + s.count - 1),
        state,
    )
    return Generated(state.ended.tokens, state.ended.scores, None, None)


@struct.dataclass
class Hypotheses:
    """K sequences of each image, best first, of at most T response tokens.

    Attributes:
        rank: f32[B,K], what they are ordered by; NOTHING for a row without a sequence.
        tokens: i32[B,K,T], PADDING where not written.
        scores: f32[B,K,T], probability of each token; 0 where not written.
    """

    rank: jnp.ndarray
    tokens: jnp.ndarray
    scores: jnp.ndarray

    @classmethod
    def none(cls, batch: int, count: int, length: int) -> "Hypotheses":
        """Rows for `count` sequences of `length` tokens per image."""
        shape, rank = (batch, count, length), jnp.full((batch, count), NOTHING)
        return cls(rank, jnp.full(shape, PADDING, jnp.int32), jnp.zeros(shape))


@struct.dataclass
class State:
    """State of the loop.

    Attributes:
        count: i32[], response tokens written so far.
        last: i32[B,K], the last token of each live sequence, which the model has not read yet.
        live: sequences that have not ended; rank is the sum of their tokens' log probabilities. An
            image without any is done.
        ended: sequences that have ended, by log probability over length penalty.
        cache: keys and values of prompt and live sequences, up to but without `last`.
    """

    count: jnp.ndarray
    last: jnp.ndarray
    live: Hypotheses
    ended: Hypotheses
    cache: Cache


def _start(last: jnp.ndarray, length: int, cache: Cache) -> State:
    """The state after the prompts, whose last tokens are i32[B,K], before a response of `length`
    tokens."""
    none = Hypotheses.none(*last.shape, length)
    # All K rows are the prompt: one of them is enough.
    live = none.replace(rank=none.rank.at[:, 0].set(0.0))
    return State(jnp.zeros((), jnp.int32), last, live, none, cache)


def _extend(
    state: State,
    logits: jnp.ndarray,
    grammar: jnp.ndarray | None,
    length_penalty: float,
    eos_token: int,
) -> State:
    """Writes one more token: the best K of the K·V continuations of each image's live sequences.

    Those that end go to the ended ones, the others live on: what ends leaves its row empty for one
    turn only.

    Args:
        state: with a cache that has read `last`.
        logits: f32[B,K,V], raw.
        grammar: bool[period,V] of `grammar_table`, or None.
        length_penalty, eos_token: as in `beam_search`.
    """
    live, parent, token = _continuations(state, logits, grammar)
    length, t = live.tokens.shape[-1], state.count
    ends = (token == eos_token) | (t + 1 == length)  # what is cut at the last token counts too
    new = live.replace(rank=jnp.where(ends, live.rank / penalty(t + 1, length_penalty), NOTHING))
    ended = _best(state.ended, new)
    rank = jnp.where(ends, NOTHING, live.rank)
    # Log probabilities only fall and the penalty is largest at the full length: no live sequence
    # can get above this.
    bound = jnp.max(rank, axis=1, keepdims=True) / penalty(length, length_penalty)
    rank = jnp.where(bound > ended.rank[:, -1:], rank, NOTHING)
    return State(t + 1, token, live.replace(rank=rank), ended, state.cache.take(parent))


def _continuations(
    state: State, logits: jnp.ndarray, grammar: jnp.ndarray | None
) -> tuple[Hypotheses, jnp.ndarray, jnp.ndarray]:
    """The best K sequences that are one token longer, best first.

    Returns:
        The sequences, and i32[B,K] each: the row of the live sequence that each goes on from, and
        its new token.
    """
    (batch, beams, vocab_size), t = logits.shape, state.count
    log_probs = jax.nn.log_softmax(logits)
    ranks = state.live.rank[..., None] + log_probs
    if grammar is not None:
        ranks = jnp.where(grammar[t % len(grammar)][None, None], ranks, NOTHING)
    rank, index = lax.top_k(ranks.reshape(batch, beams * vocab_size), beams)  # of K·V
    parent, token = index // vocab_size, index % vocab_size
    score = jnp.exp(jnp.take_along_axis(log_probs.reshape(batch, -1), index, axis=-1))
    before = take_rows(state.live, parent)
    tokens, scores = before.tokens.at[:, :, t].set(token), before.scores.at[:, :, t].set(score)
    return Hypotheses(rank, tokens, scores), parent, token


def _best(old: Hypotheses, new: Hypotheses) -> Hypotheses:
    """The best K of both; of equal ones the old, so that no NOTHING displaces another."""
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), old, new)  # [B,2·K,...]
    return take_rows(both, lax.top_k(both.rank, old.rank.shape[1])[1])


def penalty(length: jnp.ndarray | int, alpha: float) -> jnp.ndarray:
    """((5 + length) / 6) ** alpha, what the log probability of a response of `length` tokens is
    divided by."""
    return ((5.0 + length) / 6.0) ** alpha
