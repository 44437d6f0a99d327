"""How the next token is drawn from the logits: greedily, from the k likeliest, or from the nucleus.

A sampler is a frozen dataclass: `sampler(logits f32[...,V], rng) -> tokens i32[...]`.
`filter(logits)` gives the logits it draws from: divided by the temperature first, then MASKED
outside the kept set.
"""

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp

MASKED = -1e10  # probability exactly 0 after the softmax, yet finite: no NaN from inf - inf
# Of a vocabulary beyond WIDE only the HEAD likeliest tokens are looked at, which nearly always hold
# all that a trained model keeps (benchmarks/README.md, "Drawing tokens").
HEAD, WIDE = 128, 8_192
# Temperatures. Beyond these float32 overflows, or what is MASKED gets a chance.
COLDEST, HOTTEST = 1e-3, 1e3


def _check_temperature(temperature: float) -> None:
    if not COLDEST <= temperature <= HOTTEST:
        raise ValueError(
            f"temperature={temperature}: must be above 0, from {COLDEST} to {HOTTEST:g}; use "
            "greedy() for the likeliest token"
        )


@dataclass(frozen=True)
class Greedy:
    """The likeliest token; of equal ones the first. Needs no randomness: rng may be None."""

    def filter(self, logits: jnp.ndarray) -> jnp.ndarray:
        """Logits f32[...,V], MASKED below the largest."""
        return jnp.where(logits < jnp.max(logits, axis=-1, keepdims=True), MASKED, logits)

    def __call__(self, logits: jnp.ndarray, rng: jax.Array | None = None) -> jnp.ndarray:
        """Logits f32[...,V] -> tokens i32[...]."""
        # XLA's argmax takes four to eight times as long on a CPU, and a minimum of integers, too.
        # Floats count exactly to 2^24.
        last = logits.shape[-1] - 1
        places = jnp.arange(last + 1, dtype=jnp.float32)
        below = logits < jnp.max(logits, axis=-1, keepdims=True)
        return jnp.min(jnp.where(below, last, places), axis=-1).astype(jnp.int32)


@dataclass(frozen=True)
class TopK:
    """One of the k likeliest tokens; tokens that equal the k-th stay in.

    Attributes:
        k: tokens kept, at least 1; a k beyond the vocabulary keeps all.
        temperature: divides the logits; below 1 is sharper.
    """

    k: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"topk(k={self.k}): k must be a whole number of at least 1")
        _check_temperature(self.temperature)

    def filter(self, logits: jnp.ndarray) -> jnp.ndarray:
        """Logits f32[...,V] divided by the temperature, MASKED outside the kept set."""
        return _filter(self, logits / self.temperature)

    def least(self, logits: jnp.ndarray, probs: jnp.ndarray) -> jnp.ndarray:
        """As Nucleus.least."""
        del probs
        return _crossing(logits, lambda above: jnp.sum(above, -1, keepdims=True) < self.k)

    def __call__(self, logits: jnp.ndarray, rng: jax.Array) -> jnp.ndarray:
        """Logits f32[...,V] -> tokens i32[...]."""
        return _draw(self, logits / self.temperature, _uniform(rng, logits))


@dataclass(frozen=True)
class Nucleus:
    """One of the likeliest tokens that together hold probability p (Holtzman et al.,
    arXiv:1904.09751).

    Attributes:
        p: probability, above 0, at most 1; 1 keeps all tokens.
        temperature: divides the logits before the probabilities are taken; below 1 is sharper.
        rule: 'official' keeps the tokens whose cumulative probability is at most p, at least one,
            as the released Pix2Seq does; 'standard' also the token that crosses p, as Holtzman et
            al. do.
    """

    p: float
    temperature: float = 1.0
    rule: str = "official"

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise ValueError(f"nucleus(p={self.p}): p must be above 0 and at most 1")
        if self.rule not in ("official", "standard"):
            raise ValueError(f"nucleus(rule={self.rule!r}): choose 'official' or 'standard'")
        _check_temperature(self.temperature)

    def filter(self, logits: jnp.ndarray) -> jnp.ndarray:
        """Logits f32[...,V] divided by the temperature, MASKED outside the nucleus; equal tokens
        stay together."""
        return _filter(self, logits / self.temperature)

    def least(self, logits: jnp.ndarray, probs: jnp.ndarray) -> jnp.ndarray:
        """The smallest of the logits that is kept, or less: f32[...,1].

        Args:
            logits: f32[...,V], over the temperature already; those of all tokens or of the
                likeliest ones.
            probs: f32[...,V], of these tokens among all.
        """
        if self.p >= 1:
            return jnp.full((*logits.shape[:-1], 1), -jnp.inf)

        def mass(among: jnp.ndarray) -> jnp.ndarray:
            return jnp.sum(jnp.where(among, probs, 0.0), -1, keepdims=True)

        if self.rule == "standard":  # the tokens before must hold less than p
            return _crossing(logits, lambda above: mass(above) < self.p)
        crossing = _crossing(logits, lambda above: mass(above) <= self.p)
        above = logits > crossing
        one = jnp.max(jnp.where(above, 0.0, probs), -1, keepdims=True)  # of those that equal it
        fits = (mass(above) + one <= self.p) | ~jnp.any(above, -1, keepdims=True)
        next_one = jnp.min(jnp.where(above, logits, jnp.inf), -1, keepdims=True)
        return jnp.where(fits, crossing, next_one)

    def __call__(self, logits: jnp.ndarray, rng: jax.Array) -> jnp.ndarray:
        """Logits f32[...,V] -> tokens i32[...]."""
        return _draw(self, logits / self.temperature, _uniform(rng, logits))


