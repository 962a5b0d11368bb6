"""Asking a model for what its objective taught it: prompts in the form of its training examples, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pathways_lite.errors import UserError
from pathways_lite.objectives.denoisers import DenoiserSpec, ExampleFormat, denoiser_specs, unused_ids
from pathways_lite.objectives.segments import Special
from pathways_lite.recipe.objective import Causal, Mode, Objective, SpanCorruption

Tokens = Sequence[int]


class Prompt(NamedTuple):
    """What a model reads before it writes."""

    tokens: list[int]
    prefix_length: int  # of them, so many see each other; 0: all only what is before them
    end: int  # the token that ends the answer; EOD does, too


def left_to_right(text: Tokens, eod: int) -> Prompt:
    """The beginning of a document, to be continued as by a causal model."""
    return Prompt([eod, *text], 0, eod)


@dataclass(frozen=True)
class PromptFormat:
    """How to ask a model that was trained with some objective."""

    special: Special
    members: tuple[DenoiserSpec, ...]

    @classmethod
    def of(cls, objective: Objective, eod: int) -> PromptFormat:
        """For a resolved objective."""
        tokens = None if isinstance(objective, Causal) else objective.tokens
        return cls(Special(eod, tokens), tuple(denoiser_specs(objective)))

    @classmethod
    def untrained(cls, *, text_ids: int, vocab_size: int, eod: int) -> PromptFormat:
        """For a causal model, whose answers show what training with UL2R's R-denoiser begins with.

        Raises UserError where it has no unused ids.
        """
        tokens = unused_ids(text_ids, vocab_size)
        if tokens is None:
            raise UserError(
                f"the model has vocab_size={vocab_size} and its tokenizer {text_ids} tokens: no id is left that could "
                "stand for a gap; a model needs some to be asked to fill it"
            )
        return cls(Special(eod, tokens), tuple(denoiser_specs(SpanCorruption(mode="nlu", tokens=tokens))))

    @property
    def infilling(self) -> ExampleFormat | None:
        """The form in which gaps are filled; None where the objective has none."""
        found = {member.form for member in self.members}
        return next(
            (
                form
                for form in (ExampleFormat.SPANS, ExampleFormat.CODEGEN2, ExampleFormat.PSM, ExampleFormat.SPM)
                if form in found
            ),
            None,
        )

    def continuation(self, text: Tokens, mode: Mode | None = None) -> Prompt:
        """Ask to continue a text, with a mode token instead of EOD or without any.

        In a mode of span corruption alone, as UL2R's nlg and nlu, what follows the text is the first gap. With a mode,
        or where a prefix LM without one was trained, the text's tokens see each other.
        """
        if mode is None:
            together = any(member.form is ExampleFormat.PREFIX and member.mode is None for member in self.members)
            tokens = [self.special.eod, *text]
            return Prompt(tokens, len(tokens) if together else 0, self.special.eod)
        forms = {member.form for member in self.members if member.mode == mode}
        if not forms:
            known = sorted({member.mode for member in self.members if member.mode is not None})
            raise UserError(f"the model was not trained with mode {mode!r}; {_or(known)}")
        gap = [] if ExampleFormat.PREFIX in forms else [self.special.id("first_sentinel")]
        tokens = [self.special.id(mode), *text, *gap]
        return Prompt(tokens, len(tokens), self.special.eod)

    def infill(self, parts: Sequence[Tokens], mode: Mode | None = None) -> Prompt:
        """Ask for what stands between the parts of a text, one gap less than parts; the last part may be empty.

        Span corruption always masks the end of a text. So where a part stands behind the last gap, what follows it is
        one gap more, and its sentinel ends the answer.

        Raises UserError where the objective has no infilling, or none for so many gaps.
        """
        form, gaps = self.infilling, len(parts) - 1
        if form is None:
            raise UserError(
                "the model was not trained to fill gaps; use one whose objective has span corruption or infilling"
            )
        if form in (ExampleFormat.PSM, ExampleFormat.SPM) and gaps != 1:
            raise UserError(f"the model was trained to fill one gap (fill-in-the-middle), not {gaps}")
        special, opener = self.special, self._opener(form, mode)
        if form in (ExampleFormat.PSM, ExampleFormat.SPM):
            prefix, suffix = [special.id("prefix"), *parts[0]], [special.id("suffix"), *parts[1]]
            ordered = prefix + suffix if form is ExampleFormat.PSM else suffix + prefix
            return Prompt([*ordered, special.id("middle")], 0, special.eod)
        goes_on = form is ExampleFormat.SPANS and len(parts[-1]) > 0
        sentinels = self._sentinels(gaps + goes_on)
        tokens = [opener, *parts[0]]
        for sentinel, part in zip(sentinels, parts[1:], strict=False):
            tokens += [sentinel, *part]
        if form is ExampleFormat.CODEGEN2:
            return Prompt([*tokens, special.eod, special.id("separator")], 0, special.eod)
        tokens += sentinels[gaps:]
        return Prompt(tokens, len(tokens), sentinels[gaps] if goes_on else special.eod)

    def can_fill(self, gaps: int) -> bool:
        """Whether `infill` can ask for so many gaps of one text."""
        if self.infilling in (None, ExampleFormat.PSM, ExampleFormat.SPM):
            return self.infilling is not None and gaps == 1
        tokens = self.special.tokens
        return tokens is not None and gaps + (self.infilling is ExampleFormat.SPANS) <= tokens.sentinels

    def answer(self, gaps: Sequence[Tokens]) -> list[int]:
        """What the right answer to `infill` is, without the prompt's `end`."""
        tokens: list[int] = []
        marked, ended = (
            self.infilling in (ExampleFormat.SPANS, ExampleFormat.CODEGEN2),
            self.infilling is ExampleFormat.CODEGEN2,
        )
        for number, gap in enumerate(gaps):
            tokens += self._sentinels(number + 1)[number:] if marked else []
            tokens += gap
            tokens += [self.special.id("end_of_span")] if ended else []
        return tokens

    def gaps(self, answer: Tokens, count: int) -> list[list[int]]:
        """What an answer puts into each of `count` gaps; special tokens are left out."""
        if self.infilling in (ExampleFormat.PSM, ExampleFormat.SPM):
            return [self.text(answer)]
        found: list[list[int]] = [[] for _ in range(count)]
        current: list[int] | None = None
        sentinels = {sentinel: number for number, sentinel in enumerate(self._sentinels(count))}
        for token in answer:
            if token in sentinels:
                current = found[sentinels[token]]
            elif current is not None and self._is_text(token):
                current.append(token)
        return found

    def text(self, answer: Tokens) -> list[int]:
        """The tokens of an answer that stand for text."""
        return [token for token in answer if self._is_text(token)]

    def _sentinels(self, count: int) -> list[int]:
        """Of the first `count` gaps. Raises UserError where there are fewer."""
        tokens = self.special.tokens
        assert tokens is not None
        if count > tokens.sentinels:
            raise UserError(f"so many gaps take {count} sentinels, but the model has {tokens.sentinels}; ask for fewer")
        return [tokens.first_sentinel - number for number in range(count)]

    def _is_text(self, token: int) -> bool:
        tokens = self.special.tokens
        if tokens is None:
            return token != self.special.eod
        sentinel = tokens.first_sentinel - tokens.sentinels < token <= tokens.first_sentinel
        return token != self.special.eod and token not in tokens.named.values() and not sentinel

    def _opener(self, form: ExampleFormat, mode: Mode | None) -> int:
        modes = [member.mode for member in self.members if member.form is form]
        if mode is not None and mode not in modes:
            known = sorted({known for known in modes if known is not None})
            raise UserError(f"the model was not trained to fill gaps with mode {mode!r}; {_or(known)}")
        # Short gaps are what regular span corruption is about.
        chosen: Mode | None = mode or ("nlu" if "nlu" in modes else modes[0])
        return self.special.eod if chosen is None else self.special.id(chosen)


def _or(modes: Sequence[str]) -> str:
    return f"use {' or '.join(modes)}" if modes else "it has no mode tokens"
