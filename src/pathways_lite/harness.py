"""Checkpoints as models of EleutherAI's lm-evaluation-harness (extra `lm-eval`, version 0.4.13).

Importing this module registers the model `pathways_lite`; lm_eval reads no entry points, so its own command line is
started from here:

    python -m pathways_lite.harness run --model pathways_lite --model_args run=RUN --tasks TASK --include_path DIR

Contexts are read as they are, without a token before them, as `--model hf` does; `add_bos_token=True` puts what opens a
document in front, as in training.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import lm_eval.models  # noqa: F401 (registers the other models, which lm_eval does only while there are none)
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from pathways_lite.console import print_line
from pathways_lite.data.chat_template import ChatTemplate, find_template
from pathways_lite.data.tokenizers import HFTokenizer
from pathways_lite.errors import UserError, counted
from pathways_lite.evaluation.continuations import Continuation, ContinuationScorer, encode_pair
from pathways_lite.evaluation.generation import decode_after, prompt_of, stops_of
from pathways_lite.objectives.prompts import Prompt, PromptFormat
from pathways_lite.recipe import Mode, Model
from pathways_lite.sampling import Request, Sampler, Sampling, first_stop
from pathways_lite.training.load import TrainedModel, load_model

ROWS = 16
_MAX_TOKENS = 256  # of an answer, lm_eval's default


@register_model("pathways_lite")
class PathwaysLM(TemplateLM):
    """The newest valid checkpoint of a run.

    Args:
      run: a run, stage or checkpoint directory.
      batch_size: requests that are computed at the same time; it does not change results, up to rounding.
      max_length: tokens of context; None: the sequence length that the model was trained on.
      average: use the moving average of the parameters.
      mode: the mode token of a UL2R model in front of every context, whose tokens then see each other.
      add_bos_token: put what opens a document in front of every context.
      dtype: of the computation, float32 or bfloat16; None: the model's.
      options: of lm_eval, for other kinds of models (device, ...); ignored.
    """

    def __init__(
        self,
        run: str | TrainedModel,
        batch_size: int | str = ROWS,
        max_length: int | None = None,
        average: bool = False,
        mode: Mode | None = None,
        add_bos_token: bool = False,
        dtype: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.model = load_model(run, average=average) if isinstance(run, str) else run
        given = {} if dtype in (None, "auto") else {"dtype": dtype}
        self._config = Model.model_validate(self.model.stage.model.model_dump() | given)
        self._mode, self._adds_opener = mode, add_bos_token
        self._tokenizer, self._frame = self.model.tokenizer(), self.model.frame()
        self._prompt_format = PromptFormat.from_objective(self.model.stage.objective, self._frame)
        self._opener, ends = self.model.prompt_tokens(self._tokenizer)
        rows = int(batch_size) if str(batch_size).isdigit() and int(batch_size) > 1 else ROWS
        self.max_length = max_length or self.model.stage.data.seq_len
        self.sampler = Sampler.of_params(
            self._config, self.model.params(), {*self._frame.ids, *ends}, rows=rows, key=jax.random.key(0),
            layout=self.model.components.layout,
        )  # fmt: skip
        self._scorer = ContinuationScorer(self._config, self.sampler.weights, rows=rows, layout=self.sampler.layout)
        self._cut = 0
        if mode is not None:
            self._prompt_format.continuation([], mode)  # one that the model was not trained with is refused now

    # ---- tokens ----

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document."""
        return self._frame.end

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context: the tokenizer's BOS for a published model, or else what opened the
        documents that the model was trained on.
        """
        bos = self._tokenizer.control.bos if self.model.is_imported else None
        return self._frame.opens if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the tokens of a text, and none before it.

        The names of special tokens stand for these where the model has a chat template, whose text has them.
        """
        return self._encode(string)

    @functools.cached_property
    def _encode(self) -> Callable[[str], list[int]]:
        if self._template_source is not None and isinstance(self._tokenizer, HFTokenizer):
            return self._tokenizer.encode_with_special
        return self._tokenizer.encode

    # ---- chats ----

    @functools.cached_property
    def _template_source(self) -> str | None:
        return find_template(self._tokenizer.files(), str(self.model.path))

    @functools.cached_property
    def _chat(self) -> ChatRenderer:
        return ChatRenderer.of_model(self.model)

    @property
    def tokenizer_name(self) -> str:
        """A digest of the tokenizer and its chat template, by which lm_eval tells cached requests apart."""
        return hashlib.sha256(f"{self._tokenizer.fingerprint}\0{self._template_source}".encode()).hexdigest()

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the model's chat template, for the record; None where none is asked for.

        Raises UserError where the model has none, and for a template by its name.
        """
        if isinstance(chat_template, str):
            raise UserError(
                f"--apply_chat_template {chat_template} names a template; the one that is applied is that of the "
                "model's files, so leave the name out"
            )
        return self._chat.template.source if chat_template else None

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the text of messages (`ChatRenderer.render`).

        Raises UserError where the model has no template, or one that refuses the messages.
        """
        return self._chat.render(chat_history, add_generation_prompt)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Cut a text where its own tokens are cut; spaces at the end of the context belong to the continuation.

        lm_eval cuts at the number of the context's own tokens, which leaves nothing to score where one reaches across.
        """
        stripped = context.rstrip()
        return encode_pair(self.tok_encode, stripped, context[len(stripped) :] + continuation)

    def _prompt(self, context: Sequence[int]) -> Prompt:
        """Return what the model reads for the tokens of a context."""
        tokens = list(context)
        if self._mode is not None or self._adds_opener:
            if self._opener and tuple(tokens[: len(self._opener)]) == self._opener:  # a chat template has written it
                tokens = tokens[len(self._opener) :]
            return prompt_of(tokens, self._prompt_format, self._frame, self._mode, self._opener)
        tokens = tokens or [self.prefix_token_id]
        opened = self._prompt_format.continuation([])
        return Prompt(tokens, len(tokens) if opened.prefix_length else 0, self._frame.end)

    # ---- requests ----

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Return nats and whether greedy decoding would write the continuation; contexts are cut from the left."""
        self._cut = 0
        scores = self._scorer.score([self._fit(context, following) for _, context, following in requests])
        results = [(-float(each.nll.sum()), bool(each.likeliest.all())) for each in scores]
        for (texts, _, _), result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, result)
        self._say_cut(len(requests))
        return results

    def _fit(self, context: Sequence[int], following: Sequence[int]) -> Continuation:
        """Return a continuation of the end of a context that has room before it."""
        prompt = self._prompt(context)
        excess = len(prompt.tokens) + len(following) - 1 - self.max_length
        if excess > 0:
            self._cut += 1
            if excess >= len(context):
                raise UserError(
                    f"a continuation has {counted(len(following), 'token')}, which leaves no room for a context in the "
                    f"{self.max_length} tokens of the model; leave the task out, or take a model with a longer context"
                )
            prompt = self._prompt(context[excess:])
        return Continuation(prompt, following)

    def _say_cut(self, requests: int) -> None:
        if self._cut:
            print_line(
                f"warning: {self._cut:,} of {counted(requests, 'request')} had more than {self.max_length} tokens and "
                "lost the beginning of their context"
            )

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the nats of whole texts, in windows of the context that do not see each other.

        These are the predictions of `pathways-lite evaluate` without an overlap, but for the end of the document; and
        the last window of a long text is filled with the text before it.
        """
        owned: list[tuple[int, Continuation]] = []
        for number, (text,) in enumerate(request.args for request in requests):
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            for context, following in map(make_disjoint_window, windows):
                owned.append((number, Continuation(Prompt(context, 0, self._frame.end), following)))
        totals = [0.0] * len(requests)
        for (number, _), scores in zip(owned, self._scorer.score([each for _, each in owned]), strict=True):
            totals[number] -= float(scores.nll.sum())
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return continuations up to the first of their `until` strings, wherever in tokens these begin and end.

        The noise of a request comes from its context, so that a result does not depend on its batch.
        """
        self._cut = 0
        contexts, asked, untils = [], [], []
        stops = self._stops
        for context, options in (request.args for request in requests):
            until, max_tokens, sampling = _generation_options(options)
            tokens = self.tok_encode(context)
            # Room for the answer, but half of the context at most: --model hf refuses answers as long as the context.
            room = max(self.max_length - max_tokens, self.max_length // 2)
            if (excess := len(self._prompt(tokens).tokens) - room) > 0:
                self._cut += 1
                tokens = tokens[excess:]
            contexts.append(tokens)
            untils.append(until)
            asked.append(Request(self._prompt(tokens), sampling, max_tokens, automaton=stops(until).automaton))
        texts = [""] * len(requests)
        for sample in self.sampler.sample(asked):
            written = self._prompt_format.text(list(sample.answer))
            text = decode_after(self._tokenizer, contexts[sample.request], written)
            texts[sample.request] = text[: first_stop(text, untils[sample.request])]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        self._say_cut(len(requests))
        return texts

    @functools.cached_property
    def _stops(self) -> Any:
        return stops_of(self._tokenizer)


@dataclass
class ChatRenderer:
    """Renders chats as `--model hf` does: where the template refuses a system's message, this is left out."""

    template: ChatTemplate
    _has_warned: bool = False

    @classmethod
    def of_model(cls, model: TrainedModel) -> ChatRenderer:
        """Return that of a model. Raises UserError where it has no chat template."""
        return cls(ChatTemplate(model.tokenizer(), str(model.path), option="--apply_chat_template"))

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the text of messages; without a prompt for its answer, the last one is what this begins with."""
        render = self.template.render if add_generation_prompt else self.template.render_begun
        try:
            return render(messages)
        except UserError:
            others = [message for message in messages if message["role"] != "system"]
            if len(others) == len(messages):
                raise
            if not self._has_warned:
                self._has_warned = True
                print_line("warning: the chat template refuses a system's message, which is left out")
            return render(others)


def _generation_options(options: Mapping[str, Any]) -> tuple[tuple[str, ...], int, Sampling]:
    """Return the stop strings, the number of tokens and the rule of a request's options."""
    until = options.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(filter(None, until))
    temperature = 0.0 if options.get("do_sample") is False else float(options.get("temperature") or 0.0)
    sampling = Sampling(temperature, options.get("top_k") or None, options.get("top_p"))
    return until, int(options.get("max_gen_toks") or _MAX_TOKENS), sampling


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except UserError as error:
        print_line(f"error: {error}")
        sys.exit(error.status)
