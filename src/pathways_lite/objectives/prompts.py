"""Prompts: ask a model for what its objective taught it, in the format of its training examples, and parse the answers.

Continuations are those of a causal model, a prefix LM or a mode of UL2R; gaps are filled by span corruption,
fill-in-the-middle (PSM, SPM) or CodeGen2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError
from pathways_lite.objectives.denoisers import (
    DenoiserSpec,
    ExampleFormat,
    SpecialIds,
    default_special_tokens,
    denoiser_specs,
)
from pathways_lite.recipe.objective import Causal, Mode, Objective, SpanCorruption

Tokens = Sequence[int]

# In order of preference, where an objective has several.
_FILL_IN_THE_MIDDLE = (ExampleFormat.PSM, ExampleFormat.SPM, ExampleFormat.SPM_JOINT)
_INFILL_FORMATS = (ExampleFormat.SPANS, ExampleFormat.CODEGEN2, *_FILL_IN_THE_MIDDLE)


class Prompt(NamedTuple):
    """What a model reads before it writes."""

    tokens: list[int]
    prefix_length: int  # number of tokens, from the first on, that see each other; 0: causal attention
    end: int  # the token that ends the answer; the end of a document does, too


def left_to_right(text: Tokens, frame: DocumentFrame) -> Prompt:
    """Ask to continue the beginning of a document, as a causal model does."""
    return Prompt([frame.opens, *text], 0, frame.end)


@dataclass(frozen=True)
class PromptFormat:
    """The prompts of a model that was trained with some objective."""

    special: SpecialIds
    denoisers: tuple[DenoiserSpec, ...]

    @classmethod
    def from_objective(cls, objective: Objective, frame: DocumentFrame) -> PromptFormat:
        """Return the format of a resolved objective, one with special tokens."""
        tokens = None if isinstance(objective, Causal) else objective.tokens
        return cls(SpecialIds(frame, tokens), tuple(denoiser_specs(objective)))

    @classmethod
    def for_untrained(
        cls, *, text_ids: int, vocab_size: int, frame: DocumentFrame, reserved: Callable[[], Sequence[int]] = tuple
    ) -> PromptFormat:
        """Return the format of UL2R's R-denoiser for a causal model: its answers show where training starts.

        `reserved`: see `resolve_special_tokens`.

        Raises:
          UserError: the model has no unused ids.
        """
        tokens = default_special_tokens(text_ids, vocab_size, reserved=reserved)
        if tokens is None:
            raise UserError(
                f"the model has vocab_size={vocab_size} and its tokenizer {text_ids} tokens: no id is left to stand "
                "for a gap; only a model with unused ids can be asked to fill gaps; pathways-lite grow --operator "
                "vocabulary adds some"
            )
        return cls(SpecialIds(frame, tokens), tuple(denoiser_specs(SpanCorruption(mode="nlu", tokens=tokens))))

    @property
    def infill_format(self) -> ExampleFormat | None:
        """The format in which gaps are filled; None if the objective has none."""
        formats = {denoiser.format for denoiser in self.denoisers}
        return next((format for format in _INFILL_FORMATS if format in formats), None)

    # ---- prompts ----

    def continuation(self, text: Tokens, mode: Mode | None = None) -> Prompt:
        """Ask to continue `text`, after a mode token instead of the opening one if `mode` is given.

        In a mode that only span corruption has, as UL2R's nlg and nlu, what follows the text is the first gap. The
        text's tokens see each other if a mode is given, or if a prefix LM without a mode was trained.

        Raises:
          UserError: the model was not trained with `mode`.
        """
        if mode is None:
            bidirectional = any(d.format is ExampleFormat.PREFIX and d.mode is None for d in self.denoisers)
            tokens = [self.special.frame.opens, *text]
            return Prompt(tokens, len(tokens) if bidirectional else 0, self.special.frame.end)
        formats = {denoiser.format for denoiser in self.denoisers if denoiser.mode == mode}
        if not formats:
            modes = sorted({denoiser.mode for denoiser in self.denoisers if denoiser.mode is not None})
            raise UserError(f"the model was not trained with mode {mode!r}; {_suggest(modes)}")
        gap = [] if ExampleFormat.PREFIX in formats else self._sentinels(1)
        tokens = [self.special.id(mode), *text, *gap]
        return Prompt(tokens, len(tokens), self.special.frame.end)

    def infill(self, texts: Sequence[Tokens], mode: Mode | None = None) -> Prompt:
        """Ask for the gaps between `texts`, one gap less than texts; the last text may be empty.

        Span corruption always masks the end of a text. So if there is text after the last gap, what follows that text
        is one more gap, and its sentinel ends the answer.

        Raises:
          UserError: the objective has no infilling, or none for this number of gaps.
        """
        format, n_gaps = self.infill_format, len(texts) - 1
        if format is None:
            raise UserError(
                "the model was not trained to fill gaps; use one whose objective has span corruption or infilling"
            )
        if format in _FILL_IN_THE_MIDDLE and n_gaps != 1:
            raise UserError(f"the model was trained to fill one gap (fill-in-the-middle), not {n_gaps}")
        special, start_token = self.special, self._start_token(format, mode)
        if format is ExampleFormat.SPM_JOINT:
            before = [special.id("prefix"), special.id("suffix"), *texts[1], special.id("middle")]
            return Prompt([*before, *texts[0]], 0, special.frame.end)
        if format in _FILL_IN_THE_MIDDLE:
            prefix, suffix = [special.id("prefix"), *texts[0]], [special.id("suffix"), *texts[1]]
            context = prefix + suffix if format is ExampleFormat.PSM else suffix + prefix
            return Prompt([*context, special.id("middle")], 0, special.frame.end)
        text_follows = format is ExampleFormat.SPANS and len(texts[-1]) > 0
        sentinels = self._sentinels(n_gaps + text_follows)
        tokens = [start_token, *texts[0]]
        for sentinel, text in zip(sentinels, texts[1:], strict=False):
            tokens += [sentinel, *text]
        if format is ExampleFormat.CODEGEN2:
            return Prompt([*tokens, special.frame.end, special.id("separator")], 0, special.frame.end)
        tokens += sentinels[n_gaps:]
        return Prompt(tokens, len(tokens), sentinels[n_gaps] if text_follows else special.frame.end)

    def can_fill(self, n_gaps: int) -> bool:
        """Return whether `infill` can ask for `n_gaps` gaps of one text."""
        if self.infill_format is None or self.infill_format in _FILL_IN_THE_MIDDLE:
            return self.infill_format is not None and n_gaps == 1
        tokens = self.special.tokens
        return tokens is not None and n_gaps + (self.infill_format is ExampleFormat.SPANS) <= tokens.sentinels

    # ---- answers ----

    def expected_answer(self, gaps: Sequence[Tokens]) -> list[int]:
        """Return the right answer to `infill`, without the prompt's `end`."""
        if self.infill_format in _FILL_IN_THE_MIDDLE:
            return [token for gap in gaps for token in gap]
        end_of_span = [self.special.id("end_of_span")] if self.infill_format is ExampleFormat.CODEGEN2 else []
        return [
            token
            for sentinel, gap in zip(self._sentinels(len(gaps)), gaps, strict=True)
            for token in (sentinel, *gap, *end_of_span)
        ]

    def parse_gaps(self, answer: Tokens, n_gaps: int) -> list[list[int]]:
        """Return what an answer puts into each of `n_gaps` gaps, without special tokens."""
        if self.infill_format in _FILL_IN_THE_MIDDLE:
            return [self.text(answer)]
        gaps: list[list[int]] = [[] for _ in range(n_gaps)]
        current: list[int] | None = None
        gap_of_sentinel = {sentinel: number for number, sentinel in enumerate(self._sentinels(n_gaps))}
        for token in answer:
            if token in gap_of_sentinel:
                current = gaps[gap_of_sentinel[token]]
            elif current is not None and self.special.is_text(token):
                current.append(token)
        return gaps

    def text(self, answer: Tokens) -> list[int]:
        """Return an answer without its special tokens."""
        return [token for token in answer if self.special.is_text(token)]

    # ---- tokens ----

    def _sentinels(self, count: int) -> list[int]:
        """Return the sentinels of the first `count` gaps. Raises UserError if there are fewer."""
        tokens = self.special.tokens
        assert tokens is not None
        if count > tokens.sentinels:
            raise UserError(
                f"these gaps need {count} sentinels, but the model has {tokens.sentinels}; ask for fewer gaps"
            )
        return list(tokens.sentinel_ids[:count])

    def _start_token(self, format: ExampleFormat, mode: Mode | None) -> int:
        modes = [denoiser.mode for denoiser in self.denoisers if denoiser.format is format]
        if mode is not None and mode not in modes:
            trained = sorted({mode for mode in modes if mode is not None})
            raise UserError(f"the model was not trained to fill gaps with mode {mode!r}; {_suggest(trained)}")
        # Short gaps are what regular span corruption (nlu) is for.
        return self.special.start_token(mode or ("nlu" if "nlu" in modes else modes[0]))


def _suggest(modes: Sequence[str]) -> str:
    return f"use {' or '.join(modes)}" if modes else "it has no mode tokens"
