"""Text models: learned alike each time, read back, and refused when they are not what the tokens
need."""

import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from pix2seq_jax.data.text import PIECES, Text

SENTENCES = [
    "a red circle above a blue square",
    "two green triangles beside a small yellow circle",
    "a large blue circle left of two red squares",
    "three small triangles and a green square below a red circle",
] * 5


@pytest.fixture(scope="module")
def text():
    return Text.train(SENTENCES, 48)


def test_training_is_a_function_of_the_sentences(text):
    assert Text.train(SENTENCES, 48).to_bytes() == text.to_bytes()
    assert Text.train(reversed(SENTENCES), 48).to_bytes() == text.to_bytes()
    spaced = [f"  {sentence}\n".replace(" ", " \t ") for sentence in SENTENCES]
    assert Text.train([*spaced, "", " \n"], 48).to_bytes() == text.to_bytes()
    assert Text.train(SENTENCES[:3], 48) != text


def test_round_trip(text):
    pieces = text.encode(SENTENCES)
    assert [text.decode(row) for row in pieces] == SENTENCES
    assert all(type(piece) is int and 2 < piece < text.size for row in pieces for piece in row)
    assert text.encode([]) == [] and text.encode([""]) == [[]] and text.decode([]) == ""
    assert text.encode([" a\tred \n circle "]) == text.encode(["a red circle"])


def test_decoding_stops_at_the_end_or_at_padding(text):
    row = text.encode(["a red circle"])[0]
    for end in (0, 1):
        assert text.decode(np.array([*row, end, *row], np.int32)) == "a red circle"
        assert text.decode([end, *row]) == ""


def test_unknown_characters(text):
    row = text.encode(["a 圓 circle"])[0]
    assert row.count(2) == 1
    assert "⁇" in text.decode(row)


def test_half_a_character_is_read_as_one():
    """As of an emoji that was cut in the middle: JSON can hold it."""
    cut, whole = "a red \ud83d", "a red \ufffd"
    text = Text.train([*SENTENCES, cut], 60)
    assert text == Text.train([*SENTENCES, whole], 60)
    assert text.encode([cut, "\udc00"]) == text.encode([whole, "\ufffd"])
    assert text.decode(text.encode(["a red circle"])[0]) == "a red circle"


def test_rare_characters_get_pieces_unless_they_are_too_many():
    rare = "7 t-shirts; a bouquet"
    text = Text.train([*SENTENCES * 200, rare], 80)
    assert text.decode(text.encode([rare])[0]) == rare
    many = "".join(chr(0x4E00 + number) for number in range(60))  # of 80 pieces
    text = Text.train([*SENTENCES * 2000, many], 80)
    assert text.decode(text.encode(SENTENCES[:1])[0]) == SENTENCES[0]
    assert 2 in text.encode([many])[0]


def test_few_sentences_get_few_pieces():
    letters = np.random.default_rng(0).choice(list("abcdefgh"), (6_000, 6))
    words = ["".join(row) for row in letters]
    few, many = words[:200], words
    assert Text.train(few, 0).size == 2 * (200 + 8) + 4
    assert Text.train(many, 0).size == PIECES
    for short in (["a"], ["ab", "c"]):  # the trainer takes no sentences of less than ten bytes
        text = Text.train(short, 0)
        assert [text.decode(row) for row in text.encode(short)] == short


def test_a_size_beyond_the_data_is_reduced(caplog):
    with caplog.at_level("INFO", logger="pix2seq_jax"):
        text = Text.train(SENTENCES, 32_000)
    assert 30 < text.size < 400
    assert f"has {text.size} pieces, not 32000" in caplog.text
    assert text.decode(text.encode(SENTENCES[:1])[0]) == SENTENCES[0]


def test_long_sentences_count():
    text = Text.train(["xyz " * 5000, "a"], 100)
    assert text.encode(["xyz"])[0] and 2 not in text.encode(["xyz"])[0]


@pytest.mark.parametrize(
    ("sentences", "size", "words"),
    [
        ([], 48, "no sentences"),
        ([" ", ""], 48, "no sentences"),
        (SENTENCES, 5, "ask for at least 2"),
        (SENTENCES, -1, "-1"),
    ],
)
def test_what_cannot_be_learned_is_refused(sentences, size, words):
    with pytest.raises(ValueError, match=words):
        Text.train(sentences, size)


def test_files(text, tmp_path):
    path = tmp_path / "captions.model"
    path.write_bytes(text.to_bytes())
    loaded = Text.load(path)
    assert loaded == text and hash(loaded) == hash(text) and loaded.size == text.size
    assert str(path) in repr(loaded) and str(text.size) in repr(loaded)
    assert loaded == Text.from_bytes(text.to_bytes()) == pickle.loads(pickle.dumps(text))
    with pytest.raises(ValueError, match=r"nowhere\.model cannot be read"):
        Text.load(tmp_path / "nowhere.model")
    for broken in (b"", b"hello" * 30, text.to_bytes()[:-10]):
        path.write_bytes(broken)
        with pytest.raises(
            ValueError,
            match=rf"captions\.model: {len(broken)} bytes that are no SentencePiece model",
        ):
            Text.load(path)
    with pytest.raises(ValueError, match="cannot be read"):
        Text.load(tmp_path)


def test_other_special_pieces_are_refused():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=40,
        minloglevel=3,
        hard_vocab_limit=False,
    )
    with pytest.raises(ValueError, match="padding is piece -1 and the end of a caption piece 2"):
        Text.from_bytes(model.getvalue())


def test_misuse_is_named(text):
    with pytest.raises(ValueError, match="write encode"):
        text.encode("a red circle")
    with pytest.raises(ValueError, match=f"piece {text.size} is none of the {text.size} pieces"):
        text.decode([3, text.size])
    with pytest.raises(ValueError, match="piece -3"):
        text.decode([-3])


def test_no_tensorflow_is_needed():
    code = "import sys; sys.modules['tensorflow'] = None; import pix2seq_jax.data.text"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
