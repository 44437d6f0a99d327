"""BLEU, CIDEr-D and ROUGE-L of captions, as the COCO caption evaluation (Chen et al.,
arXiv:1504.00325) defines them.

`tokenize` stands for the Penn Treebank tokenizer of that evaluation, which needs Java. On captions
of plain words and the usual punctuation the outcome is the same. It differs for what captions
hardly ever have: addresses of mail and web, smileys, tags <like this>, heights such as 5'10,
numbers glued to a comma before them, abbreviations that are not in the list, and the contractions
rock'n'roll, y'all, more'n and 'tis.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr-D", "ROUGE-L")
ORDERS = 4  # n-grams of one to four words
# Words of difference in length that CIDEr-D forgives (Vedantam et al., arXiv:1411.5726, section 5).
SIGMA = 6.0
BETA = 1.2  # weight of recall against precision in ROUGE-L, as in the COCO caption evaluation

_CHARACTERS = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        "`": "'",
        "“": '"',
        "”": '"',
        "–": " - ",
        "—": " - ",
        "…": " ",
        "£": "#",
        "€": "$",
    }
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_ABBREVIATIONS = (
    "mr|mrs|ms|dr|st|jr|sr|vs|etc|ave|blvd|rd|inc|ltd|co|corp|mt|ft|prof|gen|sen|rev|lt|sgt|capt|"
    "dept"
)
_TOKEN = re.compile(
    r"""
    (?:[^\W\d_]\.){2,}(?!\w)                    # u.s. and p.m. keep their last full stop
    | \b(?:ABBREVIATIONS)\.(?!\w) | \bno\.(?=\s*\d)  # and so do these, and no. 5
    | \d+(?:[.,:/]\d+)+ | (?<!\w)\.\d+          # 10,000 and 10:30 and 1/2 and .5
    | '\d0s                                     # '80s
    | [^\W_]+(?:[-/.'&][^\W_]+)*                # words, also with a hyphen between
    | '(?:s|m|d|re|ve|ll)\b                     # endings that stand alone
    | \#[^\W\d_]\w*                             # hashtags
    | [!?]{2,}
    | [$%\#&@*+=<>^~|_/\\°¥()\[\]{}]
    """.replace("ABBREVIATIONS", _ABBREVIATIONS),
    re.VERBOSE,
)
_ENDING = re.compile(r"(?<=.)(?=n't$)|(?<=[^\W_])(?='(?:s|m|d|re|ve|ll)$)")
_TWO_WORDS = {"cannot": 3, "gonna": 3, "wanna": 3, "gotta": 3, "gimme": 3, "lemme": 3}  # split at

Ngrams = Counter[tuple[str, ...]]


def score(
    references: Mapping[int, Sequence[str]], candidates: Mapping[int, str]
) -> dict[str, float]:
    """Scores of one caption per image.

    Args:
        references: captions people wrote, by image id; any number of them.
        candidates: the caption to score, by image id; "" is allowed and scores nothing.

    Returns:
        BLEU-1 to BLEU-4 and ROUGE-L in [0, 1], CIDEr-D in [0, 10] (tables in papers give 100 times
        each). Each is a number of the whole set: it is not the mean of scores of its parts.

    Raises:
        ValueError: no images; an image with references but no candidate, or the other way round; an
            empty list of references.
    """
    _check(references, candidates)
    texts = [[tokenize(caption) for caption in captions] for captions in references.values()]
    words = [tokenize(candidates[image]) for image in references]
    return {
        **{f"BLEU-{n}": value for n, value in enumerate(bleu(texts, words), start=1)},
        "CIDEr-D": cider_d(texts, words),
        "ROUGE-L": rouge_l(texts, words),
    }


def _check(references: Mapping[int, Sequence[str]], candidates: Mapping[int, str]) -> None:
    """Refuses what cannot be compared, with a ValueError."""
    if not references:
        raise ValueError("no references to compare captions with: give at least one image")
    without = sorted(references.keys() - candidates.keys())
    if without:
        raise ValueError(
            f"images {without[:5]} have references but no candidate ({len(without)} of "
            f"{len(references)}); give each one, '' where nothing was said, or leave their "
            "references out"
        )
    unknown = sorted(candidates.keys() - references.keys())
    if unknown:
        raise ValueError(
            f"images {unknown[:5]} have a candidate but no references ({len(unknown)} of "
            f"{len(candidates)}); wrong split?"
        )
    for image, texts in references.items():
        if isinstance(texts, str) or not texts:
            raise ValueError(
                f"image {image}: references={texts!r} must be a list of at least one caption"
            )
        if not isinstance(candidates[image], str):
            raise ValueError(
                f"image {image}: the candidate {candidates[image]!r} must be one string"
            )


def tokenize(caption: str) -> list[str]:
    """Lower-case words of a caption; "dog's" are two and "don't" are "do" and "n't"; punctuation is
    left out.

    As in the COCO evaluation brackets stay, as -lrb- and so on, and so do runs of ! and ?, and
    symbols such as % and &.
    """
    words = []
    for token in _TOKEN.findall(caption.lower().translate(_CHARACTERS)):
        at = _TWO_WORDS.get(token)
        words.extend([token[:at], token[at:]] if at else _ENDING.split(_BRACKETS.get(token, token)))
    return words


def bleu(
    references: Sequence[Sequence[Sequence[str]]], candidates: Sequence[Sequence[str]]
) -> list[float]:
    """BLEU-1 to BLEU-4 of a whole corpus (Papineni et al., 2002), in [0, 1].

    The brevity penalty compares with the reference whose length is closest, of equally close ones
    the shorter. Not smoothed: without any matching n-gram the score is 0, where the COCO evaluation
    gives a little more.

    Args:
        references: words of every reference of every image.
        candidates: words of every image's candidate.
    """
    matched, proposed = [0] * ORDERS, [0] * ORDERS
    length = reference_length = 0
    for texts, words in zip(references, candidates, strict=True):
        length += len(words)
        reference_length += min((abs(len(text) - len(words)), len(text)) for text in texts)[1]
        of_references = [_ngrams(text) for text in texts]
        for n, counts in enumerate(_ngrams(words)):
            most = Counter()
            for others in of_references:
                most |= others[n]
            matched[n] += (counts & most).total()
            proposed[n] += counts.total()
    brevity = math.exp(min(0.0, 1 - reference_length / length)) if length else 0.0
    precisions = [m / p if p else 0.0 for m, p in zip(matched, proposed, strict=True)]
    return [brevity * math.prod(precisions[:n]) ** (1 / n) for n in range(1, ORDERS + 1)]


def _ngrams(words: Sequence[str]) -> list[Ngrams]:
    """How often each n-gram occurs, for n = 1, 2, 3, 4."""
    return [
        Counter(zip(*(words[i:] for i in range(n)), strict=False)) for n in range(1, ORDERS + 1)
    ]


def cider_d(
    references: Sequence[Sequence[Sequence[str]]], candidates: Sequence[Sequence[str]]
) -> float:
    """CIDEr-D (Vedantam et al., arXiv:1411.5726, section 5): mean over the images, in [0, 10].

    How rare an n-gram is comes from the references of these very images, so that the number depends
    on which images are evaluated; with one image it is 0. Arguments as for `bleu`.
    """
    of_references = [[_ngrams(text) for text in texts] for texts in references]
    images = Counter()  # in the references of how many images each n-gram is
    for texts in of_references:
        images.update({gram for text in texts for counts in text for gram in counts})
    all_images = math.log(len(references))

    def vectors(ngrams: list[Ngrams]) -> list[dict]:
        return [
            {g: count * (all_images - math.log(images[g] or 1)) for g, count in n.items()}
            for n in ngrams
        ]

    total = 0.0
    for texts, counted, words in zip(references, of_references, candidates, strict=True):
        mine = vectors(_ngrams(words))
        for text, ngrams in zip(texts, counted, strict=True):
            # The length is the number of word pairs, as in the COCO evaluation.
            difference = max(len(words) - 1, 0) - max(len(text) - 1, 0)
            total += _similarity(mine, vectors(ngrams), difference) / len(texts)
    return 10 * total / len(references)


def _similarity(mine: list[dict], theirs: list[dict], difference: int) -> float:
    """Mean over n of the clipped cosines of TF-IDF vectors; `difference` is that of the lengths."""
    total = 0.0
    for a, b in zip(mine, theirs, strict=True):
        norms = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
        if norms:
            total += (
                sum(min(value, b[gram]) * b[gram] for gram, value in a.items() if gram in b) / norms
            )
    return total / ORDERS * math.exp(-(difference**2) / (2 * SIGMA**2))


def rouge_l(
    references: Sequence[Sequence[Sequence[str]]], candidates: Sequence[Sequence[str]]
) -> float:
    """ROUGE-L (Lin, 2004): mean over the images of the F measure of the longest common subsequence,
    in [0, 1].

    Precision and recall are each the best over the references, not of one and the same. Arguments
    as for `bleu`.
    """
    total = 0.0
    for texts, words in zip(references, candidates, strict=True):
        common = [common_length(words, text) for text in texts]
        precision = max(common) / len(words) if words else 0.0
        recall = max(
            length / len(text) if text else 0.0 for length, text in zip(common, texts, strict=True)
        )
        if precision and recall:
            total += (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return total / len(references)


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence of two texts."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]
