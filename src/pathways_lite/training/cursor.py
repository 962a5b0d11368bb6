"""Where a stage stands in the data order, beyond what its step says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pathways_lite.data.order import first_example
from pathways_lite.ledger import Course


@dataclass(frozen=True)
class Cursor:
    """The data position of every step, in closed form: the only data state there is.

    first_sequence: number of the example that step 0 begins with: what the stages before have not seen.
    consumed: of a mixture: how many sequences of each domain the stages before have read; empty: none.
    skips: `(at_step, n_sequences)`: sequences jumped over from a step on, after a spike (PaLM section 5.1).
    """

    first_sequence: int = 0
    skips: tuple[tuple[int, int], ...] = ()
    consumed: tuple[int, ...] = ()

    @property
    def read(self) -> int:
        """Sequences before step 0, of all domains."""
        return self.first_sequence + sum(self.consumed)

    def skipping(self, at_step: int, sequences: int) -> Cursor:
        """With `sequences` more jumped over at `at_step`."""
        return replace(self, skips=(*self.skips, (at_step, sequences)))

    def end(self, course: Course, step: int) -> int:
        """Number of the first example that the steps before `step` have not reached."""
        return first_example(course, step, self.skips, self.first_sequence)

    def to_json(self) -> dict[str, Any]:
        found = {"first_sequence": self.first_sequence, "skips": [list(skip) for skip in self.skips]}
        return found | ({"consumed": list(self.consumed)} if self.consumed else {})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Cursor:
        skips = tuple((int(step), int(n)) for step, n in data["skips"])
        return cls(data["first_sequence"], skips, tuple(data.get("consumed", ())))
