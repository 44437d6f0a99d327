"""Token by token decoding: the prompt at once, then a `lax.while_loop` over a key-value cache."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from pix2seq_jax.decoding.options import (
    ClassPositions,
    Ranges,
    check_lengths,
    check_options,
    grammar_table,
    image_keys,
)
from pix2seq_jax.decoding.sampling import draw
from pix2seq_jax.models.axes import spread_axes
from pix2seq_jax.models.cached import Cache, put_rows, take_rows
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.vocab import PADDING

BLOCK = 128  # tokens that a block of the cache has room for: a row of a TPU's memory
NARROWED = 8  # sequences of an image from which on few that are left go on by themselves
NARROWED_LENGTH = 64  # tokens of a response from which on that saves more than it costs to compile
FORBIDDEN = -1e10  # logit of a token the grammar does not allow: finite, and far below any other


@struct.dataclass
class Generated:
    """What was decoded, for prompts [B,P] or [B,N,P]: K samples of T = max_len - P response
    tokens each.

    Attributes:
        tokens: i32[B,(N,)K,T].
        scores: f32[B,(N,)K,T], probability of each token under the model: softmax of the raw logits
            over the whole vocabulary, before bias, grammar and sampler.
        class_probs: f32[B,(N,)K,M,C] for ClassPositions with C tokens that meet M response
            positions, or None without them.
        logits: f32[B,(N,)K,T,V] raw logits, or None unless asked for.
    """

    tokens: jnp.ndarray
    scores: jnp.ndarray
    class_probs: jnp.ndarray | None
    logits: jnp.ndarray | None


def generate(
    model: Pix2Seq,
    variables: Any,
    memory: jnp.ndarray,
    prompt: jnp.ndarray,
    *,
    max_len: int,
    sampler: Callable[[jnp.ndarray, jax.Array], jnp.ndarray],
    num_samples: int = 1,
    rng: jax.Array | None = None,
    eos_bias: float | jnp.ndarray = 0.0,
    allowed: tuple[Ranges, ...] | None = None,
    return_logits: bool = False,
    class_positions: ClassPositions | tuple[int, int, int, int] | None = None,
    stop_at_eos: bool = False,
    eos_token: int = PADDING,
) -> Generated:
    """Continues the prompts. Pure; under jit all but variables, memory, prompt, rng and eos_bias
    are static.

    Args:
        model, variables: the model and its variables.
        memory: f32[B,S,D] of `encode`; the N·K sequences of an image share it and its keys and
            values.
        prompt: i32[B,P], or i32[B,N,P] for N sequences per image.
        max_len: prompt and response tokens together.
        sampler: of decoding.sampling, or any (logits f32[...,V], rng) -> i32[...]; sees logits
            after bias and grammar. What it draws for sequences that have ended is not used; their
            logits may be zeros.
        num_samples: K, sequences drawn per prompt.
        rng: a jax.random.key; or one per image, so that the result of an image does not depend on
            its batch.
            Greedy needs none.
        eos_bias: added to the logit of eos_token, the end of a sequence; below zero sequences get
            longer.
        allowed: tokens of response position t are in the half-open ranges allowed[t %
            len(allowed)]; None for all.
        return_logits: keep all logits: 4·V bytes for every token.
        class_positions: where class probabilities are kept.
        stop_at_eos: a sequence that drew eos_token emits PADDING with score 0 from there on, and
            decoding stops when all have. Off, eos_token is a token like any other (detection fills
            all its slots).
        eos_token: ends a sequence: PADDING that of boxes and points, a text piece that of captions.

    Raises:
        ValueError: shapes, lengths, ranges or keys that do not fit.
    """
    check_lengths(model, memory, prompt, max_len, eos_token)
    class_positions = check_options(model, sampler, num_samples, class_positions)
    keys = image_keys(rng, sampler, memory.shape[0])
    grammar = grammar_table(allowed, model.vocab_size)
    prompts = prompt.reshape(prompt.shape[0], -1, prompt.shape[-1])  # [B,N,P]
    count = prompts.shape[1] * num_samples
    writer = _Writer(
        sampler, keys, count, eos_bias, grammar, class_positions, stop_at_eos, eos_token
    )
    prompt_len = prompts.shape[-1]
    length = max_len - prompt_len
    variables, cross_kv = prepare(model, variables, memory, count)

    def step(state: State) -> State:
        tokens, index = state.last[..., None], prompt_len + state.count - 1
        logits, cache = model.apply(variables, tokens, state.cache, cross_kv, index, method="step")
        return writer.emit(state.replace(cache=cache), logits)

    cache, logits = _read_prompts(model, variables, prompts, cross_kv, num_samples)
    repeated = jnp.repeat(prompts, num_samples, axis=1)  # [B,N·K,P]
    start = writer.start(repeated, length, model.vocab_size, cache, return_logits)
    state = _draw_all(step, writer.emit(start, logits), length)
    return state.results((*prompt.shape[:-1], num_samples))


def _draw_all(step: Callable[["State"], "State"], state: "State", length: int) -> "State":
    """The state after responses of `length` tokens, of which the first is drawn.

    There is a loop for each block of the cache, which grows: a token costs what is before it.
    """
    prompt, narrows = state.cache.length, length >= NARROWED_LENGTH
    while (cached := state.cache.length) < prompt + length - 1:  # the last token is never read
        room = min(BLOCK - cached % BLOCK, prompt + length - 1 - cached)
        if cached % BLOCK:
            cache = state.cache.widen(room)
        else:
            cache = state.cache.grow(room, after=state.count)
        state = _draw_block(step, state.replace(cache=cache), cached + room - prompt, narrows)
    return state


def _draw_block(
    step: Callable[["State"], "State"], state: "State", last: int, narrows: bool
) -> "State":
    """The state after the response tokens 0 to `last`, or when all sequences have ended.

    With `narrows`, when no image has more than a quarter of its NARROWED or more sequences left,
    these go on without the others: outlines differ in length, and the longest would hold up all.
    """
    count = state.last.shape[1]  # not a number in an exported program for any number of sequences
    few = count // 4 if narrows and isinstance(count, int) and count >= NARROWED else 0

    def goes_on(state: State) -> jnp.ndarray:
        left = jnp.sum(~state.ended, axis=1)
        return (state.count <= last) & (jnp.max(left) > few)

    state = lax.while_loop(goes_on, step, state)
    if not few:
        return state
    rows = jnp.argsort(state.ended, axis=1, stable=True)[:, :few]  # those that are left come first
    return state.put(_draw_block(step, state.take(rows), last, narrows), rows)


def prepare(model: Pix2Seq, variables: Any, memory: jnp.ndarray, queries: int) -> tuple[Any, Any]:
    """What a loop over tokens of so many sequences an image reads, computed before it: (variables
    for `Pix2Seq.step`, keys and values of the images by layer).

    The barrier keeps XLA from moving slices and transposes of them into the loop.
    """
    if spread_axes():  # the images are on several devices
        cross_kv = model.apply(variables, memory, queries, method="cross_kv")
    else:
        # An image after the other: those of all layers are stacked before they are cut, and of a
        # whole batch both would be alive.
        cross_kv = lax.map(
            lambda one: jax.tree.map(
                lambda x: x[0], model.apply(variables, one[None], queries, method="cross_kv")
            ),
            memory,
        )
    return lax.optimization_barrier((model.cut_variables(variables), cross_kv))


def _read_prompts(
    model: Pix2Seq, variables: Any, prompts: jnp.ndarray, cross_kv: Any, num_samples: int
) -> tuple[Cache, jnp.ndarray]:
    """(cache of the prompts i32[B,N,P], logits f32[B,N·K,V] after them).

    The samples of an object share its prompt, which is read once: else N·K·P queries look at the
    image together.
    """
    cache = model.empty_cache(prompts.shape[0] * prompts.shape[1], prompts.shape[2])
    logits, cache = model.apply(variables, prompts, cache, cross_kv, 0, method="step")
    cache = jax.tree.map(lambda x: jnp.repeat(x, num_samples, axis=0), cache)  # [B·N·K,H,P,D/H]
    return cache, jnp.repeat(logits, num_samples, axis=1)


@struct.dataclass
class State:
    """State of the loop over B images with N·K sequences each, ordered by object, then sample.

    Attributes:
        count: i32[], response tokens drawn so far; the next one is written at this index.
        place: i32[B,N·K], the number of each sequence among all of its image.
        last: i32[B,N·K], the token drawn last, which the model has not read yet.
        ended: bool[B,N·K], sequences that drew the end token (only with stop_at_eos), and those
            whose prompt is nothing but padding.
        cache: keys and values of prompt and response, up to but without `last`.
        tokens, scores, class_probs, logits: as in Generated, with the axis N·K instead of (N,)K;
            zeros where not written.
    """

    count: jnp.ndarray
    place: jnp.ndarray
    last: jnp.ndarray
    ended: jnp.ndarray
    cache: Cache
    tokens: jnp.ndarray
    scores: jnp.ndarray
    class_probs: jnp.ndarray | None
    logits: jnp.ndarray | None

    def take(self, rows: jnp.ndarray) -> "State":
        """Of the sequences of each image those that rows i32[B,N'] says."""
        part = take_rows(self.replace(count=None, cache=None), rows)
        return part.replace(count=self.count, cache=self.cache.take(rows))

    def put(self, part: "State", rows: jnp.ndarray) -> "State":
        """The same with what `take` took, further on, in its place again."""
        cache = self.cache.put(part.cache, rows)
        own, new = (state.replace(count=None, cache=None) for state in (self, part))
        return put_rows(own, new, rows).replace(count=part.count, cache=cache)

    def results(self, shape: tuple[int, ...]) -> Generated:
        """What was decoded, with the axes `shape` = B,(N,)K instead of B,N·K."""
        arrays = self.tokens, self.scores, self.class_probs, self.logits
        return Generated(*(None if x is None else x.reshape(*shape, *x.shape[2:]) for x in arrays))


@dataclass(frozen=True)
class _Writer:
    """Draws tokens and writes the results: the options of `generate` that the loop needs.

    Attributes:
        keys: key[B].
        count: N·K, sequences of an image.
        grammar: bool[period,V], or None.
        others: as in `generate`.
    """

    sampler: Any
    keys: jax.Array
    count: int
    eos_bias: float | jnp.ndarray
    grammar: jnp.ndarray | None
    class_positions: ClassPositions | None
    stop_at_eos: bool
    eos_token: int

    def start(
        self, prompts: jnp.ndarray, length: int, vocab_size: int, cache: Cache, return_logits: bool
    ) -> State:
        """The state after the prompts i32[B,N·K,P], before a response of `length` tokens."""
        rows, class_probs = prompts.shape[:2], None
        if self.class_positions is not None:
            positions, (start, stop) = self.class_positions, self.class_positions[:2]
            class_probs = jnp.zeros((*rows, positions.count(length), stop - start))
        return State(
            count=jnp.zeros((), jnp.int32),
            place=jnp.broadcast_to(jnp.arange(rows[1]), rows),
            last=prompts[..., -1],
            ended=jnp.all(prompts == PADDING, axis=-1),  # no object: it would hold up the others
            cache=cache,
            tokens=jnp.zeros((*rows, length), jnp.int32),
            scores=jnp.zeros((*rows, length), jnp.float32),
            class_probs=class_probs,
            logits=jnp.zeros((*rows, length, vocab_size)) if return_logits else None,
        )

    def emit(self, state: State, logits: jnp.ndarray) -> State:
        """Draws the next token of each sequence from its logits f32[B,N·K,V]."""
        t, live = state.count, ~state.ended
        is_end = jnp.arange(logits.shape[-1]) == self.eos_token
        choice = jnp.where(is_end, logits + self.eos_bias, logits)
        if self.grammar is not None:
            choice = jnp.where(self.grammar[t % len(self.grammar)][None, None], choice, FORBIDDEN)
        keys = jax.vmap(jax.random.fold_in, (0, None))(self.keys, t)
        token = draw(self.sampler, choice, keys, live, state.place, self.count)
        token = jnp.where(live, token, PADDING)
        log_sum = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
        score = jnp.where(live, jnp.exp(chosen - log_sum), 0.0)
        kept = state.logits
        if kept is not None:
            kept = kept.at[:, :, t].set(jnp.where(live[..., None], logits, 0.0))
        return state.replace(
            count=t + 1,
            last=token,
            ended=state.ended | (token == self.eos_token) if self.stop_at_eos else state.ended,
            tokens=state.tokens.at[:, :, t].set(token),
            scores=state.scores.at[:, :, t].set(score),
            class_probs=self._write_classes(state, logits, log_sum),
            logits=kept,
        )

    def _write_classes(
        self, state: State, logits: jnp.ndarray, log_sum: jnp.ndarray
    ) -> jnp.ndarray | None:
        """Writes the class probabilities of the next position, if they are asked for."""
        if self.class_positions is None:
            return None
        start, stop, first, every = self.class_positions
        probs = jnp.exp(logits[..., start:stop] - log_sum[..., None])
        probs = jnp.where(state.ended[..., None], 0.0, probs)
        place, between = jnp.divmod(state.count - first, every)
        nowhere = state.class_probs.shape[2]
        place = jnp.where((place >= 0) & (between == 0), place, nowhere)
        return state.class_probs.at[:, :, place].set(probs, mode="drop")
