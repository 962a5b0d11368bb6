"""Verifiers of answers that are one value: text, integers, one of several names, GSM8K's numbers."""

from __future__ import annotations

import re
import string
import unicodedata
from fractions import Fraction
from typing import Literal

from pydantic import Field, field_validator

from pathways_lite.tasks.verdict import INTEGER, Verdict, Verifier, compare, first_line

_GSM8K_NUMBER = re.compile(r"\s*\$?(-?[0-9][0-9,]{0,63}(?:\.[0-9]{1,64})?)")
_LONGEST = 1000  # characters of an answer that are compared


class ExactText(Verifier):
    """The first line, in Unicode's form NFC and with single spaces, is the answer."""

    kind: Literal["text"] = "text"
    answer: str

    def judge(self, text: str) -> Verdict:
        answer = _plain(first_line(text))
        return compare(answer or None, _plain(self.answer))


class FirstWord(Verifier):
    """The first word is the answer, punctuation around it aside: cloze tests, whose text goes on after the word."""

    kind: Literal["word"] = "word"
    answer: str = Field(min_length=1)

    def judge(self, text: str) -> Verdict:
        words = _plain(text).split(" ", 1)
        return compare(words[0].strip(string.punctuation) or None, _plain(self.answer).strip(string.punctuation))


class ExactInteger(Verifier):
    """The first line is an integer in decimal digits; leading zeros do not count."""

    kind: Literal["integer"] = "integer"
    answer: int

    def judge(self, text: str) -> Verdict:
        line = first_line(text)
        return compare(str(int(line)) if INTEGER.fullmatch(line) else None, str(self.answer))


class AnyOfNames(Verifier):
    """The first line, a final period aside, is one of the names of the answer; upper and lower case are the same."""

    kind: Literal["names"] = "names"
    names: tuple[str, ...] = Field(min_length=1)

    def judge(self, text: str) -> Verdict:
        answer = _plain(first_line(text).removesuffix(".")).casefold()
        known = {_plain(name).casefold(): _plain(self.names[0]).casefold() for name in self.names}
        return compare(known.get(answer, answer) or None, next(iter(known.values())))


class GSM8KNumber(Verifier):
    """The number after the first `####` is the answer; commas and a dollar sign do not count (arXiv 2110.14168).

    A model that goes on with the next problem writes a second `####`, which does not count.
    """

    kind: Literal["gsm8k"] = "gsm8k"
    answer: str

    @field_validator("answer")
    @classmethod
    def _is_number(cls, answer: str) -> str:
        if gsm8k_number(f"####{answer}") is None:
            raise ValueError(f"{answer!r} is not a number")
        return answer

    def judge(self, text: str) -> Verdict:
        expected = gsm8k_number(f"####{self.answer}")
        assert expected is not None
        return compare(gsm8k_number(text), expected)


def gsm8k_number(text: str) -> str | None:
    """Return the number after the first `####` as a fraction in lowest terms (`18`, `1/2`); None if there is none."""
    _, mark, rest = text.partition("####")
    match = _GSM8K_NUMBER.match(rest) if mark else None
    return str(Fraction(match[1].replace(",", ""))) if match else None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text[:_LONGEST]).split())
