"""Many samples of every problem of a list, drawn part by part into a directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from pathways_lite.errors import UserError, counted
from pathways_lite.evaluation.generation import Generated, Question, Stops, Writer
from pathways_lite.recipe import Model
from pathways_lite.sampling import Sampling
from pathways_lite.sampling.files import Part, SampleDirectory, sampling_cost


class Asked(NamedTuple):
    """A problem as a sampler sees it."""

    id: str
    question: Question
    stops: Stops = Stops()


class Asking(NamedTuple):
    """How samples are drawn."""

    sampling: Sampling
    max_tokens: int


def require_room(problems: Sequence[Asked], context: int) -> None:
    """Raise UserError where a prompt is longer than the `context` tokens that the model was trained on."""
    lengths = {problem.id: len(problem.question.prompt.tokens) for problem in problems}
    longest = max(lengths, key=lambda name: lengths[name])
    if lengths[longest] > context:
        raise UserError(
            f"the prompt of problem {longest!r} has {counted(lengths[longest], 'token')}, and the model was trained on "
            f"sequences of {context}; leave such problems out, or use a model with a longer context"
        )


def draw_part(
    directory: SampleDirectory,
    part: Part,
    writer: Writer,
    config: Model,
    problems: Sequence[Asked],
    asking: Asking,
    report: Callable[[int], None],
) -> None:
    """Draw the samples of a part and write it. `report` is told of each sample that has ended (1)."""
    asked = [problems[index] for index in part.problems]
    begin = time.monotonic()
    results: dict[tuple[int, int], Generated] = {}
    for result in writer.continuations(
        [problem.question for problem in asked],
        asking.sampling,
        max_tokens=asking.max_tokens,
        samples=len(part.samples),
        first_sample=part.samples.start,
        stops=[problem.stops for problem in asked],
    ):
        results[result.prompt, result.number] = result
        report(1)
    rows = [
        {
            "problem": asked[index].id,
            "sample": number,
            "text": result.text,
            "finish": result.finish,
            "tokens": result.sample.tokens,
            "logp_model": result.sample.logp_model,
            "logp_drawn": result.sample.logp_drawn,
        }
        for (index, number), result in sorted(results.items())
    ]
    written: list[list[int]] = [[] for _ in asked]
    for (index, _), result in results.items():
        written[index].append(len(result.sample.tokens))
    cost = sampling_cost(config, [len(problem.question.prompt.tokens) for problem in asked], written)
    directory.write(part, rows, replace(cost, seconds=time.monotonic() - begin))