def _filter(sampler: TopK | Nucleus, logits: jnp.ndarray) -> jnp.ndarray:
    """Logits f32[...,V], over the temperature already, MASKED outside the kept set; equal tokens
    stay together."""
    return jnp.where(logits < sampler.least(logits, jax.nn.softmax(logits)), MASKED, logits)


def _crossing(logits: jnp.ndarray, holds: Callable[[jnp.ndarray], jnp.ndarray]) -> jnp.ndarray:
    """The largest of the logits for which `holds` is false of the tokens from there up: f32[...,1];
    -inf where there is none.

    Found without a sort, by halving: floats have the order of their bits, so 32 steps find it to
    the bit.

    Args:
        logits: f32[...,V].
        holds: of tokens bool[...,V] -> bool[...,1]; false for more of them once it is false.
    """
    low = jnp.full((*logits.shape[:-1], 1), jnp.iinfo(jnp.int32).min)
    high = _ordered(jnp.max(logits, -1, keepdims=True)) + 1

    def halve(_, ends):
        low, high = ends
        middle = (low & high) + ((low ^ high) >> 1)  # their mean, which low + high may overflow
        under = holds(logits >= _ordered(middle, back=True))
        return jnp.where(under, low, middle), jnp.where(under, middle, high)

    low, _ = jax.lax.fori_loop(0, 32, halve, (low, high))
    lowest = jnp.iinfo(jnp.int32).min
    return jnp.where(low == lowest, -jnp.inf, _ordered(low, back=True))


def _ordered(x: jnp.ndarray, *, back: bool = False) -> jnp.ndarray:
    """f32 -> i32 with the same order, or `back`."""
    bits = x if back else jax.lax.bitcast_convert_type(x, jnp.int32)
    bits = jnp.where(bits < 0, bits ^ jnp.iinfo(jnp.int32).max, bits)
    return jax.lax.bitcast_convert_type(bits, jnp.float32) if back else bits


def _uniform(rng: jax.Array, logits: jnp.ndarray) -> jnp.ndarray:
    """f32[...] in [0,1), a number for each row of logits f32[...,V]."""
    return jax.random.uniform(rng, logits.shape[:-1])


def _draw(
    sampler: TopK | Nucleus,
    logits: jnp.ndarray,
    uniform: jnp.ndarray,
    needed: jnp.ndarray | bool = True,
) -> jnp.ndarray:
    """Tokens i32[...] of logits f32[...,V], over the temperature already, by uniform f32[...];
    `needed` as in `draw`."""
    probs = jax.nn.softmax(logits)
    if logits.shape[-1] <= WIDE:
        least = sampler.least(logits, probs)
    else:
        head, _ = jax.lax.top_k(logits, HEAD)
        log_sum = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        found = sampler.least(head, jnp.exp(head - log_sum))
        # Where the last of the head is not kept, nothing beyond the head is. Its minimum: XLA would
        # sort the whole vocabulary for `head[..., -1]`.
        known = (jnp.min(head, -1) < found[..., 0]) | ~jnp.asarray(needed)
        least = jax.lax.cond(jnp.all(known), lambda: found, lambda: sampler.least(logits, probs))
    return _place(jnp.where(logits < least, 0.0, probs), uniform)


