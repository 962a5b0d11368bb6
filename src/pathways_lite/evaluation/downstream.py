"""Evaluate a model on tasks: likelihoods of answers, and answers that it writes, judged by exact verifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from pathways_lite.data.tokenizers import Tokenizer as TextTokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError, counted
from pathways_lite.evaluation.choice_scores import AnswerScores, brier, means_json, picks, probabilities
from pathways_lite.evaluation.continuations import Continuation, ContinuationScorer, encode_pair
from pathways_lite.evaluation.generation import Writer, prompt_of, stops_of
from pathways_lite.evaluation.task_chat import TaskChat
from pathways_lite.evaluation.token_scores import TokenScores
from pathways_lite.models.decoder import ONE_DEVICE
from pathways_lite.objectives.prompts import Prompt, PromptFormat
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Mode, Stage
from pathways_lite.sampling import GREEDY
from pathways_lite.tasks.scored_items import Item, Task

ROWS = 16
UNCONDITIONAL = "Answer:"  # the context of the third normalization
_SPARE_TOKENS = 16  # of a written answer beyond the longest right one

Report = Callable[[int], None]


class _Pairs(NamedTuple):
    """What is scored of a task: its answers in order, and for choices the same after "Answer:"."""

    conditional: list[Continuation]
    unconditional: list[Continuation]


@dataclass
class TaskEvaluator:
    """Evaluates models of one tokenizer and format of prompts on tasks.

    Attributes:
      stage: what the models were trained as: its model, objective and sequence length.
      tokenizer, frame: of the models, and of the documents that they were trained on.
      opener, ends, mode: see `generate`.
      rows: continuations scored, or answers written, at the same time; changes speed and memory, not results.
      chat: how an instruct model is asked tasks that were opened for a chat; None: it continues texts.
      layout, gather: of the parameters, and whether each device gets all of them (`Sampler`).
    """

    tasks: Sequence[Task]
    stage: Stage
    tokenizer: TextTokenizer
    frame: DocumentFrame
    opener: Sequence[int] | None = None
    ends: tuple[int, ...] = ()
    mode: Mode | None = None
    rows: int = ROWS
    chat: TaskChat | None = None
    layout: Layout = ONE_DEVICE
    gather: bool = True
    _pairs: dict[str, _Pairs] = field(default_factory=dict)

    def prepare(self) -> None:
        """Encode all items. Raises UserError where one is longer than the context."""
        for task in self.tasks:
            if task.name not in self._pairs:
                self._pairs[task.name] = self._encode(task)

    def evaluate(self, params: Any, report: Report = lambda items: None) -> dict[str, dict[str, Any]]:
        """Return the results of every task by its name (`summarize`).

        `report` is told how many items are done, also 0 between batches. Raises UserError where an item is longer than
        the context.
        """
        self.prepare()
        config = self.stage.model
        writer = Writer(
            config, params, self.tokenizer, self._prompt_format, self.mode, None, self.opener, self.ends,
            None if self.chat is None else self.chat.template, rows=self.rows, layout=self.layout, gather=self.gather,
        )  # fmt: skip
        sampler = writer.sampler
        scorer = ContinuationScorer(config, sampler.weights, rows=self.rows, layout=sampler.layout)
        return {task.name: self._evaluate_task(task, writer, scorer, report) for task in self.tasks}

    @property
    def items(self) -> int:
        """Number of items of all tasks."""
        return sum(len(task.items) for task in self.tasks)

    def _evaluate_task(self, task: Task, writer: Writer, scorer: ContinuationScorer, report: Report) -> dict[str, Any]:
        pairs = self._pairs[task.name]
        scored, unconditional = (scorer.score(each, lambda rows: report(0)) for each in pairs)
        written = None if task.has_choices else self._write(task, pairs, writer, report)
        report(len(task.items))
        return {**summarize(task, scored, unconditional, written), "digest": self.digest(task)}

    def digest(self, task: Task) -> str:
        """Return the digest of what is asked; results with different ones are not comparable."""
        return task.digest if self.chat is None else self.chat.digest(task)

    @property
    def _prompt_format(self) -> PromptFormat:
        return PromptFormat.from_objective(self.stage.objective, self.frame)

    def _encode(self, task: Task) -> _Pairs:
        conditional, unconditional = [], []
        for item in task.items:
            for answer in item.answers:
                pair = self._pair(item, answer)
                if _length(pair) > self.stage.data.seq_len:
                    raise self._too_long(task, item, pair)
                conditional.append(pair)
                if task.has_choices:
                    space = "" if answer[0].isspace() else " "
                    unconditional.append(self._continuation(UNCONDITIONAL, space + answer))
        return _Pairs(conditional, unconditional)

    def _continuation(self, context: str, answer: str) -> Continuation:
        before, following = encode_pair(self.tokenizer.encode, context, answer)
        return Continuation(prompt_of(before, self._prompt_format, self.frame, self.mode, self.opener), following)

    def _reply(self, item: Item, answer: str) -> Continuation:
        """Return an answer as the assistant's."""
        assert self.chat is not None
        before, following = encode_pair(self.chat.template.encode_text, self.chat.context(item), answer)
        return Continuation(Prompt(before, 0, self.frame.end), following)

    def _too_long(self, task: Task, item: Item, pair: Continuation) -> UserError:
        fewer = self._fitting_shots(task) if task.shots else ""
        return UserError(
            f"task {task.name}: item {item.id!r} has {counted(_length(pair), 'token')} with its answer"
            f"{' and shots' if task.shots else ''}, and the model was trained on sequences of "
            f"{self.stage.data.seq_len}; {fewer}leave such items out, or take a model with a longer context"
        )

    def _fitting_shots(self, task: Task) -> str:
        """Say with how many shots, fewer than the task has, all of its items fit the context; before other advice."""
        most = task.shots - 1
        for item in task.items:
            if self._fits(item, most):
                continue
            none, some = -1, most  # the most that are known to fit, and what is known not to
            while some - none > 1:
                middle = (none + some) // 2
                none, some = (middle, some) if self._fits(item, middle) else (none, middle)
            if (most := none) < 0:
                return "even without shots not all items fit: "
        if not most:
            return "not one shot fits: leave --shots out, "
        return f"at most {counted(most, 'shot')} fit{'s' * (most == 1)}: use --shots {most}, "

    def _fits(self, item: Item, shots: int) -> bool:
        """Return whether an item with its first `shots` shots and each of its answers fits the context."""
        fewer = replace(item, shots=item.shots[:shots])
        return all(_length(self._pair(fewer, answer)) <= self.stage.data.seq_len for answer in item.answers)

    def _pair(self, item: Item, answer: str) -> Continuation:
        """Return an answer as a continuation of what is asked, or as the assistant's."""
        return self._continuation(item.prompt, answer) if self.chat is None else self._reply(item, answer)

    def _write(self, task: Task, pairs: _Pairs, writer: Writer, report: Report) -> list[str]:
        """Return what the model writes by greedy decoding after each prompt."""
        prompts = [
            writer.asker.ask(item.prompt if self.chat is None else self.chat.messages(item)) for item in task.items
        ]
        longest = max(len(pair.tokens) for pair in pairs.conditional)
        stops = stops_of(self.tokenizer)
        texts = dict.fromkeys(range(len(prompts)), "")
        for result in writer.continuations(
            prompts, GREEDY, max_tokens=longest + _SPARE_TOKENS, stops=[stops(item.stop) for item in task.items]
        ):
            texts[result.prompt] = result.text
            report(0)
        return list(texts.values())


