"""Captions as SentencePiece ids (Kudo and Richardson, arXiv:1808.06226): 0 padding, 1 end of a
caption, 2 unknown."""

import io
import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import sentencepiece

from pix2seq_jax.files.locations import path_of
from pix2seq_jax.vocab import END_PIECE, PAD_PIECE, UNKNOWN_PIECE

log = logging.getLogger("pix2seq_jax")

SPECIAL = 4  # pieces: padding, end, unknown, and the begin of a word
PIECES = 8_000  # the most of a text model whose size was not given
SHORTEST = 10  # bytes; the trainer takes no lower limit of the length of a sentence
COVERAGE = 0.9995  # of the text by characters that get a piece, where there are too many for all
_HALVES = re.compile(r"[\ud800-\udfff]")
_TOO_SMALL = re.compile(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)")


@dataclass(frozen=True)
class Text:
    """A SentencePiece model; equal to another that has the same bytes. Raises ValueError for bytes
    that are none.

    Attributes:
        model: the serialised model, what a `.model` file holds.
        source: where it came from, for messages.
    """

    model: bytes
    source: str = "text model"

    def __post_init__(self) -> None:
        padding, end = self._pieces.pad_id(), self._pieces.eos_id()
        if (padding, end) != (PAD_PIECE, END_PIECE):
            raise ValueError(
                f"{self.source}: padding is piece {padding} and the end of a caption piece "
                f"{end} (-1: none), but padding must be {PAD_PIECE} and the end {END_PIECE}, "
                "as in the published models (the 32,000 pieces learned from C4); train another "
                "with Text.train, or with --pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text) and self.model == other.model

    def __hash__(self) -> int:
        return hash(self.model)

    def __repr__(self) -> str:
        return f"Text({self.source}, {self.size} pieces)"

    def __reduce__(self):
        return Text, (self.model, self.source)  # the loaded processor stays behind

    @classmethod
    def load(cls, path: str | Path) -> "Text":
        """The model of a file; ValueError if it is missing, cannot be read, or is no SentencePiece
        model."""
        try:
            model = path_of(path).read_bytes()
        except OSError as error:
            raise ValueError(
                f"text model {path} cannot be read: {error.strerror}; give the path of a "
                "SentencePiece .model file"
            ) from error
        return cls(model, f"text model {path}")

    @classmethod
    def from_bytes(cls, model: bytes) -> "Text":
        """The model of `to_bytes`."""
        return cls(bytes(model))

    @classmethod
    def train(cls, sentences: Iterable[str], size: int) -> "Text":
        """Learns byte-pair pieces (Sennrich et al., arXiv:1508.07909). A pure function of the
        sentences and the size.

        Of sentences with few words, a unigram model keeps pieces of words only, and captions come
        out twice as long. Sentences are stripped, runs of white space in them become one space,
        empty ones are left out, and they are sorted: their order makes no difference, how often
        each occurs does. One thread; sums do not depend on timing.

        Every character gets a piece. Only where there are so many that they would take more than
        half of the pieces, as in Chinese, the rarest 0.05 % of the text become unknown.

        Args:
            sentences: text, one caption each.
            size: number of pieces wanted. Too many for the data: as many as the data gives, see
                `.size` of the result, and a line in the log. Few data give few pieces. 0: two for
                each sentence and each character that occurs, and the special ones, at most PIECES.

        Raises:
            ValueError: no text at all, or fewer pieces than special ones and characters need.
        """
        stripped = (" ".join(whole_characters(sentence).split()) for sentence in sentences)
        lines = sorted(line for line in stripped if line)
        if not lines:
            raise ValueError("no sentences to learn a text model from; give captions with words")
        characters = len(set(unicodedata.normalize("NFKC", "".join(lines))))
        automatic = min(2 * (len(lines) + characters) + SPECIAL, PIECES)
        wanted, size = size, size or automatic
        every = 2 * characters <= size
        model, longest = io.BytesIO(), max(*(len(line.encode()) for line in lines), SHORTEST)
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                vocab_size=size,
                pad_id=PAD_PIECE,
                eos_id=END_PIECE,
                unk_id=UNKNOWN_PIECE,
                bos_id=-1,
                model_type="bpe",
                character_coverage=1.0 if every else COVERAGE,
                hard_vocab_limit=False,
                num_threads=1,
                max_sentence_length=longest,  # beyond it, lines are left out
                minloglevel=3,
            )
        except RuntimeError as error:
            needed = _TOO_SMALL.search(str(error))
            if needed:
                raise ValueError(
                    f"a text model of {size} pieces has no room for the special pieces and every "
                    f"character of the sentences; ask for at least {needed[1]}"
                ) from error
            raise ValueError(f"no text model of {size} pieces could be learned: {error}") from error
        text = cls(model.getvalue(), "trained text model")
        if text.size < wanted:
            log.info(
                "the text model has %d pieces, not %d: %d sentences give no more",
                text.size,
                size,
                len(lines),
            )
        return text

    @property
    def size(self) -> int:
        """Number of pieces, the special ones among them; what `Vocab.text_size` must be at
        least."""
        return self._pieces.get_piece_size()

    def to_bytes(self) -> bytes:
        """The serialised model."""
        return self.model

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Piece ids of each sentence, without an end piece; characters that are in no piece become
        UNKNOWN_PIECE.

        Raises:
            ValueError: one string in place of a list of them.
        """
        if isinstance(sentences, str):
            raise ValueError(
                f"encode({sentences!r}) takes a list of sentences; write encode([sentence])"
            )
        # One call: a call for each would be 90 times slower.
        return self._pieces.encode(list(map(whole_characters, sentences)), out_type=int)

    def decode(self, pieces: Iterable[int]) -> str:
        """Text of piece ids up to the first padding or end piece; unknown pieces become " ⁇ ".

        Raises:
            ValueError: a piece that the model does not have.
        """
        own = []
        for piece in map(int, pieces):
            if piece in (PAD_PIECE, END_PIECE):
                break
            if not 0 <= piece < self.size:
                raise ValueError(
                    f"piece {piece} is none of the {self.size} pieces of {self.source}; wrong "
                    "model?"
                )
            own.append(piece)
        return self._pieces.decode(own)

    @cached_property
    def _pieces(self) -> sentencepiece.SentencePieceProcessor:
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(self.model)
        except RuntimeError as error:
            raise ValueError(
                f"{self.source}: {len(self.model)} bytes that are no SentencePiece model; "
                "copy the .model file again"
            ) from error
        return processor


def whole_characters(text: str) -> str:
    """A text with U+FFFD in place of halves of surrogate pairs, as a caption has that was cut in
    the middle of an emoji: JSON can hold them and UTF-8 cannot."""
    return _HALVES.sub("\ufffd", text)
