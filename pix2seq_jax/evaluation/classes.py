"""The classes that a user names."""

import difflib
from collections.abc import Sequence


def labels_of(classes: Sequence[str] | str, names: Sequence[str]) -> list[int] | None:
    """The labels, 1-based, of some classes by name; None for no name: all of them.

    Args:
        classes: names, or the value of the flag --classes: names joined by commas. Where a name has
            a comma itself, the longest run of parts that is a name counts.
        names: of all classes, by label.

    Raises:
        ValueError: a name that is none of `names`.
    """
    if isinstance(classes, str):
        value, classes = f"--classes={classes}", _split(classes, names)
    else:
        value = f"classes={','.join(classes)}"
    for name in classes:
        if name not in names:
            close = difflib.get_close_matches(name.lower(), names, 1, 0.5)
            hint = f"did you mean {close[0]!r}" if close else f"it has {', '.join(names)}"
            raise ValueError(f"{value}: the model has no {name!r}; {hint}")
    return [names.index(name) + 1 for name in dict.fromkeys(classes)] or None


def _split(text: str, names: Sequence[str]) -> list[str]:
    """The names that a text joins by commas; blanks beside a comma do not count."""
    by_parts = {tuple(_parts(name)): name for name in reversed(names)}
    parts, chosen = _parts(text) if text.strip() else [], []
    while parts:
        lengths = [n for n in range(len(parts), 0, -1) if tuple(parts[:n]) in by_parts]
        length = lengths[0] if lengths else 1
        chosen.append(by_parts.get(tuple(parts[:length]), parts[0]))
        parts = parts[length:]
    return chosen


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]
