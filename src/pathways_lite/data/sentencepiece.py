"""SentencePiece: train a lossless BPE vocabulary, and encode text word by word through a cache."""

from __future__ import annotations

import io
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import sentencepiece as spm

from pathways_lite.data.control_tokens import ControlTokens, adds_bos_token, read_control_tokens, tokenizer_class
from pathways_lite.data.tokenizers import SENTENCEPIECE_FILE, document_end, eod_files, fingerprint
from pathways_lite.errors import UserError

EOD_PIECE = "<eod>"
_SPACE = "▁"  # SentencePiece's character for a space
_SPACE_BYTES = tuple(f"<0x{byte:02X}>" for byte in _SPACE.encode())
_MAX_CACHED_WORDS = 1 << 20
_MAX_LINE_BYTES = 1 << 20  # the trainer leaves out longer lines
_PART_LENGTH = 1 << 16  # characters of the parts of such lines
_ADD_BOS_CLASSES = ("Llama", "CodeLlama", "Gemma", "Cohere")  # classes of transformers that add BOS by default
_MIN_VOCABULARY = 16  # below this the trainer does not say how many it needs


def train_sentencepiece(texts: Iterable[str], vocab_size: int) -> SentencePieceTokenizer:
    """Train a BPE vocabulary like PaLM's (section 2.2): whitespace kept, digits split, unknown characters as bytes.

    It is lossless for every text. Newlines are tokens of their own; runs of spaces may be one token. The result is
    deterministic in `texts`. Raises UserError if `vocab_size` is too large or too small for the texts.
    """
    model = io.BytesIO()
    # Tokens never cross a newline, so lines train the same vocabulary.
    lines = (
        part
        for text in texts
        for line in text.replace(_SPACE, " ").replace("\0", " ").split("\n")
        for part in _cut_line(line)
    )
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type="bpe",
            vocab_size=max(vocab_size, _MIN_VOCABULARY),
            byte_fallback=True,
            split_digits=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["\n"],
            unk_id=0,
            eos_id=1,
            eos_piece=EOD_PIECE,
            bos_id=-1,
            pad_id=-1,
            max_sentence_length=_MAX_LINE_BYTES,
            num_threads=2,  # recorded in the model and so in its fingerprint; BPE training hardly uses more
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(_describe_training_error(str(error), vocab_size)) from error
    return SentencePieceTokenizer(model.getvalue(), "the trained tokenizer")


def _cut_line(line: str) -> Iterator[str]:
    """Cut a line that the trainer would leave out for its length, at spaces if it has any; an empty one is left out."""
    if len(line) * 4 > _MAX_LINE_BYTES and len(line.encode()) > _MAX_LINE_BYTES:
        while len(line) > _PART_LENGTH:
            cut = line.rfind(" ", 1, _PART_LENGTH)
            cut = cut if cut > 0 else _PART_LENGTH
            yield line[:cut]
            line = line[cut:]
    if line:
        yield line


def _describe_training_error(error: str, vocab_size: int) -> str:
    """Return a sentence for the trainer's error, with the number of tokens that would work."""
    beginning = f"a SentencePiece vocabulary of {vocab_size} tokens is too"
    if required := re.search(r"smaller than required_chars\. \d+ vs (\d+)", error):
        return (
            f"{beginning} small for this text: 256 bytes, 3 special tokens and the text's characters need "
            f"{required[1]}; use sentencepiece:{required[1]} or larger, or bytes"
        )
    if limit := re.search(r"value <= (\d+)", error):
        return (
            f"{beginning} large for this text, which is too short or too uniform for more than {limit[1]} (256 of them "
            f"are bytes); use at most {limit[1]}, more text, or bytes"
        )
    if "sentences_.empty" in error:
        return "there is no text to train a SentencePiece vocabulary on; name sources with more text, or use bytes"
    return f"SentencePiece cannot train a vocabulary of {vocab_size} tokens: {error.strip().splitlines()[-1]}"


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


