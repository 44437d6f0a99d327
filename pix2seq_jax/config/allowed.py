"""The values that a field may have, in words and as a test."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LARGEST = 2**31 - 1  # steps, seeds and tokens are 32-bit integers on the device


@dataclass(frozen=True)
class Allowed:
    """The values that a field may have.

    Attributes:
        words: for the message, after "give ".
        holds: whether a value is one of them; it may be handed anything.
        optional: whether a config may lack the field: it is filled in from the data, or earlier
            versions had none.
    """

    words: str
    holds: Callable[[Any], bool]
    optional: bool = False


def whole(low: int, high: int = LARGEST, *, also: str = "", optional: bool = False) -> Allowed:
    """Whole numbers from `low` to `high`; `also` goes on with the message."""
    top = "" if high == LARGEST else f" and at most {high:,}"

    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Allowed(f"a whole number of at least {low}{top}{also}", holds, optional)


def number(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    optional: bool = False,
) -> Allowed:
    """Finite numbers from `low` to `high`; `above` and `below` leave out the ends."""
    ends = []
    if low > -math.inf:
        ends.append(f"above {low:g}" if above else f"of at least {low:g}")
    if high < math.inf:
        ends.append(f"below {high:g}" if below else f"at most {high:g}")

    def holds(value: Any) -> bool:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            return False
        return (
            low <= value <= high and not (above and value == low) and not (below and value == high)
        )

    return Allowed(" ".join(["a finite number", " and ".join(ends)]).strip(), holds, optional)


def one_of(values: Iterable[Any]) -> Allowed:
    """Some words or numbers."""
    values = tuple(values)
    return Allowed(
        f"one of {list(values)}",
        lambda value: not isinstance(value, bool | list) and value in values,
    )


def text(*, empty: bool = True, optional: bool = False) -> Allowed:
    """Words."""
    words = "a text in quotes" if empty else "a text that is not empty"
    return Allowed(
        words, lambda value: isinstance(value, str) and (empty or bool(value.strip())), optional
    )


def each(
    items: Allowed, words: str, *, count: int = 0, different: bool = False, optional: bool = False
) -> Allowed:
    """Lists and tuples of allowed items, perhaps all `different`; `count` of them, 0 for any
    number."""

    def holds(value: Any) -> bool:
        if not isinstance(value, list | tuple) or not all(items.holds(item) for item in value):
            return False
        return (not count or len(value) == count) and (
            not different or len(set(value)) == len(value)
        )

    return Allowed(words, holds, optional)


FLAG = Allowed("true or false", lambda value: isinstance(value, bool))
ANYTHING = Allowed("a value", lambda value: True)
ANY_LIST = Allowed("a list", lambda value: isinstance(value, list | tuple), optional=True)
COUNT, NOT_NEGATIVE, RATE, SHARE = whole(1), number(0), number(0, 1, below=True), number(0, 1)
EVEN = Allowed(
    "an even whole number of at least 2", lambda value: whole(2).holds(value) and value % 2 == 0
)


def _is_regex(value: Any) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False


REGEX = Allowed("a regular expression in quotes, or ''", _is_regex)


def kinds(plain: Iterable[str], forms: Mapping[str, Allowed], listed: Iterable[str]) -> Allowed:
    """Words, and words with a number as in "exp@0.1"; `forms` has the range of the number by the
    word before the @."""

    def holds(value: Any) -> bool:
        if not isinstance(value, str):
            return False
        kind, at, given = value.partition("@")
        if not at:
            return value in plain
        numeric = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", given)
        return kind in forms and numeric is not None and forms[kind].holds(float(given))

    ranges = "; ".join(
        f"the number of {kind}@ is {allowed.words}" for kind, allowed in forms.items()
    )
    return Allowed(f"one of {list(listed)}, the capital word a number; {ranges}", holds)
