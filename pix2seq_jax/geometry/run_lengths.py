"""COCO's run lengths of masks: the only reader and the only writer of them.

A mask bool[H,W] is read down its columns. Its runs are the lengths of the stretches of equal
pixels, beginning with zeros (a first run of 0 where the first pixel is set). COCO's files hold them
as a list, or compressed as a text. No pycocotools here: the processes that draw the `shapes` data
import this file.
"""

import numpy as np


def runs_of_mask(mask: np.ndarray) -> np.ndarray:
    """bool[H,W] of at least one pixel -> its runs i64[n]."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    ends = np.nonzero(flat[1:] != flat[:-1])[0]
    return np.diff(ends, prepend=0)


def mask_of_runs(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Runs i64[n] that fill a mask of this height and width -> bool[H,W]."""
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size[::-1]).T  # runs go down the columns


def read_runs(counts, size: tuple[int, int]) -> np.ndarray:
    """What a file has under `counts`, compressed or not -> u32[n]; ValueError where that does not
    fill a mask of this height and width."""
    if not counts or not isinstance(counts, str | bytes | list):
        raise ValueError("it has no run lengths `counts`")
    text = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    try:
        runs = np.array(runs_of_text(text) if isinstance(text, str) else text)
    except (IndexError, ValueError) as error:
        raise ValueError(f"the run lengths are broken ({error})") from error
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any():
        raise ValueError("the run lengths are broken (they are no list of whole numbers from 0 on)")
    height, width = size
    if runs.max() > height * width or runs.sum() != height * width:
        raise ValueError(f"the run lengths fill {runs.sum()} of {height} x {width} pixels")
    return runs.astype(np.uint32)


def runs_of_text(text: str) -> list[int]:
    """Runs of their compressed form: numbers of 5 bits a character, the sixth telling that more
    follow, the last one's fifth the sign; from the fourth on each is the difference from the one
    before the last. IndexError if cut off."""
    runs: list[int] = []
    position = 0
    while position < len(text):
        value, shift, code = 0, 0, 32
        while code & 32:
            code = ord(text[position]) - 48
            value |= (code & 31) << shift
            position, shift = position + 1, shift + 5
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def text_of_runs(runs: np.ndarray) -> str:
    """The compressed form of runs i64[n], as `runs_of_text` reads it."""
    rest = runs.astype(np.int64)
    rest[3:] -= runs[1:-2]
    codes, used = [], []
    more = np.ones(len(runs), bool)
    while more.any():
        used.append(more)
        code, rest = rest & 31, rest >> 5
        # The last character's fifth bit is the sign of all that was left out.
        more = more & (rest != np.where(code & 16, -1, 0))
        codes.append(code + 32 * more + 48)
    characters = np.stack(codes, axis=1)[np.stack(used, axis=1)]  # [n,characters] -> in a row
    return characters.astype(np.uint8).tobytes().decode("ascii")
