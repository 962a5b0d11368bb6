"""Text generation: continue prompts, or fill the gaps of a text, by the sampling engine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import jax

from pathways_lite.data.token_bytes import token_bytes
from pathways_lite.data.tokenizers import Tokenizer as TextTokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError
from pathways_lite.objectives.prompts import Prompt, PromptFormat, left_to_right
from pathways_lite.recipe import Mode, Model
from pathways_lite.sampling import FREE, Automaton, Finish, Request, Sample, Sampler, Sampling, first_stop, stop_strings

if TYPE_CHECKING:
    from pathways_lite.data.chat_template import ChatTemplate, Messages

MASK = "<mask>"
"""What stands for a gap in a text that is to be filled."""


class Tokenizer(Protocol):
    """The part of a tokenizer that generation needs."""

    @property
    def eod(self) -> int: ...

    def encode(self, text: str, /) -> list[int]: ...

    def decode(self, tokens: list[int], /) -> str: ...


@dataclass(frozen=True)
class Stops:
    """Strings of which each ends a text, and the automaton that finds them in its tokens."""

    strings: tuple[str, ...] = ()
    automaton: Automaton = field(default=FREE)


def stops_of(tokenizer: TextTokenizer) -> Callable[[Sequence[str]], Stops]:
    """Return a function from strings to what ends a text before any of them, besides its end.

    It raises UserError for an empty string. The tokenizer's bytes are looked up once, and not without a string.
    """
    known = functools.cache(lambda: token_bytes(tokenizer))

    @functools.cache
    def stops(strings: tuple[str, ...]) -> Stops:
        return Stops(strings, stop_strings(strings, known())) if strings else Stops()

    return lambda strings: stops(tuple(strings))


@dataclass(frozen=True, eq=False)
class Question:
    """A text to continue, or a chat to answer.

    prompt: what the model reads. text: its tokens without those around it, after which answers are decoded.
    """

    prompt: Prompt
    text: list[int]


@dataclass(frozen=True, eq=False)
class Generated:
    """A text that was generated.

    prompt: number of the prompt. number: of the sample, among those of its prompt.
    text: what follows the prompt, up to the first stop string.
    sample: its tokens, with their log probabilities; the last one may reach beyond the text.
    """

    prompt: int
    number: int
    text: str
    sample: Sample

    @property
    def finish(self) -> Finish:
        return self.sample.finish


def generate(
    config: Model,
    params: Any,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    key: jax.Array,
    prompt_format: PromptFormat | None = None,
    mode: Mode | None = None,
    frame: DocumentFrame | None = None,
    opener: Sequence[int] | None = None,
    ends: Sequence[int] = (),
) -> str:
    """Continue `prompt`, which begins a document, by up to `max_tokens` tokens, or until the document's end.

    Args:
      temperature, top_k, top_p, min_p: see `Sampling`.
      key: the same key gives the same text.
      prompt_format, mode: how the model is asked to continue; None: as a causal model.
      frame: the tokens around documents; None: those of `prompt_format`, or else the tokenizer's EOD.
      opener: ids before the prompt, instead of EOD; without any, and without a prompt, EOD all the same.
      ends: further ids of which each ends the text (see `TrainedModel.prompt_tokens`).

    Returns:
      The continuation, without the prompt.
    """
    writer = Writer(config, params, tokenizer, prompt_format, mode, frame, opener, tuple(ends), key=key, rows=1)
    sampling = Sampling(temperature, top_k, top_p, min_p)
    return next(writer.continuations([prompt], sampling, max_tokens=max_tokens)).text


def decode_after(tokenizer: Tokenizer, before: list[int], tokens: list[int]) -> str:
    """Return the text of tokens that follow others."""
    # Decoded together: a token alone may lack the space before it, or the first bytes of its character.
    whole, beginning = tokenizer.decode(before + tokens), tokenizer.decode(before)
    return whole.removeprefix(beginning) if whole.startswith(beginning) else tokenizer.decode(tokens)


def prompt_of(
    text: list[int],
    prompt_format: PromptFormat | None,
    frame: DocumentFrame,
    mode: Mode | None = None,
    opener: Sequence[int] | None = None,
) -> Prompt:
    """Return what a model reads before it continues the tokens of a text; see `generate`."""
    ask = left_to_right(text, frame) if prompt_format is None else prompt_format.continuation(text, mode)
    if opener is not None and mode is None and (opened := [*opener, *text]):
        ask = ask._replace(tokens=opened, prefix_length=len(opened) if ask.prefix_length else 0)
    return ask


@dataclass(frozen=True)
class Asker:
    """Makes what a model reads of texts, chats and texts with gaps; it needs no parameters.

    Attributes: see `generate`. chat: the form of messages.
    """

    tokenizer: Tokenizer
    prompt_format: PromptFormat | None = None
    mode: Mode | None = None
    frame: DocumentFrame | None = None
    opener: Sequence[int] | None = None
    chat: ChatTemplate | None = None

    @property
    def document_frame(self) -> DocumentFrame:
        """The tokens around documents."""
        if self.frame is not None:
            return self.frame
        of_format = self.prompt_format
        return DocumentFrame(self.tokenizer.eod) if of_format is None else of_format.special.frame

    def ask(self, prompt: str | Messages) -> Question:
        """Return what the model reads to continue a text, or to answer messages.

        Raises UserError for messages that its chat template refuses.
        """
        if not isinstance(prompt, str):
            assert self.chat is not None
            ids = self.chat.encode(prompt)
            return Question(Prompt(ids, 0, self.document_frame.end), ids)
        text = self.tokenizer.encode(prompt)
        return Question(self.prompt_of(text), text)

    def prompt_of(self, text: list[int]) -> Prompt:
        """Return what the model reads to continue the tokens of a text."""
        return prompt_of(text, self.prompt_format, self.document_frame, self.mode, self.opener)

    def infill(self, text: str) -> tuple[Prompt, list[list[int]]]:
        """Return what the model reads to fill every `<mask>` of a text, and the tokens between the masks.

        Raises UserError where there is no mask, or more than the model can be asked to fill.
        """
        parts = [self.tokenizer.encode(stretch) for stretch in text.split(MASK)]
        if len(parts) == 1:
            raise UserError(f"there is no gap to fill: write {MASK} where text is missing")
        if self.prompt_format is None:
            raise UserError("a causal model cannot fill gaps")
        return self.prompt_format.infill(parts, self.mode), parts


class Writer:
    """Writes texts with a model: many samples of many prompts in one batch.

    Args: see `generate` and `Asker`. rows: texts that are written at the same time, at most. chunk: tokens between two
    looks.
    """

    def __init__(
        self,
        config: Model,
        params: Any,
        tokenizer: Tokenizer,
        prompt_format: PromptFormat | None = None,
        mode: Mode | None = None,
        frame: DocumentFrame | None = None,
        opener: Sequence[int] | None = None,
        ends: tuple[int, ...] = (),
        chat: ChatTemplate | None = None,
        **options: Any,
    ) -> None:
        self._tokenizer, self._prompt_format = tokenizer, prompt_format
        self.asker = Asker(tokenizer, prompt_format, mode, frame, opener, chat)
        self.sampler = Sampler.of_params(config, params, {*self.asker.document_frame.ids, *ends}, **options)

    def continuations(
        self,
        prompts: Sequence[str | Question],
        sampling: Sampling,
        *,
        max_tokens: int,
        samples: int = 1,
        first_sample: int = 0,
        stops: Stops | Sequence[Stops] = Stops(),
        watch: Callable[[list[Generated]], None] | None = None,
    ) -> Iterator[Generated]:
        """Yield the continuations of the prompts as they end.

        Args:
          prompts: texts, or what `ask` made of them.
          stops: what ends a text, one for all prompts or one for each.
          watch: is given the unfinished continuations now and then.
        """
        each = [stops] * len(prompts) if isinstance(stops, Stops) else list(stops)
        questions = [self.asker.ask(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        requests = [
            Request(question.prompt, sampling, max_tokens, samples, first_sample, its_stops.automaton)
            for question, its_stops in zip(questions, each, strict=True)
        ]

        def finish(sample: Sample) -> Generated:
            text = self._continuation(questions[sample.request].text, sample.answer)
            end = first_stop(text, each[sample.request].strings)
            return Generated(sample.request, sample.number, text[:end], sample)

        def show(unfinished: list[Sample]) -> None:
            assert watch is not None
            watch([finish(sample) for sample in unfinished])

        yield from map(finish, self.sampler.sample(requests, None if watch is None else show))

    def filled(self, text: str, sampling: Sampling, *, max_tokens: int, samples: int = 1) -> Iterator[Generated]:
        """Yield whole texts, with every `<mask>` of `text` filled.

        Raises:
          UserError: there is no mask, or there are more than the model can be asked to fill.
        """
        prompt, parts = self.asker.infill(text)
        prompt_format = self._prompt_format
        assert prompt_format is not None
        for sample in self.sampler.sample([Request(prompt, sampling, max_tokens, samples)]):
            tokens = parts[0]
            gaps = prompt_format.parse_gaps(sample.answer, len(parts) - 1)
            for gap, following in zip(gaps, parts[1:], strict=True):
                tokens = tokens + gap + following
            yield Generated(0, sample.number, self._tokenizer.decode(tokens), sample)

    def _continuation(self, text: list[int], answer: list[int]) -> str:
        answer = answer if self._prompt_format is None else self._prompt_format.text(answer)
        return decode_after(self._tokenizer, text, answer)