def _place(weights: jnp.ndarray, uniform: jnp.ndarray) -> jnp.ndarray:
    """i32[...], drawn in proportion to weights f32[...,V] by uniform f32[...] in [0,1): where the
    running sum crosses that share of the sum. Never where a weight is 0.

    First the block is found, then the place in it: a running sum over all is slow.
    """
    count = weights.shape[-1]
    width = math.isqrt(count - 1) + 1
    blocks = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, -count % width)])
    blocks = blocks.reshape(*weights.shape[:-1], -1, width)
    sums = jnp.sum(blocks, -1)
    ends = jnp.cumsum(sums, -1)
    share = uniform * ends[..., -1]
    block = _first_above(ends, share)
    row = jnp.take_along_axis(blocks, block[..., None, None], -2)[..., 0, :]
    begin = jnp.take_along_axis(ends - sums, block[..., None], -1)[..., 0]
    return block * width + _first_above(jnp.cumsum(row, -1), share - begin)


def _first_above(ends: jnp.ndarray, value: jnp.ndarray) -> jnp.ndarray:
    """The first place where the running sum f32[...,N] is above the value f32[...], which rounding
    may have moved out of [0, the sum): i32[...]."""
    inside = jnp.clip(value, 0.0, jnp.nextafter(ends[..., -1], 0.0))
    return jnp.sum(ends <= inside[..., None], -1, dtype=jnp.int32)


def draw(
    sampler: Callable[[jnp.ndarray, jax.Array], jnp.ndarray],
    logits: jnp.ndarray,
    keys: jax.Array,
    needed: jnp.ndarray,
    places: jnp.ndarray,
    count: int,
) -> jnp.ndarray:
    """The tokens i32[B,R] of R sequences of each of B images, with a key per image.

    Args:
        sampler: of this module, or any function (logits f32[N,V], rng) -> i32[N].
        logits: f32[B,R,V].
        keys: key[B].
        needed: bool[B,R], sequences whose token matters.
        places: i32[B,R], where the sequences stand among all N of their image: what is drawn for
            one does not depend on which of the others are there.
        count: N.
    """
    if isinstance(sampler, Greedy):
        return sampler(logits)
    if isinstance(sampler, TopK | Nucleus):
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)  # of all [B,N]
        uniform = jnp.take_along_axis(uniform, places, axis=1)
        return _draw(sampler, logits / sampler.temperature, uniform, needed)
    everyone = jnp.zeros((logits.shape[0], count, logits.shape[-1]))
    everyone = jax.vmap(lambda x, new, place: x.at[place].set(new))(everyone, logits, places)
    tokens = jax.vmap(sampler)(everyone, keys).astype(jnp.int32)
    return jnp.take_along_axis(tokens, places, axis=1)


@dataclass(frozen=True)
class Beam:
    """Not a sampler, but the settings of `decoding.beam.beam_search`, which has no randomness.

    Attributes:
        size: sequences kept, at least 1; 1 gives what Greedy gives.
        length_penalty: exponent alpha of Wu et al. (arXiv:1609.08144), section 7, at least 0: 0
            compares sequences by their probability, which favours short ones; they recommend 0.6 to
            0.7.
    """

    size: int = 4
    length_penalty: float = 0.6

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"beam(size={self.size}): size must be a whole number of at least 1")
        if not 0 <= self.length_penalty < float("inf"):
            raise ValueError(f"beam(length_penalty={self.length_penalty}): must be 0 or more")


Sampler = Greedy | TopK | Nucleus
SAMPLERS = {"greedy": Greedy, "topk": TopK, "nucleus": Nucleus, "beam": Beam}


def from_string(text: str) -> Sampler | Beam:
    """Sampler of a text such as "greedy", "topk(5, temperature=0.7)", "nucleus(0.4)", or "beam(4,
    0.6)".

    Raises:
        ValueError: unknown sampler, unknown or repeated argument, or an argument out of range.
    """
    arguments = {name: [field.name for field in fields(s)] for name, s in SAMPLERS.items()}
    forms = ", ".join(f"{name}({', '.join(names)})" for name, names in arguments.items())
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if isinstance(call, ast.Name):
            call = ast.Call(func=call, args=[], keywords=[])
        name = call.func.id
        arguments = [ast.literal_eval(argument) for argument in call.args]
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (AttributeError, SyntaxError, ValueError) as error:
        raise ValueError(f"sampler {text!r} is not understood; write one of {forms}") from error
    if name not in SAMPLERS:
        raise ValueError(f"sampler {text!r}: there is no {name!r}; choose one of {forms}")
    try:
        return SAMPLERS[name](*arguments, **named)
    except TypeError as error:
        raise ValueError(f"sampler {text!r}: {error}; write one of {forms}") from error
