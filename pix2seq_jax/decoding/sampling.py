"""How the next token is drawn from the logits: greedily, from the k likeliest, or from the nucleus.

A sampler is a frozen dataclass: `sampler(logits f32[...,V], rng) -> tokens i32[...]`.
`filter(logits)` gives the logits it draws from: divided by the temperature first, then MASKED
outside the kept set.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp

MASKED = -1e10  # probability exactly 0 after the softmax, yet finite: no NaN from inf - inf
HEAD = 128  # so many of the likeliest tokens nearly always hold the nucleus of a trained model


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(
            f"temperature={temperature}: must be above 0; use greedy() for the likeliest token"
        )


@dataclass(frozen=True)
class Greedy:
    """The likeliest token; of equal ones the first. Needs no randomness: rng may be None."""

    def filter(self, logits: jnp.ndarray) -> jnp.ndarray:
        """Logits f32[...,V], MASKED below the largest."""
        return jnp.where(logits < jnp.max(logits, axis=-1, keepdims=True), MASKED, logits)

    def __call__(self, logits: jnp.ndarray, rng: jax.Array | None = None) -> jnp.ndarray:
        """Logits f32[...,V] -> tokens i32[...]."""
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)


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

    def smallest(
        self, ordered: jnp.ndarray, log_sum: jnp.ndarray
    ) -> tuple[jnp.ndarray, jnp.ndarray]:
        """As Nucleus.smallest."""
        del log_sum
        last = min(self.k, ordered.shape[-1])
        known = jnp.full((*ordered.shape[:-1], 1), self.k <= ordered.shape[-1])
        return ordered[..., last - 1 : last], known

    def __call__(self, logits: jnp.ndarray, rng: jax.Array) -> jnp.ndarray:
        """Logits f32[...,V] -> tokens i32[...]."""
        return jax.random.categorical(rng, self.filter(logits)).astype(jnp.int32)


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

    def smallest(
        self, ordered: jnp.ndarray, log_sum: jnp.ndarray
    ) -> tuple[jnp.ndarray, jnp.ndarray]:
        """The smallest logit that is kept.

        Args:
            ordered: f32[...,K], the likeliest K of the logits in descending order.
            log_sum: f32[...,1], of all logits.

        Returns:
            f32[...,1] of the K logits, and bool[...,1], whether it is the smallest of all.
        """
        cumulative = jnp.cumsum(jnp.exp(ordered - log_sum), axis=-1)
        if self.rule == "standard":  # the tokens before must hold less than p
            first = [(0, 0)] * (ordered.ndim - 1) + [(1, 0)]
            keep = jnp.pad(cumulative[..., :-1], first) < self.p
        else:
            keep = (cumulative <= self.p).at[..., 0].set(True)
        smallest = jnp.min(jnp.where(keep, ordered, jnp.inf), axis=-1, keepdims=True)
        return smallest, cumulative[..., -1:] > self.p

    def __call__(self, logits: jnp.ndarray, rng: jax.Array) -> jnp.ndarray:
        """Logits f32[...,V] -> tokens i32[...]."""
        return jax.random.categorical(rng, self.filter(logits)).astype(jnp.int32)


def _filter(sampler: TopK | Nucleus, logits: jnp.ndarray) -> jnp.ndarray:
    """Logits f32[...,V], over the temperature already, MASKED outside the kept set; equal tokens
    stay together.

    Sorting the whole vocabulary at every token is slow. The likeliest tokens are enough, unless the
    model is unsure.
    """
    if _keeps_all(sampler, logits):
        return logits
    log_sum = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    head, _ = jax.lax.top_k(logits, min(HEAD, logits.shape[-1]))
    smallest, known = sampler.smallest(head, log_sum)
    if logits.shape[-1] > HEAD:
        smallest = jax.lax.cond(
            jnp.all(known),
            lambda: smallest,
            lambda: sampler.smallest(jnp.sort(logits, axis=-1, descending=True), log_sum)[0],
        )
    return jnp.where(logits < smallest, MASKED, logits)


def _keeps_all(sampler: TopK | Nucleus, logits: jnp.ndarray) -> bool:
    return isinstance(sampler, Nucleus) and sampler.p >= 1


def draw(
    sampler: Callable[[jnp.ndarray, jax.Array], jnp.ndarray], logits: jnp.ndarray, keys: jax.Array
) -> jnp.ndarray:
    """The tokens i32[B,R] of R sequences of each of B images, with a key per image.

    Args:
        sampler: of this module, or any function (logits f32[R,V], rng) -> i32[R].
        logits: f32[B,R,V].
        keys: key[B].
    """
    if isinstance(sampler, Greedy):
        return sampler(logits)
    if not isinstance(sampler, TopK | Nucleus):
        return jax.vmap(sampler)(logits, keys).astype(jnp.int32)
    # Neither the filter nor the cond below is within vmap, which would run both branches.
    categorical = jax.vmap(jax.random.categorical)

    def from_all():
        return categorical(keys, sampler.filter(logits)).astype(jnp.int32)

    if logits.shape[-1] <= HEAD or _keeps_all(sampler, logits):
        return from_all()
    # Noise for a whole vocabulary costs as much as the model: the candidates are enough.
    scaled = logits / sampler.temperature
    head, tokens = jax.lax.top_k(scaled, HEAD)
    smallest, known = sampler.smallest(head, jax.nn.logsumexp(scaled, axis=-1, keepdims=True))

    def from_head():
        place = categorical(keys, jnp.where(head < smallest, MASKED, head))
        return jnp.take_along_axis(tokens, place[..., None], axis=-1)[..., 0]

    # A token equal to the last kept one may lie beyond the head.
    return jax.lax.cond(jnp.all(known & (head[..., -1:] < smallest)), from_head, from_all)


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
