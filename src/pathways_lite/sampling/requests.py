"""What is asked of a sampler, and what it gives back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pathways_lite.objectives.prompts import Prompt
from pathways_lite.sampling.automaton import FREE, Automaton
from pathways_lite.sampling.rules import PLAIN, Sampling

Finish = Literal["end", "stop", "length", "dead end"]


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt, and how many texts to draw after it.

    first_sample: the number of the first sample; those before it are left out.
    automaton: what ends or restricts the answers, besides the ends of texts.
    problem: a number below 2**32 for the noise; None: from the prompt's tokens.
    """

    prompt: Prompt
    sampling: Sampling = PLAIN
    max_tokens: int = 256
    samples: int = 1
    first_sample: int = 0
    automaton: Automaton = FREE
    problem: int | None = None

    @property
    def problem_number(self) -> int:
        """The number that tells the noise of this prompt from that of others."""
        if self.problem is not None:
            return self.problem
        digest = hashlib.blake2b(np.asarray(self.prompt.tokens, "<i4").tobytes(), digest_size=4).digest()
        return int.from_bytes(digest, "little")


@dataclass(frozen=True, eq=False)
class Sample:
    """A text that was drawn.

    request: index of the request. number: of the sample, among those of its prompt.
    tokens: int32 [n], with the token that ended it, if one did.
    logp_model, logp_drawn: float32 [n], nats of each token under the model (temperature 1, nothing filtered), and under
        the distribution that it was drawn from.
    """

    request: int
    number: int
    tokens: np.ndarray
    logp_model: np.ndarray
    logp_drawn: np.ndarray
    finish: Finish

    @property
    def answer(self) -> list[int]:
        """The tokens without the one that ended the text."""
        return [int(token) for token in (self.tokens[:-1] if self.finish == "end" else self.tokens)]
