"""Caption scores: by hand, against pycocoevalcap where it is installed, and what happens at the
edges."""

import math
import random
import shutil
import time

import pytest

from pix2seq_jax.evaluation.metrics.captions import common_length, score, tokenize

NAMES = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr-D", "ROUGE-L"]
WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "circle",
    "square",
    "above",
    "below",
    "two",
    "small",
    "large",
    "dog",
    "on",
    "of",
]


def made_up(images, seed=0, per_image=5):
    """References, and candidates that are one of them with some words changed, left out or
    added."""
    rng = random.Random(seed)
    weights = [1 / (1 + k) for k in range(len(WORDS))]
    references, candidates = {}, {}
    for image in rng.sample(range(1000 * images), images):
        base = rng.choices(WORDS, weights, k=rng.randint(6, 12))
        texts = []
        for _ in range(rng.randint(1, per_image) + 1):
            kept = [word if rng.random() < 0.7 else rng.choice(WORDS) for word in base]
            texts.append(
                " ".join(kept[: rng.randint(4, 12)] + rng.choices(WORDS, k=rng.randint(0, 4)))
            )
        candidates[image], *references[image] = texts
    return references, candidates


@pytest.mark.parametrize("images", [1, 2, 40])
def test_scores_are_those_of_pycocoevalcap(images):
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    for seed in range(5):
        references, candidates = made_up(images, seed)
        theirs = references, {image: [caption] for image, caption in candidates.items()}
        expected = [
            *bleu.Bleu(4).compute_score(*theirs)[0],
            cider.Cider().compute_score(*theirs)[0],
        ]
        expected.append(rouge.Rouge().compute_score(*theirs)[0])
        expected = dict(zip(NAMES, map(float, expected), strict=True))
        scores = score(references, candidates)
        # The official code smooths these, a little above 0.
        unmatched = {name: 0.0 for name in NAMES[:4] if scores[name] == 0}
        assert all(expected[name] < 1e-3 for name in unmatched)
        assert scores == pytest.approx(expected | unmatched, abs=1e-6)
        assert images < 3 or all(value > 0.05 for value in expected.values())


CAPTIONS = {
    "A man's dog doesn't like the t-shirt.": "a man 's dog does n't like the t-shirt",
    (
        "They're here, it'll stay; we've gone: I'd go!"
    ): "they 're here it 'll stay we 've gone i 'd go",
    '"Stop" sign (red) ...  and `quoted\' words': "stop sign -lrb- red -rrb- and quoted words",
    "2 + 2 = 4 & 50% of $5, 10,000 cars at 10:30": "2 + 2 = 4 & 50 % of $ 5 10,000 cars at 10:30",
    "Mr. Smith, at 5 p.m. on St. James street in the U.S. army.": (
        "mr. smith at 5 p.m. on st. james street in the u.s. army"
    ),
    (
        "a black/white cat -- sitting - on the dogs' bed. It sits."
    ): "a black/white cat sitting on the dogs bed it sits",
    "two-year-old boy, 1/2 pizza\nand O'Brien": "two-year-old boy 1/2 pizza and o'brien",
    "I cannot, you can't, they won't: gonna": "i can not you ca n't they wo n't gon na",
    "Café with ‘naïve’ “señor” – dash… What?! Wow!!": "café with naïve señor dash what ?! wow !!",
    "no. 5 bus on 5th St., the sign says no.": "no. 5 bus on 5th st. the sign says no",
    "a cat ,with spaces . And a dog": "a cat with spaces and a dog",
    "": "",
    " . , !": "",
}


@pytest.mark.parametrize("caption", CAPTIONS, ids=lambda caption: caption[:12])
def test_words(caption):
    assert tokenize(caption) == CAPTIONS[caption].split()


def test_words_are_those_of_the_treebank_tokenizer():
    ptb = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    if not shutil.which("java"):
        pytest.skip("the Penn Treebank tokenizer needs java")
    captions = [{"caption": caption} for caption in CAPTIONS if caption]
    assert ptb.PTBTokenizer().tokenize({1: captions})[1] == [
        " ".join(tokenize(c["caption"])) for c in captions
    ]


def test_bleu_by_hand():
    # Of 7 words 2 match ("the" at most twice), no pair: Papineni et al., section 2.1.
    references = {1: ["the cat is on the mat", "there is a cat on the mat"]}
    scores = score(references, {1: "the the the the the the the"})
    assert scores["BLEU-1"] == pytest.approx(2 / 7)
    assert scores["BLEU-2"] == scores["BLEU-4"] == 0
    # All of 4 words, 2 of 3 pairs, 1 of 2 triples; 4 words against 6.
    scores = score({1: ["a cat on the red mat"]}, {1: "cat on the mat"})
    brevity = math.exp(1 - 6 / 4)
    assert scores["BLEU-1"] == pytest.approx(brevity)
    assert scores["BLEU-2"] == pytest.approx(brevity * math.sqrt(2 / 3))
    assert scores["BLEU-3"] == pytest.approx(brevity * (2 / 3 / 2) ** (1 / 3))
    assert scores["BLEU-4"] == 0


