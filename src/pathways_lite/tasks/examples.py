"""One problem of each family, to look at."""

from __future__ import annotations

from pathways_lite.tasks.answers import ExactText, FirstWord, GSM8KNumber
from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.family import Example, Request
from pathways_lite.tasks.registry import FAMILIES

_GSM8K = Example(
    prompt="Question: A box holds 12 eggs, and 3 are broken. How many are whole?\nAnswer:",
    solution=" 12 - 3 = <<12-3=9>>9 eggs are whole.\n#### 9\n",
    verifier=GSM8KNumber(answer="9"),
    group="",
    difficulty=1,
)
"""Written here in GSM8K's form; no problem of GSM8K is part of the package."""
_PASSAGE = "The lighthouse stood at the end of the pier. Nobody had climbed its stairs for years, but every night the"
_NEXT = " lighthouse shone, and the ships found their way"
_OF_SOURCES = {
    "gsm8k": _GSM8K,
    "cloze": Example(_PASSAGE, " lighthouse", FirstWord(answer="lighthouse"), "", 19),
    "continuation": Example(_PASSAGE, _NEXT, ExactText(answer=_NEXT), "", 20),
}


def family_examples(seed: int = 0) -> list[dict[str, str]]:
    """Return name, summary, prompt and solution of one problem of each family."""
    examples = []
    for family in FAMILIES.values():
        if family.needs_source:
            example = _OF_SOURCES[family.name]
        else:
            source = family.open(Request(documents=1000, seed=seed))
            example = source.example(Draws("tasks.examples", seed))
        texts = {"prompt": example.prompt, "solution": example.solution}
        examples.append({"family": family.name, "summary": family.summary, **texts})
    return examples
