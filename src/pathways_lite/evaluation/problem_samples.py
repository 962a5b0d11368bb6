"""Many samples of every problem of a list, drawn part by part into a directory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

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


class Pace:
    """Says once, when samples have been written for some seconds, how long all of them will take at most.

    Args:
      tokens: of all samples, at most.
      tell: is given tokens per second, and the seconds that are left at most.
    """

    def __init__(self, tokens: int, tell: Callable[[float, float], None], seconds: float = 5.0) -> None:
        self._left, self._tell, self._seconds = tokens, tell, seconds
        self._begin: float | None = None  # after the first chunk, for which the sampler was compiled
        self._last = self._counted = 0

    def look(self, written: int) -> None:
        """Note how many tokens the samples of a part have; fewer than before: it is the next part."""
        now = time.monotonic()
        new = written - self._last if written >= self._last else written
        self._last, self._left = written, self._left - new
        if self._begin is None:
            self._begin = now
            return
        self._counted += new
        if (elapsed := now - self._begin) >= self._seconds and self._counted:
            rate = self._counted / elapsed
            self._tell(rate, self._left / rate)
            self._seconds = math.inf


def draw_part(
    directory: SampleDirectory,
    part: Part,
    writer: Writer,
    config: Model,
    problems: Sequence[Asked],
    asking: Asking,
    report: Callable[[int], None],
    look: Callable[[int], None] = lambda tokens: None,
) -> None:
    """Draw the samples of a part and write it.

    `report` is told of each sample that has ended (1), `look` now and then how many tokens the part has.
    """
    asked = [problems[index] for index in part.problems]
    begin = time.monotonic()
    results: dict[tuple[int, int], Generated] = {}

    def watch(unfinished: list[Generated]) -> None:
        look(sum(len(each.sample.tokens) for each in (*results.values(), *unfinished)))

    for result in writer.continuations(
        [problem.question for problem in asked],
        asking.sampling,
        max_tokens=asking.max_tokens,
        samples=len(part.samples),
        first_sample=part.samples.start,
        stops=[problem.stops for problem in asked],
        watch=watch,
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