class SentencePieceTokenizer:
    """The tokenizer of a SentencePiece model.

    If the model allows it, text is encoded word by word through a cache, many times as fast as the library encodes
    whole texts. A word is a run of spaces with what follows it, or a newline. The result is exact if no token of the
    vocabulary crosses the beginning of a word, which is checked when the model is loaded.

    Args:
      eod: the token that marks the end of a document; None: the model's end or, without one, beginning of a sentence.
      companions: files of `tokenizers.HF_COMPANIONS`, to be kept beside it.
      published: without `eod`, take the EOS that `companions` name before the model's.

    Raises UserError if there is no such token.
    """

    kind = "sentencepiece"

    def __init__(
        self,
        content: bytes,
        name: str = "the SentencePiece model",
        eod: str | None = None,
        companions: Mapping[str, bytes] | None = None,
        *,
        published: bool = False,
    ) -> None:
        self._model: Any = spm.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(content)
            self.vocab_size: int = self._model.vocab_size()
        except RuntimeError as error:
            raise UserError(f"{name} is no SentencePiece model: {_last_line(error)}") from error
        if not self.vocab_size:
            raise UserError(f"{name} is no SentencePiece model")
        self._content, self._companions = content, dict(companions or {})
        ids = [i for i in (self._model.eos_id(), self._model.bos_id()) if i >= 0]
        if eod is None and published:
            named = document_end(self._named_control(name), self.token_name)
            eod = named if named is not None and self._id_of(named) != next(iter(ids), None) else None
        self._eod_name, self.fingerprint = eod, fingerprint(content, eod)
        if eod is not None:
            ids = [] if (named_id := self._id_of(eod)) is None else [named_id]
        if not ids and eod is None:
            raise UserError(
                f"{name} has no end-of-sentence token to mark the end of a document; name one of its tokens with "
                "--eod TOKEN, or train it with one"
            )
        if not ids:
            raise UserError(f"{name} has no token {eod!r} to mark the end of a document; name one that it has")
        self.eod: int = ids[0]
        self._dtype = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        self._typecode = self._dtype.char  # for array, five times as fast as NumPy on a word's few ids
        self._space_ids = [self._model.piece_to_id(piece) for piece in _SPACE_BYTES]
        self._is_separable = self._keeps_words_apart()
        self._words: dict[str, bytes] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return SentencePieceTokenizer, (self._content, "the SentencePiece model", self._eod_name, self._companions)

    @cached_property
    def control(self) -> ControlTokens:
        model, name = self._model, "the SentencePiece model"
        control = self._named_control(name)
        roles = {"bos": model.bos_id(), "pad": model.pad_id(), "unknown": model.unk_id()}
        own = {role: i for role, i in roles.items() if i >= 0 and getattr(control, role) is None}
        control = replace(control, eos=control.eos or (self.eod,), **own)
        by_class = tokenizer_class(self._companions, name).startswith(_ADD_BOS_CLASSES)
        if control.bos is not None and adds_bos_token(self._companions, name, otherwise=by_class):
            control = replace(control, prefix=(control.bos,))
        return control

    def _named_control(self, name: str) -> ControlTokens:
        return read_control_tokens(self._companions, self._id_of, name)

    def _id_of(self, piece: str) -> int | None:
        i = int(self._model.piece_to_id(piece))
        return i if self._model.id_to_piece(i) == piece else None

    def encode(self, text: str) -> list[int]:
        return [int(i) for i in self.encode_batch([text])[0]]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        if not self._is_separable:
            return [np.array(self.encode_whole(text), self._dtype) for text in texts]
        content, first, starts = _find_words(texts)
        words, number = _distinct(content, starts)
        if len(self._words) > _MAX_CACHED_WORDS:
            self._words.clear()
        self._cache_words([word for word in words if word not in self._words])
        encoded = [self._words[word] for word in words]
        # The tokens of all distinct words, concatenated, from which those of every word of the texts are gathered.
        tokens = np.frombuffer(b"".join(encoded), self._dtype)
        length = np.fromiter(map(len, encoded), np.int64, len(encoded)) // self._dtype.itemsize
        begin = np.cumsum(length) - length
        ends = np.concatenate([[0], np.cumsum(length[number])])
        ids = tokens[np.arange(ends[-1]) + np.repeat(begin[number] - ends[:-1], length[number])]
        return [ids[start:stop] for start, stop in pairwise(ends[first].tolist())]

    def encode_whole(self, text: str) -> list[int]:
        """Encode `text` by the library; in a lossless model a literal U+2581, which it takes for a space, as bytes."""
        if not self._is_separable or _SPACE not in text:
            return list(self._model.encode(text))
        first, *rest = text.split(_SPACE)
        ids = list(self._model.encode(first))
        for text_after_space in rest:
            ids += self._space_ids + self._model.encode(text_after_space)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        # A model may have more ids than its tokenizer; they have no text.
        return str(self._model.decode([int(i) for i in ids if i != self.eod and i < self.vocab_size]))

    def token_id(self, token: str) -> int | None:
        return self._id_of(token)

    def token_name(self, token: int) -> str | None:
        return str(self._model.id_to_piece(token)) if 0 <= token < self.vocab_size else None

    def files(self) -> dict[str, bytes]:
        return {SENTENCEPIECE_FILE: self._content} | eod_files(self._eod_name) | self._companions

    def _cache_words(self, words: list[str]) -> None:
        """Put the ids of new words into the cache, as bytes of the token type."""
        plain = [word for word in words if _SPACE not in word]
        # One call for all, as a call costs more than a word; in one thread, as a build has several processes.
        for word, ids in zip(plain, self._model.encode(plain, num_threads=1), strict=True):
            self._words[word] = array(self._typecode, ids).tobytes()
        for word in words:
            if _SPACE in word:
                self._words[word] = array(self._typecode, self.encode_whole(word)).tobytes()

    def _keeps_words_apart(self) -> bool:
        """True if encoding word by word gives the tokens of encoding the whole text, and loses nothing."""
        # The normalizer must leave each word as it is, without trimming spaces or adding one before it,
        # and there must be bytes to fall back on.
        probe = "  a  b \t ﬁ é "
        if self._model.normalize(probe) != probe.replace(" ", _SPACE):
            return False
        if not all(self._model.is_byte(i) for i in self._space_ids):
            return False
        tokens = [self._model.id_to_piece(i) for i in range(self.vocab_size) if not self._is_special(i)]
        _, first, _ = _find_words([token.replace(_SPACE, " ") for token in tokens])
        return bool((np.diff(first) <= 1).all())  # no token is more than one word

    def _is_special(self, i: int) -> bool:
        return bool(self._model.is_control(i) or self._model.is_unknown(i) or self._model.is_byte(i))


