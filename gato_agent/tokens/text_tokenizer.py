"""Text tokenizer: strings <-> piece ids with SentencePiece, without loss (Gato paper, section 2.1).

    encode("go to the red ball")  ->  [261, 268, 284, 272, 271]  ->  decode  ->  "go to the red ball"

Characters without a piece are spelled in bytes, for which every trained model has 256 pieces.
"""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import sentencepiece

from gato_agent.envs.errors import GatoError, SpaceError, UsageError
from gato_agent.envs.files import read_named

SPACE = "\u2581"  # SentencePiece writes a space as this character, and reads this character as a space
RESERVED = 258  # pieces of every model: unknown, 256 bytes, space
LINE = 1000  # characters; the trainer skips sentences of more than 4,192 bytes


class TextTokenizer:
    """Text tokenizer with a SentencePiece model.

    Args:
        model: the serialised model.

    Raises:
        GatoError: it is none.

    Attributes:
        model: the serialised model, which a checkpoint keeps.
        size: number of pieces; ids are 0 <= id < size.
    """

    def __init__(self, model: bytes) -> None:
        try:
            if not model:  # which SentencePiece would take
                raise RuntimeError
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, ValueError):  # the message may be bytes that are not text
            raise GatoError("not a SentencePiece model: pass a .model file that SentencePiece wrote") from None
        self.model = model
        self.size: int = self._processor.get_piece_size()
        spelled = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        # A user's model may have no pieces for bytes; then it may lose characters.
        self._spelled: list[int] = spelled if all(map(self._processor.is_byte, spelled)) else []

    @classmethod
    def from_file(cls, path: str | Path) -> "TextTokenizer":
        """Load a `.model` file; raises UsageError if it cannot be read, GatoError if it is not a model."""
        try:
            model = read_named(Path(path))
        except OSError as error:
            raise UsageError(f"cannot read the text model {path}: {error.strerror}") from None
        try:
            return cls(model)
        except GatoError as error:
            raise GatoError(f"{path}: {error}") from None

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> "TextTokenizer":
        """Train a model (byte-pair encoding) on the distinct strings among `texts`.

        The same texts in the same order give the same bytes. Rare characters have no piece of their own, so that
        any corpus fits; a small one gives fewer than `size` pieces.

        Args:
            texts: strings; repetitions count once.
            size: largest number of pieces, at least 260.

        Raises:
            UsageError: `size` is too small to spell any string.
        """
        if size < RESERVED + 2:
            raise UsageError(f"a text tokenizer of {size} pieces cannot spell every string: use {RESERVED + 2} or more")
        distinct = list(dict.fromkeys(texts))
        counts = Counter(c for text in distinct for c in text if c.isprintable() and c not in (SPACE, " "))
        characters = {c for c, _ in counts.most_common((size - RESERVED) // 2)} | {
            " "
        }  # the other half is for longer pieces
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chain(_lines(distinct, characters), [" "]),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=3,
        )
        return cls(model.getvalue())

    def encode(self, text: str) -> list[int]:
        """Piece ids of any string; at most one for each byte of its UTF-8.

        Raises:
            SpaceError: half of a surrogate pair, which UTF-8 cannot hold.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SpaceError(f"{text!a:.80} is not valid Unicode: {error.reason} at {error.start}") from None
        spelled = self._spelled
        parts = text.split(SPACE) if spelled else [text]
        ids: list[int] = self._processor.encode(parts[0])
        for part in parts[1:]:
            ids += spelled + self._processor.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The string that piece ids spell; bytes that are not UTF-8 become U+FFFD."""
        return str(self._processor.decode(list(ids)))


def _lines(texts: Iterable[str], characters: set[str]) -> Iterator[str]:
    for text in texts:
        clean = "".join(c for c in text if c in characters)
        yield from (clean[i : i + LINE] for i in range(0, len(clean), LINE))
