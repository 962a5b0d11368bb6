"""Documents of invented words, some of which come again."""

import random

COMMON = ["the", "and", "of", "a", "in"]
_RARE = [
    first + middle + last for first in "bdfglmnprst" for middle in "aeiou" for last in ("ndle", "rk", "ssom", "ft")
]


def invented_text(number: int) -> str:
    """Return a document of 30 to 700 words in lines of 20, whose rare words come again."""
    draws = random.Random(number)
    topic = draws.sample(_RARE, 8)
    words = [draws.choice(COMMON if draws.random() < 0.4 else topic) for _ in range(draws.choice([30, 120, 700]))]
    return "\n".join(" ".join(words[i : i + 20]) + "." for i in range(0, len(words), 20))