def split_words(text: str) -> list[str]:
    """Split `text` before every run of spaces and around every newline; joined, the words are the text again."""
    content, _, starts = _find_words([text])
    return [word.tobytes().decode() for word in np.split(content, starts[1:-1])] if text else []


def _find_words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find where the words of some texts begin.

    Returns:
      content: uint8 `[N]`, the texts in UTF-8, concatenated.
      first: integers `[len(texts) + 1]`, the number of each text's first word; the last is the number of words, W.
      starts: int64 `[W + 1]`, where each word begins in `content`; the last is N.
    """
    encoded = [text.encode() for text in texts]
    content = np.frombuffer(b"".join(encoded), np.uint8)
    bounds = np.cumsum([0, *map(len, encoded)])
    newline, space = content == ord("\n"), content == ord(" ")
    begins = newline | space
    begins[1:] &= ~(space[1:] & space[:-1])  # within a run of spaces
    begins[1:] |= newline[:-1]
    begins[bounds[bounds < len(content)]] = True
    starts = np.append(np.flatnonzero(begins), len(content))
    return content, np.searchsorted(starts, bounds), starts


def _distinct(content: np.ndarray, starts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the distinct words `[U]` of `content`, and the index of every word among them, integers `[W]`."""
    # Arrow's dictionary encoding, as Python's dict takes several times as long.
    import pyarrow

    words = pyarrow.LargeStringArray.from_buffers(
        len(starts) - 1, pyarrow.py_buffer(starts), pyarrow.py_buffer(content)
    )
    table = words.dictionary_encode()
    return table.dictionary.to_pylist(), table.indices.to_numpy()