def test_bleu_is_of_the_corpus_and_the_closest_length():
    # 2 of 2 and 1 of 4 words; lengths 2 + 4 against 3 (of 1 and 3 equally close: the shorter, 1)
    # and 4: 6 against 5.
    references = {1: ["a b c", "a"], 2: ["a x y z"]}
    assert score(references, {1: "a b", 2: "a b c d"})["BLEU-1"] == pytest.approx(3 / 6)
    # 6 words against 3 + 4, when the short reference is gone
    references = {1: ["a b c"], 2: ["a x y z"]}
    assert score(references, {1: "a b", 2: "a b c d"})["BLEU-1"] == pytest.approx(
        3 / 6 * math.exp(1 - 7 / 6)
    )


def test_rouge_by_hand():
    # Subsequence "a d" of 3 and 4 words: precision 2/3, recall 2/4; the other reference has the
    # better recall, 1/1.
    references = {1: ["a b c d", "x"]}
    precision, recall = 2 / 3, 1.0
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert score(references, {1: "a x d"})["ROUGE-L"] == pytest.approx(expected)
    assert (
        common_length("abcbdab", "bdcaba") == 4
        and common_length("", "a") == common_length("a", "") == 0
    )


def test_cider_by_hand():
    # Two images, so what is in one image's references only weighs log 2, what is in both weighs 0.
    references = {1: ["red dog"], 2: ["blue dog"]}
    perfect = score(references, {1: "red dog", 2: "blue dog"})
    # Words and pairs; there are no longer n-grams.
    assert perfect["CIDEr-D"] == pytest.approx(10 * (1 + 1) / 4)
    # Words of image 1: red twice against once, clipped: 1·1 / (2·1); dog weighs 0. The pair is not
    # in the reference.
    scores = score(references, {1: "red red", 2: ""})
    assert scores["CIDEr-D"] == pytest.approx(10 * 0.5 / 4 / 2)
    # One more pair than the reference: the Gaussian of the length.
    scores = score(references, {1: "red dog dog", 2: ""})
    words, pairs = 1.0, 1 / math.sqrt(2)  # "dog dog" is new, and weighs log 2 too
    assert scores["CIDEr-D"] == pytest.approx(10 * (words + pairs) / 4 * math.exp(-1 / 72) / 2)


def test_perfect_and_hopeless():
    references, _ = made_up(20)
    perfect = score(references, {image: texts[0] for image, texts in references.items()})
    assert list(perfect) == NAMES and all(type(value) is float for value in perfect.values())
    assert (
        all(perfect[name] == pytest.approx(1) for name in NAMES if name != "CIDEr-D")
        and perfect["CIDEr-D"] > 1
    )
    nothing = {image: "zebra" for image in references}
    assert set(score(references, nothing).values()) == {0.0}


def test_empty_texts_do_not_crash():
    references, candidates = made_up(10)
    assert set(score(references, dict.fromkeys(references, "")).values()) == {0.0}
    image = next(iter(references))
    some = score(references, candidates | {image: " ... "})
    whole = score(references, candidates)
    assert all(0 < some[name] < whole[name] for name in ("CIDEr-D", "ROUGE-L"))
    assert score({1: ["."], 2: ["a b"]}, {1: ".", 2: "a b"})["BLEU-2"] == 1


def test_case_punctuation_and_order_of_the_images_make_no_difference():
    references, candidates = made_up(10)
    shouted = {image: f"{caption.upper()} !" for image, caption in reversed(candidates.items())}
    assert score(references, shouted) == pytest.approx(score(references, candidates))


@pytest.mark.parametrize(
    ("references", "candidates", "words"),
    [
        ({}, {}, "at least one image"),
        ({1: ["a"], 2: ["b"]}, {1: "a"}, r"images \[2\] have references but no candidate"),
        ({1: ["a"]}, {1: "a", 7: "b"}, r"images \[7\] have a candidate but no references"),
        ({1: []}, {1: "a"}, r"image 1: references=\[\]"),
        ({1: "a dog"}, {1: "a"}, "image 1: references='a dog'"),
        ({1: ["a"]}, {1: ["a"]}, r"image 1: the candidate \['a'\] must be one string"),
    ],
)
def test_what_cannot_be_compared_is_refused(references, candidates, words):
    with pytest.raises(ValueError, match=words):
        score(references, candidates)


def test_a_thousand_images_take_seconds():
    references, candidates = made_up(1000)
    start = time.process_time()
    score(references, candidates)
    # That is a minute for the 5,000 of the validation set; it takes seconds.
    assert time.process_time() - start < 12
