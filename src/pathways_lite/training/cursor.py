"""Where a stage stands in the data order, beyond what its step says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pathways_lite.data.order import first_example
from pathways_lite.ledger import Course


@dataclass(frozen=True)
class Cursor:
    """The data position of every step, in closed form: the only data state there is.

    first_sequence: number of the example that step 0 begins with: what the stages before have not seen.
    skips: `(at_step, n_sequences)`: sequences jumped over from a step on, after a spike (PaLM section 5.1).
    """

    first_sequence: int = 0
    skips: tuple[tuple[int, int], ...] = ()

    def skipping(self, at_step: int, sequences: int) -> Cursor:
        """With `sequences` more jumped over at `at_step`."""
        return Cursor(self.first_sequence, (*self.skips, (at_step, sequences)))

    def end(self, course: Course, step: int) -> int:
        """Number of the first example that the steps before `step` have not reached."""
        return first_example(course, step, self.skips, self.first_sequence)

    def to_json(self) -> dict[str, Any]:
        return {"first_sequence": self.first_sequence, "skips": [list(skip) for skip in self.skips]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Cursor:
        return cls(data["first_sequence"], tuple((int(step), int(n)) for step, n in data["skips"]))
