"""Whether a tokenizer's tokens give the text back, measured on a sample of every shard of a build."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pathways_lite.data.tokenizers import Tokenizer

_SAMPLE_CHARACTERS = 1 << 16  # of a document
_MIN_CHARACTERS, _SHARE = 1 << 15, 1 / 64  # checked of every shard, at least and of a long one


@dataclass(frozen=True)
class RoundTrip:
    """Counts of sampled documents, and of those that their tokens do not give back."""

    documents: int = 0
    documents_lost: int = 0
    bytes: int = 0  # UTF-8, of all sampled text
    bytes_lost: int = 0  # of characters that are not in what the tokens give back

    def __add__(self, other: RoundTrip) -> RoundTrip:
        return RoundTrip(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def is_lossy(self) -> bool:
        """True if some text cannot be restored from its tokens, so that bits per byte are not a code length."""
        return self.documents_lost > 0

    def __str__(self) -> str:
        if not self.is_lossy:
            return f"all {self.documents:,} sampled documents are restored from their tokens"
        return (
            f"the tokenizer loses text: {self.documents_lost:,} of {self.documents:,} sampled documents "
            f"({self.documents_lost / self.documents:.1%}) cannot be restored from their tokens, and "
            f"{self.bytes_lost / max(1, self.bytes):.1%} of the sampled bytes are gone. So bits per byte are not a "
            "code length on this corpus, and are marked with *. A tokenizer with bytes to fall back on, and without a "
            "normalizer, loses nothing; sentencepiece:SIZE trains one"
        )


def round_trip(tokenizer: Tokenizer, text: str) -> RoundTrip:
    """Encode and decode the beginning of a text, and count what is lost."""
    sample = text[:_SAMPLE_CHARACTERS]
    restored = tokenizer.decode(tokenizer.encode(sample))
    size = len(sample.encode())
    if restored == sample:
        return RoundTrip(1, 0, size, 0)
    missing = Counter(sample) - Counter(restored)
    return RoundTrip(1, 1, size, sum(len(character.encode()) * n for character, n in missing.items()))


class RoundTripSampler:
    """Checks a few documents of a shard, evenly spread: always the same ones."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.result = RoundTrip()
        self._tokenizer = tokenizer
        self._read = self._checked = 0

    def add(self, text: str) -> None:
        """Take note of the shard's next document, and check it if it is its turn."""
        if self._checked <= _MIN_CHARACTERS + _SHARE * self._read:
            self.result += round_trip(self._tokenizer, text)
            self._checked += min(len(text), _SAMPLE_CHARACTERS)
        self._read += len(text)