def _length(pair: Continuation) -> int:
    """Return the tokens that a model reads to score an answer: its last one is only predicted."""
    return len(pair.prompt.tokens) + len(pair.tokens) - 1


def summarize(
    task: Task, scored: Sequence[TokenScores], unconditional: Sequence[TokenScores], written: Sequence[str] | None
) -> dict[str, Any]:
    """Return the result of a task.

    It has `items`, `shots`, `chance`; and as means over items, each with its standard error `NAME_se`:
    `accuracy`; of choices also `accuracy_sum`, `accuracy_token` and `accuracy_unconditional`, one of which is
    `accuracy` (`normalization`); `log_p`, nats of the right answer; `loss`, its nats per byte, negated; `p`, the
    probability of the right one among the choices, or of the right solution among all texts; `brier` of the same, where
    all other texts count as one.
    """
    groups = [item.group for item in task.items]
    columns: dict[str, list[float]] = {}
    place = 0
    for number, item in enumerate(task.items):
        own = slice(place, place := place + len(item.answers))
        logp = np.array([-each.nll.sum() for each in scored[own]])
        values: dict[str, float]
        if written is None:
            counts = np.array([len(each.nll) for each in scored[own]])
            empty = np.array([-each.nll.sum() for each in unconditional[own]])
            picked = picks(AnswerScores(logp, counts, empty))
            p = probabilities(logp)
            values = {"accuracy": picked[task.normalization] == item.right}
            values |= {f"accuracy_{name}": choice == item.right for name, choice in picked.items()}
        else:
            assert item.verifier is not None
            p = np.array([np.exp(logp[0]), -np.expm1(logp[0])])
            values = {"accuracy": item.verifier.judge(written[number]).correct}
        log_p = float(logp[item.right])
        values |= {"log_p": log_p, "loss": -log_p / len(item.solution.encode())}
        values |= {"p": float(p[item.right]), "brier": brier(p, item.right)}
        for name, value in values.items():
            columns.setdefault(name, []).append(float(value))
    facts: dict[str, Any] = {"items": len(task.items), "shots": task.shots, "chance": task.chance}
    if task.has_choices:
        facts["normalization"] = task.normalization
    return {**facts, **means_json(columns, groups)}
