"""The family `scramble`: GPT-3's word tasks (Brown et al. 2020, §3.9.2), on words made of English parts."""

from __future__ import annotations

from pathways_lite.tasks.answers import ExactText
from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.family import Drawn, Example, Family

_PREFIXES = (
    "", "", "", "un", "re", "over", "under", "out", "fore", "mis", "inter", "counter", "non", "pre", "sub", "super",
)  # fmt: skip
_STEMS = (
    "act", "back", "bend", "bind", "board", "break", "bridge", "build", "burn", "call", "cast", "charm", "cloud",
    "craft", "drift", "dream", "drink", "field", "float", "form", "frost", "garden", "grasp", "ground", "guard",
    "hand", "harvest", "heart", "help", "hunt", "land", "laugh", "learn", "light", "mark", "match", "mind", "mount",
    "paint", "plant", "point", "port", "print", "reach", "rest", "ring", "river", "sail", "shadow", "shelter", "shift",
    "sight", "silver", "spark", "spell", "stand", "stone", "storm", "thought", "thread", "timber", "trust", "wander",
    "water", "whisper", "winter", "wonder", "work", "world", "yield",
)  # fmt: skip
_SUFFIXES = (
    "", "", "er", "ers", "ing", "ings", "ful", "less", "ness", "ment", "ship", "able", "ed", "like", "ward", "some",
)  # fmt: skip
_MARKS = " !\"#$%&'()*+,-./:;<>?@[]_{}~"

TASKS = ("CL", "A1", "A2", "RI", "RW")
"""The paper's names: cycled letters, anagrams inside the first and last letter, or two letters, insertion, reversal."""


def draw_scramble(draws: Draws) -> Example:
    """Draw a word of 5 to 14 letters and one of the five ways to disturb it."""
    task = draws.choice(TASKS)
    word = disturbed = ""
    while not 4 < len(word) < 15 or disturbed == word:
        word = draws.choice(_PREFIXES) + draws.choice(_STEMS) + draws.choice(_SUFFIXES)
        disturbed = disturb(word, task, draws)
    return Example(
        prompt=f"Please {_INSTRUCTIONS[task]}:\n{disturbed} =",
        solution=f" {word}\n",
        verifier=ExactText(answer=word),
        group=word,
        difficulty=len(word),
        task=task,
        answer_kind="word",
    )


_INSTRUCTIONS = {
    "CL": "unscramble the letters into a word, and write that word",
    "A1": "unscramble the letters into a word, and write that word",
    "A2": "unscramble the letters into a word, and write that word",
    "RI": "remove the marks between the letters, and write the word",
    "RW": "reverse the letters into a word, and write that word",
}


def disturb(word: str, task: str, draws: Draws) -> str:
    """Return the word as the task `task` shows it."""
    if task == "CL":
        turn = draws.between(1, max(1, len(word) - 1))
        return word[turn:] + word[:turn]
    if task in ("A1", "A2"):
        kept = int(task[1])
        return word[:kept] + "".join(draws.shuffled(word[kept:-kept])) + word[-kept:]
    if task == "RI":
        return word[:1] + "".join(draws.choice(_MARKS) + letter for letter in word[1:])
    return word[::-1]


SCRAMBLE = Family(
    "scramble",
    "GPT-3's word tasks: cycled letters, anagrams, random insertion, reversed words",
    0.1,
    lambda _: Drawn(draw_scramble),
)
