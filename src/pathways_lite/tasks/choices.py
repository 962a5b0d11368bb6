"""Wrong answers to stand beside the right one, where a family's problems are asked as multiple choice."""

from __future__ import annotations

from pathways_lite.errors import UserError
from pathways_lite.tasks.answers import ExactInteger
from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.family import Example, Source

WRONG = 3  # beside the right answer
_MOST_MISSES = 10_000


def draw_choices(example: Example, source: Source, draws: Draws) -> tuple[tuple[str, ...], int]:
    """Return the solution among `WRONG` other answers, in random order, and its place there.

    Integers stand beside integers of which one digit differs, other answers beside those to other problems of the kind.

    Raises UserError where the family has no choices, or its source too few answers.
    """
    if not example.answer_kind:
        raise UserError("its answers have no wrong ones to stand beside them; leave `:choices` out")
    is_integer = isinstance(example.verifier, ExactInteger)
    found: list[str] = []
    for _ in range(_MOST_MISSES):
        if len(found) == WRONG:
            place = draws.below(WRONG + 1)
            return (*found[:place], example.solution, *found[place:]), place
        other = _near_integer(example.solution, draws) if is_integer else _other_solution(example, source, draws)
        if other is not None and other not in found:
            found.append(other)
    raise UserError(f"it has fewer than {WRONG} wrong answers to a problem here; give more of its source")


def _other_solution(example: Example, source: Source, draws: Draws) -> str | None:
    """Draw the solution of another problem of the kind; None for a right answer to this one."""
    other = source.example(draws)
    is_wrong = other.answer_kind == example.answer_kind and not example.verifier.judge(other.solution).correct
    return other.solution if is_wrong else None


def _near_integer(solution: str, draws: Draws) -> str | None:
    """Change a digit of an integer; None where it would begin with a zero that the right answer has not."""
    places = [place for place, letter in enumerate(solution) if letter.isdigit()]
    place = draws.choice(places)
    digit = str((int(solution[place]) + draws.between(1, 9)) % 10)
    if digit == "0" and place == places[0] and (len(places) > 1 or "-" in solution):
        return None
    return solution[:place] + digit + solution[place + 1 :]
